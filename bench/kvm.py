# SPDX-License-Identifier: MIT
"""The engine kvm against QEMU as the VMM, where KVM is real: in the nested test-bed of tests/kvm/nested.py.

Counts are exact, by KVM's own tracepoints. Times are those of an emulated processor: only their ratios mean something.
What a VMM costs before its guest runs is measured on this machine's own /dev/kvm, however slowly that runs guests.
"""
import collections
import os
import re
import shutil
import statistics
import subprocess
import sys
import time

from lib import TOP, Missing, verdict

HERE = os.path.dirname(os.path.abspath(__file__))
REQUESTS = 16000
ROUNDS = 3  # of boots; counts hardly differ
PATIENCE = 1800
FIRMWARE = {"bios-256k.bin": "seabios", "bios-microvm.bin": "qemu", "linuxboot_dma.bin": "qemu", "kvmvapic.bin": "qemu"}
VMMS = ("pci", "q35", "mmio", "microvm")
# contender and disk; those of "-off" are in vmm.host, in this order; "all off" is poll-us=0 as well
REQUEST_ROWS = {"pci": ("pci", "vda"), "pci, event-idx=off": ("pci-off", "vda"), "pci, ioeventfd=off": ("pci-off", "vdb"),
                "pci, all off": ("pci-off", "vdc"), "QEMU q35": ("q35", "vda"),
                "mmio": ("mmio", "vda"), "mmio, event-idx=off": ("mmio-off", "vda"),
                "mmio, ioeventfd=off": ("mmio-off", "vdb"), "mmio, all off": ("mmio-off", "vdc"),
                "QEMU microvm": ("microvm", "vda")}
LINE = re.compile(r"outer: (time|memory|count) ([a-z0-9-]+)/(\d+)/([a-z-]+) (.*)")


def loader(bench):
    """The static program that loads a disk inside the guest."""
    out = os.path.join(bench.dir, "guest-load")
    done = subprocess.run([os.environ.get("CC", "cc"), "-O2", "-static", "-D_GNU_SOURCE", "-o", out,
                           os.path.join(HERE, "kvm", "guest_load.c")], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing("no static program: " + done.stderr.strip().splitlines()[-1])
    return out


def files(bench, rounds):
    found = {"guest-load": loader(bench), "parameters": os.path.join(bench.dir, "parameters")}
    with open(found["parameters"], "w", encoding="utf-8") as file:
        file.write(f"rounds={rounds}\nrequests={REQUESTS}\n")
    for name, package in FIRMWARE.items():
        found[name] = f"/usr/share/{package}/{name}"
        if not os.path.exists(found[name]):
            raise Missing(f"no {found[name]}")
    return found


def nested(bench, rounds):
    """What the host of the test-bed printed."""
    sys.path[:0] = [os.path.join(TOP, "tests", "kvm"), os.path.join(TOP, "tests", "guest")]
    os.environ["SLUICE"] = bench.o.sluice
    from guest import Lab, Skip  # pylint: disable=import-outside-toplevel,import-error
    from nested import Bed  # pylint: disable=import-outside-toplevel,import-error
    lab = Lab()
    try:
        bed = Bed(lab, ["vmm"], files(bench, rounds), os.path.join(HERE, "kvm"))
        bed.start()
        why = bed.run(bed.cases[0], PATIENCE)
        if why:
            raise RuntimeError(f"{why}: " + " | ".join(bed.cases[0].lines[-5:]))
        bed.finish()
        return bed.cases[0].lines
    except Skip as why:
        raise Missing(str(why)) from None
    except AssertionError as why:
        raise RuntimeError(str(why)) from None
    finally:
        lab.close()


def sums(lines):
    """{(contender, round, mark): {what: number}}, each mark since the one before it."""
    found = collections.defaultdict(collections.Counter)
    for line in lines:
        match = LINE.match(line)
        if not match:
            continue
        kind, name, turn, mark, rest = match.groups()
        at = found[name, int(turn), mark]
        words = rest.split()
        if kind == "count":
            event, hits = words[0], int(words[1])
            at[event] += hits
            keys = rest.split(None, 2)[2]
            gpa = re.search(r"gpa: *([0-9a-f]+), type: *2", keys)
            if gpa and is_notification(int(gpa[1], 16)):
                at["notifications"] += hits
        else:
            at[kind] = int(words[0])
    return found


def is_notification(gpa):
    """While requests flow, guests write to interrupt controllers, acknowledge on virtio-mmio, and notify."""
    controllers = gpa >> 20 in (0xfec, 0xfee)
    acknowledge = gpa >> 20 == 0xfeb and gpa & 0xff == 0x64
    return not controllers and not acknowledge


def cpu_before_guest(command):
    """Milliseconds of processor time of a VMM's threads but the vCPU's, until its guest runs."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as vmm:
        time.sleep(0.7)
        total, vcpu = 0, False
        try:
            for task in os.listdir(f"/proc/{vmm.pid}/task"):
                with open(f"/proc/{vmm.pid}/task/{task}/comm", encoding="utf-8") as file:
                    name = file.read()
                with open(f"/proc/{vmm.pid}/task/{task}/schedstat", encoding="ascii") as file:
                    used = int(file.read().split()[0])
                if re.match(r"CPU \d|vcpu\d", name):
                    vcpu = True
                else:
                    total += used
        finally:
            vmm.terminate()
            vmm.wait(10)
    if not vcpu:
        raise RuntimeError(f"{command[0]} has no vCPU")
    return total / 1e6


def start_cost(bench):
    """Medians of the above, for us and QEMU; None where there is no /dev/kvm."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return None
    from guest import image  # pylint: disable=import-outside-toplevel,import-error
    disk = os.path.join(bench.dir, "small.img")
    with open(disk, "wb") as file:
        file.truncate(64 << 20)
    kernel, initrd = image() + "/vmlinuz", image() + "/initramfs"
    qemu = [shutil.which("qemu-system-x86_64"), "-name", "q,debug-threads=on", "-nodefaults", "-no-user-config", "-display",
            "none", "-serial", "stdio", "-accel", "kvm", "-cpu", "host", "-m", "256M", "-kernel", kernel, "-initrd", initrd,
            "-drive", f"if=none,id=d,file={disk},format=raw"]
    commands = {
        "pci": [bench.o.sluice, "run", "--engine", "kvm", "--kernel", kernel, "--initrd", initrd, "--memory", "256M",
                "--device", f"blk,{disk}"],
        "q35": qemu + ["-machine", "q35", "-device", "virtio-blk-pci,drive=d"],
        "microvm": qemu + ["-machine", "microvm", "-device", "virtio-blk-device,drive=d"],
    }
    used = {name: [] for name in commands}
    for _ in range(5):
        for name, command in commands.items():
            used[name].append(cpu_before_guest(command))
    return {name: statistics.median(values) for name, values in used.items()}


def measure(bench):
    rounds = min(bench.o.runs, ROUNDS)
    bench.say(f"kvm: {4 * rounds + 2} guests in an emulated machine, some seconds each")
    found = sums(nested(bench, rounds))
    out = {"requests": REQUESTS, "rounds": rounds, "boot": {}, "io": {}}
    for name in VMMS:
        init = [found[name, turn, "init"] for turn in range(1, rounds + 1)]
        median = {key: statistics.median(at[event] for at in init) for key, event in
                  (("exits", "kvm_exit"), ("returns", "kvm_userspace_exit"), ("ms", "time"), ("private_kib", "memory"))}
        out["boot"][name] = median
    for row, (name, disk) in REQUEST_ROWS.items():
        at, rest = found[name, 1, f"after-{disk}"], found[name, 1, "rest-only"]
        if not at:
            raise RuntimeError(f"kvm: no figures of {row}")
        out["io"][row] = {key: (at[event] - rest[event]) / REQUESTS for key, event in
                          (("notifications", "notifications"), ("returns", "kvm_userspace_exit"), ("exits", "kvm_exit"))}
    out["start_cpu_ms"] = start_cost(bench)
    return out


def show(_, out):
    boot, io, start = out["boot"], out["io"], out["start_cpu_ms"]
    print("From start to the guest's init, one disk, 256 MiB, one processor; exact counts, times of an emulated processor")
    print(f"{'':28}{'sluice pci':>13}{'QEMU q35':>13}{'sluice mmio':>13}{'QEMU microvm':>13}")
    for title, key, form in (("VM exits", "exits", ".0f"), ("returns of KVM_RUN", "returns", ".0f"), ("milliseconds", "ms", ".0f"),
                             ("private memory, KiB", "private_kib", ".0f")):
        cells = "".join(f"{boot[name][key]:>13{form}}" for name in VMMS)
        wanted = 5 * 1024 if key == "private_kib" else min(boot["q35"][key], boot["microvm"][key])
        print(f"{title:28}{cells}{verdict(max(boot['pci'][key], boot['mmio'][key]), wanted, 'less')}")
    print(f"\nReads of 4 KiB at depth 32 by the guest's own driver, for each of {out['requests']}")
    print(f"{'':28}{'notifications':>14}{'KVM_RUN returns':>16}{'all exits':>11}")
    for row, values in io.items():
        goal = row in ("pci", "mmio")
        print(f"{row:28}{values['notifications']:>14.4f}{values['returns']:>16.4f}{values['exits']:>11.4f}"
              + (verdict(values["notifications"], 0.1, "less") + verdict(values["returns"], 0.001, "less") if goal else ""))
    if start:
        print(f"\nProcessor time until the guest's first instruction, ms, on this machine's KVM: sluice {start['pci']:.1f}"
              f"{verdict(start['pci'], 10, 'less')}; QEMU q35 {start['q35']:.1f}, microvm {start['microvm']:.1f}")
