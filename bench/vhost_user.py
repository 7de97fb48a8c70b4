# SPDX-License-Identifier: MIT
"""sluice serve and qemu-storage-daemon over vhost-user: 4 KiB random reads, one queue.

The back-end runs on processor 0, the front-end (`sluice bench blk`, the same
for both) on processor 1.
"""
import time

from lib import count, make_image, ratio, verdict

DEVICES = 256


def null_rows(bench, out):
    ours = bench.serve("blk,null:1G")
    backends = [ours]
    contenders = {"split": (ours, ["--split"]), "packed": (ours, ["--packed"])}
    try:
        if bench.qsd:
            theirs = bench.qemu(f"driver=null-co,node-name=n,size={1 << 30},read-zeroes=off")
            backends.append(theirs)
            contenders["qemu"] = (theirs, ["--split"])
        out["null_d32_poll"] = bench.row("null, depth 32, polling", contenders, "--depth", "32")
        out["null_d1_poll"] = bench.row("null, depth 1, polling", contenders, "--depth", "1")
        out["null_d1_interrupt"] = bench.row("null, depth 1, interrupts", contenders, "--depth", "1", "--interrupt")
        out["null_d32_interrupt"] = bench.row("null, depth 32, interrupts", contenders, "--depth", "32", "--interrupt")
        bench.say("memory under load, idle CPU")
        private = out["private_bytes"] = {}
        bench.load(ours, seconds=1, during=lambda: private.update(sluice=ours.private_bytes()))
        if bench.qsd:
            bench.load(theirs, seconds=1, during=lambda: private.update(qemu=theirs.private_bytes()))
        time.sleep(1)
        out["idle_cpu_percent"] = {"sluice": ours.idle_cpu_percent(4)}
        if bench.qsd:
            out["idle_cpu_percent"]["qemu"] = theirs.idle_cpu_percent(4)
    finally:
        for backend in backends:
            backend.stop()


def faster_aio(bench, image):
    """qemu-storage-daemon with whichever kind of I/O suits it better here; no lock, as sluice holds one."""
    found = []
    for aio in ("io_uring", "threads"):
        try:
            backend = bench.qemu(f"driver=file,node-name=f,filename={image},aio={aio},locking=off",
                                 "driver=raw,node-name=n,file=f")
        except RuntimeError as error:
            bench.say(str(error))
            continue
        found.append((bench.load(backend, "--depth", "32", seconds=1)["iops"], aio, backend))
    found.sort(key=lambda f: f[0], reverse=True)
    for _, _, backend in found[1:]:
        backend.stop()
    return found[0][1:] if found else (None, None)


def file_rows(bench, out):
    image = f"{bench.dir}/disk.img"
    make_image(image)
    ours = bench.serve(f"blk,{image}")
    backends = [ours]
    contenders = {"split": (ours, ["--split"]), "packed": (ours, ["--packed"])}
    try:
        if bench.qsd:
            aio, theirs = faster_aio(bench, image)
            if theirs:
                out["qemu_aio"] = aio
                backends.append(theirs)
                contenders["qemu"] = (theirs, ["--split"])
        out["file_d32_poll"] = bench.row("file in the page cache, depth 32, polling", contenders, "--depth", "32")
        out["file_d1_interrupt"] = bench.row("file in the page cache, depth 1, interrupts", contenders, "--depth", "1",
                                             "--interrupt")
    finally:
        for backend in backends:
            backend.stop()


def many_devices(bench, out):
    bench.say(f"{DEVICES} idle devices")
    one = bench.serve("blk,null:64M", threads=2)
    many = bench.serve(*["blk,null:64M"] * DEVICES, threads=2)
    try:
        time.sleep(1)
        out["devices"] = DEVICES
        out["private_bytes_one_idle"] = one.private_bytes()
        out["private_bytes_many_idle"] = many.private_bytes()
        out["idle_cpu_percent"]["sluice_many"] = many.idle_cpu_percent(4)
    finally:
        one.stop()
        many.stop()


def measure(bench):
    out = {}
    null_rows(bench, out)
    file_rows(bench, out)
    many_devices(bench, out)
    return out


def show(bench, out):
    print(f"4 KiB random reads, one queue, back-end on processor {bench.back}, front-end on {bench.front}")
    if "qemu_aio" in out:
        print(f"qemu-storage-daemon serves the file with aio={out['qemu_aio']}, the faster one here")
    print()
    print(f"{'':36}{'sluice':>11}{'sluice':>11}{'qemu-':>11}   split to qemu")
    print(f"{'':36}{'split':>11}{'packed':>11}{'storage-d.':>11}")

    def line(title, key, field, form, wanted=None, better="more", limit=None):
        row = out[key]
        cells = "".join(f"{form(row[name][field]) if name in row else '-':>11}" for name in ("split", "packed", "qemu"))
        print(f"{title:36}{cells}   {ratio(row, field, wanted, better)}"
              + verdict(row["split"][field], limit, "less").replace("<=", "itself <="))

    def us(value):
        return f"{value:.2f}"

    def rate(value):
        return f"{value:.4f}"

    line("null, depth 32, poll: IOPS", "null_d32_poll", "iops", count, 2.5)
    line("  back-end CPU, us an I/O", "null_d32_poll", "backend_cpu_us", us)
    line("  kicks an I/O", "null_d32_poll", "kicks", rate)
    line("  calls an I/O", "null_d32_poll", "calls", rate)
    line("null, depth 32, interrupt: IOPS", "null_d32_interrupt", "iops", count)
    line("  kicks an I/O", "null_d32_interrupt", "kicks", rate)
    line("  calls an I/O", "null_d32_interrupt", "calls", rate)
    line("null, depth 1, poll: median us", "null_d1_poll", "p50_us", us, limit=1.0)
    line("null, depth 1, interrupt: median us", "null_d1_interrupt", "p50_us", us, 1.0, "less")
    line("file, depth 32, poll: IOPS", "file_d32_poll", "iops", count, 1.5)
    line("  back-end CPU, us an I/O", "file_d32_poll", "backend_cpu_us", us, 0.67, "less")
    line("file, depth 1, interrupt: median us", "file_d1_interrupt", "p50_us", us)
    print()
    idle, private = out["idle_cpu_percent"], out["private_bytes"]
    print(f"idle CPU, percent of a processor: sluice {idle['sluice']:.3f}, with {out['devices']} devices "
          f"{idle['sluice_many']:.3f}" + (f", qemu-storage-daemon {idle['qemu']:.3f}" if "qemu" in idle else ""))
    each = (out["private_bytes_many_idle"] - out["private_bytes_one_idle"]) / (out["devices"] - 1)
    print(f"private resident memory: one device under load {private['sluice'] / 2**20:.2f} MiB (wanted: <= 4)"
          + (f", qemu-storage-daemon {private['qemu'] / 2**20:.2f} MiB" if "qemu" in private else "")
          + f"; each of {out['devices']} idle devices {each / 1024:.1f} KiB more (wanted: <= 64)")
    if "qemu" not in out["null_d32_poll"]:
        print("qemu-storage-daemon is not installed (Debian: qemu-system-common), so nothing to compare with")
