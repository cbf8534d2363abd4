"""Disks that stall and fill up, and a postmaster that is stopped while its backends serve on, in groups of real servers."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import psycopg
import pytest

from orchestrator.keeper.tree import state_of
from orchestrator.lab import disks
from orchestrator.lab.group import GROUP, LabGroup, LabSettings
from orchestrator.lab.postgresql import PostgresqlKind
from orchestrator.lab.run import WHOLE_WITHIN, Bench, Outcome

WHY_NOT = PostgresqlKind().missing() or disks.why_impossible()
pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "there"),
]
UNRESPONSIVE_MS = 500
ERRANDS_MS = UNRESPONSIVE_MS / 2
SLACK_MS = 1500
"""What a busy machine may add to a look that lasts a quarter of a second; the figures are printed, not judged."""


@pytest.fixture(scope="module", params=["asynchronous", "synchronous"])
def group(request: pytest.FixtureRequest) -> Iterator[LabGroup]:
    with LabGroup(LabSettings(service="postgresql", replication=request.param, lease=1.0, disks=True)) as made:
        made.start()
        made.wait_whole(WHOLE_WITHIN)
        yield made


def tried(group: LabGroup, fault: str) -> Outcome:
    found = Bench(group, lambda line: None).try_fault(fault)
    assert found.two_primaries_ms == 0, found.why
    if group.settings.replication == "synchronous":
        assert found.lost_writes == 0, found.why
    print(f"\n{fault}: detected after {found.detected_ms} ms, outage {found.outage_ms} ms: {found.diagnosis}")
    return found


@pytest.mark.parametrize(
    ("fault", "diagnosis"),
    [
        ("stalled-disk", "stalled storage: a commit to disk does not come back"),
        ("full-disk", "disk full: no room is left in"),
        ("stopped-postmaster", "not accepting: old connections are answered, but its main process answers no new one"),
    ],
)
def test_what_keeps_a_primary_from_its_work_is_found_in_policys_time_and_named_by_everybody(
    group: LabGroup, fault: str, diagnosis: str
):
    found = tried(group, fault)
    assert (found.failovers, found.primary_after != found.primary_before) == (1, True), found.why
    assert diagnosis in found.diagnosis, found.why
    assert found.detected_ms is not None
    assert UNRESPONSIVE_MS <= found.detected_ms < UNRESPONSIVE_MS + ERRANDS_MS + SLACK_MS, found.why
    successor = group.hosts[found.primary_after]
    explained = successor.api.get(f"/v1/groups/{GROUP}/explain")
    assert diagnosis in explained["reason"]
    for host in group.hosts.values():
        told = host.api.get(f"/v1/groups/{GROUP}/history?last=40")
        assert any(diagnosis in entry["text"] for entry in told), host.name


def test_what_a_stalled_disk_holds_up_neither_dies_nor_commits_and_the_role_moves_a_lease_later(group: LabGroup):
    """Rule 17: killed processes that wait for the disk are not gone, so that nothing is released; rule 12 takes over."""
    old = group.hosts[group.wait_whole(WHOLE_WITHIN)]
    epoch = group.epoch()
    assert old.disk is not None
    with psycopg.connect(host=old.address, port=group.kind.port, user="postgres", dbname="postgres", autocommit=True) as held:
        backend = held.info.backend_pid
        old.disk.freeze()
        try:
            held.pgconn.send_query(b"INSERT INTO lab VALUES ('held', '1')")
            until(lambda: group.epoch() > epoch)
            assert state_of(backend) == "D", "killed, and still waiting for the disk"
            report = group.report(old)
            assert report is not None and not report["right"]["held"]
            assert "still being stopped" in " ".join(each["reason"] for each in report["refusals"])
        finally:
            old.disk.thaw()
        until(lambda: state_of(backend) in (None, "Z"))
        with pytest.raises(psycopg.OperationalError):
            while held.pgconn.is_busy():
                held.pgconn.consume_input()
                time.sleep(0.01)
            raise psycopg.OperationalError(str(held.pgconn.get_result()))
    assert group.wait_whole(WHOLE_WITHIN) != old.name


def test_taken_connections_are_shown_by_every_member_and_move_no_role(group: LabGroup):
    primary = group.hosts[group.wait_whole(WHOLE_WITHIN)]
    epoch = group.epoch()
    address = {"host": primary.address, "port": group.kind.port, "user": "postgres", "dbname": "postgres"}
    taken = []
    try:
        with pytest.raises(psycopg.OperationalError):
            while len(taken) < 200:
                taken.append(psycopg.connect(**address))
        for host in group.hosts.values():
            until(lambda host=host: finding_of(group, host, primary.name) == "overloaded")
            assert "overloaded" in group.report(host)["verdict"]["sentence"]
        assert 'tanist_finding_seconds{code="overloaded"' in primary.api.text("/metrics")
        time.sleep(3 * UNRESPONSIVE_MS / 1000)  # longer than any rule waits: nothing must come of it
    finally:
        for each in taken:
            each.close()
    until(lambda: finding_of(group, primary, primary.name) is None)
    assert group.epoch() == epoch
    assert group.wait_whole(WHOLE_WITHIN) == primary.name


def test_a_member_that_is_copied_tells_everybody_how_far_it_is(group: LabGroup):
    """Its copy is slowed down by stopping the program that makes it as soon as it has told something."""
    primary = group.wait_whole(WHOLE_WITHIN)
    copied = next(host for host in group.members if host.name != primary)
    other = next(host for host in group.members if host.name not in (primary, copied.name))
    pid = copied.service_pid()
    assert pid is not None and copied.disk is not None
    (copied.disk.at / "data" / "PG_VERSION").rename(copied.disk.at / "data" / "PG_VERSION.away")
    group.kind.end(pid)
    copier = until(lambda: program_of(str(copied.disk.at), "pg_basebackup"))
    os.kill(copier, signal.SIGSTOP)
    try:
        until(lambda: "copying from" in reason_of(group, other.name, copied.name))
        print(f"\n{other.name} is told: {reason_of(group, other.name, copied.name)}")
    finally:
        os.kill(copier, signal.SIGCONT)
    assert group.wait_whole(WHOLE_WITHIN) == primary


def finding_of(group: LabGroup, host: object, name: str) -> str | None:
    report = group.report(host)  # type: ignore[arg-type]
    members = report["members"] if report is not None else []
    found = next((each["finding"] for each in members if each["name"] == name), None)
    return found["code"] if found is not None else None


def reason_of(group: LabGroup, host: str, name: str) -> str:
    report = group.report(group.hosts[host])
    members = report["members"] if report is not None else []
    return next((each["why_not"] for each in members if each["name"] == name), "")


def program_of(directory: str, program: str) -> int:
    found = subprocess.run(["pgrep", "-f", f"{program}.*{directory}"], capture_output=True, text=True, check=False)
    return int(found.stdout.split()[0]) if found.stdout.split() else 0


def until(condition, within: float = 20.0):  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)
    return found
