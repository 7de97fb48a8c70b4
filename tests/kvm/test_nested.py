#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The engine kvm boots Debian's kernel where there is a real KVM: nested, in a machine that QEMU emulates.

QEMU's TCG emulates a processor with SVM. In it runs Debian's full kernel with
kvm-amd, and on that `sluice run --engine kvm` with Debian's cloud kernel: two
processors, a disk on PCI and one on MMIO.
"""
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guest"))
from guest import SLUICE, TOP, Skip, check, image, main, need  # noqa: E402  pylint: disable=wrong-import-position
from test_host import OFF, elf, text  # noqa: E402  pylint: disable=wrong-import-position

HERE = os.path.dirname(os.path.abspath(__file__))
DISKS = "--device blk,/tmp/pci.img --device blk,/tmp/mmio.img,transport=mmio"
GUEST = "--kernel /guest/vmlinuz --initrd /guest/initramfs"
PATIENCE = 240  # seconds for the whole
# guests of a few instructions: switch off; load an empty table of interrupts and make one
TINY = {"off": text("tiny\n") + OFF, "triple": bytes.fromhex("0f011d00100000cc")}


def nested():
    """The folder with the full kernel."""
    done = subprocess.run([os.path.join(TOP, "scripts/nested-image")], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Skip("no kernel with KVM: " + (done.stderr.strip().splitlines() or ["?"])[-1])
    return done.stdout.strip()


def place(root, path, file, mode=0o755):
    """Copy @file to @path below @root."""
    to = root + path
    os.makedirs(os.path.dirname(to), exist_ok=True)
    shutil.copyfile(file, to)
    os.chmod(to, mode)


def archive(root, out):
    """All below @root as a cpio archive at the end of the file @out."""
    with open(out, "ab") as file:
        file.write(b"\0" * (-file.tell() % 512))
        file.flush()  # before the other program writes to the same file
        subprocess.run("find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0", shell=True, check=True, cwd=root,
                       stdout=file)


def program(root, file, name):
    """@file as /bin/@name, with the libraries it needs."""
    place(root, "/bin/" + name, file)
    libraries = subprocess.run(["ldd", file], capture_output=True, text=True, check=False).stdout
    for word in libraries.split():
        if word.startswith("/"):
            place(root, word, os.path.realpath(word))


def inner_initramfs(lab):
    """The guest's: that of the other tests, with another init and two drivers more."""
    root, out = lab.path("inner"), lab.path("inner.img")
    place(root, "/init", os.path.join(HERE, "inner-init"))
    tree = image() + "/linux/modules"
    for release in os.listdir(tree):
        for module in ("virtio/virtio_mmio.ko", "acpi/button.ko"):
            place(root, f"/lib/modules/{release}/{os.path.basename(module)}", f"{tree}/{release}/kernel/drivers/{module}")
    shutil.copyfile(image() + "/initramfs", out)
    archive(root, out)
    return out


def outer_initramfs(lab, job, files):
    """The host's: busybox, KVM's modules, sluice and the guest."""
    root, out = lab.path("outer"), lab.path("outer.img")
    for directory in ("/proc", "/sys", "/dev", "/tmp"):
        os.makedirs(root + directory)
    place(root, "/init", os.path.join(HERE, "outer-init"))
    program(root, shutil.which("busybox"), "busybox")
    program(root, SLUICE, "sluice")
    place(root, "/guest/vmlinuz", image() + "/vmlinuz")
    place(root, "/guest/initramfs", inner_initramfs(lab))
    for name in os.listdir(nested()):
        if name != "vmlinuz":
            place(root, "/kvm/" + name, os.path.join(nested(), name))
    for name, code in TINY.items():
        with open(root + "/guest/" + name, "wb") as file:
            file.write(elf(code))
    for file in files:
        place(root, "/guest/" + os.path.basename(file), file)
    with open(root + "/job", "w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in job)
    archive(root, out)
    return out


def host(lab, job, *files):
    """Start the emulated machine."""
    for tool in ("qemu-system-x86_64", "busybox", "cpio"):
        need(tool)
    return lab.start(
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
        "-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1536M",
        "-kernel", nested() + "/vmlinuz", "-initrd", outer_initramfs(lab, job, files),
        "-append", "console=ttyS0 quiet panic=-1 rdinit=/init")


def boots_linux(lab):
    """Two boots with a restart between them, by MSI-X and by INTx; each ends with the status that belongs to it."""
    # a restart is status 1, as after a panic, with every engine; switching off is 0
    machine = host(lab, ["tiny 0 --kernel /guest/off --memory 16M --cpus 16",
                         "triple 1 --kernel /guest/triple --memory 16M",
                         f"write 1 {GUEST} --memory 256M --cpus 2 --append 'quiet kvm.boot=1' {DISKS}",
                         f"verify 0 {GUEST} --engine auto --memory 3584M --cpus 3 "
                         f"--append 'quiet pci=nomsi kvm.boot=2' {DISKS}"])
    for pattern in ("outer: ended tiny status 0", "the guest crashed .triple fault.", "outer: ended triple status 1",
                    "guest: processors 2 memory 2[0-9][0-9] MiB", "guest: written", "guest: restarting", "outer: ended write status 1",
                    "engine kvm: /dev/kvm runs at hardware speed", "guest: processors 3 memory 3[45][0-9][0-9] MiB",
                    "guest: irq .*IO-APIC.*fasteoi.*virtio0",
                    "guest: verified after the restart", "guest: the power button was pressed", "outer: ended verify status 0", "outer: ok"):
        machine.expect(pattern, PATIENCE)
    for line in machine.seen:
        if "guest: irq" in line or "outer: counters" in line or "outer: ended" in line or "outer: AGAIN" in line:
            print("    " + line)
    check(machine.wait(30) == 0, "QEMU did not end well")


def exits_per_io(lab):
    """How often a guest leaves KVM for a read of 4 KiB at depth 32, by KVM's own counters. For people, not in the suite."""
    bare = os.environ.get("BARE", os.path.join(TOP, "build", "guest", "bare"))
    job = []
    for link in ("pci", "mmio"):
        for keys in ("", ",event-idx=off,poll-us=0"):
            words = f"blk {link} split read interrupt irq=5 depth=32 count=16000"
            job.append(f"{link}{keys} 1 --kernel /guest/bare --memory 64M --append '{words}' "
                       f"--device blk,memory:64M,transport={link}{keys}")
    machine = host(lab, job, bare)
    machine.expect("outer: ok", PATIENCE)
    for line in machine.seen:
        if "bare: " in line or "outer: counters" in line:
            print("    " + line)


if __name__ == "__main__":
    main([boots_linux, exits_per_io])
