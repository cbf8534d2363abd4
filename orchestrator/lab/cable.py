"""A serial cable without wires: two pseudo-terminals, and a thread that carries bytes between them as slowly as a line does."""

import contextlib
import os
import random
import select
import threading
import time
import tty
from collections import deque
from pathlib import Path
from typing import Final

from orchestrator.domain.spans import Span
from probes.interconnected.serial import seconds

READ_BYTES: Final = 4096
LOOK_AGAIN: Span = 0.02
"""How soon an end that nobody has opened is looked at again."""


class Cable:
    """Between two device names. Use as a context manager, or `plug` it in and `unplug` it."""

    def __init__(self, ends: tuple[Path, Path], baud: int = 115200) -> None:
        self.ends = ends
        self.baud = baud
        self.cut = False
        """The devices stay; what is sent is lost."""
        self.noise = 0.0
        """Share of what is sent that is spoiled, 0 to 1; as much again comes from nowhere."""
        self.carried = 0
        """Bytes, both ways."""
        self._random = random.Random(1)
        self._thread: threading.Thread | None = None
        self._ending = False

    def __enter__(self) -> "Cable":
        self.plug()
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()

    @property
    def plugged(self) -> bool:
        return self._thread is not None

    def plug(self) -> None:
        """The devices appear."""
        masters = []
        for end in self.ends:
            master, slave = os.openpty()
            tty.setraw(slave)
            end.symlink_to(os.ttyname(slave))
            os.close(slave)
            os.set_blocking(master, False)
            masters.append(master)
        self._ending = False
        self._thread = threading.Thread(target=self._carry, args=(masters,), name="cable", daemon=True)
        self._thread.start()

    def unplug(self) -> None:
        """The devices go, as an adapter's do; whoever has them open sees them hang up."""
        for end in self.ends:
            end.unlink(missing_ok=True)
        if self._thread is not None:
            self._ending = True
            self._thread.join()
            self._thread = None

    def _carry(self, masters: list[int]) -> None:
        other = dict(zip(masters, reversed(masters), strict=True))
        waiting: dict[int, deque[tuple[float, bytes]]] = {master: deque() for master in masters}
        free_at = dict.fromkeys(masters, 0.0)
        while not self._ending:
            for master in self._readable(masters, waiting):
                data = _read(master)
                free_at[master] = max(free_at[master], time.monotonic()) + seconds(len(data), self.baud)
                if data:
                    waiting[master].append((free_at[master], data))
            for master, pieces in waiting.items():
                while pieces and pieces[0][0] <= time.monotonic():
                    self._deliver(other[master], pieces.popleft()[1])
        for master in masters:
            os.close(master)

    @staticmethod
    def _readable(masters: list[int], waiting: dict[int, deque[tuple[float, bytes]]]) -> list[int]:
        """Those that have something to read, after a while at the most; an end that nobody has open would be ready always."""
        due = min((pieces[0][0] for pieces in waiting.values() if pieces), default=float("inf"))
        poll = select.poll()
        for master in masters:
            poll.register(master, select.POLLIN)
        until = min(time.monotonic() + LOOK_AGAIN, due)
        found = poll.poll(max(0.0, (until - time.monotonic()) * 1000))
        ready = [master for master, event in found if event & select.POLLIN]
        if found and not ready:
            time.sleep(max(0.0, until - time.monotonic()))
        return ready

    def _deliver(self, master: int, data: bytes) -> None:
        if self.cut:
            return
        self.carried += len(data)
        with contextlib.suppress(OSError):
            os.write(master, self._spoiled(data))

    def _spoiled(self, data: bytes) -> bytes:
        chance = self._random.random
        if chance() < self.noise:
            spoiled = bytearray(data)
            for _ in range(1 + len(spoiled) // 50):
                spoiled[self._random.randrange(len(spoiled))] = self._random.randrange(256)
            data = bytes(spoiled)
        if chance() < self.noise:
            data = self._random.randbytes(self._random.randrange(1, 100)) + data
        return data


def _read(master: int) -> bytes:
    try:
        return os.read(master, READ_BYTES)
    except OSError:
        return b""
