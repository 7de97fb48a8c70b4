#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""sluice bench from the command line: what it prints, how it complains, how it ends.

usage: bench_cli.py SLUICE
"""
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

SLUICE = sys.argv[1]
BOUND = 120  # seconds, against hangs only
failures = 0


def check(what, good, *more):
    global failures
    print(("ok " if good else "FAIL ") + what, *(() if good else more))
    failures += not good


def run(*args, timeout=BOUND):
    return subprocess.run([SLUICE, "bench", *args], capture_output=True, text=True, timeout=timeout)


def complaint(status, text, *args):
    """Exit status, one line on stderr that contains the text."""
    done = run(*args)
    lines = done.stderr.splitlines()
    check("complains: " + " ".join(args), done.returncode == status and len(lines) == 1 and
          lines[0].startswith("sluice: bench: ") and text in lines[0], done)


def bad_options():
    null = ["blk", "--device", "blk,null:64M"]
    check("without a part: usage", run().returncode == 2)
    complaint(2, "blk", "blj")
    complaint(2, "--socket-path", "blk")
    complaint(2, "--socket-path", *null, "--socket-path", "/x")
    complaint(2, "did you mean '--queues'", *null, "--quees", "2")
    complaint(2, "needs a value", *null, "--depth")
    complaint(2, "--depth 0", *null, "--depth", "0")
    complaint(2, "--depth 1x", *null, "--depth", "1x")
    complaint(2, "--bs 100", *null, "--bs", "100")
    complaint(2, "--bs 32M", *null, "--bs", "32M")
    complaint(2, "--queues 2", *null, "--queues", "2")
    complaint(2, "--seconds 0", *null, "--seconds", "0")
    complaint(2, "--seconds nan", *null, "--seconds", "nan")
    complaint(2, "--pid", *null, "--pid", "4194305")
    complaint(2, "--cpu", *null, "--cpu", "1023")
    complaint(2, "did you mean 'randread'", *null, "--op", "randred")
    complaint(2, "unexpected", *null, "extra")
    complaint(2, "packed", "blk", "--device", "blk,null:64M,packed=off", "--packed")
    complaint(2, "read-only", "blk", "--device", "blk,null:64M,readonly=on", "--op", "write")
    complaint(2, "too small", "blk", "--device", "blk,null:64K", "--op", "verify")
    complaint(1, "/nonexistent", "blk", "--socket-path", "/nonexistent")
    complaint(2, "--buffers 17", "ring", "--buffers", "17")
    complaint(2, "--queue-size", "ring", "--queue-size", "100000")
    complaint(2, "does not fit", "ring", "--buffers", "16", "--queue-size", "8")
    complaint(2, "no processors", "ring", "--cpu", str(os.sysconf("SC_NPROCESSORS_CONF") - 1))


def results():
    done = run("blk", "--device", "blk,memory:16M,queues=2", "--queues", "2", "--seconds", "0.3", "--json",
               "--op", "verify", "--interrupt", "--packed", "--pid", str(os.getpid()))
    out = json.loads(done.stdout)
    check("verify: no differences", done.returncode == 0 and out["differences"] == 0 and out["errors"] == 0, out)
    check("verify: says what ran", (out["op"], out["queues"], out["completions"], out["ring"]) ==
          ("verify", 2, "interrupt", "packed"), out)
    latency = [out["latency_ns"][k] for k in ("min", "p50", "p90", "p99", "p99.9", "max")]
    check("latencies grow", latency == sorted(latency) and latency[0] > 0, latency)
    check("rates fit", out["requests"] > 0 and abs(out["bytes_per_second"] / out["iops"] - 4096) < 1, out)
    check("CPU of the front-end and of --pid", out["frontend_cpu_ns_per_io"]["total"] > 0 and
          out["backend_cpu_ns_per_io"]["total"] >= 0, out)
    for op in ("read", "write", "randread", "randwrite"):
        done = run("blk", "--device", "blk,memory:16M", "--seconds", "0.1", "--op", op, "--bs", "64K", "--depth", "3")
        check(op, done.returncode == 0 and "IOPS" in done.stdout and not done.stderr, done)
    done = run("blk", "--device", "blk,memory:16M,error=50%,error-op=read", "--seconds", "0.1")
    check("failed requests: told, status 1", done.returncode == 1 and "errors" in done.stdout and
          "requests failed" in done.stderr, done)
    done = run("blk", "--device", "blk,memory:16M,error=50%", "--seconds", "0.1", "--op", "verify", "--json")
    out = json.loads(done.stdout)
    check("verify: what failed was not read back as wrong", done.returncode == 1 and out["errors"] > 0 and
          out["differences"] == 0, out)
    done = run("blk", "--device", b"blk,null:1G,serial=\xe4", "--seconds", "0.1", "--json")
    check("a device whose text is no UTF-8", json.loads(done.stdout)["device"] == "?", done)
    out = json.loads(run("ring", "--seconds", "0.05", "--json").stdout)
    check("ring: both formats, round trip and stream", [(r["ring"], r["depth"]) for r in out] ==
          [("split", 1), ("split", 32), ("packed", 1), ("packed", 32)] and all(r["ns"] > 0 for r in out), out)


def until(condition):
    end = time.monotonic() + BOUND
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("it does not come")
        time.sleep(0.02)


def endings(directory):
    path, control = f"{directory}/s", f"{directory}/c"
    serve = [SLUICE, "serve", "--control", control, "--device", f"blk,null:64M,socket={path}"]

    def reads():
        """How many the server has had; None: it does not answer yet."""
        done = subprocess.run([SLUICE, "control", "--control", control, "--json", "status"], capture_output=True,
                              timeout=BOUND, check=False)
        return None if done.returncode else json.loads(done.stdout)["devices"][0]["queues"][0]["reads"]

    def loaded():
        before = reads()
        until(lambda: reads() > before)

    with subprocess.Popen(serve, stderr=subprocess.DEVNULL) as server:
        until(lambda: reads() is not None)
        args = [SLUICE, "bench", "blk", "--socket-path", path, "--seconds", str(2 * BOUND)]
        with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as bench:
            loaded()
            bench.send_signal(signal.SIGINT)
            out, err = bench.communicate(timeout=BOUND)
            check("SIGINT ends early with results", bench.returncode == 0 and "IOPS" in out and not err, out, err)
        with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as bench:
            loaded()
            server.kill()
            out, err = bench.communicate(timeout=BOUND)
            check("the back-end is killed: results, one line, status 1", bench.returncode == 1 and "IOPS" in out and
                  err == f"sluice: bench: {path}: the back-end has gone\n", out, err)
    # somebody who listens and never says anything
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{directory}/mute")
    listener.listen(1)
    start = time.monotonic()
    complaint(1, "no answer within", "blk", "--socket-path", f"{directory}/mute")
    check("... in bounded time", time.monotonic() - start < BOUND)


bad_options()
results()
with tempfile.TemporaryDirectory(prefix="sluice-bench-cli-") as scratch:
    endings(scratch)
sys.exit(failures != 0)
