#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`sluice run` with the engines qemu and uml: disks, exit status, console, and that nothing is left behind."""
import os
import pty
import select
import signal
import subprocess
import termios
import time

from guest import (BOOT, SLUICE, UML, Skip, alive, check, check_image, descendants, digest_of, end_serve, finish,
                   image, main, need)

ENGINES = ("qemu", "uml")


def whole_guest(lab, engine, keys="", options=()):
    """Make a file system, write, read back, trim; the image has the same bytes then."""
    disk = lab.disk(256)
    guest = lab.run("main", "--device", f"blk,{disk}{keys}", *options, engine=engine)
    digest = digest_of(guest)
    finish(guest)
    check_image(lab, disk, digest)


def qemu(lab):
    whole_guest(lab, "qemu", ",queues=2", ("--cpus", "2"))


def qemu_packed(lab):
    whole_guest(lab, "qemu", ",packed=on")


def uml(lab):
    whole_guest(lab, "uml")


def uml_packed(lab):
    whole_guest(lab, "uml", ",packed=on")


def auto(lab):
    """auto is qemu, and says so."""
    guest = lab.run("poweroff", engine="auto")
    guest.expect("sluice: run: engine qemu:")
    finish(guest)


def several_disks(lab):
    """The guest finds its disks in the order of the command line."""
    for engine in ENGINES:
        disks = ["--device", f"blk,{lab.disk(64, 'a')}", "--device", "blk,memory:96M"]
        guest = lab.run("main sluice.mib=1 sluice.dev=vdb", *disks, engine=engine)
        sectors = int(guest.expect(r"guest: disk (\d+) sectors")[1])
        check(sectors == 96 * 2048, f"{engine}: {sectors} sectors")
        finish(guest)


def elsewhere(lab):
    """socket=: the device lives in another process, and guests of both engines use it in turn."""
    disk, sock = lab.disk(256), lab.path("s")
    server = lab.serve(f"blk,{disk},socket={sock},packed=on")
    for engine, scenario, keys in (("qemu", "main", ",packed=on"), ("uml", "again", "")):
        guest = lab.run(scenario, "--device", f"blk,socket={sock}{keys}", engine=engine)
        digest = digest_of(guest)
        finish(guest)
    end_serve(server)
    check_image(lab, disk, digest)


def panics(lab):
    """A guest that panics is exit status 1."""
    for engine in ENGINES:
        guest = lab.run("panic", engine=engine)
        check(guest.wait() == 1, f"{engine}: {guest.tail()}")
        check(guest.seen[-1].endswith({"qemu": "as it does after a panic", "uml": "the guest panicked"}[engine]),
              guest.tail())


def ended(lab, number, status):
    """However the run ends, no process and no directory stays."""
    for engine in ENGINES:
        tmp = lab.path(engine)
        os.mkdir(tmp)
        guest = lab.run("shell", "--device", f"blk,{lab.disk(16)}", engine=engine, env={**os.environ, "TMPDIR": tmp})
        guest.expect("guest: this is a shell")
        family = descendants(guest.process.pid)
        check(len(family) >= 2, f"{engine}: processes: {family}")
        guest.signal(number)
        got = guest.wait()
        check(got == status, f"{engine}: exit status {got}, not {status}; {guest.tail()}")
        until = time.monotonic() + BOOT
        while any(map(alive, family)) and time.monotonic() < until:
            time.sleep(0.05)
        check(not any(map(alive, family)), f"{engine}: processes were left behind")
        check(not os.listdir(tmp), f"{engine}: {os.listdir(tmp)} was left behind")


def terminated(lab):
    ended(lab, signal.SIGTERM, 1)


def interrupted(lab):
    ended(lab, signal.SIGINT, 1)


def killed(lab):
    ended(lab, signal.SIGKILL, -signal.SIGKILL)


def engine_killed(lab):
    """The engine's program dies: exit status 1, and a line that says so."""
    for engine in ENGINES:
        guest = lab.run("shell", engine=engine)
        guest.expect("guest: this is a shell")
        for pid in descendants(guest.process.pid):
            with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                if file.read().startswith(("qemu", "linux")):
                    os.kill(pid, signal.SIGKILL)
                    break
        check(guest.wait() == 1, guest.tail())
        check("was killed by signal 9" in guest.tail(), guest.tail())


def typed(lab):
    """What is typed reaches the guest."""
    for engine in ENGINES:
        guest = lab.run("echo sluice.ask=1", engine=engine)
        guest.expect("guest: echo")
        guest.say("hello")
        finish(guest)


def console_in_file(lab):
    """--console: what the guest says is in a file then, to its last word."""
    for engine in ENGINES:
        guest = lab.run("poweroff", "--console", "file:" + lab.path(engine), engine=engine)
        check(guest.wait() == 0, guest.tail())
        with open(lab.path(engine), encoding="utf-8", errors="replace") as file:
            check("guest: ok" in file.read(), f"{engine}: the guest's words are not in the file")
        check(not any("guest:" in line for line in guest.seen), guest.tail())


def without_input(lab):
    """Standard input that cannot be waited for, or has ended, is no input."""
    for stdin in ("/dev/null", lab.disk(1)):
        with open(stdin, "rb") as file:
            finish(lab.run("poweroff", engine="uml", stdin=file))


def terminal(_lab):
    """On a terminal: raw while the guest runs; Ctrl-C ends the run; then the terminal is as it was."""
    need("qemu-system-x86_64")
    if not os.path.exists(UML):
        raise Skip(f"{UML} is not installed")
    for engine in ENGINES:
        master, slave = pty.openpty()
        before = termios.tcgetattr(slave)
        kernel = UML if engine == "uml" else image() + "/vmlinuz"
        with subprocess.Popen([SLUICE, "run", "--engine", engine, "--kernel", kernel, "--initrd",
                               image() + "/initramfs", "--append", "quiet sluice.test=shell"],
                              stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                              preexec_fn=lambda fd=slave: __import__("fcntl").ioctl(fd, termios.TIOCSCTTY, 0)) as run:
            try:
                read_until(master, b"this is a shell")
                check(not termios.tcgetattr(slave)[3] & termios.ECHO, "the terminal is not raw")
                os.write(master, b"echo a$((6*7))b\r")
                read_until(master, b"a42b")
                os.write(master, b"\x03")
                status = run.wait(BOOT)
            finally:
                run.kill()
        check(status == 1, f"{engine}: exit status {status}")
        check(termios.tcgetattr(slave) == before, f"{engine}: the terminal is not as it was")
        os.close(master)
        os.close(slave)


def read_until(fd, text):
    """Read a terminal until it showed a text."""
    seen, until = b"", time.monotonic() + BOOT
    while text not in seen:
        ready, _, _ = select.select([fd], [], [], max(0, until - time.monotonic()))
        check(ready, f"no {text!r} in {seen[-400:]!r}")
        seen += os.read(fd, 4096)


main([qemu, qemu_packed, uml, uml_packed, auto, several_disks, elsewhere, panics, terminated, interrupted, killed,
      engine_killed, typed, console_in_file, without_input, terminal])
