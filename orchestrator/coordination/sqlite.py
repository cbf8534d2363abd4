"""The mediator for members that share one machine: a SQLite file. On a network disk it would be none."""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from orchestrator import tasks
from orchestrator.coordination.codec import decode_control, decode_record, encode
from orchestrator.domain.effects import WriteRecord
from orchestrator.domain.events import WriteOutcome
from orchestrator.domain.record import Control, Record, Snapshot
from orchestrator.domain.spans import Span
from orchestrator.domain.topology import GroupName, NodeName
from orchestrator.ports import Conflict, RefusedByPeer, Unreachable, Written

T = TypeVar("T")

GLANCE_EVERY: Span = 0.02
"""How often the write-ahead log's size and time are looked at, which costs next to nothing."""

ASK_EVERY: Span = 1.0
"""How often SQLite itself is asked whether another connection has changed the file."""

PRESENT_EVERY: Span = 1.0
PRESENT_FOR: Span = 3.0

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS kept (
    cluster TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (cluster, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS present (
    cluster TEXT NOT NULL, node TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (cluster, node)
) WITHOUT ROWID;
"""


class SqliteMediator:
    """All calls run on one thread of their own, one connection, each within its deadline."""

    def __init__(self, path: Path, cluster: str, node: NodeName, *, visitor: bool = False) -> None:
        """A visitor looks and writes when told to, but is not present, and makes no file."""
        self.path = path
        self._visitor = visitor
        self._cluster = cluster
        self._node = node
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-mediator")
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._glanced = (0, 0)
        self._log = ""
        self._seen_before = False
        self._watchers: list[Callable[[], None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._words = "not read yet"

    @property
    def words(self) -> str:
        return self._words

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(self._poll())]
        if not self._visitor:
            self._tasks.append(asyncio.create_task(self._stay_present()))

    async def stop(self) -> None:
        await tasks.end(self._tasks)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)

    def watch(self, group: GroupName, changed: Callable[[], None]) -> None:
        self._watchers.append(changed)

    # --- the port's calls --------------------------------------------------------------------------------------------

    async def read(self, group: GroupName, within: Span) -> Snapshot:
        return await self._bounded(lambda: self._read(group), within)

    async def write_record(self, group: GroupName, write: WriteRecord) -> Written:
        try:
            applied = await self._bounded(lambda: self._write_record(group, write), write.within)
        except Unreachable as error:
            return Written(outcome=WriteOutcome.UNKNOWN, reason=str(error))
        return Written(outcome=WriteOutcome.APPLIED if applied else WriteOutcome.CONFLICT)

    async def write_control(self, group: GroupName, control: Control, expected: int, within: Span) -> None:
        def write(connection: sqlite3.Connection) -> bool:
            return self._set(connection, f"{group}/control", encode(control), expected)

        if not await self._bounded(lambda: self._transaction(write), within):
            raise Conflict(f"the control of {group} is not at version {expected} any more")

    async def adopt(self, group: GroupName, record: Record, within: Span) -> None:
        def write(connection: sqlite3.Connection) -> bool:
            connection.execute(
                "INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?)",
                (self._cluster, f"{group}/record", record.version, encode(record)),
            )
            return True

        await self._bounded(lambda: self._transaction(write), within)

    async def present(self) -> tuple[NodeName, ...]:
        def read() -> tuple[NodeName, ...]:
            rows = self._connect().execute(
                "SELECT node FROM present WHERE cluster = ? AND until > ? ORDER BY node", (self._cluster, time.time())
            )
            return tuple(row[0] for row in rows)

        return await self._bounded(read, 1.0)

    async def _bounded(self, call: Callable[[], T], within: Span) -> T:
        """Run on the thread; SQLite itself waits for locks no longer than the deadline."""
        deadline = time.monotonic() + within

        def run() -> T:
            rest = deadline - time.monotonic()
            if rest <= 0:
                raise Unreachable("the call before it took too long")
            self._connect().execute(f"PRAGMA busy_timeout = {max(1, int(rest * 1000))}")
            return call()

        try:
            async with asyncio.timeout(within + 0.05):
                result = await asyncio.get_running_loop().run_in_executor(self._thread, run)
        except TimeoutError:
            self._words = "no answer in time"
            raise Unreachable(f"{self.path}: no answer within {within:.2f} s") from None
        except (sqlite3.Error, OSError) as error:
            self._words = f"not reachable: {error}"
            raise Unreachable(f"{self.path}: {error}") from error
        self._words = "reachable"
        return result

    # --- on the thread -----------------------------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        """The connection, as long as the file is the one it was opened on: a file that was replaced is another mediator."""
        try:
            inode = os.stat(self.path).st_ino
        except FileNotFoundError:
            inode = 0
        if self._connection is not None and inode == self._inode:
            return self._connection
        self._disconnect()
        if self._seen_before and not inode:
            raise FileNotFoundError("the file is gone; it is not made anew while members know of records in it")
        if self._visitor and not inode:
            raise FileNotFoundError("the file does not exist yet; the first daemon makes it")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"its directory {self.path.parent} does not exist")
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(SCHEMA)
        self._connection = connection
        self._inode = os.stat(self.path).st_ino
        self._seen_before = True
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _read(self, group: GroupName) -> Snapshot:
        rows = self._connect().execute(
            "SELECT name, version, data FROM kept WHERE cluster = ? AND name IN (?, ?)",
            (self._cluster, f"{group}/record", f"{group}/control"),
        )
        found = {name: (version, data) for name, version, data in rows}
        record = control = None
        if kept := found.get(f"{group}/record"):
            record = decode_record(kept[1], kept[0], f"the record of {group}")
        if kept := found.get(f"{group}/control"):
            control = decode_control(kept[1], kept[0], f"the control of {group}")
        return Snapshot(group=group, record=record, control=control or Control(version=0))

    def _write_record(self, group: GroupName, write: WriteRecord) -> bool:
        def change(connection: sqlite3.Connection) -> bool:
            if write.control_expected is not None:
                kept = self._version(connection, f"{group}/control") or 0
                if kept != write.control_expected:
                    return False
            if not self._set(connection, f"{group}/record", encode(write.record), write.expected):
                return False
            if write.control is None:
                return True
            return self._set(connection, f"{group}/control", encode(write.control), write.control.version - 1)

        return self._transaction(change)

    def _transaction(self, change: Callable[[sqlite3.Connection], bool]) -> bool:
        connection = self._connect()
        connection.execute("BEGIN IMMEDIATE")
        applied = False
        try:
            applied = change(connection)
        finally:
            connection.execute("COMMIT" if applied else "ROLLBACK")
        return applied

    def _version(self, connection: sqlite3.Connection, name: str) -> int | None:
        row = connection.execute("SELECT version FROM kept WHERE cluster = ? AND name = ?", (self._cluster, name)).fetchone()
        return None if row is None else int(row[0])

    def _set(self, connection: sqlite3.Connection, name: str, data: bytes, expected: int | None) -> bool:
        """Compare-and-set of one row. A control that does not exist yet counts as version 0, a record as none."""
        kept = self._version(connection, name)
        if kept is None and (expected is None or (expected == 0 and name.endswith("/control"))):
            version = 0 if expected is None else 1
            connection.execute("INSERT INTO kept VALUES (?, ?, ?, ?)", (self._cluster, name, version, data))
            return True
        if kept is None or kept != expected:
            return False
        connection.execute(
            "UPDATE kept SET version = version + 1, data = ? WHERE cluster = ? AND name = ?",
            (data, self._cluster, name),
        )
        return True

    # --- in the background -------------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        """Tell the watchers whenever another connection has changed the file, or it can be read again."""
        known: tuple[int, int] | None = None
        glimpse: tuple[int, int] | None = None
        ask_at = 0.0
        while True:
            await asyncio.sleep(GLANCE_EVERY)
            seen = self._glance()
            if seen == glimpse and time.monotonic() < ask_at:
                continue
            glimpse, ask_at = seen, time.monotonic() + ASK_EVERY
            try:
                version = await self._bounded(self._data_version, 1.0)
            except (Unreachable, RefusedByPeer):
                version = None
            if version is not None and version != known:
                for changed in self._watchers:
                    changed()
            known = version

    def _glance(self) -> tuple[int, int] | None:
        """The log beside the file itself: where links lead is asked for again only when they lead to another file."""
        try:
            file = os.stat(self.path)
            if (file.st_dev, file.st_ino) != self._glanced:
                self._log, self._glanced = f"{os.path.realpath(self.path)}-wal", (file.st_dev, file.st_ino)
            found = os.stat(self._log)
        except OSError:
            self._glanced = (0, 0)
            return None
        return found.st_size, found.st_mtime_ns

    def _data_version(self) -> tuple[int, int]:
        connection = self._connect()
        return self._inode, int(connection.execute("PRAGMA data_version").fetchone()[0])

    async def _stay_present(self) -> None:
        while True:
            try:
                await self._bounded(self._write_presence, 1.0)
            except Unreachable:
                pass  # absence shows by itself: the row runs out
            await asyncio.sleep(PRESENT_EVERY)

    def _write_presence(self) -> None:
        until = time.time() + PRESENT_FOR
        self._connect().execute(
            "INSERT INTO present VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET until = excluded.until",
            (self._cluster, self._node, until),
        )
