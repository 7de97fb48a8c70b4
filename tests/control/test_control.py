#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The control socket, from clients that are honest and clients that are not; `sluice control`, `sluice top`.

usage: test_control.py SLUICE [CASE]...
"""
import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from cases import BOUND, MIB, SLUICE, check, main, until  # noqa: E402 (needs the path)

CLIENTS, LINE = 16, 4096  # as in sluice-control(1)


def sluice(*args):
    return subprocess.run([SLUICE, *args], capture_output=True, text=True, timeout=BOUND, check=False,
                          stdin=subprocess.DEVNULL)


def control(*args):
    return sluice("control", "--control", "c", *args)


def disk(name, mib=4):
    with open(name, "wb") as f:
        f.truncate(mib * MIB)
    return name


@contextlib.contextmanager
def serve(*devices):
    """A server with a control socket at "c", and its process; it has to end with 0 unless it has ended before."""
    words = [SLUICE, "serve", "--control", "c"]
    for device in devices:
        words += ["--device", device]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: os.path.exists("c") or process.poll() is not None, "no control socket")
            check(process.poll() is None, f"serve {devices} has ended")
            until(lambda: control("status").returncode == 0, "no answer")
            yield process
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=BOUND)
                check(process.returncode == 0, f"serve ends with {process.returncode}")
        finally:
            process.kill()


class Client:
    """A connection that can be kept."""

    def __init__(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("c")  # waits while the backlog is full, which one with a time-out does not
        self.sock.settimeout(BOUND)
        self.file = self.sock.makefile("rb")

    def line(self):
        """The next answer; None: hung up."""
        with contextlib.suppress(ConnectionResetError):
            text = self.file.readline()
            return json.loads(text) if text else None

    def raw(self, data):
        with contextlib.suppress(BrokenPipeError):
            self.sock.sendall(data)
        return self.line()

    def ask(self, **request):
        return self.raw(json.dumps(request).encode() + b"\n")

    def close(self):
        self.file.close()
        self.sock.close()


def result(answer):
    check(answer and answer["ok"], f"{answer}")
    return answer["result"]


def refused(answer, text):
    check(answer and not answer["ok"] and text in answer["error"], f"{answer}, expected {text}")


# ---- commands ----

def status():
    with serve(f"blk,{disk('d')},id=root,socket=s", "blk,null:1G,queues=3,socket=n") as process:
        client = Client()
        all_ = result(client.ask(command="status"))
        check(all_["pid"] == process.pid and all_["command"] == "serve", all_)
        root, null = all_["devices"]
        check([d["number"] for d in all_["devices"]] == [0, 1], all_)
        check(root["id"] == "root" and root["type"] == "blk" and root["socket"] == "s" and not root["connected"], root)
        check(root["figures"]["size-bytes"] == 4 * MIB and null["id"] is None, all_)
        check([q["state"] for q in null["queues"]] == ["stopped"] * 3, null)
        # by name, number and text
        for name in "root", 0, "0", f"blk,{'d'},id=root,socket=s":
            check(result(client.ask(command="status", device=name))["devices"][0]["id"] == "root", name)
        # counters move
        done = sluice("bench", "blk", "--socket-path", "n", "--op", "randread", "--queues", "3", "--seconds", "0.5")
        check(done.returncode == 0, done)
        queues = result(client.ask(command="status", device=1))["devices"][0]["queues"]
        for queue in queues:
            check(queue["requests"] > 0 and queue["requests"] == queue["reads"], queue)
            check(queue["read-bytes"] == 4096 * queue["reads"] and not queue["errors"], queue)
            check(queue["in-flight"] == 0 and queue["kicks"] > 0, queue)
        client.close()
        shown = control("status").stdout
        check("root" in shown and "4.00M" in shown and f"process {process.pid}" in shown, shown)
        check(json.loads(control("status", "--json").stdout)["pid"] == process.pid, "not the answer as it came")


def resize():
    with serve(f"blk,{disk('d')},id=root,socket=s", f"blk,{disk('r')},readonly=on,socket=t"):
        client = Client()
        check(result(client.ask(command="resize", device="root", size="8M")) == {"size-bytes": 8 * MIB}, "not 8M")
        check(os.path.getsize("d") == 8 * MIB, "the file is not 8M")
        done = control("resize", "root", "16M")
        check(done.returncode == 0 and done.stdout == f"{16 * MIB} bytes\n", done)
        os.truncate("d", 2 * MIB)
        os.truncate("r", 2 * MIB)
        check(result(client.ask(command="resize", device=0)) == {"size-bytes": 2 * MIB}, "not looked at")
        check(result(client.ask(command="refresh")) == {}, "not looked at")
        check(result(client.ask(command="refresh", device=1)) == {"size-bytes": 2 * MIB}, "not looked at")
        refused(client.ask(command="resize", device=1, size=MIB), "r: is read-only")
        refused(client.ask(command="resize", device="root", size=1000), "multiple of the block size")
        refused(client.ask(command="resize", size=MIB), "several devices")
        for size in 0, -1, True, None, "lots", "", [], 1.5, "99999999999G":
            refused(client.ask(command="resize", device="root", size=size), "\"size\": wants bytes")
        refused(client.ask(command="resize", device="roof", size=MIB), "roof: no such device")
        refused(client.ask(command="resize", device=2, size=MIB), "2: no such device")
        refused(client.ask(command="resize", device=-1, size=MIB), "no such device")
        refused(client.ask(command="resize", device=[], size=MIB), "\"device\": wants")
        client.close()


def quit_():
    with serve("blk,null:1G,socket=s") as process:
        done = control("quit")
        check(done.returncode == 0 and not done.stdout and not done.stderr, done)
        process.wait(BOUND)
        check(process.returncode == 0, process.returncode)
        check(not os.path.exists("c") and not os.path.exists("s"), "sockets are left")
    done = control("status")
    check(done.returncode == 1 and done.stderr == "sluice: control: c: No such file or directory\n", done)


def command_lines():
    for words, text in ((["control"], "no command"), (["control", "status"], "add --control PATH"),
                        (["control", "--control", "c", "stat"], "did you mean 'status'"),
                        (["control", "--control", "c", "resize"], "wants to be written resize DEVICE [SIZE]"),
                        (["control", "--control", "c", "resize", "0", "0"], "wants a size"),
                        (["control", "--control", "c", "quit", "now"], "wants to be written quit"),
                        (["control", "--contrl", "c", "status"], "did you mean '--control'"),
                        (["top"], "add --control PATH"), (["top", "c"], "unexpected")):
        done = sluice(*words)
        check(done.returncode == 2 and text in done.stderr and done.stderr.count("\n") == 1, done)
    for ids, text in (("id=a", "two devices have this name"), ("id=7", "wants letters"), ("id=a/b", "wants letters")):
        for command in ["serve"], ["run", "--kernel", "k"]:
            done = sluice(*command, "--device", "blk,null:1M,id=a,socket=s", "--device", f"blk,null:1M,{ids},socket=t")
            check(done.returncode == 2 and text in done.stderr and done.stderr.count("\n") == 1, done)
    environment = {**os.environ, "SLUICE_CONTROL": "c"}
    with serve("blk,null:1G,socket=s"):
        done = subprocess.run([SLUICE, "control", "status"], env=environment, capture_output=True, check=False)
        check(done.returncode == 0, done)


def socket_file():
    with serve("blk,null:1G,socket=s") as process:
        check(os.stat("c").st_mode & 0o777 == 0o600, oct(os.stat("c").st_mode))
        done = sluice("serve", "--control", "c", "--device", "blk,null:1G,socket=t")
        check(done.returncode == 1 and "c: socket: a live server listens on it" in done.stderr, done)
        check(not os.path.exists("t"), "the other socket is left")
        process.kill()
        process.wait(BOUND)
        check(os.path.exists("c"), "a killed process cleans up?")
    with serve("blk,null:1G,socket=s"):
        pass
    disk("c")
    done = sluice("serve", "--control", "c", "--device", "blk,null:1G,socket=t")
    check(done.returncode == 2 and "a file of this name that is no socket" in done.stderr, done)
    done = sluice("top", "--control", "c")
    check(done.returncode == 1 and done.stderr == "sluice: top: c: is no socket\n", done)


def stands_still():
    """Whoever asks a process that does not answer is told that this is what is waited for."""
    with serve("blk,null:1G,socket=s") as process:
        process.send_signal(signal.SIGSTOP)
        with subprocess.Popen([SLUICE, "control", "--control", "c", "status"], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as asks:
            check("c: no answer yet" in asks.stderr.readline(), "it waits without a word")
            process.send_signal(signal.SIGCONT)
            check("queue 0" in asks.communicate(timeout=BOUND)[0] and asks.returncode == 0, "no answer")


# ---- clients that are not honest ----

def fds(process):
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def nonsense():
    with serve("blk,null:1G,socket=s") as process:
        client = Client()
        for text in b"", b"x", b"{", b"[]", b"7", b"null", b"\0", b"\xff\xfe", b"[" * 4000, b'{"command":"x","command":"y"}', \
                b'"\\ud800"', b"{}", b'{"command":7}':
            answer = client.raw(text + b"\n")
            check(answer and not answer["ok"] and answer["error"], f"{text}: {answer}")
        refused(client.ask(command="stop"), "stop: unknown command")
        refused(client.ask(command="status", devise=1), "\"devise\": unknown key")
        refused(client.ask(command="y" * 3000), "unknown command")
        # lines in pieces, and many in one piece
        for piece in b'{"comm', b'and":"st', b'atus"}':
            client.sock.sendall(piece)
            time.sleep(0.01)
        result(client.raw(b"\n"))
        client.sock.sendall(b'{"command":"refresh"}\n' * 500)
        for _ in range(500):
            result(client.line())
        # the longest line, and one more
        result(client.raw(b'{"command":"status"' + b" " * (LINE - 20) + b"}\n"))
        refused(client.raw(b" " * (LINE + 1)), "too long")
        check(client.line() is None, "a client with too long a line stays")
        client.close()
        # clients that leave in the middle of anything
        before = fds(process)
        for i in range(200):
            client = Client()
            client.sock.sendall(b'{"command":"status"}\n{"comm'[:i % 28] + b'{"command":"status"}\n' * (i % 5))
            client.close()
        until(lambda: fds(process) <= before, "descriptors are left")
        check(control("status").returncode == 0, "no answer any more")


def too_many():
    with serve("blk,null:1G,socket=s") as process:
        before = fds(process)
        clients = [Client() for _ in range(CLIENTS)]
        for client in clients:
            result(client.ask(command="status"))
        late = Client()
        refused(late.line(), "too many clients")
        check(late.line() is None, "it is not hung up on")
        late.close()
        done = control("status")
        check(done.returncode == 1, done)
        clients.pop().close()
        until(lambda: control("status").returncode == 0, "no room although one left")
        for client in clients:
            result(client.ask(command="status"))
            client.close()
        until(lambda: fds(process) <= before, "descriptors are left")


def resident(process):
    with open(f"/proc/{process.pid}/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * 4096


def slow_reader():
    """It asks without end and reads nothing: nobody else waits, nothing grows, and it is hung up on."""
    with serve("blk,null:1G,queues=64,socket=s") as process:
        slow = Client()
        slow.sock.setblocking(False)
        before = resident(process)
        with contextlib.suppress(BlockingIOError):
            while True:
                slow.sock.send(b'{"command":"status"}\n' * 100)
        for _ in range(20):
            check(control("status").returncode == 0, "others wait")
        check(os.environ.get("SLUICE_SANITIZED") or resident(process) < before + 8 * MIB, f"it has grown from {before} to {resident(process)}")
        poller = select.poll()
        poller.register(slow.sock, 0)
        check(poller.poll(BOUND * 1000), "it is not hung up on")
        slow.close()


# ---- stop ----

def bounded_stop():
    """A store that does not answer holds nobody up for longer than stop-timeout."""
    for sig in signal.SIGTERM, None:
        with serve("blk,memory:16M,delay-ms=600000,stop-timeout=1,socket=s") as process:
            with subprocess.Popen([SLUICE, "bench", "blk", "--socket-path", "s", "--depth", "4", "--seconds", "60"],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as load:
                client = Client()
                until(lambda: result(client.ask(command="status"))["devices"][0]["queues"][0]["in-flight"] == 4,
                      "no load")
                if sig:
                    process.send_signal(sig)
                else:  # both in one piece, or the stop may be over before the second is read
                    result(client.raw(b'{"command":"quit"}\n{"command":"status"}\n'))
                    queue = result(client.line())["devices"][0]["queues"][0]
                    check(queue["state"] == "stopping" and queue["in-flight"] == 4, queue)
                _, said = process.communicate(timeout=BOUND)
                check(process.returncode == 0, process.returncode)
                check("without an answer after 1 s: 4, " in said, said)
                client.close()
                load.kill()


# ---- top ----

def plausible(answer):
    """Rates of a load of 4 KiB reads."""
    rates = answer["devices"][0]["queues"][0]["per-second"]
    return rates["reads"] > 0 and abs(rates["read-bytes"] / 4096 / rates["reads"] - 1) < 0.1


def moves(table):
    """Does the device "fast" work?"""
    return any(line.split()[0] == "fast" and line.split()[2] != "0" for line in table.splitlines()[3:])


def top():
    with serve("blk,null:1G,id=fast,queues=2,socket=s", f"blk,{disk('d')},socket=t"), \
            subprocess.Popen([SLUICE, "bench", "blk", "--socket-path", "s", "--queues", "2", "--seconds", str(BOUND)],
                             stdout=subprocess.DEVNULL) as load:
        until(lambda: all(q["reads"] for q in json.loads(control("status", "--json").stdout)["devices"][0]["queues"]),
              "no load")
        done = sluice("top", "--control", "c", "--once")
        lines = done.stdout.splitlines()
        check(done.returncode == 0 and lines[0].startswith("sluice serve, process"), done)
        check(lines[2].split()[:3] == ["device", "size", "IO/s"], lines[2])
        rows = {line.split()[0]: line.split() for line in lines[3:] if not line.startswith(" ")}
        check(rows["fast"][1] == "1.00G", rows)
        check(rows["blk,d,socket=t"][2] == "0", rows)
        check(sum(line.startswith("  queue") for line in lines) == 2, lines)
        check("\033" not in done.stdout, "escape sequences without a terminal")
        # counters of a device that works are read one after the other, and a second may pass without any: look again
        until(lambda: plausible(json.loads(sluice("top", "--control", "c", "--json").stdout)), "no rates")
        until(lambda: moves(sluice("top", "--control", "c", "--once").stdout), "no rates in the table")
        load.kill()


def read_until(fd, text):
    seen = b""
    end = time.monotonic() + BOUND
    while text not in seen:
        check(time.monotonic() < end and select.select([fd], [], [], BOUND)[0], f"no {text} in {seen[-500:]}")
        seen += os.read(fd, 65536)


def terminal():
    """top takes the terminal and gives it back, however it ends."""
    with serve("blk,null:1G,id=fast,socket=s"):
        for how in b"q", b"\x03", signal.SIGTERM, "quit":
            master, slave = pty.openpty()
            before = termios.tcgetattr(slave)
            with subprocess.Popen([SLUICE, "top", "--control", "c"], stdin=slave, stdout=slave, stderr=subprocess.PIPE,
                                  text=True, start_new_session=True,
                                  preexec_fn=lambda fd=slave: __import__("fcntl").ioctl(fd, termios.TIOCSCTTY, 0)) as shown:
                read_until(master, b"\033[?1049h")
                read_until(master, b"fast")
                check(termios.tcgetattr(slave)[3] & termios.ECHO == 0, "it echoes")
                if how == "quit":
                    check(control("quit").returncode == 0, "no quit")
                elif isinstance(how, bytes):
                    os.write(master, how)
                else:
                    shown.send_signal(how)
                read_until(master, b"\033[?25h\033[?1049l")
                _, said = shown.communicate(timeout=BOUND)
                check(shown.returncode == (how == "quit"), f"{how}: exit status {shown.returncode}")
                check(said == ("sluice: top: c: the process has ended\n" if how == "quit" else ""), f"{how}: {said}")
            check(termios.tcgetattr(slave) == before, f"{how}: the terminal is not as before")
            os.close(master)
            os.close(slave)
        until(lambda: not os.path.exists("c"), "it does not quit")


CASES = [status, resize, quit_, command_lines, socket_file, stands_still, nonsense, too_many, slow_reader, bounded_stop, top, terminal]


main(CASES, sys.argv[2:])
