#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Overlays above every kind of base, several at a time, with real guests and servers; the base stays as it was."""
import hashlib
import os
import subprocess
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "guest"))

from guest import BOOT, SLUICE, check, connectable, digest_of, finish, main, need  # noqa: E402 (needs the path)


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def verify_at_once(lab, *devices):
    """Load devices at the same time, each from a process of its own; every block must be what was written."""
    programs = [lab.start(SLUICE, "bench", "blk", "--device", device, "--op", "verify", "--seconds", "1", "--queues",
                          "2", "--interrupt") for device in devices]
    for program in programs:
        status = program.wait()
        check(status == 0 and " 0 differences" in program.tail(), f"exit status {status}; {program.tail()}")


def on_qcow2(lab):
    """A qcow2 image, through qemu-nbd, for two at a time."""
    need("qemu-img")
    need("qemu-nbd")
    raw, base = lab.disk(16, "raw"), lab.path("base.qcow2")
    with open(raw, "r+b") as file:
        file.write(os.urandom(8 << 20))
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, base], check=True, capture_output=True)
    before = digest(base)
    source = f"blk,{base},format=qcow2,queues=2"
    verify_at_once(lab, f"{source},temporary=on", f"{source},overlay={lab.path('ovl')}")
    verify_at_once(lab, f"{source},overlay={lab.path('ovl')}")
    check(digest(base) == before, "the base was changed")


def on_nbd(lab):
    """An NBD server that refuses to be written."""
    need("nbdkit")
    sock = lab.path("nbd.sock")
    server = lab.start("nbdkit", "-f", "-r", "-U", sock, "pattern", "16M")
    until = time.monotonic() + BOOT
    while not connectable(sock):
        check(server.process.poll() is None and time.monotonic() < until, server.tail())
        time.sleep(0.01)
    source = f"blk,nbd+unix:///?socket={sock},queues=2"
    verify_at_once(lab, f"{source},temporary=on", f"{source},overlay={lab.path('ovl')}")


def guests(lab):
    """A guest fills a disk; two more at once each change it above an overlay; what one left there is found again."""
    base = lab.disk(128)
    guest = lab.run("main sluice.mib=4", "--device", f"blk,{base}", engine="uml")
    digest_of(guest)
    finish(guest)
    before = digest(base)
    overlay = f"blk,{base},overlay={lab.path('ovl')}"
    pair = [lab.run("again sluice.mib=4", "--device", device, engine="uml")
            for device in (overlay, f"blk,{base},temporary=on")]
    for guest in pair:
        digest_of(guest)
        finish(guest)
    guest = lab.run("again sluice.mib=4", "--device", overlay, engine="uml")
    finish(guest)
    check(digest(base) == before, "the base was changed")


main([on_qcow2, on_nbd, guests])
