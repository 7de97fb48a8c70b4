#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Cut the power of a guest's disk at any moment: ext4 and SQLite must recover all that they were told is durable.

usage: test_crash.py WORKLOAD [--every N] [--states N]

A guest under User-mode Linux runs workload.c on a disk with the record filter.
Then, for a choice of places in the log, images are built as a power cut there
could have left them: with what is durable, and with some, all, or parts of the
changes that are not. Each must recover. WORKLOAD is workload.c, compiled.

  --every N   cut at every Nth event; 1: everywhere, which takes long. Default: some 90 cuts
  --states N  different images for each cut [3]

That the check can fail is proved with the same log, played on a disk that
does nothing for one flush of five.
"""
import argparse
import concurrent.futures
import os
import signal
import subprocess
import sys

import check
import record

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "guest"))

import guest as lab_of  # noqa: E402 (needs the path)

MIB = 1 << 20
DISK, FILE_SYSTEM = 32 * MIB, 28 * MIB  # what is behind the file system is for the marks
ROUNDS = 24
CUTS = 90
LIES = 5  # one flush of so many is ignored, to see that this is noticed


def make_disk(lab):
    """An empty ext4, whose image is also where every state begins."""
    path = lab.disk(DISK // MIB)
    subprocess.run(["/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-E", "lazy_itable_init=0,"
                    "lazy_journal_init=0", path, str(FILE_SYSTEM // 4096)], check=True, capture_output=True)
    with open(path, "rb") as file:
        return path, file.read()


def make_initrd(lab, workload):
    """The usual guest, and a second archive behind it with the workload and its init."""
    root, initrd = lab.path("root"), lab.path("initrd")
    os.mkdir(root)
    for name, source in (("workload", workload), ("crash-init", os.path.join(TOP, "tests/crash/guest-init"))):
        with open(source, "rb") as file, open(os.path.join(root, name), "wb") as out:
            out.write(file.read())
        os.chmod(os.path.join(root, name), 0o755)
    archive = subprocess.run(["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"], cwd=root, check=True,
                             input=b"workload\ncrash-init\n", capture_output=True).stdout
    with open(initrd, "wb") as out, open(lab_of.image() + "/initramfs", "rb") as first:
        first = first.read()
        out.write(first + bytes(-len(first) % 4) + archive)
    return initrd


def run_guest(lab, workload):
    """(the log, the image it begins with)"""
    lab_of.need(lab_of.UML)
    disk, image = make_disk(lab)
    log = lab.path("disk.log")
    guest = lab.start(lab_of.SLUICE, "run", "--engine", "uml", "--kernel", lab_of.UML, "--initrd",
                      make_initrd(lab, workload), "--append",
                      f"quiet rdinit=/crash-init sluice.marks={FILE_SYSTEM} sluice.rounds={ROUNDS}",
                      "--device", f"blk,{disk},record={log}")
    guest.expect("guest: ok")
    guest.wait()
    return record.Log(log), image


def promises(log):
    """[(index of the event, stream, number)]: from there on it is promised."""
    found = []
    for index, event in enumerate(log.events):
        mark = event.kind == record.SUBMITTED and event.op == record.WRITE and check.mark_of(event.data)
        if mark:
            found.append((index, *mark))
    return found


def choose_cuts(log, every):
    """Places in the log: everywhere evenly, and some just behind a promise, where it hurts most."""
    count = len(log.events)
    if every:
        return list(range(0, count + 1, every))
    rng = record.generator("cuts", count)
    behind = [index + 1 for index, _, _ in promises(log)]
    return sorted(set(rng.sample(range(count + 1), min(CUTS // 2, count)) +
                      rng.sample(behind, min(CUTS // 2, len(behind)))))


def check_cuts(path, image, cuts, states, folder, lies):
    """(images, [what was lost]) of these cuts; stops at the first loss of a disk that lies."""
    log = record.Log(path)
    disk, marks = record.Disk(log, image, lies), promises(log)
    images, losses = 0, []
    os.makedirs(folder)
    for cut in cuts:
        disk.advance(cut)
        promised = {stream: number for index, stream, number in marks if index < cut}
        for what, state in disk.states(record.generator("states", cut), states):
            with open(f"{folder}/image", "wb") as out:
                out.write(state)
            images += 1
            try:
                check.check(f"{folder}/image", promised, f"{folder}/files")
            except (check.Lost, OSError, ValueError) as why:
                losses.append(f"cut behind event {cut} of {len(log.events)}, {what}: {why}")
                if lies:
                    return images, losses
    return images, losses


def check_all(lab, log, image, cuts, states, lies=0):
    """The same on all processors."""
    jobs = os.cpu_count() or 1
    images, losses = 0, []
    with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
        parts = [pool.submit(check_cuts, log.path, image, cuts[i::jobs], states, lab.path(f"check{i}.{lies}"), lies)
                 for i in range(jobs)]
        for part in parts:
            some, lost = part.result()
            images += some
            losses += lost
    return images, losses


def crash(lab, options):
    log, image = run_guest(lab, options.workload)
    promised = promises(log)
    counts = {name: sum(stream == i for _, stream, _ in promised) for i, name in enumerate(check.STREAMS)}
    flushes = sum(event.op == record.FLUSH for event in log.events) // 2
    print(f"{len(log.events)} events, {flushes} flushes; promised: "
          + ", ".join(f"{name} {count}" for name, count in counts.items()), flush=True)
    lab_of.check(set(counts.values()) == {ROUNDS}, "the log does not have every mark")
    cuts = choose_cuts(log, options.every)
    images, losses = check_all(lab, log, image, cuts, options.states)
    print(f"{len(cuts)} cuts, {images} images, {len(losses)} losses", flush=True)
    for loss in losses[:10]:
        print("  " + loss)
    lab_of.check(not losses, "something that was durable is lost")
    behind = [index + 1 for index, _, _ in promised]  # before another flush makes good what one ignored
    images, losses = check_all(lab, log, image, behind, 1, LIES)
    lab_of.check(losses, f"a disk that ignores one flush of {LIES} lost nothing in {images} images: the check is blind")
    print(f"a disk that ignores one flush of {LIES} is found out after {images} images, for instance:\n  {losses[0]}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("workload")
    parser.add_argument("--every", type=int, default=0)
    parser.add_argument("--states", type=int, default=3)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    lab = lab_of.Lab()
    try:
        crash(lab, options)
    except lab_of.Skip as why:
        print(why)
        sys.exit(77)
    except AssertionError as why:
        print(f"FAIL: {why}")
        sys.exit(1)
    finally:
        lab.close()


if __name__ == "__main__":
    main()
