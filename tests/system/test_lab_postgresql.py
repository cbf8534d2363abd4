"""Whole groups on real PostgreSQL servers, under the faults of the design's section 10."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent import futures

import psycopg
import pytest

from orchestrator.keeper.gate import why_impossible
from orchestrator.keeper.tree import children, started
from orchestrator.lab.group import LabGroup, LabSettings
from orchestrator.lab.postgresql import PostgresqlKind
from orchestrator.lab.run import WHOLE_WITHIN, Bench, Outcome

pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.timeout(180),
    pytest.mark.skipif(PostgresqlKind().missing() != "", reason=PostgresqlKind().missing() or "there"),
]
needs_gate = pytest.mark.skipif(bool(why_impossible()), reason=f"no kernel gate: {why_impossible()}")


@pytest.fixture(scope="module", params=["asynchronous", "synchronous", "quorum"])
def group(request: pytest.FixtureRequest) -> Iterator[LabGroup]:
    with LabGroup(LabSettings(service="postgresql", replication=request.param, lease=1.0)) as made:
        made.start()
        made.wait_whole(WHOLE_WITHIN)
        yield made


def tried(group: LabGroup, fault: str) -> Outcome:
    found = Bench(group, lambda line: None).try_fault(fault)
    assert found.two_primaries_ms == 0, found.why
    if group.settings.replication != "asynchronous":
        assert found.lost_writes == 0, found.why
    return found


@pytest.mark.parametrize("fault", ["F1", "F2", "F4", "F5"])
def test_a_primary_that_fails_or_is_relieved_is_replaced_and_comes_back_as_a_standby(group: LabGroup, fault: str):
    found = tried(group, fault)
    assert found.failovers == 1, found.why
    assert found.primary_after != found.primary_before
    assert found.outage_ms < 5000, found.why
    if fault == "F5":
        assert found.lost_writes == 0, found.why


@needs_gate
@pytest.mark.parametrize("fault", ["F3", "F10"])
def test_an_isolated_or_paused_primary_stops_in_time(group: LabGroup, fault: str):
    found = tried(group, fault)
    assert found.failovers == 1, found.why


@pytest.mark.parametrize("fault", ["F7", "F8", "F9"])
def test_daemon_and_keeper_may_fail_without_anybody_noticing(group: LabGroup, fault: str):
    found = tried(group, fault)
    assert (found.failovers, found.lost_writes) == (0, 0), found.why


def test_backends_do_not_outlive_a_killed_postmaster(group: LabGroup):
    """A backend that was forked a moment before, and commits by itself, is found by its directory and killed."""
    primary = group.hosts[group.wait_whole(WHOLE_WITHIN)]
    pid = primary.service_pid()
    assert pid is not None
    address = {"host": primary.address, "port": group.kind.port, "user": "postgres", "dbname": "postgres"}
    with psycopg.connect(**address, autocommit=True) as connection:
        backend = connection.info.backend_pid
        assert backend in children(pid)
        os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 2.0
        while started(backend) is not None:
            assert time.monotonic() < until, "the backend still runs"
            time.sleep(0.005)
    assert group.wait_whole(WHOLE_WITHIN) != primary.name


def test_five_changes_of_role_in_a_row_leave_one_primary_and_everybody_streaming(group: LabGroup):
    for number in range(5):
        tried(group, "F1" if number % 2 else "F5")
    with psycopg.connect(
        host=group.hosts[group.wait_whole(WHOLE_WITHIN)].address, port=group.kind.port, user="postgres", dbname="postgres"
    ) as connection:
        rows = connection.execute("SELECT state FROM pg_stat_replication").fetchall()
        slots = connection.execute("SELECT slot_name FROM pg_replication_slots").fetchall()
    assert [row[0] for row in rows] == ["streaming"] * (group.settings.members - 1)
    assert len(slots) <= group.settings.members


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "relaxed"])
def test_without_a_standby_a_strict_primary_acknowledges_nothing_and_a_relaxed_one_goes_on(strict: bool):
    policy = {"strict": True} if strict else {}
    settings = LabSettings(service="postgresql", replication="synchronous", lease=0.5, members=2, policy=policy)
    with LabGroup(settings) as group:
        group.start()
        primary = group.hosts[group.wait_whole(WHOLE_WITHIN)]
        (standby,) = [host for host in group.members if host.name != primary.name]
        assert standby.daemon is not None
        keeper, service = standby.keeper_pid(group.run), standby.service_pid()
        assert keeper is not None
        assert service is not None
        for pid in (standby.daemon.pid, keeper):
            os.kill(pid, signal.SIGKILL)
        group.kind.end(service)
        until = time.monotonic() + 10.0
        while (report := group.report(primary)) is None or report["succession"]:
            assert time.monotonic() < until, "the standby is still in the succession"
            time.sleep(0.02)
        address = {"host": primary.address, "port": group.kind.port, "user": "postgres", "dbname": "postgres"}
        with psycopg.connect(**address, autocommit=True) as client, futures.ThreadPoolExecutor(1) as pool:
            commit = pool.submit(client.execute, "CREATE TABLE kept ()")
            if strict:
                with pytest.raises(TimeoutError):
                    commit.result(3.0)
                group.start_daemon(standby)
            commit.result(20.0)
        if strict:
            assert group.wait_whole(WHOLE_WITHIN) == primary.name
