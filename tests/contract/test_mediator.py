"""The mediator's port: one suite for every adapter and its twin in memory (design, rules 1, 10 and 23)."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.coordination.memory import MemoryMediator, Store
from orchestrator.coordination.sqlite import SqliteMediator
from orchestrator.coordination.zookeeper import ZooKeeperMediator
from orchestrator.domain.effects import WriteRecord
from orchestrator.domain.events import WriteOutcome
from orchestrator.domain.record import Cause, Control, Pause, Record
from orchestrator.domain.topology import Pair
from orchestrator.ports import Conflict, Mediator, Unreachable

GROUP = "orders"
WITHIN = 3.0


def record(version: int = 0, **changes: Any) -> Record:
    return replace(
        Record(
            version=version,
            incarnation=7,
            epoch=1,
            primary=Pair("db1", 11),
            succession=(Pair("db2", 22),),
            lease=1.0,
            nonce=secrets.randbits(62),
            cause=Cause.FOUNDING,
            reason="founded by db1",
            since=0.0,
        ),
        **changes,
    )


def write(made: Record, expected: int | None, **more: Any) -> WriteRecord:
    return WriteRecord(record=made, expected=expected, within=WITHIN, **more)


Make = Callable[[str], Mediator]


@pytest.fixture(params=["memory", "sqlite", "zookeeper", "ensemble"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes one daemon's mediator by the name of its node; all of them share what is kept."""
    cluster = f"shop-{secrets.token_hex(4)}"
    match request.param:
        case "memory":
            store = Store()
            yield lambda node: MemoryMediator(store, node)
        case "sqlite":
            yield lambda node: SqliteMediator(tmp_path / "mediator.sqlite", cluster, node)
        case "zookeeper":
            hosts = request.getfixturevalue("zookeeper").hosts
            yield lambda node: ZooKeeperMediator(hosts, f"/{cluster}", cluster, node, node)
        case _:
            hosts = request.getfixturevalue("zookeeper_ensemble").hosts
            yield lambda node: ZooKeeperMediator(hosts, f"/{cluster}", cluster, node, node)


def with_two(make: Make, play: Callable[[Mediator, Mediator], Awaitable[None]]) -> None:
    async def run() -> None:
        one, other = make("db1"), make("db2")
        await one.start()
        await other.start()
        try:
            await until_reachable(one)
            await until_reachable(other)
            await play(one, other)
        finally:
            await one.stop()
            await other.stop()

    asyncio.run(run())


async def until_reachable(mediator: Mediator) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            await mediator.read(GROUP, WITHIN)
            return
        except Unreachable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def until(condition: Callable[[], Awaitable[bool]], within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while not await condition():
        assert time.monotonic() < deadline, "it did not come to be in time"
        await asyncio.sleep(0.02)


def test_a_new_group_has_no_record_and_an_empty_control(make: Make):
    async def play(one: Mediator, other: Mediator) -> None:
        seen = await one.read(GROUP, WITHIN)
        assert seen.record is None
        assert seen.control == Control(version=0)

    with_two(make, play)


def test_what_one_writes_the_other_reads(make: Make):
    async def play(one: Mediator, other: Mediator) -> None:
        made = record()
        assert (await one.write_record(GROUP, write(made, None))).outcome is WriteOutcome.APPLIED
        assert (await other.read(GROUP, WITHIN)).record == made
        second = record(1, epoch=2, primary=Pair("db2", 22), succession=())
        assert (await other.write_record(GROUP, write(second, 0))).outcome is WriteOutcome.APPLIED
        assert (await one.read(GROUP, WITHIN)).record == second

    with_two(make, play)


def test_a_write_on_another_version_is_refused_and_changes_nothing(make: Make):
    async def play(one: Mediator, other: Mediator) -> None:
        await one.write_record(GROUP, write(record(), None))
        second = record(1)
        await one.write_record(GROUP, write(second, 0))
        for expected in (0, 2, None):
            late = record((expected or 0) + 1 if expected is not None else 0, epoch=9)
            assert (await other.write_record(GROUP, write(late, expected))).outcome is WriteOutcome.CONFLICT
        assert (await other.read(GROUP, WITHIN)).record == second

    with_two(make, play)


def test_of_two_writers_exactly_one_wins(make: Make):
    async def play(one: Mediator, other: Mediator) -> None:
        await one.write_record(GROUP, write(record(), None))
        for version in range(1, 11):
            claims = [record(version, epoch=version + 1, primary=Pair(name, 1)) for name in ("db1", "db2")]
            outcomes = await asyncio.gather(
                one.write_record(GROUP, write(claims[0], version - 1)),
                other.write_record(GROUP, write(claims[1], version - 1)),
            )
            won = [claim for claim, ended in zip(claims, outcomes, strict=True) if ended.outcome is WriteOutcome.APPLIED]
            assert len(won) == 1
            assert (await one.read(GROUP, WITHIN)).record == won[0]

    with_two(make, play)


def test_of_two_founders_exactly_one_wins(make: Make):
    async def play(one: Mediator, other: Mediator) -> None:
        founders = [record(incarnation=1), record(incarnation=2, primary=Pair("db2", 22))]
        outcomes = await asyncio.gather(
            one.write_record(GROUP, write(founders[0], None)), other.write_record(GROUP, write(founders[1], None))
        )
        won = [made for made, ended in zip(founders, outcomes, strict=True) if ended.outcome is WriteOutcome.APPLIED]
        assert len(won) == 1
        assert (await one.read(GROUP, WITHIN)).record == won[0]

    with_two(make, play)


def test_words_that_changed_in_between_refuse_a_claim(make: Make):
    async def play(one: Mediator, other: Mediator) -> None:
        await one.write_record(GROUP, write(record(), None))
        pause = Control(version=1, paused=Pause(by="ann", at_wall=1.0))
        await other.write_control(GROUP, pause, 0, WITHIN)
        claim = record(1, epoch=2)
        assert (await one.write_record(GROUP, write(claim, 0, control_expected=0))).outcome is WriteOutcome.CONFLICT
        assert (await one.read(GROUP, WITHIN)).record.epoch == 1
        assert (await one.write_record(GROUP, write(claim, 0, control_expected=1))).outcome is WriteOutcome.APPLIED

    with_two(make, play)


def test_a_claim_and_the_word_it_uses_up_are_written_together_or_not_at_all(make: Make):
    async def play(one: Mediator, other: Mediator) -> None:
        await one.write_record(GROUP, write(record(), None))
        await one.write_control(GROUP, Control(version=1, rejected="a"), 0, WITHIN)
        used = Control(version=2, rejected="b")
        late = write(record(2, epoch=3), 1, control_expected=1, control=used)
        assert (await other.write_record(GROUP, late)).outcome is WriteOutcome.CONFLICT
        assert (await one.read(GROUP, WITHIN)).control.rejected == "a"
        claim = write(record(1, epoch=2), 0, control_expected=1, control=used)
        assert (await other.write_record(GROUP, claim)).outcome is WriteOutcome.APPLIED
        seen = await one.read(GROUP, WITHIN)
        assert (seen.record.epoch, seen.control.rejected, seen.control.version) == (2, "b", 2)

    with_two(make, play)


def test_words_are_written_over_the_version_that_was_read(make: Make):
    async def play(one: Mediator, other: Mediator) -> None:
        await one.write_control(GROUP, Control(version=1, rejected="a"), 0, WITHIN)
        with pytest.raises(Conflict):
            await other.write_control(GROUP, Control(version=1, rejected="b"), 0, WITHIN)
        seen = await other.read(GROUP, WITHIN)
        assert (seen.control.version, seen.control.rejected) == (1, "a")
        await other.write_control(GROUP, Control(version=2, rejected="b"), 1, WITHIN)
        assert (await one.read(GROUP, WITHIN)).control.rejected == "b"

    with_two(make, play)


def test_watchers_hear_of_another_daemons_changes(make: Make):
    async def play(one: Mediator, other: Mediator) -> None:
        await one.write_record(GROUP, write(record(), None))
        told = asyncio.Event()
        other.watch(GROUP, told.set)
        for version in range(1, 4):
            await other.read(GROUP, WITHIN)
            told.clear()
            await one.write_record(GROUP, write(record(version), version - 1))
            await asyncio.wait_for(told.wait(), 2.0)
        await other.read(GROUP, WITHIN)
        told.clear()
        await one.write_control(GROUP, Control(version=1, rejected="x"), 0, WITHIN)
        await asyncio.wait_for(told.wait(), 2.0)

    with_two(make, play)


def test_adoption_begins_a_line_of_records_that_no_older_write_reaches(make: Make):
    async def play(one: Mediator, other: Mediator) -> None:
        await one.write_record(GROUP, write(record(), None))
        await one.write_record(GROUP, write(record(1), 0))
        adopted = record(0, incarnation=8, epoch=5, primary=Pair("db2", 0), cause=Cause.ADOPTION)
        await other.adopt(GROUP, adopted, WITHIN)

        async def seen() -> bool:
            return (await one.read(GROUP, WITHIN)).record == adopted

        await until(seen)
        stale = record(2, epoch=9)
        assert (await one.write_record(GROUP, write(stale, 1))).outcome is not WriteOutcome.APPLIED
        assert (await one.read(GROUP, WITHIN)).record == adopted
        onward = replace(adopted, version=1, nonce=1)
        assert (await one.write_record(GROUP, write(onward, 0))).outcome is WriteOutcome.APPLIED

    with_two(make, play)


def test_presence_shows_who_is_there_and_forgets_who_left(make: Make):
    async def run() -> None:
        one, other = make("db1"), make("db2")
        await one.start()
        await other.start()
        try:

            async def both() -> bool:
                try:
                    return await one.present() == ("db1", "db2")
                except Unreachable:
                    return False

            async def alone() -> bool:
                return await one.present() == ("db1",)

            await until(both)
            await other.stop()
            await until(alone)
        finally:
            await one.stop()

    asyncio.run(run())
