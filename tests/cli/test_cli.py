#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The command line: what is wrong gets one line and the right exit status, and a server comes and goes as it should.

usage: test_cli.py SLUICE [CASE]...
"""
import fcntl
import json
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from cases import BOUND, MIB, SLUICE, check, main  # noqa: E402 (needs the path)


def sluice(*args, **kwargs):
    return subprocess.run([SLUICE, *args], capture_output=True, text=True, timeout=BOUND, check=False, **kwargs)


def wrong(status, pattern, *args, **kwargs):
    """The command fails with @status, one line that matches, and no result."""
    done = sluice(*args, **kwargs)
    shown = f"sluice {' '.join(args)}: exit status {done.returncode}, says {done.stderr!r}"
    lines = [line for line in done.stderr.splitlines() if ": listening on " not in line]
    check(done.returncode == status, f"{shown}; expected {status}")
    check(len(lines) == 1 and lines[0].startswith("sluice: "), f"{shown}; expected one line")
    check(re.search(pattern, lines[0]), f"{shown}; expected {pattern}")
    check(not done.stdout, f"{shown}; and prints {done.stdout!r}")


def disk(name, size=MIB, start=b""):
    with open(name, "wb") as f:
        f.write(start)
        f.truncate(size)
    return name


def somebody_else():
    """How to start a program that may not do everything; None: here it cannot even be started."""
    if os.geteuid():
        return {}
    try:
        sluice("--version", user=65534)
        return {"user": 65534}
    except PermissionError:
        print("not tested: files that may not be read")
        return None


class Serve:
    """A server that listens; SIGTERM ends it when the block is left."""

    def __init__(self, *args, sockets=(), **kwargs):
        words = [SLUICE, "serve"]
        for device in args:
            words += ["--device", device]
        self.process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, **kwargs)
        deadline = time.monotonic() + BOUND
        while not all(self.connects(path) for path in sockets):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise AssertionError(f"serve {args}: {self.process.communicate()[1]}")
            time.sleep(0.02)

    @staticmethod
    def connects(path):
        with socket.socket(socket.AF_UNIX) as s:
            try:
                s.connect(path)
                return True
            except OSError:
                return False

    def end(self, sig=signal.SIGTERM):
        self.process.send_signal(sig)
        self.process.communicate(timeout=BOUND)
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            check(self.end() == 0, "serve does not end with 0 after SIGTERM")


# ---- wrong command lines ----

def commands():
    wrong(2, "serv: unknown command; did you mean 'serve'", "serv")
    wrong(2, "xyzzy: unknown command", "xyzzy")
    wrong(2, "--devce: unknown option; did you mean '--device'", "serve", "--devce", "x")
    wrong(2, "--device: needs a value", "serve", "--device")
    wrong(2, "nothing to serve", "serve")
    wrong(2, "'more': unexpected", "serve", "--device", "blk,null:1M,socket=s", "more")
    wrong(2, "--threads 0: wants a number from 1", "serve", "--device", "blk,null:1M,socket=s", "--threads", "0")
    wrong(2, "foo: unknown device type", "devices", "foo")
    wrong(2, "--jsn: unknown option; did you mean '--json'", "devices", "--jsn")
    for args in ["--help"], ["help"], ["run", "--help"], ["serve", "--help"], ["bench", "--help"], \
                ["bench", "blk", "--help"], ["bench", "ring", "--help"], ["devices", "--help"], ["--version"]:
        done = sluice(*args)
        check(done.returncode == 0 and done.stdout and not done.stderr, f"{args}: {done}")
    done = sluice()
    check(done.returncode == 2 and done.stderr.startswith("usage: ") and not done.stdout, f"no command: {done}")


def specs():
    wrong(2, "blkk: unknown device type; did you mean 'blk'", "serve", "--device", "blkk,null:1M,socket=s")
    wrong(2, "bkl: unknown device type; did you mean 'blk'", "serve", "--device", "bkl,null:1M,socket=s")
    wrong(2, "unknown key 'sokcet'; did you mean 'socket'", "serve", "--device", "blk,null:1M,sokcet=s")
    wrong(2, "readonly=yes: wants one of", "serve", "--device", "blk,null:1M,readonly=yes,socket=s")
    wrong(2, "cache=writebak: .*writeback", "serve", "--device", "blk,d,cache=writebak,socket=s")
    wrong(2, "queues=0: out of range", "serve", "--device", "blk,null:1M,queues=0,socket=s")
    wrong(2, "queue-size=100000: out of range", "serve", "--device", "blk,null:1M,queue-size=100000,socket=s")
    wrong(2, "key 'socket' is given twice", "serve", "--device", "blk,null:1M,socket=s,socket=t")
    wrong(2, "either socket=PATH or fd=N", "serve", "--device", "blk,null:1M")
    wrong(2, "either socket=PATH or fd=N", "serve", "--device", "blk,null:1M,socket=s,fd=3")
    wrong(2, "needs a source", "serve", "--device", "blk,socket=s")
    wrong(2, "wants a size", "serve", "--device", "blk,memory:1X,socket=s")
    wrong(2, "no 'foo:' sources in this build", "serve", "--device", "blk,foo:bar,socket=s")
    wrong(2, "fd=77: not an open socket", "serve", "--device", "blk,null:1M,fd=77")


def files():
    def serve(status, pattern, source, **kwargs):
        wrong(status, pattern, "serve", "--device", f"blk,{source},socket=s", **kwargs)
        check(not os.path.exists("s"), f"{source}: a socket is left behind")

    serve(2, "missing: cannot open: No such file", "missing")
    os.mkdir("folder")
    serve(2, "folder: is a directory", "folder")
    serve(2, "overlay=o: cannot make it large enough: File too large", "null:1M,overlay=o",
          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)))
    serve(2, "small: too small", disk("small", 100))
    serve(2, "empty: too small", disk("empty", 0))
    serve(2, "odd: 1000 bytes are no multiple of the block size", disk("odd", 1000))
    serve(2, "/dev/null: neither a regular file nor a block device", "/dev/null")
    for name, magic in ("qcow2", b"QFI\xfb"), ("vmdk", b"KDMV"):
        serve(2, f"looks like a {name} image: write format={name}, or format=raw", disk(name, MIB, magic))
        with Serve(f"blk,{name},format=raw,socket=s", sockets=["s"]):
            pass
    other = somebody_else()
    if other is None:
        return
    disk("secret")
    os.chmod("secret", 0)
    os.chmod(".", 0o777)
    serve(2, "secret: cannot open: Permission denied", "secret", **other)
    disk("kept")
    os.chmod("kept", 0o444)
    serve(2, "kept: cannot open for writing: Permission denied; add readonly=on", "kept", **other)


def locked():
    disk("d")
    with open("d", "rb+") as f:
        fcntl.fcntl(f, fcntl.F_OFD_SETLK, struct.pack("hhlliL", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0, 0))
        wrong(1, "d: in use", "serve", "--device", "blk,d,socket=s")
    with Serve("blk,d,socket=s", sockets=["s"]):
        wrong(1, "d: in use", "serve", "--device", "blk,d,socket=t")
    with Serve("blk,d,readonly=on,socket=s", "blk,d,readonly=on,socket=t", sockets=["s", "t"]):
        pass


def run_files():
    wrong(2, "no kernel; add --kernel FILE", "run")
    wrong(2, "--kernel missing: No such file", "run", "--kernel", "missing")
    os.mkdir("folder")
    wrong(2, "--kernel folder: is no regular file", "run", "--kernel", "folder")
    for engine in "qemu", "uml":
        wrong(2, "--kernel text: is no ", "run", "--kernel", disk("text", 0, b"no kernel\n" * 1000), "--engine", engine)
    wrong(2, "sh: is a program, but no User-mode Linux", "run", "--kernel", "/bin/sh", "--engine", "uml")
    wrong(2, "--engine foo: no such engine", "run", "--kernel", "text", "--engine", "foo")
    wrong(2, "--memory 1: wants a size", "run", "--kernel", "text", "--memory", "1")
    wrong(2, "--cpus 0: wants a number", "run", "--kernel", "text", "--cpus", "0")


def run_devices():
    """What is wrong with a device is said before a guest is started."""
    def run(status, pattern, device, *more, **kwargs):
        wrong(status, pattern, "run", "--engine", "qemu", "--kernel", "kernel", "--device", device, *more, **kwargs)

    with open("kernel", "wb") as f:
        f.write(b"HdrS".rjust(0x206, b"\0"))
    wrong(2, "--initrd missing: No such file", "run", "--engine", "qemu", "--kernel", "kernel", "--initrd", "missing")
    run(2, "engine qemu: qemu-system-x86_64 is not there; type: ", "blk,null:1M", env={**os.environ, "PATH": "."})
    run(2, "blkk: unknown device type; did you mean 'blk'", "blkk,null:1M")
    run(2, "missing: cannot open: No such file", "blk,missing")
    run(2, "looks like a qcow2 image: write format=", f"blk,{disk('qcow2', MIB, b'QFI' + bytes([0xfb]))}")
    run(2, "fd: only `sluice serve` takes it", "blk,null:1M,fd=0")
    run(2, "socket=missing: No such file", "blk,socket=missing")
    run(2, "socket=qcow2: is no socket", "blk,socket=qcow2")
    run(2, "fs: engine qemu cannot host it; engine kvm can", "fs,tag=t,socket=qcow2")
    run(2, "unknown key 'quues'; did you mean 'queues'", "blk,socket=s,quues=1")
    run(2, "disk: the source belongs to the process that serves", "blk,disk,socket=s")
    run(2, "key 'readonly' belongs to the process that serves", "blk,socket=s,readonly=on")
    run(2, "the second: cannot open", "blk,null:1M", "--device", "blk,the second")


# ---- sockets ----

def left_over():
    """The socket of a killed server is taken over, that of a live one is not; anything else is left alone."""
    with Serve("blk,null:1M,socket=s", sockets=["s"]) as first:
        wrong(1, "s: socket: a live server listens on it", "serve", "--device", "blk,null:1M,socket=s")
        check(Serve.connects("s"), "the live server is gone")
        first.end(signal.SIGKILL)
    check(os.path.exists("s"), "a killed server cannot clean up")
    for sig in signal.SIGTERM, signal.SIGINT:
        server = Serve("blk,null:1M,socket=s", sockets=["s"])
        check(server.end(sig) == 0, f"signal {sig}: exit status")
        check(not os.path.exists("s"), f"signal {sig}: the socket is still there")
    disk("file", 10)
    wrong(1, "file: socket: there is a file of this name", "serve", "--device", "blk,null:1M,socket=file")
    check(os.path.getsize("file") == 10, "a file was overwritten")
    wrong(2, "path is longer than", "serve", "--device", f"blk,null:1M,socket={'x' * 200}")
    wrong(2, "no/s: socket: No such file", "serve", "--device", "blk,null:1M,socket=no/s")


def all_or_nothing():
    """When one device cannot start, the others take their sockets with them."""
    wrong(2, "missing: cannot open", "serve", "--device", "blk,null:1M,socket=s", "--device", "blk,missing,socket=t")
    check(not os.path.exists("s"), "a socket is left behind")


def inherited():
    """fd=N: a listening socket serves for ever, a connected one until it closes."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s")
        listening.listen()
        with Serve(f"blk,null:1M,fd={listening.fileno()}", sockets=["s"], pass_fds=[listening.fileno()]):
            done = sluice("bench", "blk", "--socket-path", "s", "--seconds", "0.1")
            check(done.returncode == 0, f"bench on an inherited socket: {done.stderr}")
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        server = Serve(f"blk,null:1M,fd={theirs.fileno()}", pass_fds=[theirs.fileno()])
        theirs.close()
        ours.close()
        server.process.communicate(timeout=BOUND)
        check(server.process.returncode == 0, f"end of the connection: exit status {server.process.returncode}")


def idle():
    """A server without work uses no processor time, whatever poll-us allows."""
    def ticks(pid):
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            return sum(int(x) for x in f.read().rsplit(")", 1)[1].split()[11:13])

    with Serve("blk,null:1M,poll-us=1000,socket=s", "blk,memory:1M,socket=t", sockets=["s", "t"]) as server:
        check(sluice("bench", "blk", "--socket-path", "s", "--seconds", "0.2").returncode == 0, "bench")
        deadline = time.monotonic() + BOUND
        while True:  # the end of the load may reach it late; then every second is like the next
            before = ticks(server.process.pid)
            time.sleep(1)
            used = ticks(server.process.pid) - before
            if used <= 1:
                break
            check(time.monotonic() < deadline, f"{used} ticks in a second without work")


# ---- resize ----

def resize():
    """An image that grows: SIGHUP makes the server look, and a front-end reads the new capacity."""
    get_features, set_protocol_features, get_config = 1, 16, 24
    with Serve(f"blk,{disk('d')},socket=s", sockets=["s"]) as server, socket.socket(socket.AF_UNIX) as s:
        def request(number, payload=b""):
            s.sendall(struct.pack("=III", number, 1, len(payload)) + payload)

        def answer():
            header = s.recv(12, socket.MSG_WAITALL)
            return s.recv(struct.unpack("=III", header)[2], socket.MSG_WAITALL)

        def capacity():
            request(get_config, struct.pack("=III", 0, 8, 0) + bytes(8))
            return struct.unpack("<Q", answer()[12:])[0] * 512

        s.settimeout(BOUND)
        s.connect("s")
        request(get_features)
        answer()
        request(set_protocol_features, struct.pack("=Q", 1 << 9))
        check(capacity() == MIB, "capacity before")
        os.truncate("d", 3 * MIB)
        check(capacity() == MIB, "capacity before SIGHUP")
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + BOUND
        while capacity() != 3 * MIB:
            check(time.monotonic() < deadline, f"capacity stays {capacity()}")


# ---- devices ----

def devices():
    table = json.loads(sluice("devices", "--json").stdout)
    check([t["type"] for t in table] and "blk" in [t["type"] for t in table], "no blk")
    text = sluice("devices").stdout
    for t in table:
        names = [k["name"] for k in t["keys"]]
        for name in names:  # a device has one source: what sources share is never ambiguous
            layers = [k["layer"] for k in t["keys"] if k["name"] == name]
            check(len(layers) == 1 or set(layers) <= {"file", "nbd", "rbd"} and len(layers) == len(set(layers)),
                  f"{t['type']}: {name} is a key of {layers}")
        check(all(k["help"] and not k["help"].endswith(".") for k in t["keys"]), f"{t['type']}: help")
        check(all(re.search(rf"^    {re.escape(n)}=", text, flags=re.M) for n in names), "text lacks a key")
        check(sluice("devices", t["type"]).stdout in text, "one type is not part of all")


# ---- standard descriptors ----

def output():
    """What was printed but did not arrive is said, once, and is a failure."""
    for args in ["--help"], ["devices"], ["devices", "--json"], ["bench", "--help"], \
                ["bench", "blk", "--device", "blk,null:1M", "--seconds", "0.1", "--json"]:
        for where in ">/dev/full", ">&-":
            done = subprocess.run(["sh", "-c", f'exec "$0" "$@" {where}', SLUICE, *args], stderr=subprocess.PIPE,
                                  text=True, timeout=BOUND, check=False)
            check(done.returncode == 1, f"{args} {where}: exit status {done.returncode}")
            check(re.fullmatch("sluice: standard output: write: .*\n", done.stderr), f"{args} {where}: {done.stderr!r}")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([SLUICE, "devices"], stdout=writer, stderr=subprocess.PIPE, timeout=BOUND, check=False)
    os.close(writer)
    check(done.returncode == 1 and not done.stderr, f"a reader that has gone: {done}")


def descriptors_closed():
    """No file of the program gets the number of a standard descriptor: log lines would go into it."""
    disk("d")
    with subprocess.Popen(["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', SLUICE, "serve", "--device", "blk,d,socket=s"],
                          stdin=subprocess.DEVNULL) as server:
        deadline = time.monotonic() + BOUND
        while not Serve.connects("s"):
            check(server.poll() is None and time.monotonic() < deadline, "serve does not start")
            time.sleep(0.02)
        for fd in range(3):
            at = os.readlink(f"/proc/{server.pid}/fd/{fd}")
            check(at == "/dev/null", f"descriptor {fd} is {at}")
        server.terminate()
        check(server.wait(BOUND) == 0, f"exit status {server.returncode}")


CASES = [output, descriptors_closed, commands, specs, files, locked, run_files, run_devices, left_over, all_or_nothing, inherited, idle,
         resize, devices]


main(CASES, sys.argv[2:])
