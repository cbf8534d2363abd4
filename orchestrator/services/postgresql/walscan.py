"""The log past the fork point, read into a small database on disk: which transactions were lost, and what they touched."""

import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from orchestrator.services.postgresql import commands, lsn, waldump
from orchestrator.services.postgresql.timelines import ENDLESS, Timelines
from orchestrator.services.postgresql.waldump import File, Kind, Record, is_before
from orchestrator.services.starting import CannotStart, dying_with

TELL_EVERY: Final = 50_000
LAST: Final = (1 << 63) - 1
"""The largest number that SQLite knows."""
BATCH: Final = 5_000
GONE: Final = re.compile(
    r"could not find file|could not locate WAL file|could not open file|could not open directory|not find any WAL file"
)
ENDS: Final = re.compile(rf"error in WAL record at|could not find a valid record|invalid record length|{GONE.pattern}")
"""Last words of a reader who has come to the end of the log."""
SEGMENT: Final = re.compile(r"[0-9A-F]{24}")
SIZE_AT: Final = 32
"""Where a segment's first page tells how large segments are (xlog_internal.h, XLogLongPageHeaderData)."""

TABLES: Final = """
CREATE TABLE files (id INTEGER PRIMARY KEY, tablespace INTEGER, base INTEGER, node INTEGER, UNIQUE (tablespace, base, node));
CREATE TABLE lost (xid INTEGER PRIMARY KEY, top INTEGER, lsn INTEGER, time TEXT);
CREATE TABLE touched (file INTEGER, block INTEGER, xid INTEGER, PRIMARY KEY (file, block, xid)) WITHOUT ROWID;
CREATE TABLE made (file INTEGER, place INTEGER, at INTEGER, xid INTEGER, old INTEGER, PRIMARY KEY (file, place, at))
    WITHOUT ROWID;
CREATE TABLE gone (file INTEGER, place INTEGER, at INTEGER, xid INTEGER, deleted INTEGER, PRIMARY KEY (file, place, at))
    WITHOUT ROWID;
CREATE TABLE bulk (file INTEGER, block INTEGER, xid INTEGER, PRIMARY KEY (file, block, xid)) WITHOUT ROWID;
CREATE TABLE sequences (file INTEGER PRIMARY KEY);
CREATE TABLE truncated (relid INTEGER, xid INTEGER, PRIMARY KEY (relid, xid)) WITHOUT ROWID;
CREATE TABLE prepared (xid INTEGER PRIMARY KEY, gid TEXT);
CREATE TABLE images (id INTEGER PRIMARY KEY, rel TEXT, old INTEGER, key TEXT, file INTEGER, place INTEGER, xid INTEGER, row TEXT);
CREATE INDEX images_key ON images (rel, old, key);
CREATE INDEX images_place ON images (rel, old, place);
CREATE TABLE relations (rel TEXT PRIMARY KEY, said TEXT);
"""
"""Bounded memory: a million lost rows lie on disk."""

INTO: Final = {
    "touched": "INSERT OR IGNORE INTO touched VALUES (?, ?, ?)",
    "made": "INSERT OR REPLACE INTO made VALUES (?, ?, ?, ?, ?)",
    "gone": "INSERT OR REPLACE INTO gone VALUES (?, ?, ?, ?, ?)",
    "bulk": "INSERT OR IGNORE INTO bulk VALUES (?, ?, ?)",
}


class Scan:
    """What the log tells, and what is found later about it."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        self.base = sqlite3.connect(path, isolation_level=None)
        self.base.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store = FILE; BEGIN;" + TABLES)
        self._files: dict[File, int] = {}
        self._waiting: dict[str, list[tuple[int | None, ...]]] = {name: [] for name in INTO}
        self.records = 0
        self.end = 0
        """Where the last record begins."""
        self.next_xid = 0
        """The first transaction number that was not given out before the fork point."""
        self.straddles = True
        """Some lost transaction may have begun before what was read."""

    def close(self) -> None:
        self.base.close()

    def file(self, file: File) -> int:
        if file not in self._files:
            cursor = self.base.execute("INSERT INTO files (tablespace, base, node) VALUES (?, ?, ?)", file)
            assert cursor.lastrowid is not None
            self._files[file] = cursor.lastrowid
        return self._files[file]

    @property
    def files(self) -> dict[int, File]:
        return {number: file for file, number in self._files.items()}

    # --- past the fork point -----------------------------------------------------------------------------------------

    def take(self, records: Iterable[Record]) -> None:
        for record in records:
            self.end = record.lsn
            if record.kind is Kind.COMMIT:
                top = (record.xid, record.lsn, record.time)
                rows = [(each, *top) for each in (record.xid, *record.subxacts)]
                self.base.executemany("INSERT OR REPLACE INTO lost VALUES (?, ?, ?, ?)", rows)
            self._touch(record)
        self._flush()

    def _touch(self, record: Record) -> None:
        self.records += 1
        xid = record.xid
        match record.kind:
            case Kind.PREPARE:
                self.base.execute("INSERT OR REPLACE INTO prepared VALUES (?, ?)", (xid, record.gid))
                return
            case Kind.COMMIT | Kind.ABORT:
                self.base.execute("DELETE FROM prepared WHERE xid = ?", (xid,))
                return
            case Kind.TRUNCATE:
                rows = [(relid, xid) for relid in record.relids]
                self.base.executemany("INSERT OR IGNORE INTO truncated VALUES (?, ?)", rows)
                return
            case Kind.SEQUENCE:
                self.base.execute("INSERT OR IGNORE INTO sequences VALUES (?)", (self.file(record.files[0][0]),))
                return
        for file, block in record.files:
            number = self.file(file)
            self._put("touched", number, block, xid)
            if record.place is None:
                self._put("bulk", number, block, xid)
        if record.old_file is not None:
            file, place = record.old_file
            self._put("gone", self.file(file), place, record.lsn, xid, int(record.kind is Kind.REMOVE))
            if record.place is not None:
                self._put("made", self.file(file), record.place, record.lsn, xid, place)
        elif record.place is not None:
            self._put("made", self.file(record.files[0][0]), record.place, record.lsn, xid, None)

    def _put(self, table: str, *row: int | None) -> None:
        waiting = self._waiting[table]
        waiting.append(row)
        if len(waiting) >= BATCH:
            self.base.executemany(INTO[table], waiting)
            waiting.clear()

    def _flush(self) -> None:
        for table, waiting in self._waiting.items():
            self.base.executemany(INTO[table], waiting)
            waiting.clear()

    # --- before it ---------------------------------------------------------------------------------------------------

    def look_back(self, pieces: Iterable[Iterable[Record]]) -> None:
        """Pieces of the log before the fork point, the newest first, as far back as they tell something.

        That is to the last mark, as recovery would begin there, and to where the oldest lost transaction began.
        """
        oldest: int | None = None
        for (xid,) in self.base.execute("SELECT xid FROM lost"):
            oldest = xid if oldest is None or is_before(xid, oldest) else oldest
        known = Lost(self)
        for piece in pieces:
            mark = highest = 0
            began = False
            for record in piece:
                if record.kind is Kind.MARK and record.next_xid:
                    mark = highest = record.next_xid
                    began = began or oldest is None or not is_before(oldest, mark)
                elif record.xid:
                    highest = record.xid + 1 if not highest or is_before(highest, record.xid + 1) else highest
                if record.kind is not Kind.COMMIT and record.xid and known.has(record.xid):
                    self._touch(record)
            if highest and (not self.next_xid or is_before(self.next_xid, highest)):
                self.next_xid = highest
            if mark and (began or oldest is None or not is_before(oldest, self.next_xid)):
                self.straddles = False
                break
        self._flush()

    def origin(self, file: int, place: int, at: int = ENDLESS) -> int | None:
        """Where the row that lay at `place` before `at` lay at the fork point; None when it was added since."""
        query = "SELECT at, old FROM made WHERE file = ? AND place = ? AND at < ? ORDER BY at DESC LIMIT 1"
        at = min(at, LAST)
        while (found := self.base.execute(query, (file, place, at)).fetchone()) is not None:
            at, place = found
            if place is None:
                return None
        bulk = "SELECT 1 FROM bulk WHERE file = ? AND block = ? LIMIT 1"
        return None if self.base.execute(bulk, (file, place // waldump.OFFSETS)).fetchone() is not None else place

    def keep_lost(self) -> None:
        """What was rolled back, or is still open, is nobody's loss."""
        for table in ("touched", "made", "gone", "bulk", "truncated"):
            self.base.execute(f"DELETE FROM {table} WHERE xid NOT IN (SELECT xid FROM lost)")


class Lost:
    """The numbers of the lost transactions, four bytes each."""

    def __init__(self, scan: Scan) -> None:
        self._numbers = array("L", (xid for (xid,) in scan.base.execute("SELECT xid FROM lost ORDER BY xid")))

    def has(self, xid: int) -> bool:
        at = bisect_left(self._numbers, xid)
        return at < len(self._numbers) and self._numbers[at] == xid


# --- reading the log -------------------------------------------------------------------------------------------------


def past(own: Timelines, timeline: int, fork: int) -> list[tuple[int, int, int]]:
    """Where the log goes on past the fork point: each timeline with its begin and end there."""
    ends = dict((*own.past, (own.number, ENDLESS)))
    numbers = [number for number in ends if number >= timeline]
    begins = [fork, *(ends[number] for number in numbers[:-1])]
    return [(number, begin, ends[number]) for number, begin in zip(numbers, begins, strict=True)]


def before(own: Timelines, fork: int, segment_bytes: int) -> Iterator[tuple[int, int, int]]:
    """The log before the fork point, segment by segment, the newest first. A new timeline takes its whole first segment over."""
    number = (fork - 1) // segment_bytes
    while number >= 0:
        begin, end = number * segment_bytes, min((number + 1) * segment_bytes, fork)
        yield next((timeline for timeline, left_at in own.past if left_at >= end), own.number), begin, end
        number -= 1


class Reader:
    def __init__(self, programs: Path, wal: Path, segment_bytes: int, run_as: str | None, tell: Callable[[str], None]) -> None:
        self._programs = programs
        self._wal = wal
        self._segment_bytes = segment_bytes
        self._run_as = run_as
        self._tell = tell
        self._read = 0

    def records(self, timeline: int, begin: int, end: int) -> Iterator[Record]:
        """Raises CannotStart when it ends otherwise than at the log's end."""
        identity = commands.as_user(self._run_as)
        with tempfile.TemporaryDirectory(prefix="tanist-") as place:
            if identity:
                os.chown(place, identity["user"], identity["group"])
            self._link(Path(place))
            command = [str(self._programs / "pg_waldump"), "-p", place, "-t", str(timeline), "-s", lsn.written(begin)]
            if end != ENDLESS:
                command += ["-e", lsn.written(end)]
            yield from self._of(command, identity, begin, end)

    def _link(self, place: Path) -> None:
        """Only what was begun: pg_waldump takes the size of segments from any file there, also from one made in advance."""
        for path in self._wal.iterdir():
            if SEGMENT.fullmatch(path.name):
                with path.open("rb") as stream:
                    head = stream.read(SIZE_AT + 4)
                if int.from_bytes(head[SIZE_AT:], sys.byteorder) == self._segment_bytes:
                    (place / path.name).symlink_to(path)

    def _of(self, command: list[str], identity: dict[str, Any], begin: int, end: int) -> Iterator[Record]:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
            cwd="/",
            env=commands.environment({"TZ": "UTC"}),
            preexec_fn=dying_with(os.getpid()),
            **identity,
        )
        assert process.stdout is not None and process.stderr is not None
        found = 0
        with process:
            for line in process.stdout:
                record = waldump.read(line)
                if record is None or record.lsn < begin or record.lsn >= end:
                    continue
                found += 1
                self._read += 1
                if self._read % TELL_EVERY == 0:
                    self._tell(f"{self._read} records of the log read, up to {lsn.written(record.lsn)}")
                yield record
            words = " ".join(process.stderr.read().split())
        if process.returncode != 0 and not ENDS.search(words):
            raise CannotStart(f"the log here cannot be read: {words}")
        if not found and GONE.search(words):
            raise NoLog(f"the log from {lsn.written(begin)} on is not here any more: {words}")


class NoLog(CannotStart):
    """The segment is gone."""
