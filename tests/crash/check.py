# SPDX-License-Identifier: MIT
"""Does a disk image, as a power cut left it, hold everything that workload.c was told is durable?"""
import os
import shutil
import sqlite3
import struct
import subprocess

MARK = b"sluice mark\n"
STREAMS = ("append", "replace", "in-place", "wal.db", "journal.db")


def mark_of(data):
    """(stream, number) when a write was a mark."""
    if bytes(data[:12]) != MARK:
        return None
    return struct.unpack_from("<IQ", data, 12)


def line(number, length):
    """The same as line() of workload.c."""
    text = bytearray(b"%06d " % number)
    text += bytes(ord("a") + (number * 7 + i) % 26 for i in range(len(text), length - 1))
    return bytes(text) + b"\n"


class Lost(Exception):
    """Something is missing or broken; the text says what."""


def need(condition, text):
    if not condition:
        raise Lost(text)


def run(*args):
    done = subprocess.run(args, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, (done.stdout + done.stderr).strip()


def recover(image):
    """What a boot does: replay the journal, and what else is repaired without asking. Then nothing may be wrong."""
    status, text = run("/sbin/e2fsck", "-p", image)
    need(status in (0, 1), f"e2fsck -p: {text}")
    status, text = run("/sbin/e2fsck", "-fn", image)
    need(status == 0, f"e2fsck -fn after the repair: {text}")


def check_append(folder, promised):
    with open(f"{folder}/append", "rb") as file:
        content = file.read()
    at = 0
    for number in range(1, promised + 1):
        expected = line(number, 100 + number * 37 % 3000)
        need(content[at:at + len(expected)] == expected, f"append: line {number} of {promised} promised ones is gone")
        at += len(expected)


def check_replace(folder, promised):
    with open(f"{folder}/replace", "rb") as file:
        content = file.read()
    number = int(content[:6])
    need(content == line(number, 64) * 200, f"replace: number {number} is not whole")
    need(number >= promised, f"replace: is number {number}, {promised} was promised")


def check_in_place(folder, promised):
    with open(f"{folder}/in-place", "rb") as file:
        for number in range(1, promised + 1):
            need(file.read(512) == line(number, 512), f"in-place: slot {number} of {promised} promised ones is gone")


def check_database(path, promised):
    db = sqlite3.connect(path)
    try:
        (verdict,), = db.execute("PRAGMA integrity_check(1)")
        need(verdict == "ok", f"{path}: {verdict}")
        (counter,), = db.execute("SELECT n FROM counter")
        need(counter >= promised, f"{path}: {counter} transactions, {promised} were promised")
        rows = db.execute("SELECT n, text, again FROM rows ORDER BY n").fetchall()
    except sqlite3.Error as error:
        raise Lost(f"{path}: {error}") from None
    finally:
        db.close()
    again = [0] * (counter + 2)
    for number in range(1, counter + 1):
        if number // 2 + 1 <= number:
            again[number // 2 + 1] += 1
    expected = [(n, f"{n}" + "00" * (n * 97 % 1500), again[n]) for n in range(1, counter + 1)]
    need(rows == expected, f"{path}: rows are not those of {counter} transactions")


def check(image, promised, folder):
    """Raises Lost when something of @promised (stream: number) is not there. Changes the image."""
    recover(image)
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder)
    status, text = run("/sbin/debugfs", "-R", f"rdump / {folder}", image)
    need(status == 0, f"debugfs: {text}")
    for stream, name in enumerate(STREAMS):
        number = promised.get(stream, 0)
        if not number:
            continue
        need(os.path.exists(f"{folder}/{name}"), f"{name} is gone; {number} was promised")
        if name.endswith(".db"):
            check_database(f"{folder}/{name}", number)
        else:
            {"append": check_append, "replace": check_replace, "in-place": check_in_place}[name](folder, number)
