#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""docs/historic-bugs.md names a test, or says why there is none, for every row; the tests named there exist."""
import os
import re
import sys

TOP = sys.argv[1]
ROWS = {"A": 52, "B": 35, "C": 9}


def main():
    bad = []
    seen = set()
    with open(os.path.join(TOP, "docs/historic-bugs.md"), encoding="utf-8") as page:
        rows = re.findall(r"^\| ([ABC]\d+) \| [^|]+ \| ([^|]+) \|$", page.read(), re.M)
    for row, tests in rows:
        seen.add(row)
        if tests.startswith("not yet: "):
            continue
        named = re.findall(r"`([^`]+)`(?: (\w+))?", tests)
        if not named:
            bad.append(f"{row}: names no test")
        for path, case in named:
            try:
                with open(os.path.join(TOP, "tests", path), encoding="utf-8") as f:
                    if case and not re.search(rf"\b{case}\b", f.read()):
                        bad.append(f"{row}: tests/{path} has no {case}")
            except OSError:
                bad.append(f"{row}: there is no tests/{path}")
    for letter, count in ROWS.items():
        bad += [f"{letter}{n}: no row" for n in range(1, count + 1) if f"{letter}{n}" not in seen]
    print("\n".join(bad) or f"{len(rows)} rows")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
