"""The page: a keeper's memory in a small memory-mapped file on tmpfs, shared with the daemon.

It outlives the keeper's process and is void after a reboot (it carries the boot id). A write goes to the older of two slots
and becomes valid by its checksum and sequence number, so a process killed in the middle leaves the other slot. The right's
end and the keeper's sign of life stand apart, at fixed places, for the daemon's guard, which must not depend on JSON.
"""

import json
import mmap
import os
import struct
import zlib
from pathlib import Path
from typing import Final

from orchestrator.domain.plain import Unreadable, from_plain, to_plain
from orchestrator.domain.spans import NEVER, Instant
from orchestrator.keeper.memory import Memory

MAGIC: Final = b"TanistP1"
SLOT_BYTES: Final = 32768
_HEAD = struct.Struct("<8s36s4x")
_HOT = struct.Struct("<ddd")
_SLOT = struct.Struct("<QII")
_HOT_AT: Final = 64
_SLOTS_AT: Final = 128
SIZE: Final = _SLOTS_AT + 2 * SLOT_BYTES

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> bytes:
    return BOOT_ID.read_bytes().strip()[:36]


class Page:
    """One group's page. The keeper opens it with `create=True`; the daemon only reads."""

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path
        flags = os.O_RDWR | (os.O_CREAT if create else 0)
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
        try:
            if create and os.fstat(descriptor).st_size != SIZE:
                os.ftruncate(descriptor, SIZE)
            self._map = mmap.mmap(descriptor, SIZE)
        finally:
            os.close(descriptor)
        self._sequence = 0
        self._slot = 0
        self._last = b""

    def close(self) -> None:
        self._map.close()

    def begin(self) -> None:
        """Make the page valid for this boot; what an earlier boot left in it is void."""
        head = _HEAD.pack(MAGIC, boot_id())
        if self._map[: _HEAD.size] != head:
            self._map[_SLOTS_AT:] = bytes(2 * SLOT_BYTES)
            self.write_hot(NEVER, NEVER, guarded=False)
            self._map[: _HEAD.size] = head

    # --- the keeper's memory -----------------------------------------------------------------------------------------

    def write(self, memory: Memory) -> None:
        """Record the memory, before the acts that follow from it."""
        data = json.dumps(to_plain(memory), separators=(",", ":")).encode()
        if data == self._last:
            return
        if len(data) > SLOT_BYTES - _SLOT.size:
            raise ValueError(f"a memory of {len(data)} bytes does not fit the page's {SLOT_BYTES}")
        self._sequence += 1
        self._slot ^= 1
        at = _SLOTS_AT + self._slot * SLOT_BYTES
        self._map[at + _SLOT.size : at + _SLOT.size + len(data)] = data
        self._map[at : at + _SLOT.size] = _SLOT.pack(self._sequence, len(data), zlib.crc32(data))
        self._last = data

    def read(self) -> Memory | None:
        """The newest readable memory of this boot; None when there is none: then a new life begins."""
        if self._map[: _HEAD.size] != _HEAD.pack(MAGIC, boot_id()):
            return None
        best: tuple[int, int, bytes] | None = None
        for slot in (0, 1):
            found = self._read_slot(slot)
            if found is not None and (best is None or found[0] > best[0]):
                best = (found[0], slot, found[1])
        if best is None:
            return None
        try:
            memory = from_plain(Memory, json.loads(best[2]))
        except (Unreadable, ValueError):
            return None
        self._sequence, self._slot = best[0], best[1]
        return memory

    def _read_slot(self, slot: int) -> tuple[int, bytes] | None:
        at = _SLOTS_AT + slot * SLOT_BYTES
        sequence, size, checksum = _SLOT.unpack_from(self._map, at)
        if sequence == 0 or size > SLOT_BYTES - _SLOT.size:
            return None
        data = self._map[at + _SLOT.size : at + _SLOT.size + size]
        return (sequence, data) if zlib.crc32(data) == checksum else None

    # --- what the guard reads ----------------------------------------------------------------------------------------

    def write_hot(self, right_until: Instant, alive_at: Instant, *, guarded: bool) -> None:
        """Until when the service may serve, when the keeper last ran, and whether there is a service to guard."""
        _HOT.pack_into(self._map, _HOT_AT, right_until, alive_at, 1.0 if guarded else 0.0)

    def read_hot(self) -> tuple[Instant, Instant, bool]:
        right_until, alive_at, guarded = _HOT.unpack_from(self._map, _HOT_AT)
        return right_until, alive_at, guarded != 0.0
