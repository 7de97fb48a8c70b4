#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The engine kvm with guests of a few instructions, on this host's own /dev/kvm, however slow that is."""
import fcntl
import json
import os
import pty
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guest"))
from guest import SLUICE, TOP, Skip, check, image, main, need  # noqa: E402  pylint: disable=wrong-import-position

LONG = 120  # seconds; a bound against hangs
LOAD = 0x100000  # where the program goes
CODE = 0x100  # where its code begins in file and memory
COM1, POWER, RESET = 0x3f8, 0x604, 0xcf9


def elf(code, note=None, load=LOAD, machine=62):
    """A PVH program: header, two program headers, the note, then @code, in 32-bit protected mode."""
    if note is None:
        note = struct.pack("<III4sI", 4, 4, 18, b"Xen", load + CODE)
    notes_at = 64 + 2 * 56
    size = CODE + len(code)
    head = struct.pack("<4sBBBB8xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 2, machine, 1, load + CODE, 64, 0, 0, 64, 56, 2,
                       0, 0, 0)
    head += struct.pack("<IIQQQQQQ", 1, 7, 0, load, load, size, size, 4096)
    head += struct.pack("<IIQQQQQQ", 4, 4, notes_at, load, load + notes_at, len(note), len(note), 4)
    return (head + note).ljust(CODE, b"\0") + code


def out8(port, value):
    """mov dx, port; mov al, value; out dx, al"""
    return struct.pack("<BBHBBB", 0x66, 0xba, port, 0xb0, value, 0xee)


def out16(port, value):
    """mov dx, port; mov eax, value; out dx, ax"""
    return struct.pack("<BBHBIBB", 0x66, 0xba, port, 0xb8, value, 0x66, 0xef)


def text(words):
    """Print on the serial port."""
    return b"".join(out8(COM1, c) for c in words.encode())


OFF = out16(POWER, 0x2000)
SPIN = b"\xf4\xeb\xfd"  # 1: hlt; jmp 1b
# wait for a byte, print it, again: in al, LSR; test al, 1; jz; in al, RBR; out
ECHO = bytes.fromhex("66bafd03 ec a801 74f7 66baf803 ec ee ebef".replace(" ", ""))


def need_kvm():
    """Skip where it cannot be used."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as why:
        raise Skip(f"/dev/kvm: {why.strerror}") from None


def program(lab, code, **keys):
    """A file with a guest."""
    need_kvm()
    with open(lab.path("guest.elf"), "wb") as file:
        file.write(elf(code, **keys))
    return lab.path("guest.elf")


def run(lab, code, *options, **keys):
    """Run it; answers the process."""
    return lab.start(SLUICE, "run", "--engine", "kvm", "--memory", "16M", "--kernel", program(lab, code, **keys), *options)


def ends(guest, status, pattern):
    """It must say that and end so."""
    if pattern:
        guest.expect(pattern, LONG)
    got = guest.wait(LONG)
    check(got == status, f"exit status {got}, not {status}; {guest.tail()}")


def switches_off(lab):
    ends(run(lab, text("hello\n") + OFF), 0, "hello")


def restarts(lab):
    ends(run(lab, text("again\n") + out8(RESET, 6)), 1, "again")
    ends(run(lab, out8(0x64, 0xfe) + SPIN), 1, "the guest restarted")


def cannot_go_on(lab):
    """Code where there is no memory: registers, the reason and the bytes are told."""
    guest = run(lab, struct.pack("<BIBB", 0xb8, 0xd0000000, 0xff, 0xe0))  # mov eax, ...; jmp eax
    guest.expect(r"KVM_RUN: exit 17 \(internal error\)", LONG)
    guest.expect(r"rip 0010:00000000d0000000 .* code not in memory", LONG)
    guest.expect("rax 00000000d0000000", LONG)
    ends(guest, 1, "the guest cannot go on")


def shows_code(lab):
    """An instruction that KVM would have to emulate and cannot (fld from device memory) is told with its bytes."""
    guest = run(lab, b"\xdb\x2d" + struct.pack("<I", 0xd0000000))
    guest.expect(r"KVM_RUN: exit 17 \(internal error\): an instruction that KVM cannot emulate", LONG)
    guest.expect(r"rip 0010:0000000000100100 .* code db 2d 00 00 00 d0", LONG)
    ends(guest, 1, "the guest cannot go on")
    ends(run(lab, b"\x0f\x0b"), 1, "triple fault|code 0f 0b")  # an invalid one, and no way to handle it


def names_what_failed(lab):
    """Out of descriptors at each moment: one line each time, and KVM's calls by their names."""
    path, lines = program(lab, OFF), set()
    for limit in range(6, 60, 3):
        done = subprocess.run([SLUICE, "run", "--engine", "kvm", "--kernel", path, "--cpus", "16", "--device", "blk,null:1M",
                               "--device", "blk,null:1M,transport=mmio"], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=LONG, check=False,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)))
        check(done.returncode in (0, 1, 127), f"status {done.returncode}: {done.stderr}")
        if done.returncode == 1:
            check(done.stderr.count("\n") == 1 and "Too many open files" in done.stderr, done.stderr)
            lines.add(done.stderr)
    check(any("KVM: KVM_CREATE_VCPU: Too many" in line for line in lines), "\n".join(lines))


def told_to_end(lab):
    guest = run(lab, text("up\n") + SPIN, "--cpus", "3")
    guest.expect("up", LONG)
    guest.signal(signal.SIGTERM)
    ends(guest, 1, "told to end")


def ends_while_busy(lab):
    """A guest that never leaves KVM by itself ends as well."""
    guest = run(lab, text("up\n") + b"\xeb\xfe")
    guest.expect("up", LONG)
    guest.signal(signal.SIGTERM)
    ends(guest, 1, "told to end")


def escape_keys(lab):
    guest = run(lab, text("up\n") + ECHO)
    guest.expect("up", LONG)
    guest.process.stdin.write(b"abc\n")
    guest.process.stdin.flush()
    guest.expect("abc", LONG)
    guest.process.stdin.write(b"\x01\x01\n")  # twice: one for the guest
    guest.process.stdin.flush()
    guest.expect("^\x01$", LONG)
    guest.process.stdin.write(b"\x01x")
    guest.process.stdin.flush()
    ends(guest, 1, "ended by Ctrl-A x")


def power_button(lab):
    """Poll the status of the fixed registers until the button's bit is there, then switch off."""
    wait = bytes.fromhex("66ba0006 66ed a90001 0000 74f3".replace(" ", ""))  # in ax, 0x600; test eax, 0x100; jz
    guest = run(lab, text("up\n") + wait + text("pressed\n") + OFF)
    guest.expect("up", LONG)
    guest.process.stdin.write(b"\x01p")
    guest.process.stdin.flush()
    ends(guest, 0, "pressed")
    guest = run(lab, text("up\n") + wait + text("pressed\n") + OFF)
    guest.expect("up", LONG)
    guest.signal(signal.SIGPWR)
    ends(guest, 0, "pressed")


def terminal_is_restored(lab):
    """However the run ends, the terminal is as it was."""
    def settings(terminal):
        return subprocess.run(["stty", "-a"], stdin=terminal, stdout=subprocess.PIPE, check=True).stdout

    main_end, side = pty.openpty()
    before = settings(side)
    for keys, number, code, load, status in (
            (b"\x01x", 0, text("up\n") + SPIN, LOAD, 1),
            (b"\x03", 0, text("up\n") + SPIN, LOAD, 1),
            (b"", signal.SIGTERM, text("up\n") + SPIN, LOAD, 1),
            (b"", 0, text("up\n") + OFF, LOAD, 0),
            (b"", 0, text("up\n") + b"\xdb\x2d" + struct.pack("<I", 0xd0000000), LOAD, 1),
            (b"", 0, OFF, 0x40000000, 1)):  # where there is no memory: it does not even start
        path = program(lab, code, load=load)
        with subprocess.Popen([SLUICE, "run", "--engine", "kvm", "--kernel", path], stdin=side, stdout=side,
                              stderr=subprocess.DEVNULL, start_new_session=True,
                              preexec_fn=lambda: fcntl.ioctl(side, termios.TIOCSCTTY, 1)) as process:
            seen = b""
            while load == LOAD and b"up" not in seen:
                seen += os.read(main_end, 100)
            if code.endswith(SPIN):
                check(settings(side) != before, "the terminal is not raw")
            if keys:
                os.write(main_end, keys)
            if number:
                process.send_signal(number)
            got = process.wait(LONG)
            check(got == status, f"{keys} {number}: exit status {got}, not {status}")
        check(before == settings(side), f"{keys} {number}: the terminal is not as it was")
    os.close(main_end)
    os.close(side)


def consoles(lab):
    """The serial port on a pty, a socket and a file; Ctrl-A is the guest's there, and peers may come and go."""
    path = program(lab, text("up\n") + ECHO)

    def on(place):
        guest = lab.start(SLUICE, "run", "--engine", "kvm", "--kernel", path, "--console", place)
        return guest, guest.expect("--console .*", LONG)[0] if place[:4] in ("pty", "unix") else ""

    def echoes(send, receive):
        """What is sent must come back; what the guest said before that may come first."""
        send(b"abc\x01x\n")
        seen = b""
        while b"abc\x01x\n" not in seen:
            seen += receive(100)

    guest, line = on("pty")
    for _ in range(2):
        side = os.open(line.split()[-1], os.O_RDWR | os.O_NOCTTY)
        echoes(lambda data, fd=side: os.write(fd, data), lambda size, fd=side: os.read(fd, size))
        os.close(side)
    guest.signal(signal.SIGTERM)
    ends(guest, 1, "told to end")
    guest, line = on("unix:" + lab.path("sock"))
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(LONG)
            peer.connect(lab.path("sock"))
            echoes(peer.sendall, peer.recv)
    guest.signal(signal.SIGTERM)
    ends(guest, 1, "told to end")
    check(not os.path.exists(lab.path("sock")), "the socket is still there")
    guest, line = on("file:" + lab.path("log"))
    until = time.monotonic() + LONG
    while not os.path.exists(lab.path("log")) or not os.path.getsize(lab.path("log")):
        check(time.monotonic() < until, "nothing is in the file")
        time.sleep(0.01)
    guest.signal(signal.SIGTERM)
    ends(guest, 1, "told to end")


def devices(lab):
    """Registers of a device on each bus, and of nobody: the magic of virtio-mmio, the ids of virtio-pci."""
    out = struct.pack("<BBH", 0x66, 0xba, COM1) + b"\xee\xc1\xe8\x08\xee\xc1\xe8\x08\xee\xc1\xe8\x08\xee"  # eax, 4 bytes
    code = b"\xa1" + struct.pack("<I", 0xfeb00000) + out
    code += b"\xb8" + struct.pack("<I", 0x80000800) + bytes.fromhex("66baf80cef") + bytes.fromhex("66bafc0ced") + out
    code += b"\xa1" + struct.pack("<I", 0xe0000000 + (1 << 15)) + out  # the same by ECAM
    code += b"\xa1" + struct.pack("<I", 0xfeb01000) + b"\x83\xf8\xff\x74\x02\xeb\xfe"  # nobody: all ones, or hang
    path = program(lab, code + text("\n") + OFF)
    done = subprocess.run([SLUICE, "run", "--engine", "kvm", "--kernel", path, "--device", "blk,null:1M",
                           "--device", "blk,memory:1M,transport=mmio"], stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=LONG, check=False)
    check(done.returncode == 0, f"status {done.returncode}: {done.stderr}")
    check(done.stdout == b"virt" + b"\xf4\x1a\x42\x10" * 2 + b"\r\n"[1:], f"{done.stdout}")


def bare_program(lab):
    """Our drivers against our devices: real registers, ioeventfd and irqfd and without, MSI-X and the edge of virtio-mmio."""
    need_kvm()
    bare = os.environ.get("BARE", os.path.join(TOP, "build", "guest", "bare"))
    for words, transport in (("pci split verify poll", "pci"), ("pci packed verify interrupt", "pci"),
                             ("pci split verify interrupt", "pci,ioeventfd=off,irqfd=off"),
                             ("pci packed verify interrupt", "pci,legacy=on"),
                             ("mmio split verify poll irq=5", "mmio"),
                             ("mmio split verify interrupt irq=5", "mmio,ioeventfd=off"),
                             ("mmio packed verify poll irq=5", "mmio,irqfd=off"),
                             ("mmio packed verify interrupt irq=5", "mmio")):
        disk = lab.disk(4)
        # whoever is to wait for an interrupt must find nothing done when he looks before
        slow = ",delay-ms=20" if "interrupt" in words else ""
        done = subprocess.run([SLUICE, "run", "--engine", "kvm", "--memory", "64M", "--kernel", bare, "--append",
                               f"blk {words} count=20", "--device",
                               f"blk,{disk},packed=on,transport={transport}{slow}"],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LONG, check=False)
        check(done.returncode == 0 and "bare: ok" in done.stdout and ", 0 failed, 0 wrong," in done.stdout, done.stdout + done.stderr)
        check(("interrupt" in words) == (" 0 interrupts" not in done.stdout), done.stdout)


def bare_run(words, *options):
    """What the bare-metal program says; it must go well, and switch the machine off then."""
    need_kvm()
    bare = os.environ.get("BARE", os.path.join(TOP, "build", "guest", "bare"))
    done = subprocess.run([SLUICE, "run", "--engine", "kvm", "--kernel", bare, "--append", words, *options],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LONG, check=False)
    check(done.returncode == 0 and "bare: ok" in done.stdout, f"status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def cpuid(_lab):
    """The guest sees the leaves that docs/kvm.md has, and in them nothing of this host but what it says."""
    with open(os.path.join(TOP, "docs", "kvm.md"), encoding="utf-8") as file:
        rows = re.findall(r"^\| (0x[0-9a-f, x]+) \|", file.read().partition("## The processor")[2], re.M)
    documented = {int(leaf, 16) for row in rows for leaf in row.split(", ")}
    seen = {}
    for line in re.findall("^cpuid (.*?)\r?$", bare_run("cpuid", "--cpus", "3"), re.M):
        leaf, index, *registers = (int(word, 16) for word in line.split())
        seen[leaf, index] = registers
    # an index that nobody asked for, and a leaf between others that is not there, read as some processors choose
    beyond = {leaf for leaf, index in seen if not index} - documented
    check(not beyond, "leaves that are not documented: " + " ".join(f"{leaf:#x}" for leaf in sorted(beyond)))
    name = b"".join(struct.pack("<4I", *seen[leaf, 0]) for leaf in range(0x80000002, 0x80000005) if (leaf, 0) in seen)
    check(name.rstrip(b"\0") == b"sluice virtual CPU", f"{name}")
    check(struct.pack("<3I", *seen[0x40000000, 0][1:]) == b"KVMKVMKVM\0\0\0", "no KVM")
    _, ebx, ecx, edx = seen[1, 0]
    check(ecx >> 31 == 1, "no hypervisor")
    check(ecx & (1 << 5 | 1 << 3) == 0 and edx & 1 << 18 == 0, "VMX, MONITOR or a serial number")
    check(ebx >> 24 == 0 and ebx >> 16 & 0xff == 4, f"APIC id and number of ids: {ebx:#x}")
    if (0xb, 1) in seen:
        check(seen[0xb, 0][1] == 1 and seen[0xb, 1][1] == 3, "another topology")
    check(seen[0, 0][0] <= 0xd and seen[0x80000000, 0][0] <= 0x80000021, "leaves of nobody")


def memory(_lab):
    """Two slots, below and above the hole of the devices: all of it is there, up to its ends."""
    for size, total, end in (("64M", 63, 0x4000000), ("3G", 3071, 0xc0000000), ("5G", 5119, 0x180000000)):
        check(f"memory {total} MiB up to {end:x}" in bare_run("memory", "--memory", size), size)


def hugepages(lab):
    """Memory from the pool, all of it reserved before the guest runs; too few are told with what to do."""
    path, pool = program(lab, text("up\n") + OFF), "/sys/kernel/mm/hugepages/hugepages-2048kB/"

    def attempt(memory):
        return subprocess.run([SLUICE, "run", "--engine", "kvm", "--kernel", path, "--memory", memory + ",hugepages=on"],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LONG, check=False)

    def number(name):
        with open(pool + name, encoding="utf-8") as file:
            return int(file.read())

    if not os.path.exists(pool):
        raise Skip("no huge pages here")
    done = attempt("1T")
    check("hugepages=on: needs 524288 huge pages" in done.stderr and "nr_hugepages" in done.stderr, done.stderr)
    check(done.returncode == 1 and done.stderr.count("\n") == 1, f"{done.returncode}: {done.stderr}")
    done = attempt("17M")
    check("wants a multiple of 2M" in done.stderr and done.returncode == 2, done.stderr)
    before, spare = number("nr_hugepages"), number("free_hugepages") - number("resv_hugepages")
    try:
        with open(pool + "nr_hugepages", "w", encoding="utf-8") as file:
            file.write(str(before + max(0, 16 - spare)))
        if number("nr_hugepages") < before + max(0, 16 - spare):
            raise Skip("this host has no memory for huge pages")
        done = attempt("32M")
        check(done.returncode == 0 and done.stdout == "up\n", f"{done.returncode}: {done.stderr}")
    except OSError:
        raise Skip("only root may ask for huge pages") from None
    finally:
        if before != number("nr_hugepages"):
            with open(pool + "nr_hugepages", "w", encoding="utf-8") as file:
                file.write(str(before))


def another_process(lab):
    """The devices live in another process, which dies and comes back meanwhile, or comes late."""
    need_kvm()
    bare = os.environ.get("BARE", os.path.join(TOP, "build", "guest", "bare"))
    for words, transport in (("pci split verify interrupt", "pci"), ("mmio packed verify poll irq=5", "mmio")):
        sock, disk = lab.path(transport), lab.disk(4)
        serve = (SLUICE, "serve", "--device", f"blk,{disk},socket={sock},delay-ms=1")
        guest = lab.start(SLUICE, "run", "--engine", "kvm", "--memory", "64M", "--kernel", bare, "--append",
                          f"blk {words} count=200", "--device", f"blk,socket={sock},transport={transport}")
        guest.expect("waiting for it", LONG)
        server = lab.start(*serve)
        guest.expect("is here after", LONG)
        for _ in range(3):
            time.sleep(0.2)
            server.signal(signal.SIGKILL)
            server.wait(LONG)
            server = lab.start(*serve)
        guest.expect(", 0 failed, 0 wrong,", LONG)
        guest.wait(LONG)
        server.expect("listening on", LONG)  # the guest may have been done before it came
        server.signal(signal.SIGTERM)
        check(server.wait(LONG) == 0, "the server does not end well")


def waits_for_another_process(lab):
    """Whoever waits for a back-end that never comes can end it."""
    guest = run(lab, OFF, "--device", "blk,socket=" + lab.path("nobody"))
    guest.expect("blk .*nobody: .*waiting for it", LONG)
    guest.signal(signal.SIGINT)
    ends(guest, 1, "interrupted")


def in_flight(lab):
    """Requests of the guest's only queue that are under way."""
    done = subprocess.run([SLUICE, "control", "--control", lab.path("c"), "--json", "status"], capture_output=True,
                          text=True, timeout=LONG, check=False)
    return json.loads(done.stdout)["devices"][0]["queues"][0]["in-flight"] if done.returncode == 0 else 0


def ends_under_load(lab):
    """Told to end with requests in flight: these are waited for, and then it is over."""
    need_kvm()
    bare = os.environ.get("BARE", os.path.join(TOP, "build", "guest", "bare"))
    for transport in ("pci", "mmio"):
        words = f"blk {transport} split verify poll count=4000 irq=5"
        guest = lab.start(SLUICE, "run", "--engine", "kvm", "--memory", "64M", "--kernel", bare, "--append", words,
                          "--device", f"blk,{lab.disk(16)},transport={transport},delay-ms=100",
                          "--control", lab.path("c"))
        until = time.monotonic() + LONG
        while not in_flight(lab):
            check(time.monotonic() < until and guest.process.poll() is None, f"no load; {guest.tail()}")
        guest.signal(signal.SIGTERM)
        ends(guest, 1, None)


def refuses(lab):
    """What is wrong is said in one line, with status 2 for what was typed and 1 for the rest."""
    need_kvm()
    good = elf(OFF)
    bad = {
        "is too small": b"\x7f",
        "is no Linux kernel": b"x" * 4096,
        "not for x86-64": elf(OFF, machine=183),
        "without a PVH entry": elf(OFF, note=struct.pack("<III4sI", 4, 4, 17, b"Xen", LOAD)),
        "program headers lie beyond": good[:100],
        "a segment lies beyond": good[:-1],
        "its PVH entry outside": elf(OFF, note=struct.pack("<III4sI", 4, 4, 18, b"Xen", 0x5000)),
        "and the guest's memory there is": elf(OFF, load=0x40000000),
    }
    for reason, content in bad.items():
        with open(lab.path("bad"), "wb") as file:
            file.write(content)
        done = subprocess.run([SLUICE, "run", "--engine", "kvm", "--kernel", lab.path("bad")], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=LONG, check=False)
        check(reason in done.stderr and done.stderr.count("\n") == 1, f"'{reason}' is not in: {done.stderr}")
        check(done.returncode in (1, 2), f"{reason}: status {done.returncode}")
    with open(lab.path("good"), "wb") as file:
        file.write(good)
    for reason, options in {
            "at most 16": ("--cpus", "17"),
            "command line has": ("--append", "x" * 70000),
            "--initrd": ("--initrd", lab.path("missing")),
            "is no socket": ("--device", "blk,socket=" + lab.path("good")),
            "the source belongs to the process": ("--device", "blk,null:1M,socket=" + lab.path("good")),
            "key 'readonly' belongs to the process": ("--device", "blk,readonly=on,socket=" + lab.path("sock")),
            "tag=NAME is needed": ("--device", "fs,socket=" + lab.path("sock")),
            "--console serial: wants stdio, pty": ("--console", "serial"),
            "transport": ("--device", "blk,null:1M,transport=isa")}.items():
        done = subprocess.run([SLUICE, "run", "--engine", "kvm", "--kernel", lab.path("good"), *options],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LONG, check=False)
        check(reason in done.stderr and done.stderr.count("\n") == 1, f"'{reason}' is not in: {done.stderr}")
        check(done.returncode == 2, f"{reason}: status {done.returncode}")


def auto_says_why(lab):
    """One line that says what was chosen; here, what was measured."""
    need_kvm()
    with open(lab.path("none"), "wb") as file:
        file.write(elf(OFF))
    done = subprocess.run([SLUICE, "run", "--kernel", lab.path("none")], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=LONG, check=False)
    chose_kvm = "engine kvm: /dev/kvm runs at hardware speed" in done.stderr
    check(chose_kvm or "is no Linux kernel (bzImage)" in done.stderr, done.stderr)


def no_rights(lab):
    """Without rights on /dev/kvm there is a line that says what to do."""
    path = program(lab, OFF)
    os.chmod(lab.dir, 0o755)
    if os.getuid() or os.stat("/dev/kvm").st_mode & 0o006:
        raise Skip("needs to be root, and /dev/kvm not everybody's")
    try:
        done = subprocess.run([SLUICE, "run", "--engine", "kvm", "--kernel", path], stdin=subprocess.DEVNULL, user=65534,
                              group=65534, extra_groups=[], capture_output=True, text=True, timeout=LONG, check=False)
    except PermissionError:
        raise Skip("another user cannot start this build") from None
    told = "/dev/kvm: Permission denied; type: sudo usermod -aG kvm"
    check(told in done.stderr, done.stderr)
    check(done.returncode in (1, 2), f"status {done.returncode}")
    need("qemu-system-x86_64")
    shutil.copy(image() + "/vmlinuz", lab.path("vmlinuz"))
    guest = lab.start(SLUICE, "run", "--kernel", lab.path("vmlinuz"), "--append", "quiet", user=65534, group=65534,
                      extra_groups=[])
    guest.expect("engine qemu: .*" + told, LONG)
    guest.signal(signal.SIGTERM)
    ends(guest, 1, None)


def leaves_nothing(lab):
    """No thread, descriptor or memory is left: the same again a few times, and quickly."""
    for _ in range(3):
        start = time.monotonic()
        ends(run(lab, OFF, "--cpus", "16"), 0, None)
        check(time.monotonic() - start < LONG, "it takes too long")


if __name__ == "__main__":
    main([switches_off, restarts, cannot_go_on, shows_code, names_what_failed, told_to_end, ends_while_busy, escape_keys,
          power_button, terminal_is_restored, consoles, devices, bare_program, cpuid, memory, hugepages,
          another_process, waits_for_another_process, ends_under_load, refuses, auto_says_why, no_rights, leaves_nothing])
