# SPDX-License-Identifier: MIT
"""What the tests with real guests share: start programs, talk to a console, clean up.

A test file has a table of functions and ends with main(table). Each function gets
a fresh Lab, whose folder and programs are gone when it returns. Programs are
ended by their own process object, never by name.
"""
import hashlib
import json
import os
import queue
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SLUICE = os.environ.get("SLUICE", os.path.join(TOP, "build", "sluice"))
UML = "/usr/bin/linux.uml"
BOOT = 180  # seconds that a guest may take for anything; a bound against hangs, on a machine that is busy, too
_images = {}


class Skip(Exception):
    """This test cannot run here; the text says why."""


def check(condition, text):
    """Fail the test with a text."""
    if not condition:
        raise AssertionError(text)


def need(program):
    """Skip when a program is not there."""
    if not shutil.which(program):
        raise Skip(f"{program} is not installed")


def image():
    """The folder with the kernel and the initramfs."""
    if "dir" not in _images:
        done = subprocess.run([os.path.join(TOP, "scripts/guest-image")], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Skip("no guest: " + (done.stderr.strip().splitlines() or ["?"])[-1])
        _images["dir"] = done.stdout.strip()
    return _images["dir"]


class Program:
    """A started program whose output is read line by line."""

    def __init__(self, args, stdin=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs):
        self.args = args
        self.seen = []
        self.lines = queue.Queue()
        self.process = subprocess.Popen(args, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, **kwargs)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.decode(errors="replace").rstrip())
        self.lines.put(None)

    def expect(self, pattern, timeout=BOOT):
        """Wait for a line with this pattern; answers the match."""
        until = time.monotonic() + timeout
        while True:
            try:
                line = self.lines.get(timeout=max(0, until - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no '{pattern}' within {timeout} s; {self.tail()}") from None
            if line is None:
                self.lines.put(None)
                raise AssertionError(f"ended without '{pattern}'; {self.tail()}")
            self.seen.append(line)
            match = re.search(pattern, line)
            if match:
                return match
            check("guest: FAIL" not in line, f"{line}; {self.tail()}")

    def tail(self):
        """The last lines, for messages."""
        return "last lines:\n    " + "\n    ".join(self.seen[-25:])

    def say(self, text):
        """Type a line."""
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def wait(self, timeout=BOOT):
        """Its exit status; everything it said is in @seen then."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.args[0]} does not end; {self.tail()}") from None
        self.reader.join(BOOT)  # until the last of its children is gone, too
        while not self.lines.empty():
            line = self.lines.get()
            if line is not None:
                self.seen.append(line)
        return status

    def signal(self, number):
        """Send it a signal."""
        self.process.send_signal(number)

    def end(self):
        """It must be gone when this returns."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                try:
                    pipe.close()
                except OSError:
                    pass


class Monitor:
    """QEMU's QMP over a socket."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(BOOT)
        until = time.monotonic() + BOOT
        while True:
            try:
                self.sock.connect(path)
                break
            except OSError:
                check(time.monotonic() < until, f"no monitor at {path}")
                time.sleep(0.05)
        self.file = self.sock.makefile("rw", encoding="utf-8")
        self.file.readline()
        self.command("qmp_capabilities")

    def ask(self, name, **arguments):
        """Answers QMP's answer to the command; events are skipped."""
        self.file.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "return" in answer or "error" in answer:
                return answer

    def command(self, name, **arguments):
        """Answers what the command returned."""
        answer = self.ask(name, **arguments)
        check("return" in answer, f"{name}: {answer}")
        return answer["return"]

    def close(self):
        """Hang up."""
        self.file.close()
        self.sock.close()


class Lab:
    """A folder and the programs started in it."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="sluice-guest-")
        self.programs = []

    def path(self, name):
        """A file in the folder."""
        return os.path.join(self.dir, name)

    def disk(self, mib, name="disk.img"):
        """A fresh raw image."""
        with open(self.path(name), "wb") as file:
            file.truncate(mib << 20)
        return self.path(name)

    def start(self, *args, **kwargs):
        """Start a program that ends with the test."""
        program = Program(list(args), **kwargs)
        self.programs.append(program)
        return program

    def serve(self, *devices, options=(), prefix=()):
        """`sluice serve`, once all its sockets listen."""
        words = [w for d in devices for w in ("--device", d)]
        program = self.start(*prefix, SLUICE, "serve", *options, *words, stdin=subprocess.DEVNULL)
        for _ in devices:
            program.expect("listening on")
        return program

    def run(self, scenario, *options, engine="qemu", **kwargs):
        """`sluice run` of the guest with a scenario of scripts/guest/init."""
        kernel = UML if engine == "uml" else image() + "/vmlinuz"
        if engine == "uml":
            need(UML)
        else:
            need("qemu-system-x86_64")
        return self.start(SLUICE, "run", "--engine", engine, "--kernel", kernel, "--initrd", image() + "/initramfs",
                          "--append", f"quiet sluice.test={scenario}", *options, **kwargs)

    def qemu(self, scenario, *sockets, device="", chardev="", extra=(), cpus=2, reboot=False, kernel=True):
        """QEMU as its users start it, with a vhost-user-blk device for each socket."""
        need("qemu-system-x86_64")
        args = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
                "-accel", "tcg", "-cpu", "max", "-smp", str(cpus), "-m", "512M",
                "-object", "memory-backend-memfd,id=ram,size=512M,share=on", "-machine", "q35,memory-backend=ram"]
        if not reboot:
            args.append("-no-reboot")
        if kernel:
            args += ["-kernel", image() + "/vmlinuz", "-initrd", image() + "/initramfs",
                     "-append", f"console=ttyS0 panic=-1 no_timer_check quiet sluice.test={scenario}"]
        for i, path in enumerate(sockets):
            args += ["-chardev", f"socket,id=c{i},path={path}{chardev}",
                     "-device", f"vhost-user-blk-pci,chardev=c{i}{device}"]
        return self.start(*args, *extra)

    def end(self):
        """End what was started."""
        for program in reversed(self.programs):
            program.end()
        self.programs.clear()

    def close(self):
        """Nothing is left."""
        self.end()
        shutil.rmtree(self.dir, ignore_errors=True)


def finish(guest, status=0):
    """The guest's scenario went well."""
    guest.expect("guest: ok")
    got = guest.wait()
    check(got == status, f"exit status {got}, not {status}; {guest.tail()}")


def end_serve(program):
    """SIGTERM is a clean end."""
    program.signal(signal.SIGTERM)
    status = program.wait()
    check(status == 0, f"sluice serve: exit status {status}; {program.tail()}")


def digest_of(guest):
    """The digest of the guest's list of checksums, which it prints."""
    return guest.expect(r"guest: files \d+ \d+ MiB ([0-9a-f]{64})")[1]


def killed_under_load(guest, kills, kill):
    """kill() at random moments while the guest, in scenario load, writes, reads and compares; answers its digest."""
    dice = random.Random(7)
    guest.expect("guest: round 1")
    for _ in range(kills):
        time.sleep(dice.uniform(0.05, 0.6))
        kill()
        # the lines of rounds that ended before may still be on their way: two more, then it goes on
        guest.expect("guest: round")
        guest.expect("guest: round")
    guest.say("")
    digest = digest_of(guest)
    finish(guest)
    return digest


def check_image(lab, path, digest):
    """The image holds the files the guest wrote, byte for byte; read without the guest."""
    need("/sbin/debugfs")
    out = lab.path("out")
    shutil.rmtree(out, ignore_errors=True)
    os.mkdir(out)
    for command in (f"dump /sums {out}/sums", f"rdump /files {out}"):
        subprocess.run(["/sbin/debugfs", "-R", command, path], capture_output=True, check=True)
    with open(f"{out}/sums", "rb") as file:
        sums = file.read()
    check(hashlib.sha256(sums).hexdigest() == digest, "the image's list of checksums is not the guest's")
    for line in sums.decode().splitlines():
        wanted, name = line.split(maxsplit=1)
        with open(os.path.join(out, "files", name), "rb") as file:
            check(hashlib.sha256(file.read()).hexdigest() == wanted, f"{name}: other bytes than the guest wrote")


def alive(pid):
    """Is there such a process, other than a zombie?"""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descendants(pid):
    """All processes below @pid."""
    children = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(name))
    found, rest = [], [pid]
    while rest:
        for child in children.get(rest.pop(), []):
            found.append(child)
            rest.append(child)
    return found


def connectable(path):
    """Does somebody listen there?"""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(path)
            return True
        except OSError:
            return False


def main(cases):
    """Run the named cases, or all of them; 77 when all were skipped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # a test that takes too long still cleans up
    failed = skipped = 0
    wanted = [c for c in cases if len(sys.argv) < 2 or c.__name__ in sys.argv[1:]]
    for case in wanted:
        lab, start = Lab(), time.monotonic()
        try:
            case(lab)
            print(f"ok {case.__name__} ({time.monotonic() - start:.1f} s)", flush=True)
        except Skip as why:
            skipped += 1
            print(f"skip {case.__name__}: {why}", flush=True)
        except (AssertionError, OSError, subprocess.SubprocessError) as why:
            failed += 1
            print(f"FAIL {case.__name__}: {why}", flush=True)
        finally:
            lab.close()
    sys.exit(1 if failed else 77 if skipped == len(wanted) else 0)
