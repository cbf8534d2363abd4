"""What is particular to SQLite: a file can be locked, lost, replaced."""

import asyncio
import shutil
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from orchestrator.coordination.codec import FORMAT
from orchestrator.coordination.sqlite import SqliteMediator
from orchestrator.domain.events import WriteOutcome
from orchestrator.ports import RefusedByPeer, Unreachable
from tests.contract.test_mediator import GROUP, WITHIN, record, until, write


def with_one(path: Path, play: Callable[[SqliteMediator], Awaitable[None]]) -> None:
    async def run() -> None:
        mediator = SqliteMediator(path, "shop", "db1")
        await mediator.start()
        try:
            await play(mediator)
        finally:
            await mediator.stop()

    asyncio.run(run())


def test_a_locked_file_ends_a_write_at_its_deadline_and_never_later(tmp_path: Path):
    path = tmp_path / "m.sqlite"

    async def play(mediator: SqliteMediator) -> None:
        await mediator.write_record(GROUP, write(record(), None))
        lock = sqlite3.connect(path, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        late = write(record(1, epoch=2), 0)
        began = time.monotonic()
        ended = await mediator.write_record(GROUP, type(late)(record=late.record, expected=0, within=0.3))
        assert ended.outcome is WriteOutcome.UNKNOWN
        assert time.monotonic() - began < 1.0
        lock.execute("ROLLBACK")
        lock.close()
        again = await mediator.write_record(GROUP, write(record(1, epoch=3), 0))
        assert again.outcome is WriteOutcome.APPLIED, "the late write must not have come in between"

    with_one(path, play)


def test_a_lost_file_is_not_made_anew(tmp_path: Path):
    path = tmp_path / "m.sqlite"

    async def play(mediator: SqliteMediator) -> None:
        await mediator.write_record(GROUP, write(record(), None))
        path.unlink()
        with pytest.raises(Unreachable, match="gone"):
            await mediator.read(GROUP, WITHIN)
        assert not path.exists()

    with_one(path, play)


def test_a_cut_way_to_the_file_can_be_mended(tmp_path: Path):
    path, link = tmp_path / "m.sqlite", tmp_path / "link"
    link.symlink_to(path)

    async def play(mediator: SqliteMediator) -> None:
        made = record()
        await mediator.write_record(GROUP, write(made, None))
        link.unlink()
        with pytest.raises(Unreachable):
            await mediator.read(GROUP, WITHIN)
        link.symlink_to(path)
        assert (await mediator.read(GROUP, WITHIN)).record == made

    with_one(link, play)


def put_back(older: Path, path: Path) -> None:
    """As a person restores a copy: without what SQLite keeps beside the file."""
    shutil.move(older, path)
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path):
    path, older = tmp_path / "m.sqlite", tmp_path / "older.sqlite"

    async def play(mediator: SqliteMediator) -> None:
        await mediator.write_record(GROUP, write(record(), None))
        with sqlite3.connect(path) as source, sqlite3.connect(older) as copy:
            source.backup(copy)
        await mediator.write_record(GROUP, write(record(1), 0))
        put_back(older, path)

        async def shows_the_older() -> bool:
            return (await mediator.read(GROUP, WITHIN)).record.version == 0

        await until(shows_the_older)

    with_one(path, play)


def test_a_directory_that_is_not_there_is_told(tmp_path: Path):
    async def play(mediator: SqliteMediator) -> None:
        with pytest.raises(Unreachable, match="does not exist"):
            await mediator.read(GROUP, WITHIN)

    with_one(tmp_path / "nowhere" / "m.sqlite", play)


def test_a_visitor_makes_no_file(tmp_path: Path):
    path = tmp_path / "m.sqlite"

    async def run() -> None:
        visitor = SqliteMediator(path, "shop", "db1", visitor=True)
        await visitor.start()
        try:
            with pytest.raises(Unreachable):
                await visitor.read(GROUP, WITHIN)
        finally:
            await visitor.stop()

    asyncio.run(run())
    assert not path.exists()


def test_a_record_of_a_newer_version_is_refused_with_the_cure(tmp_path: Path):
    path = tmp_path / "m.sqlite"

    async def play(mediator: SqliteMediator) -> None:
        await mediator.write_record(GROUP, write(record(), None))
        with sqlite3.connect(path) as connection:
            newer = f"replace(CAST(data AS TEXT), '\"format\":1,', '\"format\":{FORMAT + 1},')"
            connection.execute(f"UPDATE kept SET data = {newer}")
        with pytest.raises(RefusedByPeer, match=r"newer Tanist.*upgrade"):
            await mediator.read(GROUP, WITHIN)

    with_one(path, play)
