"""The PostgreSQL adapter against real servers: each act, and each way in which a server can fail to answer."""

import asyncio
import os
import shutil
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from postgresql_servers import (
    NAMES,
    PROGRAMS,
    Servers,
    copies,
    held,
    primary,
    standby,
    start_by_hand,
    template,
    until,
    until_seen,
    until_view,
    why_not,
)

from orchestrator.domain.observations import Abstained, Answered, Refused, Role, Silent
from orchestrator.domain.positions import bytes_behind
from orchestrator.domain.verdicts import Diagnosis
from orchestrator.ports import NotConfirmed, RefusedByPeer, Unreachable
from orchestrator.services.postgresql import postmaster, service, slots
from orchestrator.services.postgresql.service import PostgresqlService
from orchestrator.services.postgresql.slots import slot_name
from orchestrator.services.postgresql.synchronous import Synchronous, SynchronousMode

pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.timeout(120),
    pytest.mark.skipif(bool(why_not()), reason=f"PostgreSQL: {why_not()}"),
]

WITHIN = 1.0
SLACK = 2.0
"""Seconds that a busy machine may add; the figures are printed, not judged."""


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with template() as made:
        yield made


@pytest.fixture
def pair(root: Path) -> Iterator[Servers]:
    with copies(root) as servers:
        yield servers


def figures(what: str, seconds: list[float]) -> None:
    told = f"{statistics.median(seconds) * 1000:.0f} ms (worst {max(seconds) * 1000:.0f}, n={len(seconds)})"
    print(f"\n{what}: median {told}")


def rows(servers: Servers, name: str) -> list[tuple[object, ...]]:
    return servers.sql(name, "SELECT count(*), coalesce(sum(hashtext(what)), 0) FROM kept")


def write(servers: Servers, name: str, what: str) -> None:
    servers.sql(name, f"INSERT INTO kept (what) VALUES ('{what}')")


def replicated(servers: Servers, name: str, on: str) -> None:
    """Everything that `name` has written is on `on`'s disk."""
    ((end,),) = servers.sql(name, "SELECT pg_current_wal_flush_lsn()")
    until(lambda: servers.sql(on, f"SELECT coalesce(pg_last_wal_receive_lsn() >= '{end}', false)") == [(True,)])


async def timed(work: object) -> float:
    began = time.monotonic()
    await work  # type: ignore[misc]
    return time.monotonic() - began


def code_of(outcome: object) -> Diagnosis | None:
    finding = getattr(outcome, "finding", None)
    return finding.code if finding is not None else None


def well(outcome: object) -> bool:
    return isinstance(outcome, Answered) and outcome.finding is None


def view_of(outcome: object):  # type: ignore[no-untyped-def]
    assert isinstance(outcome, Answered), outcome
    return outcome.view


async def fail_over(servers: Servers, old: str, new: PostgresqlService, epoch: int) -> None:
    servers.kill(old)
    await new.ensure(primary(epoch))


# --- looking ---------------------------------------------------------------------------------------------------------


def test_a_running_pair_is_adopted_without_a_restart(pair: Servers):
    async def scenario() -> None:
        a, b = pair.service("a"), pair.service("b")
        first, second = view_of(await a.look(WITHIN)), view_of(await b.look(WITHIN))
        assert (first.role, second.role) == (Role.PRIMARY, Role.STANDBY)
        assert second.upstream == (pair.members[0].address, pair.members[0].port)
        assert second.link_up and first.replicas == 1 and first.upstream is None
        major = (pair.directory / "a" / "PG_VERSION").read_text().strip()
        assert first.software.startswith(f"PostgreSQL {major}.")
        assert first.pid == pair.tree("a").pid and first.process_started == pair.tree("a").process_started
        write(pair, "a", "something")
        ahead = view_of(await a.look(WITHIN))
        assert ahead.position.offset > first.position.offset
        caught_up = await until_view(b, lambda view: bytes_behind(view.position, ahead.position) <= 0)
        assert caught_up.position.history == ahead.position.history
        # what the engine then asks for changes nothing
        assert (await a.ensure(primary(1))).pid == first.pid
        assert (await b.ensure(standby(1, "a"))).pid == second.pid
        assert view_of(await b.look(WITHIN)).link_up
        assert pair.heard["b"] == []
        await pair.close()

    asyncio.run(scenario())


def test_nothing_there_is_gone(root: Path):
    with copies(root, running=()) as servers:

        async def scenario() -> None:
            outcome = await servers.service("a").look(WITHIN)
            assert isinstance(outcome, Refused) and outcome.gone
            nothing = servers.service("a", data_directory=servers.directory / "nothing")
            outcome = await nothing.look(WITHIN)
            assert isinstance(outcome, Refused) and outcome.gone and "holds no database" in outcome.reason
            await servers.close()

        asyncio.run(scenario())


def test_a_killed_server_is_gone_and_a_restarted_one_is_another_process(pair: Servers):
    async def scenario() -> None:
        a = pair.service("a")
        before = view_of(await a.look(WITHIN))
        pair.kill("a")
        outcome = await a.look(WITHIN)
        assert isinstance(outcome, Refused) and outcome.gone
        start_by_hand(pair, "a")
        after = view_of(await a.look(WITHIN))
        assert (after.pid, after.process_started) != (before.pid, before.process_started)
        await pair.close()

    asyncio.run(scenario())


def test_a_server_whose_processes_are_all_stopped_is_silent_within_the_bound(pair: Servers):
    async def scenario() -> None:
        a = pair.service("a")
        await a.look(WITHIN)
        tree = pair.tree("a")
        tree.stop()
        try:
            for _ in range(3):
                began = time.monotonic()
                assert isinstance(await a.look(0.2), Silent)
                assert time.monotonic() - began < 0.3
        finally:
            tree.go_on()
        await until_view(a, lambda view: view.role is Role.PRIMARY)
        await pair.close()

    asyncio.run(scenario())


def test_a_stopped_main_process_is_seen_although_its_old_connections_answer(pair: Servers):
    async def scenario() -> None:
        a = pair.service("a")
        await until_view(a, lambda view: a._writer.is_open)
        pid = pair.tree("a").pid
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        try:
            seen = await until_seen(lambda: a.look(0.3), lambda outcome: code_of(outcome) is Diagnosis.NOT_ACCEPTING)
            assert isinstance(seen, Answered), "what is known of it goes on being known"
            print(f"\na stopped main process was seen after {time.monotonic() - began:.2f} s")
            assert code_of(await a.look(0.3)) is Diagnosis.NOT_ACCEPTING, "it stays so"
        finally:
            os.kill(pid, signal.SIGCONT)
        await until_view(a, lambda view: True)
        await pair.close()

    asyncio.run(scenario())


def test_a_commit_that_does_not_reach_the_disk_is_seen_although_reads_answer(pair: Servers):
    async def scenario() -> None:
        a = pair.service("a")
        await until_view(a, lambda view: a._writer.backend != 0)
        stalled = a._writer.backend
        os.kill(stalled, signal.SIGSTOP)  # stands for the disk: the commit is under way and does not come back
        try:
            seen = await until_seen(lambda: a.look(0.3), lambda outcome: code_of(outcome) is Diagnosis.STALLED_STORAGE)
            assert isinstance(seen, Answered) and "a commit to disk" in seen.finding.words
        finally:
            os.kill(stalled, signal.SIGCONT)
        await until_seen(lambda: a.look(0.3), well)
        await pair.close()

    asyncio.run(scenario())


def test_a_late_connection_and_a_late_commit_are_told_as_what_explains_both(pair: Servers):
    """The disk stalls between the two, so that the connection is out before the commit is due again."""

    async def scenario() -> None:
        a = pair.service("a")
        await until_view(a, lambda view: a._writer.backend != 0)
        await until_seen(lambda: a.look(5.0), lambda outcome: not a._commit.late and not a._fresh.late)
        stopped = (pair.tree("a").pid, a._writer.backend)
        a._fresh.send(0.0)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert code_of(await a.look(0.3)) is Diagnosis.STALLED_STORAGE, "at the first look that waits for either"
        finally:
            for pid in reversed(stopped):
                os.kill(pid, signal.SIGCONT)
        await until_seen(lambda: a.look(0.3), well)
        await pair.close()

    asyncio.run(scenario())


def test_the_write_probe_really_commits(pair: Servers):
    async def scenario() -> None:
        a = pair.service("a")
        ((before,),) = pair.sql("a", "SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'")
        assert await a._write() is None
        query = "SELECT pg_walfile_name(pg_current_wal_insert_lsn()) IS NOT NULL"
        assert pair.sql("a", query) == [(True,)]
        first = view_of(await a.look(WITHIN)).position.offset
        assert await a._write() is None
        assert view_of(await a.look(WITHIN)).position.offset > first, "the log on disk has grown by the commit"
        assert before >= 0
        await pair.close()

    asyncio.run(scenario())


def test_taken_connections_are_overload_and_not_death(pair: Servers):
    async def scenario() -> None:
        a = pair.service("a")
        pair.sql("a", "CREATE ROLE client LOGIN PASSWORD 'x'")
        await until_view(a, lambda view: True)
        ((limit,),) = pair.sql("a", "SELECT current_setting('max_connections')::int")
        taken = []
        try:
            with pytest.raises(psycopg.OperationalError):
                while len(taken) < limit:
                    taken.append(pair.connection("a", user="client", password="x"))
            assert view_of(await a.look(WITHIN)).role is Role.PRIMARY, "an open connection goes on"
            seen = await until_seen(lambda: a.look(WITHIN), lambda outcome: code_of(outcome) is Diagnosis.OVERLOADED)
            assert "connections that clients may have are taken" in seen.finding.words
            late = pair.service("a")
            assert view_of(await late.look(WITHIN)).role is Role.PRIMARY, "reserved ones let a restarted daemon in"
            with pytest.raises(psycopg.OperationalError):
                while len(taken) < limit:
                    taken.append(pair.connection("a"))
            assert view_of(await a.look(WITHIN)).role is Role.PRIMARY
            outcome = await pair.service("a").look(WITHIN)
            assert isinstance(outcome, Abstained) and "overload is not death" in outcome.reason
            assert code_of(outcome) is Diagnosis.OVERLOADED
            assert (await a.ensure(primary(1))).role is Role.PRIMARY or True
        except (Unreachable, RefusedByPeer):
            pytest.fail("an act on an open connection was refused")
        finally:
            for each in taken:
                each.close()
        await until_seen(lambda: a.look(WITHIN), well)
        await pair.close()

    asyncio.run(scenario())


def test_a_primary_that_somebody_set_read_only_is_told_and_what_is_set_for_tanist_alone_is_not(pair: Servers):
    async def scenario() -> None:
        a = pair.service("a")
        await until_seen(lambda: a.look(WITHIN), well)
        pair.sql("a", "ALTER SYSTEM SET default_transaction_read_only = on")
        pair.sql("a", "SELECT pg_reload_conf()")
        seen = await until_seen(lambda: a.look(WITHIN), lambda outcome: code_of(outcome) is Diagnosis.READ_ONLY)
        assert isinstance(seen, Answered) and seen.view.role is Role.PRIMARY
        assert (await a.ensure(primary(1))).role is Role.PRIMARY, "acts go on"
        pair.sql("a", "ALTER SYSTEM RESET default_transaction_read_only")
        pair.sql("a", "SELECT pg_reload_conf()")
        await until_seen(lambda: a.look(WITHIN), well)
        pair.sql("a", "ALTER ROLE postgres SET default_transaction_read_only = on")
        late = pair.service("a")
        for _ in range(3):
            assert well(await late.look(WITHIN))
        await pair.close()

    asyncio.run(scenario())


def test_a_standby_tells_how_long_ago_its_primary_was_heard(pair: Servers):
    async def scenario() -> None:
        b = pair.service("b")
        view = await until_view(b, lambda view: view.link_up)
        assert view.link_heard_ago is not None and view.link_heard_ago < 60.0
        write(pair, "a", "something")
        fresh = await until_view(b, lambda view: view.link_heard_ago is not None and view.link_heard_ago < 0.5)
        await asyncio.sleep(0.3)
        later = view_of(await b.look(WITHIN))
        assert later.link_heard_ago > fresh.link_heard_ago
        assert view_of(await pair.service("a").look(WITHIN)).link_heard_ago is None
        await pair.close()

    asyncio.run(scenario())


def test_a_wrong_password_is_told_and_is_not_death(pair: Servers):
    async def scenario() -> None:
        wrong = pair.directory / "wrong"
        wrong.write_text("wrong\n")
        outcome = await pair.service("a", password_file=wrong).look(WITHIN)
        assert isinstance(outcome, Refused) and not outcome.gone
        assert "password authentication failed" in outcome.reason
        (finding,) = await pair.service("a", password_file=wrong).check()
        assert "password authentication failed" in finding
        await pair.close()

    asyncio.run(scenario())


def test_recovery_in_place_is_a_refusal_and_then_the_same_process_serves_on(pair: Servers):
    async def scenario() -> None:
        a = pair.service("a")
        before = await until_view(a, lambda view: True)
        with pair.connection("a") as victim:
            os.kill(victim.info.backend_pid, signal.SIGKILL)  # the server ends all others and recovers by itself
            with pytest.raises(psycopg.OperationalError):
                until(lambda: victim.execute("SELECT false").fetchone()[0])
        seen = []

        async def look() -> object:
            seen.append(await a.look(WITHIN))
            return seen[-1]

        last = await until_seen(look, lambda outcome: isinstance(outcome, Answered))
        assert (last.view.pid, last.view.role) == (before.pid, Role.PRIMARY)
        assert not any(isinstance(each, Refused) and each.gone for each in seen)
        await pair.close()

    asyncio.run(scenario())


# --- primary ---------------------------------------------------------------------------------------------------------


def test_nothing_is_promoted_unless_the_keeper_is_armed_for_this_very_process(pair: Servers):
    async def scenario() -> None:
        b = pair.service("b")
        pair.is_armed = False
        with pytest.raises(RefusedByPeer, match="not armed for epoch 7"):
            await b.ensure(primary(7))
        tree = pair.tree("b")
        assert pair.asked == [(7, tree.pid, tree.process_started)]
        assert view_of(await b.look(WITHIN)).role is Role.STANDBY
        with pytest.raises(RefusedByPeer, match="older than epoch 7"):
            await b.ensure(standby(6))
        await pair.close()

    asyncio.run(scenario())


def test_promotion_is_quick_even_right_after_the_primarys_death(root: Path):
    took = []

    async def scenario(servers: Servers) -> None:
        b = servers.service("b")
        await b.ensure(standby(1, "a"))
        with servers.connection("b") as client:
            servers.kill("a")
            began = time.monotonic()
            view = await b.ensure(primary(2))
            client.execute("INSERT INTO kept (what) VALUES ('first')")
            took.append(time.monotonic() - began)
        assert view.role is Role.PRIMARY and len(view.position.past) == 2
        await servers.close()

    for _ in range(9):
        with copies(root) as servers:
            asyncio.run(scenario(servers))
    figures("promotion to first accepted write", took)
    assert statistics.median(took) < SLACK


def test_the_synchronous_list_stands_before_the_first_write(pair: Servers):
    async def scenario() -> None:
        b = pair.service("b")
        pair.kill("a")
        await b.ensure_synchronous(Synchronous(names=("a", "c")))
        view = await b.ensure(primary(2))
        assert view.role is Role.PRIMARY
        assert pair.sql("b", "SHOW synchronous_standby_names") == [('FIRST 1 ("a", "c")',)]
        with pair.connection("b") as client:
            client.pgconn.send_query(b"CREATE TABLE waiting ()")  # nobody is there to have it: not acknowledged
            query = f"SELECT wait_event FROM pg_stat_activity WHERE pid = {client.info.backend_pid}"
            until(lambda: pair.sql("b", query) == [("SyncRep",)])
            for _ in range(3):
                assert await b._write() is None, "the write probe does not wait for standbys"
            assert client.pgconn.is_busy()
            client.pgconn.finish()
        await pair.close()

    asyncio.run(scenario())


# --- holding ---------------------------------------------------------------------------------------------------------


def test_a_switchover_loses_nothing_and_nobody_is_copied(pair: Servers):
    async def scenario() -> None:
        a, b = pair.service("a"), pair.service("b")
        await until_view(a, lambda view: True)
        for number in range(50):
            write(pair, "a", f"before {number}")
        expected = rows(pair, "a")
        began = time.monotonic()
        stood = await a.ensure(held(1))
        stopped = time.monotonic()
        assert stood.writes_held and stood.pid == 0, "no process is left that could write"
        assert (await a.ensure(held(1))) == stood, "asked twice"
        outcome = await a.look(WITHIN)
        assert isinstance(outcome, Refused) and outcome.gone and "switchover" in outcome.reason
        target = await until_view(b, lambda view: bytes_behind(view.position, stood.position) == 0, 5)
        assert target.position.history == stood.position.history
        await b.ensure(primary(2))
        write(pair, "b", "after")
        promoted = time.monotonic()
        assert rows(pair, "b")[0][0] == expected[0][0] + 1
        view = await a.ensure(standby(2, "b"))
        assert view.upstream == (pair.members[1].address, pair.members[1].port)
        history = view_of(await b.look(WITHIN)).position.history
        await until_view(a, lambda view: view.link_up and view.position.history == history)
        returned = time.monotonic()
        replicated(pair, "b", "a")
        until(lambda: rows(pair, "a") == rows(pair, "b"))
        assert not [words for words in pair.heard["a"] if "rewind" in words or "copying" in words]
        print(
            f"\nswitchover: checkpoint and clean stop {stopped - began:.3f} s, proof, promotion and first write "
            f"{promoted - stopped:.3f} s, old primary streaming after another {returned - promoted:.3f} s"
        )
        await pair.close()

    asyncio.run(scenario())


def test_who_held_its_writes_can_go_back_under_guard(pair: Servers):
    async def scenario() -> None:
        a, b = pair.service("a"), pair.service("b")
        await a.ensure(held(1))
        pair.is_armed = False
        task = asyncio.create_task(a.ensure(primary(1)))
        view = await until_view(a, lambda view: True)
        assert view.role is Role.STANDBY, "it is never started as a primary: the keeper has to be armed for the new process"
        pair.is_armed = True
        assert (await task).role is Role.PRIMARY
        assert pair.asked[-1] == (1, view.pid, view.process_started)
        write(pair, "a", "back")
        await until_view(b, lambda view: view.link_up)
        replicated(pair, "a", "b")
        until(lambda: rows(pair, "a") == rows(pair, "b"))
        await pair.close()

    asyncio.run(scenario())


def test_a_hung_standby_does_not_hold_up_the_stop(root: Path):
    with copies(root, running=NAMES) as servers:

        async def scenario() -> None:
            a = servers.service("a")
            tree = servers.tree("c")
            tree.stop()
            try:
                write(servers, "a", "more")
                query = (
                    "SELECT count(*) FROM pg_stat_replication "
                    "WHERE application_name = 'c' AND reply_time < clock_timestamp() - interval '1.1 seconds'"
                )
                until(lambda: servers.sql("a", query) == [(1,)])
                took = await timed(a.ensure(held(1)))
                assert took < 3 + SLACK
            finally:
                tree.go_on()
            await servers.close()

        asyncio.run(scenario())


def test_a_standby_has_no_writes_to_hold(pair: Servers):
    async def scenario() -> None:
        with pytest.raises(RefusedByPeer, match="it is a standby"):
            await pair.service("b").ensure(held(1))
        await pair.close()

    asyncio.run(scenario())


# --- standby ---------------------------------------------------------------------------------------------------------


def test_it_is_never_started_as_a_primary(root: Path):
    with copies(root, running=()) as servers:

        async def scenario() -> None:
            assert not (servers.directory / "a" / "standby.signal").exists(), "it was a primary"
            a = servers.service("a")
            took = await timed(a.ensure(standby(1)))
            view = view_of(await a.look(WITHIN))
            assert view.role is Role.STANDBY and view.upstream is None and not view.link_up
            figures("start as a standby", [took])
            await servers.close()

        asyncio.run(scenario())


def test_a_running_primary_becomes_a_standby_of_nobody_and_keeps_its_position(pair: Servers):
    async def scenario() -> None:
        a = pair.service("a")
        write(pair, "a", "kept")
        before = view_of(await a.look(WITHIN))
        view = await a.ensure(standby(2))
        assert view.role is Role.STANDBY and view.upstream is None
        assert bytes_behind(before.position, view.position) >= 0
        assert view.pid != before.pid
        await pair.close()

    asyncio.run(scenario())


def test_an_old_primary_whose_data_did_not_diverge_simply_follows(pair: Servers):
    async def scenario() -> None:
        a, b = pair.service("a"), pair.service("b")
        write(pair, "a", "last")
        pair.sql("a", "CHECKPOINT")
        replicated(pair, "a", "b")
        await fail_over(pair, "a", b, 2)
        write(pair, "b", "new")
        took = await timed(a.ensure(standby(2, "b")))
        await until_view(a, lambda view: view.link_up)
        until(lambda: rows(pair, "a") == rows(pair, "b"))
        assert not [words for words in pair.heard["a"] if "rewind" in words or "copying" in words]
        figures("rejoin without divergence", [took])
        await pair.close()

    asyncio.run(scenario())


def diverge(servers: Servers, lost: int = 20) -> None:
    """Commits on a that b never receives; a dies, b is what is left."""
    replicated(servers, "a", "b")
    servers.kill("b")  # stopping it would not do: what is in its socket already would still arrive
    for number in range(lost):
        write(servers, "a", f"lost {number}")
    servers.kill("a")
    start_by_hand(servers, "b")


def give_certificates(servers: Servers) -> None:
    """Each member has its own; what is in them is PostgreSQL's to read."""
    for name in ("a", "b"):
        key = servers.directory / name / "server.key"
        key.write_bytes(f"of {name} ".encode() + b"\xff\r\n")
        if (user := servers.settings(name).run_as) is not None:
            shutil.chown(key, user, user)


def test_an_old_primary_with_diverged_data_is_rewound(pair: Servers):
    async def scenario() -> None:
        a, b = pair.service("a"), pair.service("b")
        hba = (pair.directory / "a" / "pg_hba.conf").read_text() + "# a's own\n"
        (pair.directory / "a" / "pg_hba.conf").write_text(hba)
        give_certificates(pair)
        diverge(pair)
        await b.ensure(primary(2))
        write(pair, "b", "new")
        took = await timed(a.ensure(standby(2, "b")))
        await until_view(a, lambda view: view.link_up)
        until(lambda: rows(pair, "a") == rows(pair, "b"))
        assert any("rewinding" in words for words in pair.heard["a"])
        assert not any("copying" in words for words in pair.heard["a"])
        assert (pair.directory / "a" / "pg_hba.conf").read_text() == hba
        assert (pair.directory / "a" / "server.key").read_bytes() == b"of a \xff\r\n", "not the source's"
        (slot,) = pair.sql("a", "SHOW primary_slot_name")[0]
        assert slot == slot_name("a"), "not the source's"
        assert not a.files.half_copied.exists()
        figures("rejoin by pg_rewind after a crash", [took])
        await pair.close()

    asyncio.run(scenario())


def test_a_diverged_server_that_runs_as_a_standby_already_is_rewound_too(pair: Servers):
    async def scenario() -> None:
        a, b = pair.service("a"), pair.service("b")
        diverge(pair)
        await b.ensure(standby(2))
        first = await a.ensure(standby(2))  # nobody serves yet
        assert first.upstream is None
        await b.ensure(primary(2))
        seen = view_of(await b.look(WITHIN))
        assert bytes_behind(first.position, seen.position) is None, "both sides see that they have parted"
        await a.ensure(standby(2, "b"))
        await until_view(a, lambda view: view.link_up)
        until(lambda: rows(pair, "a") == rows(pair, "b"))
        assert any("rewinding" in words for words in pair.heard["a"])
        await pair.close()

    asyncio.run(scenario())


def test_one_that_failed_before_its_promotions_checkpoint_is_rewound_although_it_ran_as_a_standby_since(root: Path):
    """Its control file is that of a cleanly stopped standby then, and names an older timeline than its log is on."""
    with copies(root, running=NAMES) as servers:

        async def scenario() -> None:
            b, c = servers.service("b"), servers.service("c")
            servers.kill("c")  # first of all: it must not have more of a's log than b
            replicated(servers, "a", "b")
            servers.kill("a")
            start_by_hand(servers, "c")
            ((checkpointer,),) = servers.sql("b", "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
            os.kill(checkpointer, signal.SIGSTOP)
            await b.ensure(primary(2))
            await c.ensure(standby(2, "b"))
            await until_view(c, lambda view: view.link_up)
            write(servers, "b", "kept")
            replicated(servers, "b", "c")
            servers.kill("c")
            write(servers, "b", "lost")
            servers.kill("b")
            start_by_hand(servers, "c")
            await c.ensure(primary(3))  # before b is back, which would hand over what is to be lost
            await b.ensure(standby(2))  # it has not been told
            await b.control.stop()
            control = await b.files.control()
            assert control.is_clean and control.checkpoint_timeline < control.timeline, "what this test is about"
            await b.ensure(standby(3, "c"))
            await until_view(b, lambda view: view.link_up)
            until(lambda: rows(servers, "b") == rows(servers, "c"))
            assert any("rewinding" in words for words in servers.heard["b"]), servers.heard["b"]
            assert not any("copying" in words for words in servers.heard["b"])
            await servers.close()

        asyncio.run(scenario())


def test_a_base_backup_is_the_last_resort(pair: Servers):
    async def scenario() -> None:
        a, b = pair.service("a", max_rate=64 * 1024 * 1024), pair.service("b")
        give_certificates(pair)
        diverge(pair)
        await b.ensure(primary(2))
        for each in (pair.directory / "a" / "pg_wal").glob("0*[0-9A-F]"):
            each.unlink()  # as after a checkpoint without wal_keep_size: the way back is gone
        took = await timed(a.ensure(standby(2, "b")))
        await until_view(a, lambda view: view.link_up)
        until(lambda: rows(pair, "a") == rows(pair, "b"))
        heard = pair.heard["a"]
        assert any("copying from b" in words and "%" in words for words in heard), heard
        assert not a.files.half_copied.exists()
        left = sorted(each.name for each in pair.directory.iterdir() if "tanist" in each.name and each.is_dir())
        assert left == []
        assert pair.sql("a", "SHOW port") == [(str(pair.ports["a"]),)], "its own configuration stands"
        assert (pair.directory / "a" / "server.key").read_bytes() == b"of a \xff\r\n", "not the source's"
        figures("rejoin by base backup", [took])
        await pair.close()

    asyncio.run(scenario())


def test_a_small_database_is_copied_when_a_rewind_would_fetch_more(pair: Servers, monkeypatch: pytest.MonkeyPatch):
    """pg_rewind copies all of pg_wal, whatever it needs of it."""
    monkeypatch.setattr(service, "WAL_WORTH_A_COPY", 1 << 20)

    async def scenario() -> None:
        a, b = pair.service("a"), pair.service("b")
        diverge(pair)
        await b.ensure(primary(2))
        for number in range(4):
            write(pair, "b", f"in segment {number}")
            pair.sql("b", "SELECT pg_switch_wal()")
        told: list[tuple[str, str]] = []
        a.rejoined = lambda how, words: told.append((how, words))
        await a.ensure(standby(2, "b"))
        await until_view(a, lambda view: view.link_up)
        until(lambda: rows(pair, "a") == rows(pair, "b"))
        ((how, words),) = told
        assert how == "copied" and "goes on past" in words and "a rewind would copy all" in words
        assert not any("rewinding" in each for each in pair.heard["a"])
        await pair.close()

    asyncio.run(scenario())


def test_when_that_copy_fails_it_is_rewound(pair: Servers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(service, "WAL_WORTH_A_COPY", 1 << 20)

    async def scenario() -> None:
        programs, count = without_base_backups(pair)
        a, b = pair.service("a", bin_directory=programs), pair.service("b")
        diverge(pair)
        await b.ensure(primary(2))
        for number in range(4):
            write(pair, "b", f"in segment {number}")
            pair.sql("b", "SELECT pg_switch_wal()")
        await a.ensure(standby(2, "b"))
        await until_view(a, lambda view: view.link_up)
        until(lambda: rows(pair, "a") == rows(pair, "b"))
        assert count.read_text().count("called") == 1
        assert any("rewinding" in each for each in pair.heard["a"])
        await pair.close()

    asyncio.run(scenario())


def test_what_an_interrupted_change_left_behind_is_never_started(pair: Servers):
    async def scenario() -> None:
        a, b = pair.service("a"), pair.service("b")
        diverge(pair)
        await b.ensure(primary(2))
        a.files.begin_change("pg_rewind from b")  # and then the daemon was killed
        with pytest.raises(RefusedByPeer, match="was not finished"):
            await a.ensure(standby(2))
        await a.ensure(standby(2, "b"))
        await until_view(a, lambda view: view.link_up)
        assert any("copying" in words for words in pair.heard["a"])
        until(lambda: rows(pair, "a") == rows(pair, "b"))
        await pair.close()

    asyncio.run(scenario())


def test_copies_are_bounded_in_number(pair: Servers):
    async def scenario() -> None:
        a, b = pair.service("a", copies=0, rewinds=0), pair.service("b")
        diverge(pair)
        await b.ensure(primary(2))
        with pytest.raises(RefusedByPeer, match="a person has to look"):
            await a.ensure(standby(2, "b"))
        await pair.close()

    asyncio.run(scenario())


def test_tries_are_counted_anew_once_data_has_arrived(pair: Servers):
    """Bounded is what fails in a row; a member that fails over every month must not run out of tries after the second."""

    async def scenario() -> None:
        a, b = pair.service("a", copies=1), pair.service("b")
        diverge(pair)
        await b.ensure(primary(2))
        for _ in range(3):
            await a.control.stop()
            a.files.begin_change("base backup from b")  # and then the daemon was killed
            await a.ensure(standby(2, "b"))
            await until_view(a, lambda view: view.link_up)
        await pair.close()

    asyncio.run(scenario())


def without_base_backups(servers: Servers) -> tuple[Path, Path]:
    """PostgreSQL's programs, but for a pg_basebackup that only counts how often it was called; and where it counts."""
    programs, count = servers.directory / "programs", servers.directory / "count"
    programs.mkdir()
    for each in PROGRAMS.iterdir():
        (programs / each.name).symlink_to(each)
    (programs / "pg_basebackup").unlink()
    (programs / "pg_basebackup").write_text(f"#!/bin/sh\necho called >>{count}\necho no >&2\nexit 1\n")
    (programs / "pg_basebackup").chmod(0o755)
    count.touch(0o666)
    count.chmod(0o666)
    return programs, count


def test_a_copy_that_fails_is_tried_twice_and_again_only_when_there_is_another_primary(pair: Servers):
    async def scenario() -> None:
        programs, count = without_base_backups(pair)
        a, b = pair.service("a", bin_directory=programs), pair.service("b")
        diverge(pair)
        await b.ensure(primary(2))
        a.files.begin_change("base backup from b")  # and then the daemon was killed
        for _ in range(2):
            with pytest.raises(RefusedByPeer, match="pg_basebackup"):
                await a.ensure(standby(2, "b"))
        for _ in range(3):
            with pytest.raises(RefusedByPeer, match="a person has to look"):
                await a.ensure(standby(2, "b"))
        assert count.read_text().count("called") == 2
        with pytest.raises(RefusedByPeer, match="pg_basebackup"):
            await a.ensure(standby(3, "b"))
        assert count.read_text().count("called") == 3
        await pair.close()

    asyncio.run(scenario())


def test_a_base_backup_takes_no_more_of_the_network_than_it_may(pair: Servers):
    async def scenario() -> None:
        rate = 8 * 1024 * 1024
        a, b = pair.service("a", max_rate=rate), pair.service("b")
        diverge(pair)
        await b.ensure(primary(2))
        ((size,),) = pair.sql("b", "SELECT sum(pg_database_size(oid))::bigint FROM pg_database")
        a.files.begin_change("base backup from b")  # and then the daemon was killed
        took = await timed(a.ensure(standby(2, "b")))
        assert took > 0.8 * size / rate, f"{size} bytes in {took:.1f} s"
        await pair.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("checkpoint", [False, True], ids=["before its first checkpoint", "after it"])
def test_two_promotions_that_chose_one_number_are_told_apart(pair: Servers, checkpoint: bool):
    """Before the first checkpoint the control file still tells of the older timeline."""

    async def scenario() -> None:
        a, b = pair.service("a"), pair.service("b")
        replicated(pair, "a", "b")
        await a.ensure(standby(2))
        await b.ensure(standby(2))
        both = [view_of(await each.look(WITHIN)).position for each in (a, b)]
        assert bytes_behind(*both) == 0
        ((checkpointer,),) = pair.sql("a", "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
        if not checkpoint:
            os.kill(checkpointer, signal.SIGSTOP)
        await a.ensure(primary(2))
        write(pair, "a", "only here")
        if checkpoint:
            pair.sql("a", "CHECKPOINT")
        pair.kill("a")
        await b.ensure(primary(3))
        write(pair, "b", "only there")
        await a.ensure(standby(3, "b"))
        await until_view(a, lambda view: view.link_up)
        until(lambda: rows(pair, "a") == rows(pair, "b"))
        assert any("copying" in words for words in pair.heard["a"]), "pg_rewind would have seen nothing to do"
        await pair.close()

    asyncio.run(scenario())


def test_data_of_another_database_is_never_overwritten(pair: Servers):
    async def scenario() -> None:
        other = pair.service("c", data_directory=pair.directory / "other")
        await other.create(None)
        with pytest.raises(RefusedByPeer, match="another database"):
            await other.ensure(standby(1, "a"))
        assert (pair.directory / "other" / "PG_VERSION").exists()
        await pair.close()

    asyncio.run(scenario())


def test_nothing_is_rewound_to_a_standby(root: Path):
    with copies(root, running=NAMES) as servers:

        async def scenario() -> None:
            a, b, c = (servers.service(name) for name in NAMES)
            servers.kill("c")
            diverge(servers)
            await b.ensure(primary(2))
            history = view_of(await b.look(WITHIN)).position.history
            await c.ensure(standby(2, "b"))
            await until_view(c, lambda view: view.position.history == history)
            with pytest.raises(RefusedByPeer, match=r"nothing is rewound to a standby|log here holds more"):
                await a.ensure(standby(2, "c"))
            await servers.close()

        asyncio.run(scenario())


def test_a_standby_goes_over_to_the_new_primary_without_a_restart(root: Path):
    with copies(root, running=NAMES) as servers:

        async def scenario() -> None:
            b, c = servers.service("b"), servers.service("c")
            before = view_of(await c.look(WITHIN))
            await servers.service("a").control.stop()  # both have everything, so neither is ahead of the other
            await b.ensure(primary(2))
            took = await timed(c.ensure(standby(2, "b")))
            after = await until_view(c, lambda view: view.link_up)
            assert after.pid == before.pid
            write(servers, "b", "new")
            until(lambda: rows(servers, "c") == rows(servers, "b"))
            figures("standby pointed at the new primary", [took])
            await servers.close()

        asyncio.run(scenario())


def test_a_primary_that_cannot_be_asked_is_not_followed(pair: Servers):
    async def scenario() -> None:
        with pytest.raises(Unreachable, match="c "):
            await pair.service("b").ensure(standby(1, "c"))
        assert view_of(await pair.service("b").look(WITHIN)).link_up, "and nothing was changed"
        await pair.close()

    asyncio.run(scenario())


# --- synchronous, slots, members, checks -----------------------------------------------------------------------------


def test_the_synchronous_list_is_seen_by_every_walsender_before_it_counts(root: Path):
    with copies(root, running=NAMES) as servers:

        async def scenario() -> None:
            a = servers.service("a")
            took = []
            for wanted, text in (
                (Synchronous(names=("b",)), 'FIRST 1 ("b")'),
                (Synchronous(names=("b", "c"), at_least=2), 'FIRST 2 ("b", "c")'),
                (Synchronous(names=("b", "c"), mode=SynchronousMode.ANY), 'ANY 1 ("b", "c")'),
                (Synchronous(names=("b", "c"), at_least=2, mode=SynchronousMode.ANY), 'ANY 2 ("b", "c")'),
                (Synchronous(names=("c",)), 'FIRST 1 ("c")'),
                (Synchronous(names=()), ""),
            ):
                took.append(await timed(a.ensure_synchronous(wanted)))
                assert servers.sql("a", "SHOW synchronous_standby_names") == [(text,)]
                shown = dict(servers.sql("a", "SELECT application_name, sync_priority FROM pg_stat_replication"))
                assert {name for name, priority in shown.items() if priority} == set(wanted.names)
            figures("synchronous list changed and seen", took)
            await servers.close()

        asyncio.run(scenario())


def test_a_checkpoint_that_is_spread_over_minutes_holds_up_no_change_of_the_list(root: Path):
    """As timed ones are, all day long."""
    spread = "SELECT wait_event = 'CheckpointWriteDelay' FROM pg_stat_activity WHERE backend_type = 'checkpointer'"
    with copies(root, running=NAMES) as servers, servers.connection("a") as backup:

        def begin_backup() -> None:
            with suppress(psycopg.Error):
                backup.execute("SELECT pg_backup_start('slow')")

        async def scenario() -> None:
            a = servers.service("a")
            servers.sql("a", "CREATE TABLE pages AS SELECT n, repeat('x', 500) FROM generate_series(1, 10000) AS n")
            beginning = threading.Thread(target=begin_backup)
            beginning.start()
            try:
                until(lambda: servers.sql("a", spread) == [(True,)])
                took = [await timed(a.ensure_synchronous(Synchronous(names=names))) for names in (("b",), ("c",), ())]
                figures("synchronous list changed during a spread checkpoint", took)
                assert until(lambda: servers.sql("a", spread) == [(True,)], within=1.0), "it is over: nothing was shown"
                assert max(took) < 2.0
            finally:
                backup.cancel()
                beginning.join()
            await servers.close()

        asyncio.run(scenario())


def test_a_stopped_walsender_keeps_a_dropped_standby_from_counting_as_dropped(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("orchestrator.services.postgresql.synchronous.SEEN_WITHIN", 0.3)
    with copies(root, running=NAMES) as servers:

        async def scenario() -> None:
            a = servers.service("a")
            await a.ensure_synchronous(Synchronous(names=("b", "c")))
            ((sender,),) = servers.sql("a", "SELECT pid FROM pg_stat_replication WHERE application_name = 'b'")
            os.kill(sender, signal.SIGSTOP)
            try:
                with pytest.raises(NotConfirmed, match="the walsender of b"):
                    await a.ensure_synchronous(Synchronous(names=("c",)))
            finally:
                os.kill(sender, signal.SIGCONT)
            await servers.close()

        asyncio.run(scenario())


def test_every_member_has_a_slot_on_every_other_and_survives_a_failover_with_it(root: Path):
    with copies(root, running=NAMES) as servers:

        async def scenario() -> None:
            services = {name: servers.service(name) for name in NAMES}
            await services["a"].tend_slots(None)
            made = await services["b"].tend_slots("a")
            assert made == ["slot tanist_a made", "slot tanist_c made"]
            servers.sql("b", "SELECT pg_create_physical_replication_slot('tanist_b')")
            assert await services["b"].tend_slots("a") == ["slot tanist_b dropped: nobody follows itself"]
            before = {slot.name: slot.keeps_from for slot in await slots.read(services["b"]._actor)}
            write(servers, "a", "x")
            servers.sql("a", "SELECT pg_switch_wal()")
            write(servers, "a", "y")
            replicated(servers, "a", "b")
            replicated(servers, "a", "c")

            async def c_kept() -> int:
                await services["b"].tend_slots("a")
                return {slot.name: slot.keeps_from for slot in await slots.read(services["b"]._actor)}["tanist_c"]

            await until_seen(c_kept, lambda kept: kept > before["tanist_c"])
            await fail_over(servers, "a", services["b"], 2)
            for number in range(3):
                write(servers, "b", f"while c is away {number}")
                servers.sql("b", "SELECT pg_switch_wal()")
            servers.sql("b", "CHECKPOINT")
            await services["c"].ensure(standby(2, "b"))
            await until_view(services["c"], lambda view: view.link_up)
            until(lambda: rows(servers, "c") == rows(servers, "b"))
            assert not [words for words in servers.heard["c"] if "copying" in words]
            await servers.close()

        asyncio.run(scenario())


def test_a_member_is_created_with_progress(pair: Servers):
    async def scenario() -> None:
        c = pair.service("c", data_directory=pair.directory / "fresh", parameters={"port": str(pair.ports["c"])})
        with pytest.raises(RefusedByPeer, match="already"):
            await pair.service("c").create("a")
        await c.create("a")
        assert any("%" in words for words in pair.heard["c"]), pair.heard["c"]
        view = await c.ensure(standby(1, "a"))
        assert view.role is Role.STANDBY
        await until_view(c, lambda view: view.link_up)
        await pair.close()

    asyncio.run(scenario())


def test_a_well_made_group_has_nothing_to_mend(root: Path):
    with copies(root, running=NAMES) as servers:

        async def scenario() -> None:
            for name in NAMES:
                assert await servers.service(name).check() == ()
            await servers.close()

        asyncio.run(scenario())


GAPS = {
    "wal_level": "minimal",
    "wal_log_hints": "off",
    "max_wal_senders": "0",
    "max_replication_slots": "1",
    "wal_keep_size": "0",
    "max_slot_wal_keep_size": "-1",
    "wal_retrieve_retry_interval": "5s",
    "superuser_reserved_connections": "1",
    "full_page_writes": "off",
    "fsync": "off",
    "restart_after_crash": "off",
    "recovery_target_timeline": "current",
    "listen_addresses": "localhost",
}


def test_each_gap_is_named_with_what_closes_it(root: Path):
    with copies(root, running=()) as servers:
        (servers.directory / "a" / "postgresql.auto.conf").write_text(
            "".join(f"{key} = '{value}'\n" for key, value in GAPS.items())
        )
        hba = servers.directory / "a" / "pg_hba.conf"
        lines = hba.read_text().splitlines()
        hba.write_text("".join(f"{line}\n" for line in lines if "replication" not in line or "local" in line))
        for slot in (servers.directory / "a" / "pg_replslot").iterdir():
            shutil.rmtree(slot)  # the server would refuse these settings with slots
        start_by_hand(servers, "a")
        servers.sql("a", "ALTER ROLE follower NOREPLICATION")

        async def scenario() -> None:
            told = await replace_settings(servers).check()
            for finding in told:
                print("-", finding)
            text = "\n".join(told)
            for name in GAPS:
                if name != "wal_log_hints":  # checksums stand in for it
                    assert name in text, name
            assert 'ALTER ROLE "follower" LOGIN REPLICATION' in text
            assert "add: host replication follower 127.0.0.1/32 scram-sha-256" in text
            assert "could not follow b" in text
            await servers.close()

        asyncio.run(scenario())


def replace_settings(servers: Servers) -> PostgresqlService:
    settings = replace(servers.settings("a"), host="10.9.8.7")  # not listened on
    made = PostgresqlService(settings, servers.members, lambda epoch, pid, started: True)
    servers._services.append(made)
    return made


def test_it_is_left_running_when_the_daemon_ends(root: Path):
    with copies(root, running=("a",)) as servers:

        async def scenario() -> None:
            b = servers.service("b")
            await b.ensure(standby(1, "a"))
            await servers.close()

        asyncio.run(scenario())
        assert postmaster.find(servers.directory / "b") is not None
        assert servers.sql("b", "SELECT pg_is_in_recovery()") == [(True,)]
