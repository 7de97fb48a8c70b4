#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Our drivers on bare metal against QEMU's own virtio-blk devices, under TCG.

usage: test_qemu.py BARE

The program writes a pattern and verifies it; then the image is looked at from
here. One boot takes a fraction of a second; the bound only catches hangs.
"""
import os
import shutil
import struct
import subprocess
import sys
import tempfile

QEMU = "qemu-system-x86_64"
COMMON = ["-accel", "tcg", "-cpu", "max", "-m", "64", "-nodefaults", "-no-user-config", "-display", "none",
          "-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
MICROVM = ["-machine", "microvm,pic=off,pit=off,rtc=off,isa-serial=on", "-global", "virtio-mmio.force-legacy=false"]
Q35 = ["-machine", "q35"]
GOOD, BAD = 33, 35  # how isa-debug-exit ends QEMU: twice the code and 1
BLOCK, COUNT = 4096, 200
# microvm's last place: the second I/O interrupt controller's line 23
MMIO_LINE = "irq=47"

# machine, device, properties, words, expected status, expected text
CASES = [
    (MICROVM, "virtio-blk-device", "", f"mmio split verify poll count={COUNT}", GOOD, "mmio split poll"),
    (MICROVM, "virtio-blk-device", "", f"mmio split verify interrupt {MMIO_LINE} count={COUNT}", GOOD, "interrupt"),
    (MICROVM, "virtio-blk-device", ",packed=on", f"mmio packed verify poll count={COUNT}", GOOD, "mmio packed poll"),
    (MICROVM, "virtio-blk-device", ",packed=on,event_idx=off", f"mmio packed verify interrupt {MMIO_LINE} count={COUNT}",
     GOOD, "mmio packed interrupt"),
    (Q35, "virtio-blk-pci", ",disable-legacy=on", f"pci split verify poll count={COUNT}", GOOD, "pci split poll"),
    (Q35, "virtio-blk-pci", ",disable-legacy=on", f"pci split verify interrupt count={COUNT}", GOOD, "interrupt"),
    (Q35, "virtio-blk-pci", ",packed=on", f"pci packed verify poll count={COUNT}", GOOD, "pci packed poll"),
    (Q35, "virtio-blk-pci", ",packed=on", f"pci packed verify interrupt count={COUNT}", GOOD, "pci packed interrupt"),
    # what it says when it cannot
    (Q35, "virtio-blk-pci", "", "pci packed verify", BAD, "does not offer packed"),
    (Q35, "virtio-blk-pci", "", "pci split verify count=100000", BAD, "fewer blocks"),
    (Q35, "virtio-blk-pci", "", "mmio split verify", BAD, "no disk"),
    (MICROVM, "virtio-blk-device", "", "pci split verify", BAD, "no disk"),
]


def pattern(block):
    return b"".join(struct.pack("<Q", (block * (BLOCK // 8) + i) * 0x9e3779b97f4a7c15 & (1 << 64) - 1)
                    for i in range(BLOCK // 8))


def run(bare, disk, case):
    machine, device, properties, words, status, text = case
    # whoever is to wait for an interrupt must find nothing done when he looks before
    slow = ",throttling.iops-total=200" if "interrupt" in words else ""
    command = [QEMU, *machine, *COMMON, "-drive", f"if=none,id=d,file={disk},format=raw{slow}",
               "-device", f"{device},drive=d{properties}", "-kernel", bare, "-append", f"blk {words}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    wrong = []
    if done.returncode != status:
        wrong.append(f"exit status {done.returncode}, expected {status}")
    if text not in done.stdout:
        wrong.append(f"it does not say '{text}'")
    if status == GOOD and "interrupt" in words and " 0 interrupts" in done.stdout:
        wrong.append("no interrupt arrived")
    if status == GOOD:
        with open(disk, "rb") as f:
            wrong += [f"block {b} is not what was written" for b in range(COUNT) if f.read(BLOCK) != pattern(b)][:1]
    print(("FAIL" if wrong else "ok") + f" {machine[1].split(',')[0]} {properties} {words}: {done.stdout.strip()}")
    if wrong:
        print("\n".join(wrong), done.stderr, sep="\n")
    return not wrong


def main():
    if not shutil.which(QEMU):
        print(f"skip: there is no {QEMU}")
        return 77
    good = True
    for case in CASES:
        with tempfile.NamedTemporaryFile(prefix="sluice-bare-") as disk:
            os.truncate(disk.name, 4 << 20)
            good &= run(sys.argv[1], disk.name, case)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
