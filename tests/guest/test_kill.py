#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""kill -9 of `sluice serve` while a QEMU guest writes, reads and compares.

QEMU keeps the inflight region and connects again; the guest must not notice:
every write it was told is done is there, no request is lost or done twice.
"""
import signal

from guest import check_image, end_serve, killed_under_load, main

KILLS = 10


def killed(lab, device, keys="", queues=1):
    """The daemon is killed at random moments under load, and started again."""
    disk, sock = lab.disk(256), lab.path("s")
    spec = f"blk,{disk},socket={sock},queues={queues}{keys}"
    server = lab.serve(spec)
    guest = lab.qemu("load sluice.mib=4", sock, device=f",num-queues={queues}{device}", chardev=",reconnect=1")

    def kill():
        nonlocal server
        server.signal(signal.SIGKILL)
        server.wait()
        server = lab.serve(spec)

    digest = killed_under_load(guest, KILLS, kill)
    end_serve(server)
    check_image(lab, disk, digest)


def split(lab):
    killed(lab, "")


def packed(lab):
    killed(lab, ",packed=on", ",packed=on")


def queues(lab):
    killed(lab, "", queues=2)


main([split, packed, queues])
