#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""vhost-user-blk against QEMU's "Backend program conventions" (docs/interop/vhost-user.rst), and its description.

usage: test_backend.py SLUICE DESCRIPTION [CASE]...
"""
import json
import os
import signal
import socket
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from cases import BOUND, MIB, SLUICE, check, main, until  # noqa: E402 (needs the path)

DESCRIPTION = os.path.abspath(sys.argv[2])


def backend(*args, **kwargs):
    return subprocess.run(["./vhost-user-blk", *args], capture_output=True, text=True, timeout=BOUND, check=False,
                          **kwargs)


def load(op, path="s"):
    return subprocess.run([SLUICE, "bench", "blk", "--socket-path", path, "--op", op, "--seconds", "0.2"],
                          capture_output=True, text=True, timeout=BOUND, check=False)


def listens(path="s"):
    """Its name is there a little earlier."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(path) == 0


class Backend:
    """It does not go into the background, and SIGTERM ends it cleanly."""

    def __init__(self, *args, **kwargs):
        self.process = subprocess.Popen(["./vhost-user-blk", *args], stderr=subprocess.PIPE, text=True, **kwargs)

    def __enter__(self):
        return self.process

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=BOUND)
        check(self.process.returncode == 0, f"ends with {self.process.returncode}: {said}")


def capabilities():
    for words in ["--print-capabilities"], ["--fd=7", "--print-capabilities", "--nonsense", "more"]:
        done = backend(*words)
        check(done.returncode == 0 and not done.stderr, done)
        said = json.loads(done.stdout)
        check(said == {"type": "block", "features": ["read-only", "blk-file"]}, said)


def description():
    """As QEMU's vhost-user.json says: struct VhostUserBackend."""
    with open(DESCRIPTION, encoding="utf-8") as f:
        said = json.load(f)
    check(set(said) == {"description", "type", "binary"} and said["type"] == "block", said)
    check(os.path.isabs(said["binary"]) and said["binary"].endswith("/sluice/vhost-user-blk"), said)


def wrong():
    for words, text in (([], "either --socket-path=PATH or --fd=N"), (["--socket-path=s"], "add --blk-file"),
                        (["--socket-path=s", "--fd=3", "--blk-file=d"], "either"),
                        (["--fd=x", "--blk-file=d"], "wants the number"),
                        (["--socket-path=s", "--blk-file=none"], "none: cannot open: No such file"),
                        (["--fd=99", "--blk-file=d"], "not an open socket"),
                        (["--sockt-path=s"], "did you mean '--socket-path'"), (["--read-only=1"], "--read-only"),
                        (["d"], "unexpected")):
        done = backend(*words)
        check(done.returncode != 0 and text in done.stderr and done.stderr.count("\n") == 1, done)


def socket_path():
    with open("a,b", "wb") as f:
        f.truncate(MIB)
    for name in "d", "a,b", os.path.abspath("d"):
        with Backend("--socket-path=s", f"--blk-file={name}"):
            until(listens, "no socket")
            check(load("randwrite").returncode == 0, name)
            check(load("randread").returncode == 0, "one front-end after the other")
        check(not os.path.exists("s"), "the socket is left")


def read_only():
    with Backend("--socket-path=s", "--blk-file=d", "--read-only"):
        until(listens, "no socket")
        check(load("randread").returncode == 0, "not even reads")
        check(load("randwrite").returncode != 0, "writes")


def inherited():
    """A listening socket, and one that is connected: then it ends with the connection."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("l")
        listening.listen()
        with Backend(f"--fd={listening.fileno()}", "--blk-file=d", pass_fds=[listening.fileno()]):
            check(load("randread", "l").returncode == 0, "nothing is read")
    ours, theirs = socket.socketpair()
    with Backend(f"--fd={theirs.fileno()}", "--blk-file=d", pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        ours.sendall(bytes([1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]))  # GET_FEATURES
        ours.settimeout(BOUND)
        check(len(ours.recv(20, socket.MSG_WAITALL)) == 20, "no answer")
        ours.close()
        check(process.wait(BOUND) == 0, "it does not end with the connection")


def prepare():
    os.symlink(SLUICE, "vhost-user-blk")
    with open("d", "wb") as f:
        f.truncate(MIB)


main([capabilities, description, wrong, socket_path, read_only, inherited], sys.argv[3:], prepare)
