# SPDX-License-Identifier: MIT
"""NBD sources against a plain loop around libnbd, and qcow2 through qemu-nbd against qemu-storage-daemon's own.

4 KiB, random, depth 32. nbdkit runs on processor 1. On processor 0 is what
uses it: the loop, or `sluice serve` and its front-end together, which sleeps
between completions and not polls, as a polling one would take that processor
for itself. With qcow2 nobody is bound to a processor.
"""
import json
import os
import shutil
import statistics
import subprocess

from lib import IMAGE_MIB, Backend, Missing, count, make_image, summary, verdict

DEPTH = "32"
OPS = ("randread", "randwrite")


def server(bench):
    """nbdkit with its disk in memory, all of it there."""
    path = bench.socket()
    nbdkit = Backend("nbdkit", ["nbdkit", "--foreground", "--unix", path, "memory", f"{IMAGE_MIB}M"], path, bench.front)
    return nbdkit, f"nbd+unix:///?socket={path}"


def loop(bench, uri, op):
    program = os.path.join(os.path.dirname(bench.o.sluice), "bench", "nbd_loop")
    if not os.access(program, os.X_OK):
        raise Missing(f"{program} is not there: it is built where libnbd-dev is installed")
    done = subprocess.run([program, uri, op, DEPTH, str(bench.o.seconds)], capture_output=True, text=True, check=True,
                          timeout=60, preexec_fn=lambda: os.sched_setaffinity(0, {bench.back}))
    return json.loads(done.stdout)


def against_loop(bench, out):
    nbdkit, uri = server(bench)
    ours = None
    try:
        ours = bench.serve(f"blk,{uri}")
        bench.load(ours, "--op", "write", "--bs", "1M", seconds=1)  # so that every page of the server's is there
        for op in OPS:
            bench.say(f"nbd, {op}")
            runs = {"loop": [], "sluice": []}
            for _ in range(bench.o.runs):
                runs["loop"].append(loop(bench, uri, op))
                runs["sluice"].append(bench.load(ours, "--depth", DEPTH, "--op", op, "--interrupt", "--cpu",
                                                 str(bench.back), bound=False))
            out[op] = {"sluice": summary(runs["sluice"]),
                       "loop": {key: statistics.median(r[key] for r in runs["loop"]) for key in ("iops", "cpu_ns")}}
    finally:
        if ours:
            ours.stop()
        nbdkit.stop()


def helpers(backend):
    """The back-end's own qemu-nbd, if it has one."""
    return subprocess.run(["pgrep", "-P", str(backend.process.pid), "-x", "qemu-nbd"], capture_output=True, text=True,
                          check=False).stdout.split()


def helper_cpu_ns(backend):
    """Processor time of that."""
    total = 0
    for pid in helpers(backend):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as stat:
                total += int(stat.read().split()[0])
    return total


def free_all(backend, cpus):
    """Let its threads, and those of its qemu-nbd, run wherever they like."""
    for pid in [str(backend.process.pid), *helpers(backend)]:
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), cpus)


def scaling(bench, out):
    """Queues and connections; nobody is bound to a processor. A server that takes 1 ms makes the connections count."""
    path = bench.socket()
    everywhere = set(bench.cpus)
    nbdkit = Backend("nbdkit", ["nbdkit", "--foreground", "--threads", "32", "--unix", path, "--filter=delay", "memory",
                                "256M", "rdelay=1ms"], path, bench.front)
    free_all(nbdkit, everywhere)
    out["queues"] = {}
    try:
        for queues in (1, 2, 4):
            bench.say(f"nbd, {queues} queues")
            ours = bench.serve(f"blk,nbd+unix:///?socket={path},queues={queues}", threads=queues)
            try:
                free_all(ours, everywhere)
                runs = [bench.load(ours, "--depth", DEPTH, "--queues", str(queues), "--interrupt", bound=False)
                        for _ in range(bench.o.runs)]
                out["queues"][str(queues)] = statistics.median(r["iops"] for r in runs)
            finally:
                ours.stop()
    finally:
        nbdkit.stop()


def qcow2(bench, out):
    raw = f"{bench.dir}/qcow2.raw"
    make_image(raw)
    images = [f"{bench.dir}/{name}.qcow2" for name in ("ours", "theirs")]
    for image in images:
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image], check=True, timeout=120)
    os.unlink(raw)
    backends = {}
    try:
        backends["sluice"] = bench.serve(f"blk,{images[0]},format=qcow2")
        backends["qemu"] = bench.qemu(f"driver=file,node-name=f,filename={images[1]},aio=threads",
                                      "driver=qcow2,node-name=n,file=f")
        for backend in backends.values():
            free_all(backend, set(bench.cpus))
        for op in OPS:
            bench.say(f"qcow2, {op}")
            runs = {name: [] for name in backends}
            helper = []
            for _ in range(bench.o.runs):
                for name, backend in backends.items():
                    before = helper_cpu_ns(backend)
                    runs[name].append(bench.load(backend, "--depth", DEPTH, "--op", op, "--interrupt", bound=False))
                    if name == "sluice":
                        requests = runs[name][-1]["iops"] * bench.o.seconds
                        helper.append((helper_cpu_ns(backend) - before) / requests / 1000)
            out["qcow2_" + op] = {name: summary(results) for name, results in runs.items()}
            out["qcow2_" + op]["sluice"]["qemu_nbd_cpu_us"] = statistics.median(helper)
    finally:
        for backend in backends.values():
            backend.stop()


def measure(bench):
    for program in ("nbdkit", "qemu-nbd", "qemu-img", "qemu-storage-daemon"):
        if not shutil.which(program):
            raise Missing(f"it takes {program} (nbdkit, qemu-utils, qemu-system-common)")
    out = {}
    against_loop(bench, out)
    scaling(bench, out)
    qcow2(bench, out)
    return out


def show(bench, out):
    print(f"4 KiB, depth {DEPTH}; nbdkit on processor {bench.front}, its client (with sluice: back-end and front-end) "
          f"on {bench.back}")
    for op in OPS:
        ours, plain = out[op]["sluice"], out[op]["loop"]
        print(f"{op + ': IOPS':36}{'sluice':>9}{count(ours['iops']):>9}{'loop':>9}{count(plain['iops']):>9}"
              f"   {ours['iops'] / plain['iops']:.2f}{verdict(ours['iops'] / plain['iops'], 0.95, 'more')}")
        print(f"{'  processor time, us an I/O':36}{'':9}{ours['backend_cpu_us']:>9.2f}{'':9}"
              f"{plain['cpu_ns'] / 1000:>9.2f}   the front-end's {ours['frontend_cpu_us']:.2f}")
    print("a server that takes 1 ms: "
          + ", ".join(f"{n} queues {count(iops)} IOPS" for n, iops in out["queues"].items()))
    for op in OPS:
        ours, qemu = out["qcow2_" + op]["sluice"], out["qcow2_" + op]["qemu"]
        print(f"{'qcow2, ' + op + ': IOPS':36}{'sluice':>9}{count(ours['iops']):>9}{'qsd':>9}{count(qemu['iops']):>9}"
              f"   {ours['iops'] / qemu['iops']:.2f}")
        print(f"{'  processor time, us an I/O':36}{'':9}{ours['backend_cpu_us'] + ours['qemu_nbd_cpu_us']:>9.2f}{'':9}"
              f"{qemu['backend_cpu_us']:>9.2f}   qemu-nbd's part {ours['qemu_nbd_cpu_us']:.2f}")
