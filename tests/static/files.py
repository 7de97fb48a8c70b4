#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Cheap rules about every text file of the project.

usage: files.py SOURCE

- source files and scripts say their licence in the first three lines;
- a file of more than 800 lines says why at its head ("800 lines" in its first comment);
- nothing is left to do later: such marks belong into an issue;
- no line ends in blanks, every file ends with a newline.
"""
import os
import re
import sys

FOLDERS = ["include", "src", "examples", "tests", "bench", "guest", "scripts", "docs", ".ci"]
FILES = ["README.md", "Makefile", "meson.build"]
CODE = (".c", ".h", ".py", ".cocci", ".pml", ".sh")
LATER = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b(?!X)")  # split, so that this line is not one


def text_files(top):
    paths = [os.path.join(top, name) for name in FILES]
    for folder in FOLDERS:
        for where, folders, names in os.walk(os.path.join(top, folder)):
            folders[:] = [f for f in folders if f != "__pycache__"]
            paths += [os.path.join(where, name) for name in names]
    for path in sorted(paths):
        if not os.path.isfile(path):
            continue
        with open(path, "rb") as f:
            data = f.read()
        if b"\0" not in data:
            yield os.path.relpath(path, top), data.decode("utf-8")


def problems(name, text):
    lines = text.split("\n")
    is_code = name.endswith(CODE) or text.startswith("#!")
    if is_code and not any("SPDX-License-Identifier: MIT" in line for line in lines[:3]):
        yield 1, "no SPDX-License-Identifier"
    if is_code and len(lines) - 1 > 800 and "800 lines" not in " ".join(lines[:80]):
        yield 1, f"{len(lines) - 1} lines, and the head does not say why (it has to name the 800 lines)"
    if text and not text.endswith("\n"):
        yield len(lines), "no newline at the end"
    for number, line in enumerate(lines, 1):
        if LATER.search(line):
            yield number, "left for later"
        if line != line.rstrip():
            yield number, "ends in blanks"


def main():
    found = [f"{name}:{number}: {what}" for name, text in text_files(sys.argv[1]) for number, what in problems(name, text)]
    print("\n".join(found) if found else "ok")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
