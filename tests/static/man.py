#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Do the man pages say what the program does?

usage: man.py SOURCE SLUICE

- mandoc has nothing to complain about;
- every page that is there is installed, and every page that one refers to is there;
- every command has a page, with every option of its --help, and no other;
- every type of device has a page, with every key and form of source that `sluice devices --json` prints, but for the
  keys of `sluice run` itself, which are in its page.
"""
import glob
import json
import os
import re
import shutil
import subprocess
import sys

OPTION = re.compile(r"--([a-z][a-z-]*)")


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def output(*args):
    return subprocess.run(args, capture_output=True, text=True, timeout=60, check=True).stdout


def text_of(path):
    """A page as it is read: without markup, in one line."""
    text = output("mandoc", "-T", "utf8", "-O", "width=1000", path)
    return re.sub(r"\s+", " ", re.sub(".\b", "", text)).replace("−", "-").replace("‐", "-")


def lint(pages):
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", *pages], capture_output=True, text=True, timeout=60)
    # other programs' pages are not ours to provide
    yield from (line for line in done.stdout.splitlines() if "referenced manual not found" not in line)


def backslashes(pages):
    """A line that ends in a backslash is continued by roff itself: what is typed after it would not be shown below."""
    for page in pages:
        for number, line in enumerate(read(page).splitlines(), 1):
            if line.endswith("\\"):
                yield f"{page}:{number}: ends in a backslash: write \\e"


def references(source, pages):
    names = {os.path.basename(p) for p in pages}
    installed = read(os.path.join(source, "docs", "meson.build"))
    for name in sorted(names):
        if f"'man/{name}'" not in installed:
            yield f"docs/man/{name}: not installed"
    for page in pages:
        for name, section in re.findall(r"^\.Xr (sluice\S*) (\d)", read(page), flags=re.M):
            if f"{name}.{section}" not in names:
                yield f"{page}: refers to {name}({section}), which is not there"


def parts_of(help_text):
    """The words that start the indented lines of a list of commands."""
    return re.findall(r"^  ([a-z]+) ", help_text, flags=re.M)


def commands(source, sluice):
    for command in parts_of(output(sluice, "--help")):
        page = os.path.join(source, "docs", "man", f"sluice-{command}.1")
        if not os.path.exists(page):
            yield f"{command}: no page {os.path.basename(page)}"
            continue
        help_text = output(sluice, command, "--help")
        for part in parts_of(help_text) if "PART" in help_text else []:
            help_text += output(sluice, command, part, "--help")
        said = set(OPTION.findall(help_text)) | {"help"}
        # only where options are explained: examples hold options of other programs
        explained = set(re.findall(r"^\.It Fl -([a-z-]+)", read(page), flags=re.M))
        yield from (f"{page}: --{o} of `sluice {command} --help` is missing" for o in sorted(said - explained))
        yield from (f"{page}: --{o} is not in `sluice {command} --help`" for o in sorted(explained - said))


def devices(source, sluice):
    run_page = os.path.join(source, "docs", "man", "sluice-run.1")
    run_text = text_of(run_page)
    for device in json.loads(output(sluice, "devices", "--json")):
        page = os.path.join(source, "docs", "man", f"sluice-{device['type']}.7")
        if not os.path.exists(page):
            yield f"{device['type']}: no page {os.path.basename(page)}"
            continue
        markup, text = read(page), text_of(page)
        for key in device["keys"]:
            where, said = (run_page, run_text) if key["layer"].startswith("run ") else (page, text)
            if not re.search(r"(?<![\w-])" + re.escape(key["name"]) + r"\s?=", said):
                yield f"{where}: key {key['name']} is missing"
            for value in key.get("values", []):
                if not re.search(r"(?<![\w-])" + re.escape(value) + r"(?![\w-])", said):
                    yield f"{where}: value {value} of {key['name']} is missing"
        for form in device["sources"]:
            if form["form"] not in text and form["form"] not in markup:
                yield f"{page}: source {form['form']} is missing"


def main():
    source, sluice = sys.argv[1:]
    if not shutil.which("mandoc"):
        print("no mandoc")
        return 77
    pages = sorted(glob.glob(os.path.join(source, "docs", "man", "*.[1-9]")))
    problems = [*lint(pages), *backslashes(pages), *references(source, pages), *commands(source, sluice), *devices(source, sluice)]
    print("\n".join(problems) if problems else f"ok: {len(pages)} pages")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
