# SPDX-License-Identifier: MIT
"""What the groups of benchmarks share: back-ends, runs in turns, medians, figures as text."""
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
IMAGE_MIB = 256


class Missing(RuntimeError):
    """A group cannot run here; the text says what it would need."""


class Backend:
    """A process that serves a disk on a socket."""

    def __init__(self, name, args, socket, cpu):
        self.name, self.socket = name, socket
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(args, stdout=self.log, stderr=self.log,
                                        preexec_fn=lambda: os.sched_setaffinity(0, {cpu}))
        deadline = time.time() + 10
        while not os.path.exists(socket):
            if self.process.poll() is not None or time.time() > deadline:
                self.log.seek(0)
                text = self.log.read().decode(errors="replace").strip()
                self.stop()
                raise RuntimeError(f"{name} does not start: {text}")
            time.sleep(0.01)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def private_bytes(self):
        total = 0
        with open(f"/proc/{self.process.pid}/smaps_rollup", encoding="ascii") as rollup:
            for line in rollup:
                if line.startswith(("Private_Clean:", "Private_Dirty:", "Private_Hugetlb:")):
                    total += int(line.split()[1]) * 1024
        return total

    def cpu_ns(self):
        tasks = f"/proc/{self.process.pid}/task"
        total = 0
        for task in os.listdir(tasks):
            with open(f"{tasks}/{task}/schedstat", encoding="ascii") as stat:
                total += int(stat.read().split()[0])
        return total

    def idle_cpu_percent(self, seconds):
        before, start = self.cpu_ns(), time.monotonic_ns()
        time.sleep(seconds)
        return 100 * (self.cpu_ns() - before) / (time.monotonic_ns() - start)


class Bench:
    def __init__(self, options, directory):
        self.o, self.dir = options, directory
        self.sockets = 0
        self.cpus = sorted(os.sched_getaffinity(0))
        self.back, self.front = self.cpus[0], self.cpus[1 % len(self.cpus)]
        self.qsd = shutil.which("qemu-storage-daemon")

    def socket(self):
        self.sockets += 1
        return f"{self.dir}/{self.sockets}.sock"

    def say(self, text):
        print(f"bench: {text}", file=sys.stderr, flush=True)

    def serve(self, *specs, threads=1):
        paths = [self.socket() for _ in specs]
        args = [self.o.sluice, "serve", "--threads", str(threads)]
        for spec, path in zip(specs, paths):
            args += ["--device", f"{spec},socket={path}"]
        return Backend("sluice serve", args, paths[-1], self.back)

    def qemu(self, *blockdevs):
        path = self.socket()
        args = [self.qsd]
        for blockdev in blockdevs:
            args += ["--blockdev", blockdev]
        args += ["--export", "type=vhost-user-blk,id=e,node-name=n,addr.type=unix,"
                 f"addr.path={path},writable=on,num-queues=1"]
        return Backend("qemu-storage-daemon", args, path, self.back)

    def load(self, backend, *options, seconds=None, during=None, bound=True):
        """One run; `during` is called in the middle of it. @bound: to the front-end's processor."""
        args = [self.o.sluice, "bench", "blk", "--socket-path", backend.socket, "--json",
                "--pid", str(backend.process.pid), "--seconds", str(seconds or self.o.seconds), *options]
        if bound:
            args += ["--cpu", str(self.front)]
        with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            if during:
                time.sleep((seconds or self.o.seconds) / 2)
                during()
            try:
                stdout, stderr = process.communicate(timeout=60 + 2 * self.o.seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        if process.returncode:
            raise RuntimeError(f"{' '.join(args)}: {stderr.strip()}")
        return json.loads(stdout)

    def row(self, title, contenders, *options):
        """Run the contenders {name: (backend, more options)} in turns; the median run of each, by IOPS."""
        self.say(title)
        runs = {name: [] for name in contenders}
        for _ in range(self.o.runs):
            for name, (backend, more) in contenders.items():
                runs[name].append(self.load(backend, *options, *more))
        return {name: summary(results) for name, results in runs.items()}


def summary(results):
    def median(*path):
        values = []
        for value in results:
            for key in path:
                value = value[key]
            values.append(value)
        return statistics.median(values)

    return {
        "iops": median("iops"),
        "iops_lowest": min(r["iops"] for r in results),
        "iops_highest": max(r["iops"] for r in results),
        "p50_us": median("latency_ns", "p50") / 1000,
        "p99_us": median("latency_ns", "p99") / 1000,
        "backend_cpu_us": median("backend_cpu_ns_per_io", "total") / 1000,
        "frontend_cpu_us": median("frontend_cpu_ns_per_io", "total") / 1000,
        "kicks": median("kicks_per_io"),
        "calls": median("calls_per_io"),
    }


def make_image(path):
    """Random data, so that no block is a hole, and all of it in the page cache."""
    with open(path, "wb") as image:
        for _ in range(IMAGE_MIB):
            image.write(os.urandom(1 << 20))
    with open(path, "rb") as image:
        while image.read(1 << 20):
            pass


def count(value):
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.0f} k"


def verdict(value, wanted, better):
    """Is it what was wanted?"""
    if wanted is None:
        return ""
    good = value >= wanted if better == "more" else value <= wanted
    return f"  {'met' if good else 'MISSED'}: {'>=' if better == 'more' else '<='} {wanted}"


def ratio(row, key, wanted, better):
    """Ours (split, as theirs is) to theirs."""
    if "qemu" not in row or not row["qemu"][key]:
        return ""
    value = row["split"][key] / row["qemu"][key]
    return f"{value:.2f}" + verdict(value, wanted, better)
