# SPDX-License-Identifier: MIT
"""Read the log of a record filter (docs/record.md), and build what a power cut may have left of the disk."""
import collections
import random
import struct

SUBMITTED, DONE = 1, 2
WRITE, FLUSH, DISCARD, WRITE_ZEROES, SECURE_ERASE = 1, 2, 3, 4, 5
FUA = 1
MAGIC = b"sluice record 1\n"

Event = collections.namedtuple("Event", "kind op flags result id time offset length data")


class Log:
    """The events of a log, in order."""

    def __init__(self, path):
        self.path = path
        with open(path, "rb") as file:
            content = file.read()
        if content[:16] != MAGIC:
            raise ValueError(f"{path}: not the log of a record filter")
        self.size, self.block_size = struct.unpack_from("<QI", content, 16)
        self.events = []
        view, at = memoryview(content), 64
        while at + 48 <= len(content):
            *head, offset, length, data = struct.unpack_from("<BBHiQQQQQ", content, at)
            if not head[0] or at + 48 + data > len(content):
                break
            self.events.append(Event(*head, offset, length, view[at + 48:at + 48 + data]))
            at += 48 + (data + 7 & ~7)


class Disk:
    """Plays a log, event after event, and knows what is durable.

    With a number in @lies it is a disk that says of each flush of that many that it is done, and does nothing.
    """

    def __init__(self, log, image, lies=0):
        self.log, self.lies, self.count = log, lies, 0
        self.durable = bytearray(image)
        self.at = 0
        self.pending = {}  # id: the submitted event of a change that is not durable; in order
        self.done = set()  # of these, the ids of those that are done
        self.flushes = {}  # id of a flush under way: the ids it covers

    def advance(self, to):
        """Play the events before @to."""
        while self.at < to:
            self._play(self.log.events[self.at])
            self.at += 1

    def _play(self, event):
        if event.op == FLUSH:
            if event.kind == SUBMITTED:
                self.flushes[event.id] = set(self.done)
            else:
                covered = self.flushes.pop(event.id)
                self.count += 1
                if not event.result and not (self.lies and self.count % self.lies == 0):
                    self._settle(covered)
        elif event.kind == SUBMITTED:
            self.pending[event.id] = event
        elif event.result:
            pass  # it may have done anything to its blocks, and is never durable
        else:
            self.done.add(event.id)
            if event.flags & FUA:
                self._settle({event.id})

    def _settle(self, ids):
        for number in [n for n in self.pending if n in ids]:
            self.apply(self.durable, self.pending.pop(number))
        self.done -= ids

    def apply(self, image, event, blocks=None):
        """Carry a change out, or only some of its blocks."""
        if event.op == DISCARD:
            return
        step = self.log.block_size
        for i in range(event.length // step) if blocks is not None else [None]:
            if i is not None and i not in blocks:
                continue
            start, length = (event.offset + i * step, step) if i is not None else (event.offset, event.length)
            skip = start - event.offset
            image[start:start + length] = event.data[skip:skip + length] if event.op == WRITE else bytes(length)

    def states(self, rng, count):
        """Up to @count different images that a cut at this point may leave, each with a word about it."""
        pending = list(self.pending.values())
        yield "what is durable", bytes(self.durable)
        if not pending or count < 2:
            return
        yield f"and all of {len(pending)} pending", self._choice(pending, rng, 1, 0)
        for _ in range(count - 2):
            share, torn = rng.choice((0.1, 0.5, 0.9)), rng.choice((0, 0, 0.5))
            yield f"and some of {len(pending)} pending, share {share}, torn {torn}", \
                self._choice(pending, rng, share, torn)

    def _choice(self, pending, rng, share, torn):
        image = bytearray(self.durable)
        for event in pending:
            if rng.random() >= share:
                continue
            blocks = None
            if rng.random() < torn:
                number = event.length // self.log.block_size
                blocks = set(rng.sample(range(number), rng.randint(0, number)))
            self.apply(image, event, blocks)
        return bytes(image)


def generator(*seed):
    """A random generator that is the same in every run."""
    return random.Random("/".join(map(str, seed)))
