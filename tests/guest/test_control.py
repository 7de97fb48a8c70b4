#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Real guests whose disk changes its size, or has a store that does not answer, while they use it."""
import json
import signal
import subprocess
import time

from guest import BOOT, SLUICE, Monitor, check, end_serve, main

MIB = 1 << 20


def control(lab, *args):
    done = subprocess.run([SLUICE, "control", "--control", lab.path("c"), "--json", *args], capture_output=True,
                          text=True, timeout=BOOT, check=False)
    check(done.returncode == 0, f"{args}: {done.stderr}")
    return json.loads(done.stdout)


def in_flight(lab):
    return sum(q["in-flight"] for d in control(lab, "status")["devices"] for q in d["queues"])


def until(condition, what):
    end = time.monotonic() + BOOT
    while not condition():
        check(time.monotonic() < end, what)
        time.sleep(0.1)


def shell(guest):
    guest.expect("guest: this is a shell")


def wait_for_size(guest, mib):
    """The guest's kernel has heard of it without being asked."""
    guest.say(f"until [ $(cat /sys/block/vda/size) = {mib * 2048} ]; do usleep 100000; done; echo si''zed")
    guest.expect("^sized")


def grow_and_shrink(lab, guest):
    """A guest with a shell, and 64 MiB at first."""
    shell(guest)
    wait_for_size(guest, 64)
    check(control(lab, "resize", "root", "96M") == {"size-bytes": 96 * MIB}, "not 96M")
    wait_for_size(guest, 96)
    guest.say("dd if=/dev/vda of=/dev/null bs=1M skip=95 iflag=direct && echo rea''d")
    guest.expect("^read")
    control(lab, "resize", "root", "32M")
    wait_for_size(guest, 32)
    guest.say("dd if=/dev/vda of=/dev/null bs=1M skip=31 iflag=direct && echo rea''d")
    guest.expect("^read")
    guest.say("poweroff -f")
    status = guest.wait()
    check(status == 0, f"exit status {status}; {guest.tail()}")


def resize_run_qemu(lab):
    grow_and_shrink(lab, lab.run("shell", "--control", lab.path("c"), "--device", f"blk,{lab.disk(64)},id=root"))


def resize_run_uml(lab):
    grow_and_shrink(lab, lab.run("shell", "--control", lab.path("c"), "--device", f"blk,{lab.disk(64)},id=root",
                                 engine="uml"))


def resize_serve(lab):
    server = lab.serve(f"blk,{lab.disk(64)},id=root,socket={lab.path('s')}", options=("--control", lab.path("c")))
    grow_and_shrink(lab, lab.qemu("shell", lab.path("s"), device=",num-queues=1"))
    end_serve(server)


def quit_run(lab):
    """quit is SIGTERM by other means."""
    guest = lab.run("shell", "--control", lab.path("c"), "--device", f"blk,{lab.disk(64)}", engine="uml")
    shell(guest)
    check(control(lab, "status")["devices"][0]["connected"], "the guest does not use its disk")
    check(control(lab, "quit") == {}, "no quit")
    status = guest.wait()
    check(status == 1 and "told to end" in guest.tail(), f"exit status {status}; {guest.tail()}")


# ---- a store that does not answer ----

STALLED = "delay-op=write,delay-ms=600000,stop-timeout=1"


def write(guest):
    """Start a write that says when it is done."""
    guest.say("(dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct && echo wri''tten) &")


def stalled(lab, keys, *extra, **kwargs):
    """A guest with a write that its store holds: guest and server."""
    server = lab.serve(f"blk,{lab.disk(64)},{keys},socket={lab.path('s')}", options=("--control", lab.path("c")))
    guest = lab.qemu("shell", lab.path("s"), device=",num-queues=1", chardev=",reconnect=1",
                     extra=extra, **kwargs)
    shell(guest)
    write(guest)
    until(lambda: in_flight(lab) == 1, "no write is under way")
    return guest, server


def pause(lab):
    """A paused guest is paused soon; its write is neither failed nor lost but done when it goes on."""
    guest, server = stalled(lab, "delay-op=write,delay-ms=6000,stop-timeout=1", "-qmp",
                            f"unix:{lab.path('q')},server=on,wait=off")
    monitor = Monitor(lab.path("q"))
    monitor.command("stop")
    server.expect("without an answer after 1 s: 1, left in the inflight region", BOOT)
    check(in_flight(lab) == 0, "the server still has it")
    monitor.command("cont")
    until(lambda: in_flight(lab) == 1, "it is not repeated")
    guest.expect("^written")
    monitor.close()
    guest.end()
    end_serve(server)


def reboot(lab):
    """A guest that is reset comes up again."""
    guest, server = stalled(lab, STALLED, reboot=True)
    guest.say("reboot -f")
    shell(guest)
    guest.end()
    end_serve(server)


def successor(lab):
    """The server ends in time, and the next one does what it left."""
    guest, server = stalled(lab, STALLED)
    server.signal(signal.SIGTERM)
    status = server.wait(BOOT)
    check(status == 0, f"exit status {status}; {server.tail()}")
    check("left in the inflight region" in server.tail(), server.tail())
    server = lab.serve(f"blk,{lab.path('disk.img')},socket={lab.path('s')}")
    guest.expect("^written")
    guest.end()
    end_serve(server)


if __name__ == "__main__":
    main([resize_run_qemu, resize_run_uml, resize_serve, quit_run, pause, reboot, successor])
