# SPDX-License-Identifier: MIT
"""What tests of the program have in common that are a table of functions, each of which runs in an empty folder."""
import os
import subprocess
import sys
import tempfile
import time

SLUICE = os.path.abspath(sys.argv[1])
MIB = 1 << 20
BOUND = 120  # seconds, against hangs only


def check(condition, text):
    """Fail the case with a text."""
    if not condition:
        raise AssertionError(text)


def until(condition, text):
    """Wait for condition()."""
    end = time.monotonic() + BOUND
    while not condition():
        check(time.monotonic() < end, text)
        time.sleep(0.02)


def main(cases, wanted, prepare=lambda: None):
    """Run those whose names are wanted, or all; prepare() makes what each of them finds in its folder."""
    failed = 0
    for case in [c for c in cases if not wanted or c.__name__ in wanted]:
        with tempfile.TemporaryDirectory(prefix="sluice-case-") as folder:
            os.chdir(folder)
            try:
                prepare()
                case()
                print(f"ok {case.__name__}", flush=True)
            except (AssertionError, OSError, ValueError, subprocess.SubprocessError) as why:
                failed += 1
                print(f"FAIL {case.__name__}: {why}", flush=True)
            finally:
                os.chdir("/")
    sys.exit(1 if failed else 0)
