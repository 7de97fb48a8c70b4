#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Debian's kernel under QEMU, with a disk from `sluice serve`."""
import os
import subprocess
import time

from guest import BOOT, Monitor, Skip, check, check_image, digest_of, end_serve, finish, main, need


def whole_guest(lab, device, keys="", queues=1):
    """Make a file system, write, read back, trim; the image has the same bytes then."""
    disk, sock = lab.disk(256), lab.path("s")
    server = lab.serve(f"blk,{disk},socket={sock},queues={queues}{keys}")
    guest = lab.qemu("main", sock, device=f",num-queues={queues}{device}")
    digest = digest_of(guest)
    finish(guest)
    end_serve(server)
    check_image(lab, disk, digest)


def split(lab):
    whole_guest(lab, "")


def split_queues(lab):
    """A queue for each CPU, rings of 1024 entries."""
    whole_guest(lab, ",queue-size=1024", queues=2)


def split_plain(lab):
    """Neither indirect descriptors nor event-idx."""
    whole_guest(lab, ",indirect_desc=off,event_idx=off")


def packed(lab):
    whole_guest(lab, ",packed=on", ",packed=on")


def packed_queues(lab):
    whole_guest(lab, ",packed=on", ",packed=on", queues=2)


def direct_io(lab):
    """The image is opened with O_DIRECT."""
    whole_guest(lab, "", ",cache=none")


def never_poll(lab):
    whole_guest(lab, "", ",poll-us=0")


def guests_in_turn(lab):
    """A second guest finds at the same daemon what the first one wrote, though its rings have another format."""
    disk, sock = lab.disk(256), lab.path("s")
    server = lab.serve(f"blk,{disk},socket={sock},packed=on")
    guest = lab.qemu("main", sock, device=",num-queues=1,packed=on")
    finish(guest)
    guest = lab.qemu("again", sock, device=",num-queues=1")
    digest = digest_of(guest)
    finish(guest)
    end_serve(server)
    check_image(lab, disk, digest)


def reboot(lab):
    """The disk works on after the guest restarted: reset, firmware, driver once more."""
    disk, sock = lab.disk(256), lab.path("s")
    server = lab.serve(f"blk,{disk},socket={sock}")
    guest = lab.qemu("reboot", sock, device=",num-queues=1", reboot=True)
    guest.expect("guest: step write")
    guest.expect("guest: ok")
    guest.expect("guest: step verify")
    finish(guest)
    end_serve(server)


def parallel(lab):
    """Four writers on two CPUs and two queues."""
    disk, sock = lab.disk(256), lab.path("s")
    server = lab.serve(f"blk,{disk},socket={sock},queues=2", options=("--threads", "2"))
    finish(lab.qemu("parallel", sock, device=",num-queues=2"))
    end_serve(server)


def two_disks(lab):
    """Two guests at two devices of one process at the same time."""
    socks = [lab.path("s0"), lab.path("s1")]
    server = lab.serve(*(f"blk,{lab.disk(128, f'd{i}')},socket={s}" for i, s in enumerate(socks)))
    guests = [lab.qemu("main sluice.mib=8", s, device=",num-queues=1", cpus=1) for s in socks]
    for guest in guests:
        finish(guest)
    end_serve(server)


def firmware(lab):
    """SeaBIOS boots from the disk: sector 0 by its own driver, and sector 2 when the boot sector asks it to."""
    disk, sock = lab.disk(16), lab.path("s")
    code = bytes.fromhex(
        "31c08ed8"  # xor ax, ax; mov ds, ax
        "be407c"  # mov si, packet
        "b442cd13"  # mov ah, 0x42 (extended read; dl is the drive); int 0x13
        "720e"  # jc end
        "be0080"  # mov si, 0x8000
        "ac"  # next: lodsb
        "84c0"  # test al, al
        "7406"  # jz end
        "baf803"  # mov dx, 0x3f8
        "ee"  # out dx, al
        "ebf5"  # jmp next
        "f4ebfd")  # end: hlt; jmp end
    packet = bytes.fromhex("1000" "0100" "0080" "0000" "0200000000000000")  # one sector, 0:0x8000, from sector 2
    with open(disk, "r+b") as file:
        file.write(code.ljust(0x40, b"\0") + packet)
        file.seek(510)
        file.write(b"\x55\xaa")
        file.seek(1024)
        file.write(b"read by the firmware\n\0")
    server = lab.serve(f"blk,{disk},socket={sock}")
    guest = lab.qemu("", sock, device=",num-queues=1,bootindex=0", kernel=False)
    guest.expect("read by the firmware")
    guest.end()
    end_serve(server)


def full(lab):
    """The host's file system is full: that write fails in the guest, reads and the daemon go on."""
    need("unshare")
    sock, folder = lab.path("s"), lab.path("small")
    os.mkdir(folder)
    # In a mount name space of its own, so that nothing stays mounted; -r makes that possible without being root.
    script = 'mount -t tmpfs -o size=24m tmpfs "$0" && truncate -s 64M "$0/disk" && exec "$@"'
    prefix = ("unshare", "-rm", "sh", "-c", script, folder)
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        raise Skip("no user name spaces here")
    server = lab.serve(f"blk,{folder}/disk,socket={sock}", prefix=prefix)
    for _ in range(2):
        guest = lab.qemu("full sluice.mib=40", sock, device=",num-queues=1")
        guest.expect("guest: write failed as it should")
        finish(guest)
    server.expect("disk: write: No space left on device")
    end_serve(server)


def migrated(lab, scenario, device="", keys="", live=False):
    """Migration into a file and out of it; @live: most of it while the guest works on, else it is paused soon."""
    disk, sock, state = lab.disk(256), lab.path("s"), lab.path("state")
    server = lab.serve(f"blk,{disk},socket={sock}{keys}")
    device = ",num-queues=1" + device
    guest = lab.qemu(scenario, sock, device=device, extra=("-qmp", f"unix:{lab.path('qmp')},server=on,wait=off"))
    monitor = Monitor(lab.path("qmp"))
    guest.expect("guest: round")
    monitor.command("migrate-set-parameters", **{"max-bandwidth": 40 << 20, "downtime-limit": 800 if live else 10000})
    monitor.command("migrate", uri=f"exec:cat >{state}")
    until = time.monotonic() + BOOT
    while (status := monitor.command("query-migrate"))["status"] != "completed":
        check(status["status"] in ("setup", "active", "device") and time.monotonic() < until, f"migration: {status}")
        time.sleep(0.1)
    check(not live or status["total-time"] > 2 * status["downtime"], f"the guest was hardly running: {status}")
    monitor.command("quit")
    monitor.close()
    guest.wait()
    guest = lab.qemu(scenario, sock, device=device, extra=("-incoming", f"exec:cat {state}"))
    # of a live one, see migration_log()
    guest.expect("guest: round", 60 if live else BOOT)
    guest.expect("guest: round", 60 if live else BOOT)
    guest.say("")
    digest = digest_of(guest)
    finish(guest)
    end_serve(server)
    check_image(lab, disk, digest)


def migration(lab):
    """Requests in flight are finished before, and none is lost."""
    migrated(lab, "load sluice.mib=4")


def migration_packed(lab):
    migrated(lab, "load sluice.mib=4", ",packed=on", ",packed=on")


def migration_log(lab):
    """What the device wrote to guest memory meanwhile was logged, or the guest would find old memory afterwards.

    QEMU 7.2's TCG loses some of what the CPU wrote in about one live migration
    of six, and more often on a busy machine, also with QEMU's own disks; the
    guest then crashes or hangs. So there are six tries. Without the log every
    one of them fails.
    """
    for attempt in range(1, 7):
        try:
            # init_on_alloc=0: the CPU would mark those pages as dirty, too, if it cleared them before
            return migrated(lab, "cached sluice.mib=32 init_on_alloc=0", live=True)
        except AssertionError as why:
            if attempt == 6:
                raise
            print(f"migration_log, try {attempt}: {str(why).splitlines()[0]}", flush=True)
            lab.end()
    return None


def paused(lab):
    """QEMU stops the device when it pauses the guest, and starts it where it was."""
    disk, sock = lab.disk(256), lab.path("s")
    server = lab.serve(f"blk,{disk},socket={sock}")
    guest = lab.qemu("load sluice.mib=4", sock, device=",num-queues=1",
                     extra=("-qmp", f"unix:{lab.path('qmp')},server=on,wait=off"))
    monitor = Monitor(lab.path("qmp"))
    guest.expect("guest: round")
    for _ in range(20):
        monitor.command("stop")
        monitor.command("cont")
        time.sleep(0.1)
    guest.say("")
    finish(guest)
    monitor.close()
    end_serve(server)


def capacity(lab):
    """The guest sees the image's size."""
    sock = lab.path("s")
    server = lab.serve(f"blk,{lab.disk(100)},socket={sock}")
    guest = lab.qemu("main sluice.mib=1", sock, device=",num-queues=1")
    sectors = int(guest.expect(r"guest: disk (\d+) sectors")[1])
    check(sectors == 100 * 2048, f"{sectors} sectors")
    finish(guest)
    end_serve(server)


main([split, split_queues, split_plain, packed, packed_queues, direct_io, never_poll, guests_in_turn, reboot,
      parallel, two_disks, firmware, capacity, full, paused, migration, migration_packed,
      migration_log])
