# SPDX-License-Identifier: MIT
"""The rings by themselves, driver and device on two threads."""
import json
import subprocess


def measure(bench):
    done = subprocess.run([bench.o.sluice, "bench", "ring", "--json", "--cpu", str(bench.back)],
                          capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return json.loads(done.stdout)


def show(_, out):
    print("ring alone, ns for one buffer there and back: "
          + ", ".join(f"{r['ring']} {r['ns']:.0f}" if r["depth"] == 1 else
                      f"{r['ring']} {r['ns']:.1f} in a stream of {r['depth']}" for r in out))
