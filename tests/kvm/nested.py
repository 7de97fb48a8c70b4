# SPDX-License-Identifier: MIT
"""The nested test-bed: a machine that QEMU emulates, with a real KVM in it, on which sluice is the VMM.

QEMU's TCG emulates a processor with SVM. In it Debian's full kernel runs with kvm-amd: the
"host". On that, `sluice run --engine kvm` boots "guests". Starting the host takes seconds, so one
host runs any number of cases one after another, each on its own.

To add a case NAME, write into tests/kvm/cases/

    NAME.host    a script for busybox' shell that outer-init runs on the host, in an empty folder;
                 outer-init has what it can call: guest, disk, say, fail. The case has failed when
                 the script ends with a status other than 0, leaves a process behind, or when what
                 was printed lacks a pattern. Lines in its head:
                 "# expect: REGEXP"    must be printed, in this order
                 "# program: NAME"     from the machine that runs the test, with its libraries: in PATH
                 "# file: NAME"        one of test_nested.py's FILES: below /guest
    NAME.guest   if a guest of the case boots Linux: the script its init runs, chosen by the word
                 "scenario=NAME" of the kernel's command line; inner-init has what it can call

and name it in a list of tests/kvm/meson.build. `tests/kvm/test_nested.py NAME...` runs cases by hand
and prints everything with VERBOSE=1.
"""
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guest"))
from guest import SLUICE, TOP, Skip, check, image, need  # noqa: E402  pylint: disable=wrong-import-position

HERE = os.path.dirname(os.path.abspath(__file__))


def kernel():
    """The folder with the host's kernel."""
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
        if word.startswith("/") and not os.path.exists(root + word):
            place(root, word, os.path.realpath(word))


class Case:
    """A case as it is written down."""

    def __init__(self, name, folder):
        self.name = name
        self.host = os.path.join(folder, name + ".host")
        self.guest = os.path.join(folder, name + ".guest")
        with open(self.host, encoding="utf-8") as script:
            head = re.findall(r"^# (expect|program|file): (.*)$", script.read(), re.M)
        self.expect, self.programs, self.files = ([value for key, value in head if key == wanted]
                                                  for wanted in ("expect", "program", "file"))
        self.lines = []

    def judge(self, good):
        """None, or what is wrong."""
        rest = iter(self.lines)
        for pattern in self.expect:
            if not any(re.search(pattern, line) for line in rest):
                return f"no '{pattern}'"
        return None if good else "failed"


class Bed:
    """A host and its cases. @files: {name: path} of what cases ask for by "# file:"."""

    def __init__(self, lab, names, files, folder=os.path.join(HERE, "cases")):
        for tool in ("qemu-system-x86_64", "busybox", "cpio"):
            need(tool)
        self.lab = lab
        self.cases = [Case(name, folder) for name in names]
        self.files = files
        self.machine = None

    def _guest_initramfs(self):
        """That of the other tests, with another init and two drivers more."""
        root, out = self.lab.path("inner"), self.lab.path("inner.img")
        place(root, "/init", os.path.join(HERE, "inner-init"))
        for case in self.cases:
            if os.path.exists(case.guest):
                place(root, "/cases/" + case.name, case.guest)
            for name in case.files:
                if name.startswith("guest-"):  # a program that runs in it
                    place(root, "/bin/" + name, self.files[name])
        tree = image() + "/linux/modules"
        for release in os.listdir(tree):
            for module in ("drivers/virtio/virtio_mmio.ko", "drivers/acpi/button.ko", "fs/fuse/fuse.ko",
                           "fs/fuse/virtiofs.ko"):
                place(root, f"/lib/modules/{release}/{os.path.basename(module)}", f"{tree}/{release}/kernel/{module}")
        shutil.copyfile(image() + "/initramfs", out)
        archive(root, out)
        return out

    def _host_initramfs(self):
        """Busybox, KVM's modules, sluice, the guest, and what the cases ask for."""
        root, out = self.lab.path("outer"), self.lab.path("outer.img")
        for directory in ("/proc", "/sys", "/dev", "/tmp"):
            os.makedirs(root + directory)
        place(root, "/init", os.path.join(HERE, "outer-init"))
        program(root, shutil.which("busybox"), "busybox")
        program(root, SLUICE, "sluice")
        place(root, "/guest/vmlinuz", image() + "/vmlinuz")
        place(root, "/guest/initramfs", self._guest_initramfs())
        for name in os.listdir(kernel()):
            if name != "vmlinuz":
                place(root, "/kvm/" + name, os.path.join(kernel(), name))
        for case in self.cases:
            place(root, "/cases/" + case.name, case.host)
            for name in case.programs:
                file = shutil.which(name) or shutil.which(name, path="/usr/lib/qemu")
                if not file:
                    raise Skip(f"{name} is not installed")
                program(root, file, name)
            for name in case.files:
                place(root, "/guest/" + name, self.files[name])
        with open(root + "/order", "w", encoding="utf-8") as file:
            file.writelines(case.name + "\n" for case in self.cases)
        archive(root, out)
        return out

    def start(self, memory="1536M"):
        """Switch the host on; it begins with the cases at once."""
        self.machine = self.lab.start(
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
            "-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", memory,
            "-kernel", kernel() + "/vmlinuz", "-initrd", self._host_initramfs(),
            # an emulated machine that hardly gets to run takes its timer for a broken one
            "-append", "console=ttyS0 quiet panic=-1 no_timer_check rdinit=/init")

    def run(self, case, patience):
        """Wait for the end of a case; its lines are in @case.lines then. Answers None, or what is wrong."""
        self.machine.expect(f"outer: case {case.name}$", 400)
        begin = len(self.machine.seen)
        verdict = self.machine.expect(f"outer: (good|bad) {case.name}$", patience)[1]
        case.lines = self.machine.seen[begin:]
        if os.environ.get("VERBOSE"):
            print("\n".join("    " + line for line in case.lines))
        return case.judge(verdict == "good")

    def finish(self):
        """All cases have been waited for."""
        self.machine.expect("outer: ok", 400)
        check(self.machine.wait(400) == 0, "QEMU did not end well")
