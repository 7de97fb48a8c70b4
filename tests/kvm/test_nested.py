#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The engine kvm where there is a real KVM: nested, in a machine that QEMU emulates.

usage: test_nested.py CASE...

One host runs the cases named; nested.py says what a case is and how to add one.
"""
import os
import re
import signal
import sys
import time

from nested import TOP, Bed, Skip
from guest import Lab  # noqa: E402  pylint: disable=wrong-import-order
from test_host import OFF, elf, text

PATIENCE = 400  # seconds for one case; a bound against hangs
TOLD = re.compile(r"(guest|bare): |outer: (exits|ended|AGAIN|figure)")  # lines that are worth a look when all is well


def files(lab):
    """What cases may ask for: {name: path}."""
    found = {"bare": os.environ.get("BARE", os.path.join(TOP, "build", "guest", "bare"))}
    # guests of a few instructions: switch off; load an empty table of interrupts and make one
    for name, code in {"off": text("tiny\n") + OFF, "triple": bytes.fromhex("0f011d00100000cc")}.items():
        found[name] = lab.path(name)
        with open(found[name], "wb") as file:
            file.write(elf(code))
    return found


def run(lab, names):
    """How many cases failed."""
    bed = Bed(lab, names, files(lab))
    bed.start()
    failed = 0
    for case in bed.cases:
        start = time.monotonic()
        why = bed.run(case, PATIENCE)
        failed += why is not None
        print(f"{'FAIL' if why else 'ok'} {case.name} ({time.monotonic() - start:.1f} s)" + (f": {why}" if why else ""))
        for line in case.lines if why else filter(TOLD.match, case.lines):
            print("    " + line)
        sys.stdout.flush()
    bed.finish()
    return failed


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # a test that takes too long still cleans up
    lab = Lab()
    try:
        status = 1 if run(lab, sys.argv[1:]) else 0
    except Skip as why:
        print(f"skip: {why}")
        status = 77
    except (AssertionError, OSError) as why:
        print(f"FAIL: {why}")
        status = 1
    finally:
        lab.close()
    sys.exit(status)


if __name__ == "__main__":
    main()
