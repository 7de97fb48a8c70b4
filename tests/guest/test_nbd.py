#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Guests on image formats and on NBD servers, which are killed under them."""
import os
import signal
import subprocess
import time

from guest import (BOOT, check, check_image, connectable, descendants, digest_of, end_serve, finish, killed_under_load,
                   main, need)
from test_control import MIB, control, in_flight, shell, until

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

    def kill():
        pid = process_of(server, "qemu-nbd")
        check(pid, "no qemu-nbd")
        os.kill(pid, signal.SIGKILL)

    digest = killed_under_load(guest, KILLS, kill)
    end_serve(server)
    check_format(lab, path, "qcow2", digest)


def nbdkit(lab, sock, disk):
    """A server, once it listens."""
    if os.path.exists(sock):
        os.unlink(sock)
    program = lab.start("nbdkit", "--foreground", "--threads", "1", "--unix", sock, "file", disk)
    until = time.monotonic() + BOOT
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

    def kill():
        nonlocal store
        store.signal(signal.SIGKILL)
        store.wait()
        time.sleep(0.2)
        store = nbdkit(lab, far, disk)

    digest = killed_under_load(guest, KILLS, kill)
    end_serve(server)
    check_image(lab, disk, digest)


def grow_and_stop(lab):
    """A qcow2 image and a server's disk grow under a guest; then the server stands still, and sluice ends anyway."""
    need("nbdkit")
    qcow2, disk, far, socks = make(lab, "qcow2"), lab.disk(64), lab.path("far"), [lab.path("s0"), lab.path("s1")]
    store = nbdkit(lab, far, disk)
    server = lab.serve(f"blk,{qcow2},format=qcow2,id=image,socket={socks[0]}",
                       f"blk,nbd+unix:///?socket={far},id=far,stop-timeout=1,socket={socks[1]}",
                       options=("--control", lab.path("c")))
    guest = lab.qemu("shell", *socks, device=",num-queues=1")
    shell(guest)
    check(control(lab, "resize", "image", "288M") == {"size-bytes": 288 * MIB}, "not 288M")
    os.truncate(disk, 96 * MIB)
    control(lab, "refresh", "far")
    for name, mib in (("vda", 288), ("vdb", 96)):
        guest.say(f"until [ $(cat /sys/block/{name}/size) = {mib * 2048} ]; do usleep 100000; done; echo si''zed")
        guest.expect("^sized")
        guest.say(f"dd if=/bin/busybox of=/dev/{name} bs=64k count=1 seek={mib * 16 - 1} oflag=direct 2>/dev/null && "
                  f"dd if=/dev/{name} bs=64k skip={mib * 16 - 1} iflag=direct 2>/dev/null | "
                  "cmp -n 65536 - /bin/busybox && echo sa''me")
        guest.expect("^same")
    figures = control(lab, "status", "far")["devices"][0]
    check("nbd.oldest-request-ms" in str(figures), f"no figures: {figures}")
    store.signal(signal.SIGSTOP)
    guest.say("(dd if=/dev/zero of=/dev/vdb bs=4k count=1 oflag=direct) &")
    until(lambda: in_flight(lab) == 1, "no write is under way")
    server.signal(signal.SIGTERM)
    status = server.wait(BOOT)
    check(status == 0, f"exit status {status}; {server.tail()}")
    store.signal(signal.SIGCONT)
    guest.end()
    done = subprocess.run(["qemu-img", "check", "-f", "qcow2", qcow2], capture_output=True, text=True, check=False)
    check(done.returncode == 0, f"qemu-img check: {done.stdout}{done.stderr}")


main([grow_and_stop, qcow2_qemu, qcow2_uml, vmdk_qemu, vmdk_uml, qemu_nbd_killed, server_killed])
