"""What pg_waldump prints, one record a line, as far as lost writes are concerned. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from orchestrator.services.postgresql import lsn

_LINE: Final = re.compile(
    r"rmgr: (\S+)\s+len \(rec/tot\):\s*\d+/\s*\d+, tx:\s*(\d+), lsn: ([0-9A-F]+/[0-9A-F]+), prev [0-9A-F]+/[0-9A-F]+, "
    r"desc: (\S+)(.*)",
    re.DOTALL,
)
_BLOCK: Final = re.compile(r"blkref #(\d+): rel (\d+)/(\d+)/(\d+)(?: fork (\w+))? blk (\d+)")
_OFFSET: Final = re.compile(r"(?:^|[ _])off:? (\d+)")
_NEW_OFFSET: Final = re.compile(r"new[ _]off:? (\d+)")
_TIME: Final = re.compile(r"(\d{4,}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) (\S+?)(?:;|$)")
_SUBXACTS: Final = re.compile(r"subxacts:((?: \d+)+)")
_SEQUENCE: Final = re.compile(r"rel (\d+)/(\d+)/(\d+)")
_GID: Final = re.compile(r"gid (.*?): \d{4,}-\d\d-\d\d ")
_RELIDS: Final = re.compile(r"\brelids:?((?:[ ,\[]+\d+)+)")

OFFSETS: Final = 1 << 16
"""A place in a table is its block times this, plus the number of its line pointer."""


class File(NamedTuple):
    """Where a relation's rows lie; a rewrite (TRUNCATE, VACUUM FULL, ALTER TABLE) gives it another one."""

    tablespace: int
    database: int
    node: int


class Kind(StrEnum):
    COMMIT = "commit"
    ABORT = "abort"
    PREPARE = "prepare"
    ADD = "add"
    """A new row version; `place` is unknown where many were added at once."""
    CHANGE = "change"
    """A row version, `old`, was replaced by another one, `place`."""
    REMOVE = "remove"
    PAGE = "page"
    """A whole page was written: a rewrite."""
    SEQUENCE = "sequence"
    TRUNCATE = "truncate"
    MARK = "mark"
    """Tells the next transaction number at this place."""
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    kind: Kind
    lsn: int
    xid: int
    """The transaction that wrote it; of COMMIT PREPARED, the one that was prepared."""
    files: tuple[tuple[File, int], ...] = ()
    """The tables' files and blocks that it touched."""
    place: int | None = None
    old_file: tuple[File, int] | None = None
    time: str = ""
    subxacts: tuple[int, ...] = ()
    gid: str = ""
    next_xid: int = 0
    relids: tuple[int, ...] = ()
    database: int = 0


def read(line: str) -> Record | None:
    """None for what is no record."""
    found = _LINE.match(line)
    if found is None:
        return None
    rmgr, xid, at, what, rest = found[1], int(found[2]), lsn.parse(found[3]), found[4].partition("+")[0], found[5]
    match rmgr:
        case "Heap" | "Heap2":
            return _heap(what, xid, at, rest)
        case "Transaction":
            return _transaction(what, xid, at, rest)
        case "XLOG" if what == "FPI" and xid:
            return Record(kind=Kind.PAGE, lsn=at, xid=xid, files=tuple(_blocks(rest)))
        case "XLOG" if what == "CHECKPOINT_SHUTDOWN":
            return Record(kind=Kind.MARK, lsn=at, xid=0, next_xid=_number(r"; xid \d+:(\d+)", rest))
        case "Standby" if what == "RUNNING_XACTS":
            return Record(kind=Kind.MARK, lsn=at, xid=0, next_xid=_number(r"nextXid (\d+)", rest))
        case "Sequence" if file := _SEQUENCE.search(rest):
            return Record(kind=Kind.SEQUENCE, lsn=at, xid=xid, files=((_file(*file.groups()), 0),))
    return Record(kind=Kind.OTHER, lsn=at, xid=xid)


def _heap(what: str, xid: int, at: int, rest: str) -> Record:
    if what == "TRUNCATE":
        relids = _RELIDS.search(rest)
        numbers = tuple(int(each) for each in re.findall(r"\d+", relids[1])) if relids else ()
        return Record(kind=Kind.TRUNCATE, lsn=at, xid=xid, relids=numbers)
    blocks = list(_blocks(rest)) if what in ("INSERT", "DELETE", "UPDATE", "HOT_UPDATE", "MULTI_INSERT") else []
    if not blocks:
        return Record(kind=Kind.OTHER, lsn=at, xid=xid)
    file, block = blocks[0]
    if what == "MULTI_INSERT":
        return Record(kind=Kind.ADD, lsn=at, xid=xid, files=tuple(blocks))
    off = _OFFSET.search(rest)
    if off is None:
        raise ValueError(f"{what} without an offset: {rest[:200]!r}")
    if what == "INSERT":
        return Record(kind=Kind.ADD, lsn=at, xid=xid, files=((file, block),), place=block * OFFSETS + int(off[1]))
    if what == "DELETE":
        return Record(kind=Kind.REMOVE, lsn=at, xid=xid, old_file=(file, block * OFFSETS + int(off[1])))
    new, (_, old_block) = _NEW_OFFSET.search(rest), blocks[-1]  # the second block is the old version's, where it is another one
    if new is None:
        raise ValueError(f"{what} without a new offset: {rest[:200]!r}")
    place, old = block * OFFSETS + int(new[1]), old_block * OFFSETS + int(off[1])
    return Record(kind=Kind.CHANGE, lsn=at, xid=xid, files=((file, block),), place=place, old_file=(file, old))


def _transaction(what: str, xid: int, at: int, rest: str) -> Record:
    match what:
        case "COMMIT" | "COMMIT_PREPARED" | "ABORT" | "ABORT_PREPARED":
            kind = Kind.COMMIT if what.startswith("COMMIT") else Kind.ABORT
            if what.endswith("_PREPARED"):
                xid = _number(r"^ (\d+):", rest) or xid
            time, subxacts = _TIME.search(rest), _SUBXACTS.search(rest)
            numbers = tuple(int(each) for each in subxacts[1].split()) if subxacts else ()
            return Record(kind=kind, lsn=at, xid=xid, time=f"{time[1]}+00" if time else "", subxacts=numbers)
        case "PREPARE":
            gid = _GID.search(rest)
            return Record(kind=Kind.PREPARE, lsn=at, xid=xid, gid=gid[1] if gid else "")
    return Record(kind=Kind.OTHER, lsn=at, xid=xid)


def _blocks(rest: str) -> Iterator[tuple[File, int]]:
    for _, tablespace, database, node, fork, block in _BLOCK.findall(rest):
        if not fork or fork == "main":
            yield _file(tablespace, database, node), int(block)


def _file(tablespace: str, database: str, node: str) -> File:
    return File(int(tablespace), int(database), int(node))


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def is_before(xid: int, other: int) -> bool:
    """Transaction numbers run in a circle.

    >>> is_before(5, 6), is_before(6, 6), is_before(4_294_967_000, 10)
    (True, False, True)
    """
    return 0 < ((other - xid) & 0xFFFFFFFF) < 1 << 31
