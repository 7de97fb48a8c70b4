#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The engine kvm where there is a real KVM: nested, in a machine that QEMU emulates.

usage: test_nested.py CASE...

One host runs the cases named; nested.py says what a case is and how to add one.
"""
import ctypes
import lzma
import os
import re
import signal
import struct
import sys
import time

from nested import TOP, Bed, Skip
from guest import Lab, check, image  # noqa: E402  pylint: disable=wrong-import-order
from test_host import OFF, elf, text

PATIENCE = 400  # seconds for one case; a bound against hangs
TOLD = re.compile(r"(guest|bare): |outer: (exits|ended|AGAIN|figure)")  # lines that are worth a look when all is well


def unpacked(kernel, out):
    """The ELF program in a bzImage, which is packed with LZ4 or xz, as the file @out."""
    with open(kernel, "rb") as file:
        data = file.read()
    offset, length = struct.unpack_from("<II", data, 0x248)
    payload = data[(data[0x1f1] + 1) * 512 + offset:][:length]
    with open(out, "wb") as file:
        if payload[:6] == b"\xfd7zXZ\0":
            file.write(lzma.LZMADecompressor().decompress(payload))
            return out
        check(payload[:4] == b"\x02\x21\x4c\x18", f"a kernel that is packed in another way: {payload[:6]}")
        lz4, at = ctypes.CDLL("liblz4.so.1"), 4
        block = ctypes.create_string_buffer(8 << 20)
        while at + 4 < len(payload):  # the last 4 bytes are the size of all
            size, = struct.unpack_from("<I", payload, at)
            got = lz4.LZ4_decompress_safe(payload[at + 4:at + 4 + size], block, size, len(block))
            check(got > 0, "LZ4: bad block")
            file.write(block.raw[:got])
            at += 4 + size
    return out


def files(lab, names):
    """What the cases of these names may ask for: {name: path}."""
    found = {"bare": os.environ.get("BARE", os.path.join(TOP, "build", "guest", "bare"))}
    # guests of a few instructions: switch off; load an empty table of interrupts and make one
    for name, code in {"off": text("tiny\n") + OFF, "triple": bytes.fromhex("0f011d00100000cc")}.items():
        found[name] = lab.path(name)
        with open(found[name], "wb") as file:
            file.write(elf(code))
    if "pvh" in names:
        found["vmlinux"] = unpacked(image() + "/vmlinuz", lab.path("vmlinux"))
    return found


def run(lab, names):
    """How many cases failed."""
    bed = Bed(lab, names, files(lab, names))
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
