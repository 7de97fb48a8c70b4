#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Who may include whom: the folders of src/ are layers, and this table is the architecture.

usage: include_rules.py SOURCE

First it shows, on a small tree that breaks each rule once, that it sees what
it looks for. Then it judges the tree.
"""
import os
import re
import sys
import tempfile

# folder -> what it may include beside itself; anything above is not in its list
MAY = {
    "base": set(),
    "memory": {"base"},
    "ring": {"memory", "base"},
    "virtio": {"ring", "memory", "base"},
    "block": {"base"},
    "character": {"base"},
    "vhost": {"memory", "base"},
    "devices": {"virtio", "ring", "memory", "block", "base"},
    "transport": {"virtio", "ring", "vhost", "memory", "base"},
    "driver": {"virtio", "ring", "vhost", "memory", "base"},  # virtio: the direct link holds a device's face
    "emulated": {"base"},
}
# these two stand above all others; machine below cli
LOWER = set(MAY)
MAY["machine"] = LOWER
MAY["cli"] = LOWER | {"machine"}

# the layer that a public header belongs to
PUBLIC = {
    "cursor.h": "base", "error.h": "base", "features.h": "base", "log.h": "base", "loop.h": "base",
    "memory.h": "memory",
    "dq.h": "ring", "vq.h": "ring",
    "virtio.h": "virtio",
    "vhost_user_server.h": "transport",
    "link.h": "driver",
}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
ENDS = re.compile(r"(?<![A-Za-z0-9_>.])(exit|abort|quick_exit|_exit)\s*\(")
FORKS = re.compile(r"(?<![A-Za-z0-9_])v?fork\s*\(|(?<![A-Za-z0-9_])clone3?\s*\(")


def without_comments(text):
    """The same lines, but comments and strings are blank."""
    def blank(match):
        return re.sub(r"[^\n]", " ", match.group()) if match.group()[0] == "/" else '""'
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', blank, text, flags=re.S)


def c_files(top, folder):
    for where, _, names in sorted(os.walk(os.path.join(top, folder))):
        for name in sorted(names):
            if name.endswith((".c", ".h")):
                yield os.path.join(where, name)


def layer_of(top, bracket, name):
    """The folder a header belongs to; None: none of ours."""
    if name.startswith("sluice/"):
        return PUBLIC.get(name[len("sluice/"):], "an unknown public header: add it to PUBLIC")
    first = name.split("/")[0]
    if "/" in name and first in MAY and (bracket == '"' or os.path.exists(os.path.join(top, "src", name))):
        return first
    return None


def judge_source(top, path):
    """Problems of one file under src/."""
    folder = os.path.relpath(path, os.path.join(top, "src")).split(os.sep)[0]
    with open(path, encoding="utf-8") as f:
        text = f.read()
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        bracket, name = match.groups()
        layer = layer_of(top, bracket, name)
        if name == "ring/wire.h" and folder != "ring":
            yield number, "only ring/ includes ring/wire.h"
        elif layer and layer != folder and layer not in MAY.get(folder, set()):
            yield number, f"{folder}/ must not include {name} ({layer})"
        elif bracket == '"' and "/" not in name and name != "install_paths.h":
            yield number, f"{name}: write includes as FOLDER/FILE"
    if folder not in MAY:
        yield 1, f"{folder}/ is not in the table of layers"
    code = without_comments(text)
    for match in ENDS.finditer(code):
        number = code.count("\n", 0, match.start()) + 1
        # after fork() a child that cannot exec has no other way out
        if folder != "cli" and not (match.group(1) == "_exit" and FORKS.search(code)):
            yield number, f"{match.group(1)}() outside cli/"


def judge_public(path):
    """Problems of one public header: it may include public headers of its own layer or lower ones, and libc."""
    own = PUBLIC.get(os.path.basename(path))
    if not own:
        yield 1, "a public header that the table of layers does not know"
        return
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            bracket, name = match.groups()
            layer = PUBLIC.get(name[len("sluice/"):]) if name.startswith("sluice/") else None
            if bracket == '"' or (name.startswith("sluice/") and not layer):
                yield number, f"a public header includes {name}, which is private"
            elif layer and layer != own and layer not in MAY[own]:
                yield number, f"a header of {own}/ must not include {name} ({layer})"


def judge(top):
    problems = []
    for path in c_files(top, "src"):
        problems += [(path, *p) for p in judge_source(top, path)]
    for path in c_files(top, "include"):
        problems += [(path, *p) for p in judge_public(path)]
    return [f"{os.path.relpath(path, top)}:{number}: {what}" for path, number, what in problems]


SEEDS = {
    "src/devices/a.c": '#include "transport/direct.h"\n',
    "src/devices/b.c": '#include <sluice/vhost_user_server.h>\n',
    "src/devices/c.c": '#include "machine/machine.h"\n',
    "src/devices/d.c": '#include "emulated/uart.h"\n',
    "src/transport/a.c": '#include "devices/devices.h"\n',
    "src/block/a.c": '#include "ring/vq.h"\n',
    "src/block/b.c": "#include <sluice/virtio.h>\n",
    "src/devices/f.c": '#include "character/character.h"\n',
    "src/character/a.c": '#include "virtio/internal.h"\n',
    "src/virtio/a.c": '#include "ring/wire.h"\n',
    "src/base/a.c": '#  include "memory/mapping.h"\n',
    "src/machine/a.c": '#include "cli/cmd.h"\n',
    "src/block/c.c": "/* exit(1) */\nvoid f(void) { exit(1); }\n",
    "src/machine/b.c": "void f(void) { _exit(1); }\n",
    "src/ring/a.c": "void f(void) { abort (); }\n",
    "src/other/a.c": "int x;\n",
    "include/sluice/vq.h": "#include <sluice/virtio.h>\n",
    "include/sluice/dq.h": '#include "ring/wire.h"\n',
    "include/sluice/new.h": "int x;\n",
}
LAWFUL = {
    "src/ring/b.c": '#include "ring/wire.h"\n#include <sluice/vq.h>\n#include <stdlib.h>\n',
    "src/devices/e.c": '#include "block/block.h"\n#include <sluice/virtio.h>\n',
    "src/cli/a.c": '#include "machine/machine.h"\nint main(void) { exit(1); }\n',
    "src/machine/c.c": 'void f(void) { if (!fork()) _exit(1); io_uring_queue_exit(0); log("exit(1)"); }\n',
    "include/sluice/link.h": "#include <sluice/dq.h>\n",
}


def seeded():
    """Which seeds are not seen, and which lawful files are complained about."""
    with tempfile.TemporaryDirectory() as top:
        for name, text in {**SEEDS, **LAWFUL}.items():
            path = os.path.join(top, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
        problems = judge(top)
    seen = {p.split(":")[0] for p in problems}
    return [f"{n}: a seeded violation was not seen" for n in SEEDS if n not in seen] + \
           [f"{n}: a lawful file was refused" for n in LAWFUL if n in seen]


def main():
    problems = seeded()
    print(f"{len(SEEDS)} seeded violations, {len(problems)} mistakes about them")
    problems += judge(sys.argv[1])
    print("\n".join(problems) if problems else "ok: the tree keeps the rules")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
