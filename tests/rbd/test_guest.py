#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Linux guests on RBD images, with a Ceph cluster (see with-ceph), and programs that end without one.

A snapshot is taken, a second writer refused and the image resized under the running guest; the daemon is killed under
load; the cluster stands still while sluice is to end.
"""
import json
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guest"))
from guest import SLUICE, check, check_image, digest_of, end_serve, finish, killed_under_load, main  # noqa: E402


def rbd(*args):
    """The command rbd; its output."""
    return subprocess.run(["rbd", *args], capture_output=True, text=True, timeout=60, check=True).stdout


def osd(number):
    """Send the OSD a signal; one that is to stand still does, with all its threads, when this returns."""
    with open(os.path.join(os.environ["CEPH_DIR"], "osd.pid"), encoding="ascii") as file:
        pid = int(file.read())
    os.kill(pid, number)
    for task in os.listdir(f"/proc/{pid}/task") if number == signal.SIGSTOP else []:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with open(f"/proc/{pid}/task/{task}/stat", encoding="ascii") as file:
                if file.read().rpartition(")")[2].split()[0] == "T":
                    break
            time.sleep(0.001)


def used(image):
    """Bytes of the image that the cluster keeps something for."""
    return sum(row["length"] for row in json.loads(rbd("diff", "--format", "json", image)) if row["exists"] == "true")


def check_export(lab, what, digest):
    """An image or snapshot, as a file system that was not unmounted, holds the guest's files."""
    path = lab.path("export")
    rbd("export", "--no-progress", what, path)
    subprocess.run(["/sbin/e2fsck", "-fp", path], capture_output=True, check=False)
    check_image(lab, path, digest)
    os.unlink(path)


def serve(lab, image):
    """`sluice serve`, which may have to wait for the lock of its killed predecessor."""
    program = lab.start(SLUICE, "serve", "--device", f"blk,rbd:rbd/{image},socket={lab.path('s')}",
                        stdin=subprocess.DEVNULL)
    program.expect("listening on", 50)
    return program


def grows(lab, image, guest):
    """What the host does to the image of a running guest."""
    digest = digest_of(guest)
    guest.expect("guest: files written")
    rbd("snap", "create", "--no-progress", f"rbd/{image}@one")
    second = lab.start(SLUICE, "serve", "--device", f"blk,rbd:rbd/{image},socket={lab.path('second')}")
    second.expect(f"sluice: serve: rbd:rbd/{image}: in use by another client of the cluster")
    check(second.wait() in (1, 2), "a second writer's exit status")
    rbd("resize", "--no-progress", "--size", "256M", f"rbd/{image}")
    guest.say("")
    sectors = int(guest.expect(r"guest: disk (\d+) sectors")[1])
    check(sectors == 256 * 2048, f"{sectors} sectors")
    guest.expect("guest: scratch written")
    before = used(f"rbd/{image}")
    guest.say("")
    finish(guest)
    return digest, before


def check_after(lab, image, digest, before):
    """Of a guest that has ended."""
    after = used(f"rbd/{image}")
    check(after <= before - (12 << 20), f"{before} bytes before the trim, {after} after it")
    check_export(lab, f"rbd/{image}", digest)
    check_export(lab, f"rbd/{image}@one", digest)


def uml(lab):
    rbd("create", "--size", "192M", "rbd/uml")
    guest = lab.run("grow sluice.ask=1", "--device", "blk,rbd:rbd/uml", engine="uml")
    check_after(lab, "uml", *grows(lab, "uml", guest))


def qemu(lab):
    rbd("create", "--size", "192M", "rbd/qemu")
    server = serve(lab, "qemu")
    guest = lab.qemu("grow sluice.ask=1", lab.path("s"), device=",num-queues=1")
    result = grows(lab, "qemu", guest)
    end_serve(server)
    check_after(lab, "qemu", *result)


def killed(lab):
    """kill -9 under load: the next one takes the lock of the dead one, and no request is lost or done twice."""
    rbd("create", "--size", "192M", "rbd/killed")
    server = serve(lab, "killed")
    guest = lab.qemu("load sluice.mib=4", lab.path("s"), device=",num-queues=1", chardev=",reconnect=1")

    def kill():
        nonlocal server
        server.signal(signal.SIGKILL)
        server.wait()
        server = serve(lab, "killed")

    digest = killed_under_load(guest, 2, kill)
    end_serve(server)
    check_export(lab, "rbd/killed", digest)


def ends_without_cluster(lab):
    """The OSD answers nothing any more: sluice ends all the same."""
    rbd("create", "--size", "64M", "rbd/left")
    server = serve(lab, "left")
    osd(signal.SIGSTOP)
    try:
        end_serve(server)
        check(any("left without closing the image" in line for line in server.seen), server.tail())
    finally:
        osd(signal.SIGCONT)


main([uml, qemu, killed, ends_without_cluster])
