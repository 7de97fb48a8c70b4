#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Is everything there that the README and the examples of the man pages tell people to type?

usage: readme.py SOURCE SLUICE

Each command of a code fence has to be a target of the Makefile, a file of this
project, or one of the programs in KNOWN; each option of a `sluice` command has
to be in its --help, and each device has to be one that `sluice devices`
describes. Links to files have to lead somewhere.
"""
import glob
import json
import os
import re
import shlex
import subprocess
import sys

KNOWN = {"truncate", "cc", "cd", "git", "man", "jq", "qemu-system-x86_64", "qemu-img", "cloud-hypervisor", "crosvm",
         "pkg-config", "mkdir", "cp", "losetup", "rbd", "ceph",
         "systemd-socket-activate"}
MADE = {"./device", "./driver"}  # by the line before


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def output(*args):
    return subprocess.run(args, capture_output=True, text=True, timeout=60, check=True).stdout


def lines_of(text):
    """Command lines, continued ones joined."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        line = re.sub(r"^\s*\$ ", "", line).strip()
        if line and not line.startswith("#"):
            yield line


def commands(source):
    """(file, command line) of everything that is there to be typed."""
    for name in sorted(["README.md", *glob.glob("docs/*.md", root_dir=source)]):
        for block in re.findall(r"^```sh\n(.*?)^```", read(os.path.join(source, name)), flags=re.M | re.S):
            yield from ((name, line) for line in lines_of(block))
    for path in sorted(glob.glob(os.path.join(source, "docs/man/*.[1-9]"))):
        for block in re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed", read(path), flags=re.M | re.S):
            yield from ((os.path.relpath(path, source), line)
                        for line in lines_of(block.replace("\\e\n", "\\\n")) if re.search(r"^\$ ", block, flags=re.M))


class Checker:
    def __init__(self, source, sluice):
        self.source, self.sluice = source, sluice
        self.targets = set(re.findall(r"^([a-z]+):", read(os.path.join(source, "Makefile")), flags=re.M))
        self.types = {t["type"]: {k["name"] for k in t["keys"]} for t in json.loads(output(sluice, "devices", "--json"))}

    def spec(self, text):
        """A device, as TYPE[,SOURCE][,KEY=VALUE]..."""
        kind, *rest = text.split(",")
        if kind not in self.types:
            return f"no device type {kind}"
        unknown = [p.split("=")[0] for p in rest if re.match(r"[\w-]+=", p) and p.split("=")[0] not in self.types[kind]]
        return f"{kind} has no key {unknown[0]}" if unknown else None

    def run_sluice(self, words):
        if not words or words[0].startswith("-"):
            return None if words and words[0] in ("--help", "--version") else "no command"
        known = re.findall(r"^  ([a-z]+) ", output(self.sluice, "--help"), flags=re.M)
        if words[0] not in known:
            return f"no command {words[0]}"
        help_text = output(self.sluice, words[0], "--help")
        if "PART" in help_text and len(words) > 1 and not words[1].startswith("-"):
            help_text = output(self.sluice, words[0], words[1], "--help")
        for i, word in enumerate(words):
            option = word.split("=")[0]
            if word.startswith("--") and not re.search(re.escape(option) + r"(?![a-z-])", help_text):
                return f"no option {option}"
            if option == "--device":
                wrong = self.spec(words[i + 1] if word == option else word.split("=", 1)[1])
                if wrong:
                    return wrong
        return None

    def one(self, line):
        """What is wrong with one simple command, or None."""
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            return str(error)
        while words and (words[0] == "sudo" or re.match(r"\w+=", words[0])):
            words.pop(0)
        if not words:
            return None
        name, args = words[0], words[1:]
        if name == "make":
            missing = [a for a in args if "=" not in a and a not in self.targets]
            return f"no target {missing[0]}" if missing else None
        if os.path.basename(name) == "sluice":
            return self.run_sluice(args)
        if "/" in name and name not in MADE:
            return None if os.path.exists(os.path.join(self.source, name)) else f"no file {name}"
        return None if name in KNOWN | MADE else f"{name} is not known to this check"

    def line(self, line):
        line = re.sub(r"\s#\s.*", "", line)
        inner = re.findall(r"\$\(([^()]*)\)", line)  # one level of $(...) is all that is allowed
        outer = re.sub(r"\$\(([^()]*)\)", "x", line)
        for command in [*inner, *re.split(r"\|\||&&|\||;|&(?=\s|$)", outer)]:
            wrong = self.one(command)
            if wrong:
                return wrong
        return None


def links(source):
    for name in sorted(["README.md", *glob.glob("docs/*.md", root_dir=source)]):
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", read(os.path.join(source, name))):
            path = os.path.join(source, os.path.dirname(name), target)
            if "://" not in target and not os.path.exists(path):
                yield f"{name}: {target} is not there"


def main():
    source, sluice = sys.argv[1:]
    checker = Checker(source, sluice)
    typed = list(commands(source))
    problems = [f"{name}: {line}: {wrong}" for name, line in typed for wrong in [checker.line(line)] if wrong]
    problems += links(source)
    print("\n".join(problems) if problems else f"ok: {len(typed)} command lines")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
