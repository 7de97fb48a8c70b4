#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Guests on image formats and on NBD servers, which are killed under them."""
import os
import random
import signal
import subprocess
import time

from guest import check, check_image, connectable, descendants, digest_of, end_serve, finish, main, need

KILLS = 3


def make(lab, form):
    """A fresh image of 256 MiB."""
    need("qemu-img")
    need("qemu-nbd")
    path = lab.path(f"disk.{form}")
    subprocess.run(["qemu-img", "create", "-q", "-f", form, path, "256M"], check=True)
    return path


def check_format(lab, path, form, digest):
    """The image is sound, and holds what the guest wrote."""
    done = subprocess.run(["qemu-img", "check", "-f", form, path], capture_output=True, text=True, check=False)
    check(done.returncode == 0, f"qemu-img check: {done.stdout}{done.stderr}")
    raw = lab.path("raw")
    subprocess.run(["qemu-img", "convert", "-f", form, "-O", "raw", path, raw], check=True)
    check_image(lab, raw, digest)


def run_format(lab, form, engine):
    """`sluice run`: make a file system, write, read back, trim."""
    path = make(lab, form)
    guest = lab.run("main", "--device", f"blk,{path},format={form}", engine=engine)
    digest = digest_of(guest)
    finish(guest)
    check_format(lab, path, form, digest)


def qcow2_qemu(lab):
    run_format(lab, "qcow2", "qemu")


def qcow2_uml(lab):
    run_format(lab, "qcow2", "uml")


def vmdk_qemu(lab):
    run_format(lab, "vmdk", "qemu")


def vmdk_uml(lab):
    run_format(lab, "vmdk", "uml")


def process_of(server, name):
    """The process of this name below @server."""
    for pid in descendants(server.process.pid):
        with open(f"/proc/{pid}/comm", encoding="ascii") as comm:
            if comm.read().strip() == name:
                return pid
    return None


def qemu_nbd_killed(lab):
    """kill -9 of qemu-nbd while the guest writes, reads and compares: it does not notice."""
    path, sock = make(lab, "qcow2"), lab.path("s")
    server = lab.serve(f"blk,{path},format=qcow2,queues=2,socket={sock}", options=("--threads", "2"))
    guest = lab.qemu("load sluice.mib=4", sock, device=",num-queues=2")
    guest.expect("guest: round 1")
    dice = random.Random(7)
    for _ in range(KILLS):
        time.sleep(dice.uniform(0.05, 0.6))
        pid = process_of(server, "qemu-nbd")
        check(pid, "no qemu-nbd")
        os.kill(pid, signal.SIGKILL)
        guest.expect("guest: round")
        guest.expect("guest: round")
    guest.say("")
    digest = digest_of(guest)
    finish(guest)
    end_serve(server)
    check_format(lab, path, "qcow2", digest)


def nbdkit(lab, sock, disk):
    """A server, once it listens."""
    if os.path.exists(sock):
        os.unlink(sock)
    program = lab.start("nbdkit", "--foreground", "--unix", sock, "file", disk)
    until = time.monotonic() + 10
    while not connectable(sock):
        check(time.monotonic() < until, "nbdkit does not start")
        time.sleep(0.01)
    return program


def server_killed(lab):
    """kill -9 of an NBD server, and some time without one, under the same load."""
    need("nbdkit")
    disk, far, sock = lab.disk(256), lab.path("far"), lab.path("s")
    store = nbdkit(lab, far, disk)
    server = lab.serve(f"blk,nbd+unix:///?socket={far},queues=2,socket={sock}", options=("--threads", "2"))
    guest = lab.qemu("load sluice.mib=4", sock, device=",num-queues=2")
    guest.expect("guest: round 1")
    dice = random.Random(7)
    for _ in range(KILLS):
        time.sleep(dice.uniform(0.05, 0.6))
        store.signal(signal.SIGKILL)
        store.wait()
        time.sleep(dice.uniform(0, 0.3))
        store = nbdkit(lab, far, disk)
        guest.expect("guest: round")
        guest.expect("guest: round")
    guest.say("")
    digest = digest_of(guest)
    finish(guest)
    end_serve(server)
    check_image(lab, disk, digest)


main([qcow2_qemu, qcow2_uml, vmdk_qemu, vmdk_uml, qemu_nbd_killed, server_killed])
