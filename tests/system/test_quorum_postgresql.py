"""Quorum replication on real PostgreSQL servers: a commit is on one standby alone, and the primary dies."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from orchestrator.keeper.gate import why_impossible
from orchestrator.lab.group import Host, LabGroup, LabSettings
from orchestrator.lab.postgresql import PostgresqlKind
from orchestrator.lab.run import WHOLE_WITHIN

pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.timeout(180),
    pytest.mark.skipif(PostgresqlKind().missing() != "", reason=PostgresqlKind().missing() or "there"),
    pytest.mark.skipif(bool(why_impossible()), reason=f"one standby is cut off by kernel rules: {why_impossible()}"),
]
TABLE = "tanist_test_starved"
COMMITS = 50


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Iterator[LabGroup]:
    settings = LabSettings(service="postgresql", lease=1.0, **request.param)
    with LabGroup(settings) as made:
        made.start()
        made.wait_whole(WHOLE_WITHIN)
        yield made


@contextmanager
def connected(group: LabGroup, host: Host) -> Iterator[psycopg.Connection]:
    address = {"host": host.address, "port": group.kind.port, "user": "postgres", "dbname": "postgres"}
    with psycopg.connect(**address, autocommit=True) as connection:
        yield connection


@contextmanager
def starved(connection: psycopg.Connection, primary: Host, standby: Host) -> Iterator[None]:
    """Nothing that the primary sends reaches this standby's walreceiver any more; beats do."""
    query = "SELECT client_port FROM pg_stat_replication WHERE application_name = %s"
    (port,) = connection.execute(query, [standby.name]).fetchone() or (None,)
    rules = (
        f"add table inet {TABLE}; add chain inet {TABLE} out {{ type filter hook output priority -20; }}; "
        f"add rule inet {TABLE} out ip saddr {primary.address} tcp dport {port} drop"
    )
    subprocess.run(["nft", rules], check=True)
    try:
        yield
    finally:
        subprocess.run(["nft", f"delete table inet {TABLE}"], check=True)


def primary_and_standbys(group: LabGroup) -> tuple[Host, list[Host]]:
    primary = group.hosts[group.wait_whole(WHOLE_WITHIN)]
    return primary, [host for host in group.members if host.name != primary.name]


def commit_some(connection: psycopg.Connection) -> None:
    connection.execute("CREATE TABLE kept (number int)")
    for number in range(COMMITS):
        connection.execute("INSERT INTO kept VALUES (%s)", [number])


def kept(group: LabGroup) -> int:
    with connected(group, group.hosts[group.wait_whole(WHOLE_WITHIN)]) as connection:
        (count,) = connection.execute("SELECT count(*) FROM kept").fetchone() or (0,)
    return int(count)


def told(group: LabGroup, host: Host) -> str:
    return (host.directory / "daemon.log").read_text() + str(group.report(host))


@pytest.mark.parametrize("group", [{"replication": "quorum"}], indirect=True)
@pytest.mark.parametrize("behind", [0, 1])
def test_whoever_has_the_commits_takes_over_whatever_the_preference(group: LabGroup, behind: int):
    """One of two standbys gets nothing; commits go on, and none of them is lost when the primary is killed."""
    primary, standbys = primary_and_standbys(group)
    with connected(group, primary) as connection, starved(connection, primary, standbys[behind]):
        commit_some(connection)
        pid = primary.service_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 10.0
        while not serves(group, standbys[1 - behind]):
            assert time.monotonic() < until, "nobody took over"
            time.sleep(0.01)
    assert kept(group) == COMMITS


def serves(group: LabGroup, host: Host) -> bool:
    report = group.report(host)
    return report is not None and report["primary"] == host.name and report["phase"] == "serving"


@pytest.mark.parametrize(
    "group",
    [{"replication": each, "tags": {"db3": {"never_primary": True}}} for each in ("quorum", "asynchronous")],
    ids=["quorum", "asynchronous"],
    indirect=True,
)
def test_what_only_a_reserved_standby_has_is_fetched_before_the_takeover(group: LabGroup):
    primary, standbys = primary_and_standbys(group)
    (heir,) = [host for host in standbys if host.name != "db3"]
    with connected(group, primary) as connection, starved(connection, primary, heir):
        commit_some(connection)
        pid = primary.service_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 15.0
        while not serves(group, heir):
            assert time.monotonic() < until, told(group, heir)
            time.sleep(0.01)
    assert kept(group) == COMMITS


@pytest.mark.parametrize("group", [{"replication": "quorum"}], indirect=True)
def test_when_the_other_standby_died_too_a_person_is_asked_until_it_is_back(group: LabGroup):
    primary, (first, second) = primary_and_standbys(group)
    with connected(group, primary) as connection:
        commit_some(connection)
    assert second.daemon is not None
    keeper = second.keeper_pid(group.run)
    services = [second.service_pid(), primary.service_pid()]
    assert keeper is not None
    for pid in (second.daemon.pid, keeper):
        os.kill(pid, signal.SIGKILL)
    for service in services:
        assert service is not None
        group.kind.end(service)
    until = time.monotonic() + 15.0
    while True:
        report = group.report(first)
        proposal = report["proposal"] if report is not None else None
        if proposal is not None:
            break
        assert not serves(group, first), "a commit may be on the other standby alone"
        assert time.monotonic() < until, "nobody was asked"
        time.sleep(0.02)
    assert any("acknowledged commits may be lost" in line for line in proposal["evidence"])
    group.start_daemon(second)
    assert kept(group) == COMMITS
