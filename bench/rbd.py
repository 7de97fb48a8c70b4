# SPDX-License-Identifier: MIT
"""RBD images against fio's rbd engine and qemu-storage-daemon's rbd driver.

4 KiB, random, depth 32, on one cluster whose OSD keeps its data in memory and
is on processor 1 with the monitor. On processor 0 is what uses it: fio, or a
back-end and its front-end together, which sleeps between completions. So fio
does without what the other two spend on a guest's behalf. Each has an image of
its own, written before; nobody caches, and otherwise all is as it comes.
"""
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys

from lib import TOP, Backend, Missing, count, summary, verdict

DEPTH = "32"
OPS = ("randread", "randwrite")
MIB = 128
WITH_CEPH = os.path.join(TOP, "tests", "rbd", "with-ceph")


def bind_daemons(cpu):
    for name in ("mon", "osd"):
        with open(os.path.join(os.environ["CEPH_DIR"], name + ".pid"), encoding="ascii") as file:
            pid = int(file.read())
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), {cpu})


def make_image(name):
    """All of it is there."""
    for command in (["create", "--size", f"{MIB}M", f"rbd/{name}"],
                    ["bench", "--io-type", "write", "--io-size", "4M", "--io-total", f"{MIB}M", f"rbd/{name}"]):
        subprocess.run(["rbd", *command], check=True, timeout=60, stdout=subprocess.DEVNULL)


def fio(bench, op):
    """Fio says what its own thread spent; the kernel knows what librbd's did."""
    args = ["fio", "--name=j", "--ioengine=rbd", "--pool=rbd", "--rbdname=fio", "--clientname=admin", "--bs=4k",
            f"--iodepth={DEPTH}", f"--rw={op}", "--time_based", f"--runtime={bench.o.seconds}", "--output-format=json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(args, capture_output=True, text=True, check=True, timeout=60 + 2 * bench.o.seconds,
                          preexec_fn=lambda: os.sched_setaffinity(0, {bench.back}))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    job = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0][op.removeprefix("rand")]
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"iops": job["iops"], "backend_cpu_us": seconds / job["total_ios"] * 1e6,
            "p50_us": job["clat_ns"]["percentile"]["50.000000"] / 1000}


def qemu(bench):
    path = bench.socket()
    return Backend("qemu-storage-daemon", [
        bench.qsd, "--blockdev",
        f"driver=rbd,node-name=n,pool=rbd,image=qemu,conf={os.environ['CEPH_CONF']},cache.direct=on", "--export",
        f"type=vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path={path},writable=on,num-queues=1"],
        path, bench.back)


def load(bench, backend, op):
    return bench.load(backend, "--depth", DEPTH, "--op", op, "--interrupt", "--cpu", str(bench.back), bound=False)


def compare(bench):
    bind_daemons(bench.front)
    for name in ("fio", "qemu", "sluice"):
        make_image(name)
    with open(os.environ["CEPH_CONF"], "a", encoding="ascii") as conf:
        conf.write("[client]\nrbd cache = false\n")  # for fio; the others say it themselves
    out, backends = {}, {}
    try:
        backends["sluice"] = bench.serve("blk,rbd:rbd/sluice")
        backends["qemu"] = qemu(bench)
        for op in OPS:
            bench.say(f"rbd, {op}")
            names = ["fio", "sluice", "qemu"]
            runs = {name: [] for name in names}
            for _ in range(bench.o.runs):
                for name in names:
                    runs[name].append(fio(bench, op) if name == "fio" else load(bench, backends[name], op))
                names.append(names.pop(0))  # the more was written to the OSD, the slower it is
            out[op] = {name: summary(runs[name]) for name in backends}
            out[op]["fio"] = {key: statistics.median(run[key] for run in runs["fio"]) for key in runs["fio"][0]}
    finally:
        for backend in backends.values():
            backend.stop()
    return out


def measure(bench):
    """In the network of a cluster: this program again, inside of it."""
    for program in ("ceph-mon", "ceph-osd", "rbd", "fio", "qemu-storage-daemon"):
        if not shutil.which(program):
            raise Missing(f"it takes {program} (ceph-mon, ceph-osd, ceph-common, fio, qemu-system-common)")
    if "CEPH_CONF" in os.environ:
        return compare(bench)
    inside = subprocess.run(
        [WITH_CEPH, sys.executable, os.path.join(TOP, "bench", "run"), "--json", "--runs", str(bench.o.runs),
         "--seconds", str(bench.o.seconds), "--sluice", os.path.abspath(bench.o.sluice), "rbd"],
        stdout=subprocess.PIPE, text=True, check=True, timeout=600, env=dict(os.environ, CEPH_STORE="memstore"))
    return json.loads(inside.stdout)["rbd"]


def show(_bench, out):
    for op, row in out.items():
        print(f"{op:10}{'IOPS':>10}{'p50':>11}{'client CPU an I/O':>19}")
        for name, what in (("sluice", row["sluice"]), ("qemu", row["qemu"]), ("fio", row["fio"])):
            cpu = what["backend_cpu_us"] + what.get("frontend_cpu_us", 0)
            own = f"  (back-end {what['backend_cpu_us']:.1f} us)" if "frontend_cpu_us" in what else ""
            print(f"  {name:8}{count(what['iops']):>10}{what['p50_us']:>8.0f} us{cpu:>16.1f} us{own}")
        for other in ("fio", "qemu"):
            value = row["sluice"]["iops"] / row[other]["iops"]
            print(f"  to {other:5}{value:>10.2f}{verdict(value, 1, 'more')}")
