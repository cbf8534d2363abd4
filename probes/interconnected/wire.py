"""The beat on the wire: a pure codec, authenticated, versioned.

A datagram carries one *section* per group (several groups share a datagram) and ends in a truncated HMAC-SHA256 over all
before it. Replay is answered in three ways: a section's number must grow within the sender's life; a life that was left
never returns; a life is believed only when it echoes the receiver's own life, so nothing recorded before this receiver's
memory began is worth anything. Another life than the present one must echo a newer number of the receiver's, too: else a beat
that was held up on its way could bring an earlier life back, and the present one would be the one that was left.

Layout (network byte order)::

    "TN" | version u8 | name length u8 | cluster u64 | path u8 | count u32 | sender name | section ... | mac 16 bytes
    section: length u16 | fixed part (SECTION) | release (if flagged) | words (the rest: the daemon's statement, JSON)
"""

import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import Final

from orchestrator.domain.observations import Release
from orchestrator.domain.positions import Position

MAGIC: Final = b"TN"
VERSION: Final = 1
MAC_BYTES: Final = 16
"""Half of SHA-256, as RFC 4868 (section 2.3) truncates it."""
MAX_DATAGRAM_BYTES: Final = 1400
"""Fits an Ethernet frame with room for tunnels: a beat is never fragmented."""
MAX_WORDS_BYTES: Final = 900

_HEADER = struct.Struct("!2sBBQBI")
_LENGTH = struct.Struct("!H")
_SECTION = struct.Struct("!QQQQQQqQIB")
_RELEASE = struct.Struct("!QqqBB")

LEAST_BYTES: Final = _HEADER.size + _LENGTH.size + _SECTION.size + MAC_BYTES
"""A beat of one group without words or release, but for the sender's name."""

_ASKING, _GRANTED, _ANSWER, _RELEASE_FOLLOWS, _URGENT, _EXITED, _WORDLESS, _SLOW = 1, 2, 4, 8, 16, 32, 64, 128


class BadBeat(ValueError):
    """A datagram that is not a beat of this cluster. `kind` is a bounded word for counting."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


@dataclass(slots=True)
class Section:
    """One group's part of a beat."""

    group: int
    life: int
    number: int
    """Microseconds of the sender's CLOCK_BOOTTIME, made to grow: number and clock in one (rules 5 and 7)."""
    echo_life: int = 0
    """The receiver's life as the sender knows it; 0 when it knows none."""
    echo_number: int = 0
    """The receiver's newest number that the sender has seen."""
    epoch: int = 0
    version: int = -1
    incarnation: int = 0
    lease_us: int = 0
    asking: bool = False
    granted: bool = False
    """A promise, to the receiver, given when `echo_number` was heard."""
    urgent: bool = False
    """The words have changed in a way for which the receiver may be waiting."""
    exited: bool = False
    """The sender's keeper has seen its service end, whatever its daemon says."""
    answer: bool = False
    """Sent because a beat came, not because it was time: never answered itself."""
    release: Release | None = None
    words: bytes = b""
    wordless: bool = False
    """The words were left out, because the path carries little: those said before stand."""
    slow: bool = False
    """The beat that this answers came over a slow path, so that the round trip tells nothing of a quick one."""


@dataclass(slots=True)
class Beat:
    """One authentic datagram."""

    sender: str
    path: int
    count: int
    sections: list[Section]


def digest(text: str) -> int:
    """A name as 64 bits, for fields of fixed size."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _pack_release(release: Release) -> bytes:
    history = (release.position.history if release.position else "").encode()
    target = (release.target or "").encode()
    offset = release.position.offset if release.position else -1
    return _RELEASE.pack(release.epoch, release.version, offset, len(history), len(target)) + history + target


def _unpack_release(data: bytes, at: int) -> tuple[Release, int]:
    epoch, version, offset, history_size, target_size = _RELEASE.unpack_from(data, at)
    at += _RELEASE.size
    end = at + history_size + target_size
    if end > len(data):
        raise BadBeat("truncated", "the release runs past the section")
    history = data[at : at + history_size].decode()
    target = data[at + history_size : end].decode()
    position = Position(history, offset) if offset >= 0 else None
    return Release(epoch=epoch, version=version, position=position, target=target or None), end


def pack_section(section: Section, *, words: bool = True) -> bytes:
    wordless = section.wordless or not words
    flags = (
        (_ASKING if section.asking else 0)
        | (_GRANTED if section.granted else 0)
        | (_ANSWER if section.answer else 0)
        | (_RELEASE_FOLLOWS if section.release else 0)
        | (_URGENT if section.urgent else 0)
        | (_EXITED if section.exited else 0)
        | (_WORDLESS if wordless else 0)
        | (_SLOW if section.slow else 0)
    )
    body = _SECTION.pack(
        section.group,
        section.life,
        section.number,
        section.echo_life,
        section.echo_number,
        section.epoch,
        section.version,
        section.incarnation,
        section.lease_us,
        flags,
    )
    if section.release:
        body += _pack_release(section.release)
    if not wordless:
        body += section.words
    return _LENGTH.pack(len(body)) + body


def _unpack_section(body: bytes) -> Section:
    if len(body) < _SECTION.size:
        raise BadBeat("truncated", f"a section of {len(body)} bytes, expected at least {_SECTION.size}")
    group, life, number, echo_life, echo_number, epoch, version, incarnation, lease_us, flags = _SECTION.unpack_from(body)
    at = _SECTION.size
    release = None
    if flags & _RELEASE_FOLLOWS:
        release, at = _unpack_release(body, at)
    return Section(
        group=group,
        life=life,
        number=number,
        echo_life=echo_life,
        echo_number=echo_number,
        epoch=epoch,
        version=version,
        incarnation=incarnation,
        lease_us=lease_us,
        asking=bool(flags & _ASKING),
        granted=bool(flags & _GRANTED),
        answer=bool(flags & _ANSWER),
        urgent=bool(flags & _URGENT),
        exited=bool(flags & _EXITED),
        release=release,
        words=body[at:],
        wordless=bool(flags & _WORDLESS),
        slow=bool(flags & _SLOW),
    )


class Codec:
    """Packs and opens the beats of one cluster. The first key signs; every key opens, so that keys can be changed in turn."""

    def __init__(self, cluster: str, me: str, keys: tuple[bytes, ...]) -> None:
        if not keys:
            raise ValueError("no key: beats cannot be authenticated")
        self._keys = tuple(hmac.digest(key, b"tanist beat", "sha256") for key in keys)
        self._cluster = digest(cluster)
        name = me.encode()
        self._name = name
        self.room = MAX_DATAGRAM_BYTES - _HEADER.size - len(name) - MAC_BYTES
        """What the sections of one datagram may take."""

    def batches(self, sections: list[bytes]) -> list[bytes]:
        """Packed sections, put together into as few datagrams as will do."""
        batches = []
        batch = b""
        for section in sections:
            if batch and len(batch) + len(section) > self.room:
                batches.append(batch)
                batch = b""
            batch += section
        return [*batches, batch] if batch else batches

    def seal(self, batch: bytes, path: int, count: int) -> bytes:
        """The datagram: the `count`th to its receiver on this path, so that the receiver can tell how many were lost."""
        header = _HEADER.pack(MAGIC, VERSION, len(self._name), self._cluster, path, count & 0xFFFF_FFFF)
        body = header + self._name + batch
        return body + hmac.digest(self._keys[0], body, "sha256")[:MAC_BYTES]

    def open(self, datagram: bytes) -> "Beat":
        """An authentic beat. Raises BadBeat, and nothing else, whatever was received."""
        if len(datagram) < _HEADER.size + MAC_BYTES:
            raise BadBeat("truncated", f"{len(datagram)} bytes, expected at least {_HEADER.size + MAC_BYTES}")
        magic, version, name_size, cluster, path, count = _HEADER.unpack_from(datagram)
        if magic != MAGIC:
            raise BadBeat("foreign", f"starts with {magic!r}, expected {MAGIC!r}")
        if version != VERSION:
            raise BadBeat("version", f"beat of version {version}, this keeper speaks version {VERSION}")
        body, mac = datagram[:-MAC_BYTES], datagram[-MAC_BYTES:]
        if not any(hmac.compare_digest(hmac.digest(key, body, "sha256")[:MAC_BYTES], mac) for key in self._keys):
            raise BadBeat("key", "the authentication code does not fit: another key, or changed on the way")
        if cluster != self._cluster:
            raise BadBeat("cluster", "authentic, but of another cluster that uses the same key")
        try:
            sender, sections = self._opened(body, name_size)
        except (UnicodeDecodeError, struct.error) as error:
            raise BadBeat("malformed", str(error)) from None
        return Beat(sender, path, count, sections)

    @staticmethod
    def _opened(body: bytes, name_size: int) -> tuple[str, list[Section]]:
        at = _HEADER.size + name_size
        if at > len(body):
            raise BadBeat("truncated", "the sender's name runs past the end")
        sender = body[_HEADER.size : at].decode()
        sections = []
        while at < len(body):
            if at + _LENGTH.size > len(body):
                raise BadBeat("truncated", "half a section length at the end")
            (size,) = _LENGTH.unpack_from(body, at)
            at += _LENGTH.size
            if at + size > len(body):
                raise BadBeat("truncated", f"a section of {size} bytes, {len(body) - at} left")
            sections.append(_unpack_section(body[at : at + size]))
            at += size
        return sender, sections
