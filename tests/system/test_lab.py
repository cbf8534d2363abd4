"""Whole groups on real Redis servers, under the faults of the design's section 10."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.keeper.gate import why_impossible
from orchestrator.lab.faults import FAULTS
from orchestrator.lab.group import GROUP, LabGroup, LabSettings
from orchestrator.lab.run import Bench, Outcome

pytestmark = [pytest.mark.redis, pytest.mark.timeout(180)]

LEASE = 1.0
SLACK = 1.5
"""Seconds that a busy machine may add to an outage before a test calls it wrong; the figures are measured elsewhere."""

needs_root = pytest.mark.skipif(bool(why_impossible()), reason=f"kernel rules: {why_impossible()}")


@pytest.fixture(scope="module")
def group() -> Iterator[LabGroup]:
    with LabGroup(LabSettings(lease=LEASE)) as made:
        made.start()
        made.wait_whole(60)
        yield made


@pytest.fixture
def bench(group: LabGroup) -> Bench:
    return Bench(group, lambda line: None)


def moved(outcome: Outcome) -> bool:
    return outcome.failovers == 1 and outcome.primary_after != outcome.primary_before


@pytest.mark.parametrize(
    ("fault", "within"),
    [
        ("F1", 0.1),
        ("F2", LEASE),
        pytest.param("F3", LEASE, marks=[pytest.mark.root, needs_root]),
        ("F4", 0.6),
        pytest.param("F10", LEASE, marks=[pytest.mark.root, needs_root]),
    ],
)
def test_another_member_takes_over_once(bench: Bench, fault: str, within: float):
    outcome = bench.try_fault(fault)
    assert outcome.two_primaries_ms == 0
    assert moved(outcome)
    assert 0 < outcome.outage_ms < (within + SLACK) * 1000
    assert outcome.why, "every step is explained"


def test_a_switchover_loses_nothing(bench: Bench):
    outcome = bench.try_fault("F5")
    assert outcome.two_primaries_ms == 0
    assert outcome.lost_writes == 0
    assert moved(outcome)
    assert outcome.outage_ms < SLACK * 1000


@pytest.mark.parametrize("fault", ["F7", "F8", "F9"])
def test_a_healthy_primary_serves_on(bench: Bench, fault: str):
    outcome = bench.try_fault(fault)
    assert outcome.two_primaries_ms == 0
    assert outcome.lost_writes == 0
    assert outcome.failovers == 0
    assert outcome.outage_ms < LEASE * 1000


def test_losing_the_mediator_stops_nobody(bench: Bench):
    outcome = bench.try_fault("F6", mediator_lost_for=6 * LEASE)
    assert outcome.two_primaries_ms == 0
    assert outcome.lost_writes == 0
    assert outcome.failovers == 0
    assert outcome.outage_ms == 0


def test_a_frozen_keeper_is_replaced(bench: Bench):
    outcome = bench.try_fault("F9-frozen")
    assert outcome.two_primaries_ms == 0
    assert outcome.failovers <= 1
    assert outcome.outage_ms < (LEASE + SLACK) * 1000


# --- the command line on a running group -----------------------------------------------------------------------------


@pytest.fixture
def tanist(group: LabGroup) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*words: str, node: str = "db1", status: int = 0) -> subprocess.CompletedProcess[str]:
        config = group.hosts[node].directory / "tanist.yaml"
        command = [sys.executable, "-m", "orchestrator.cli", "--config", str(config), "--node", node, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return run


def status_of(tanist: Callable[..., subprocess.CompletedProcess[str]], node: str = "db1") -> dict:
    return json.loads(tanist("status", "--json", node=node).stdout)["groups"][GROUP]


def wait_for(condition: Callable[[], bool], within: float = 20.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be in time"
        time.sleep(0.05)


def test_check_finds_a_running_node_in_order(group: LabGroup, tanist):
    group.wait_whole(60)
    assert "is in order for node db1" in tanist("check").stdout


def test_status_names_everybody(group: LabGroup, tanist):
    primary = group.wait_whole(60)
    told = tanist("status").stdout
    assert all(host.name in told for host in group.hosts.values())
    assert status_of(tanist)["primary"] == primary


def test_a_switchover_by_command_goes_where_it_is_told(group: LabGroup, tanist):
    primary = group.wait_whole(60)
    target = next(host.name for host in group.members if host.name != primary)
    epoch = status_of(tanist)["epoch"]
    told = tanist("switchover", GROUP, "--to", target, "--by", "ann").stdout
    assert f"{target} is primary" in told
    group.wait_whole(60)
    after = status_of(tanist)
    assert (after["primary"], after["epoch"]) == (target, epoch + 1)
    assert "by the word of ann" in tanist("explain", GROUP, node=target).stdout


def test_a_switchover_to_the_primary_is_refused_with_the_reason(group: LabGroup, tanist):
    primary = group.wait_whole(60)
    done = tanist("switchover", GROUP, "--to", primary, status=1)
    assert f"{primary} is the primary already" in done.stderr


def test_a_pause_holds_a_failover_back_until_it_ends(group: LabGroup, tanist):
    primary = group.wait_whole(60)
    other = next(host.name for host in group.members if host.name != primary)
    tanist("pause", GROUP, "--by", "ann", "--reason", "maintenance")
    epoch = status_of(tanist, other)["epoch"]
    daemon = group.hosts[primary].daemon
    assert daemon is not None
    keeper = group.hosts[primary].keeper_pid(group.run)
    service = group.hosts[primary].service_pid()
    for pid in (keeper, daemon.pid, service):
        os.kill(pid, 9)
    daemon.popen.wait(5)

    def held_back() -> bool:
        refusals = status_of(tanist, other)["refusals"]
        return any(each["gate"] == "not paused" and "ann" in each["reason"] for each in refusals)

    wait_for(held_back)
    assert status_of(tanist, other)["epoch"] == epoch
    tanist("resume", GROUP, "--by", "ann", node=other)
    wait_for(lambda: status_of(tanist, other)["epoch"] == epoch + 1)
    group.start_daemon(group.hosts[primary])
    group.wait_whole(60)


def test_metrics_can_be_scraped(group: LabGroup):
    primary = group.wait_whole(60)
    text = group.hosts[primary].api.text("/metrics")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    roles = {sample.labels["role"]: sample.value for sample in families["tanist_role"].samples}
    assert roles["primary"] == 1
    left = families["tanist_lease_left_seconds"].samples[0].value
    assert 0 < left <= LEASE
    for name in (
        "tanist_epoch",
        "tanist_beats_lost",
        "tanist_path_round_trip_seconds",
        "tanist_phase_seconds",
        "tanist_notices",
        "tanist_keeper_up",
    ):
        assert name in families, name
    other = next(host for host in group.members if host.name != primary)
    families = {each.name for each in text_string_to_metric_families(other.api.text("/metrics"))}
    assert {"tanist_promise_age_seconds", "tanist_lag_bytes"} <= families


# --- under a person's hand -------------------------------------------------------------------------------------------


def test_under_confirm_nothing_moves_without_a_word_and_moves_once_with_it(tmp_path: Path):
    settings = LabSettings(lease=0.5, policy={"automation": "confirm"})
    with LabGroup(settings) as group:
        group.start()
        primary = group.wait_whole(60)
        host = group.hosts[primary]
        other = next(each for each in group.members if each is not host)
        epoch = group.report(other)["epoch"]
        assert host.daemon is not None
        for pid in (host.keeper_pid(group.run), host.daemon.pid, host.service_pid()):
            os.kill(pid, 9)

        def proposal() -> dict | None:
            return (group.report(other) or {}).get("proposal")

        wait_for(lambda: proposal() is not None)
        time.sleep(4 * settings.lease)
        assert group.report(other)["epoch"] == epoch, "nothing may move before the word"
        shown = proposal()
        assert shown["subject"] == primary
        assert shown["evidence"]
        body = {"by": "ann", "proposal": shown["id"], "epoch": shown["epoch"]}
        other.api.post(f"/v1/groups/{GROUP}/confirm", body)
        wait_for(lambda: group.report(other)["epoch"] == epoch + 1 and group.report(other)["serving"] is not None)
        with pytest.raises(Exception, match=r"no open proposal|void"):
            other.api.post(f"/v1/groups/{GROUP}/confirm", body)


# --- the laboratory itself -------------------------------------------------------------------------------------------


def leftovers() -> set[str]:
    found = set()
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "tanist-lab-" in command:
            found.add(command)
    return found


def test_lab_run_prints_one_json_object_and_leaves_nothing_behind():
    before = leftovers()
    command = [sys.executable, "-m", "orchestrator.cli", "lab", "run", "--fault", "F1", "--lease", "500ms", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    wanted = {
        "service",
        "fault",
        "lease_ms",
        "members",
        "outage_ms",
        "lost_writes",
        "two_primaries_ms",
        "failovers",
        "epoch_before",
        "epoch_after",
        "versions",
    }
    assert wanted <= set(found)
    assert (found["service"], found["fault"], found["lease_ms"]) == ("redis", "F1", 500)
    assert leftovers() - before == set()


def test_an_unknown_fault_is_refused():
    command = [sys.executable, "-m", "orchestrator.cli", "lab", "run", "--fault", "F99"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "F10" in done.stderr


def test_every_fault_says_what_it_does():
    assert all(kind.says for kind in FAULTS.values())
