"""Several failovers in a row on one group, and pgbench through switchovers: short ones, for what the long ones rest on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from orchestrator.keeper.tree import started
from orchestrator.lab.faults import HostKilled
from orchestrator.lab.group import LabGroup, LabSettings
from orchestrator.lab.kinds import LabError
from orchestrator.lab.pgbench import Pgbench
from orchestrator.lab.postgresql import PostgresqlKind
from orchestrator.lab.run import WHOLE_WITHIN
from orchestrator.lab.soak import NotWhole, Soak

pytestmark = [pytest.mark.timeout(180)]
needs_postgresql = [
    pytest.mark.postgresql,
    pytest.mark.skipif(PostgresqlKind().missing() != "", reason=PostgresqlKind().missing() or "there"),
]


def lab(*words: str, status: int = 0) -> dict[str, Any]:
    command = [sys.executable, "-m", "orchestrator.cli", "lab", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("service", "replication"),
    [
        pytest.param("postgresql", "asynchronous", marks=needs_postgresql),
        pytest.param("postgresql", "synchronous", marks=needs_postgresql),
        pytest.param("redis", "asynchronous", marks=pytest.mark.redis),
    ],
)
def test_a_group_is_whole_after_every_failover_and_nothing_is_left_behind(service: str, replication: str):
    words = ["--service", service, "--replication", replication, "--failovers", "6", "--seed", "7", "--lease", "500ms"]
    found = lab("soak", *words)
    assert found["rounds"] == 6 and found["failovers"] >= 6
    assert set(found["faults"]) <= {"F1", "F2", "F4"} and len(found["faults"]) > 1, "the seed mixes them"
    assert all(each["primary_before"] != each["primary_after"] for each in found["each"])
    assert found["two_primaries_ms"] == 0
    assert found["leftovers"] == [] and found["failure"] == ""
    assert found["slowest_rejoin_ms"] == max(each["whole_after_ms"] for each in found["each"]) > 0
    if replication == "synchronous":
        assert found["lost_writes"] == 0


@pytest.mark.parametrize("service", [pytest.param("postgresql", marks=needs_postgresql)])
def test_what_is_left_behind_is_found_and_a_group_that_does_not_become_whole_ends_the_soak(service: str):
    with LabGroup(LabSettings(service=service, lease=0.5)) as group:
        group.start()
        primary = group.hosts[group.wait_whole(WHOLE_WITHIN)]
        soak = Soak(group, lambda line: None, faults=("F1",), seed=1)
        assert soak.leftovers(within=20.0) == []
        with psycopg.connect(host=primary.address, port=5432, user="postgres", dbname="postgres", autocommit=True) as connection:
            connection.execute("SELECT pg_create_physical_replication_slot('tanist_gone', true)")
        (primary.directory / "data.tanist-old").mkdir()
        stray = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd=primary.directory / "data")
        try:
            found = soak.leftovers(within=0.0)
            assert any("slot tanist_gone" in each for each in found), found
            assert any("data.tanist-old" in each for each in found), found
            assert any(f"process {stray.pid} belongs to nobody" in each for each in found), found
        finally:
            stray.kill()
            stray.wait()
        standby = next(host for host in group.members if host is not primary)
        assert standby.daemon is not None
        os.kill(standby.daemon.pid, 9)
        with pytest.raises(NotWhole, match=f"the daemon of {standby.name} does not answer"):
            soak.wait_whole(within=2.0)


@pytest.mark.parametrize("service", [pytest.param("postgresql", marks=needs_postgresql)])
def test_a_power_loss_takes_backends_that_would_not_notice_their_postmasters_death(service: str):
    with LabGroup(LabSettings(service=service, lease=0.5)) as group:
        group.start()
        primary = group.hosts[group.wait_whole(WHOLE_WITHIN)]
        fault = HostKilled(group, primary)
        with psycopg.connect(host=primary.address, port=5432, user="postgres", dbname="postgres") as connection:
            connection.pgconn.send_query(b"DO $$ BEGIN LOOP END LOOP; END $$")
            busy = connection.info.backend_pid
            try:
                fault.inject()
                until = time.monotonic() + 2.0
                while started(busy) is not None:
                    assert time.monotonic() < until, "the backend still runs"
                    time.sleep(0.005)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(busy, signal.SIGKILL)
                connection.close()
        fault.mend()
        assert group.wait_whole(WHOLE_WITHIN) != primary.name


@pytest.mark.parametrize("service", [pytest.param("postgresql", marks=needs_postgresql)])
def test_every_lost_write_is_saved_before_its_primary_rejoins(service: str):
    words = ["--service", service, "--failovers", "3", "--seed", "3", "--lease", "500ms", "--writers", "4"]
    found = lab("soak", *words, "--hold-back", "300ms")
    assert found["failure"] == "" and found["leftovers"] == []
    assert all(each["lost_writes"] > 0 for each in found["each"]), "nothing was lost: this shows nothing"
    assert all(each["saved_writes"] >= each["lost_writes"] for each in found["each"])


@pytest.mark.parametrize("service", [pytest.param("postgresql", marks=needs_postgresql)])
def test_pgbench_goes_through_switchovers_and_every_commit_is_accounted_for(service: str):
    words = ["--service", service, "--clients", "4", "--scale", "4", "--for", "15s", "--switchover-every", "5s"]
    found = lab("pgbench", *words, "--lease", "1s")
    assert found["switchovers"] == 2 and found["switchovers_not_done"] == []
    assert found["transactions"] > 100
    assert found["lost_commits"] == 0 and found["sums_agree"] and found["logs_incomplete"] == 0
    assert 0 < found["stall_ms"] <= found["longest_stall_ms"] < 5000
    assert found["unheard_commits"] <= found["failed_transactions"] <= 4 * 2 * 2


@pytest.mark.parametrize("service", [pytest.param("postgresql", marks=needs_postgresql)])
def test_pgbench_sees_a_commit_that_is_not_there(service: str, tmp_path: Path):
    with LabGroup(LabSettings(service=service, lease=1.0)) as group:
        group.start()
        bench = Pgbench(group, clients=1, scale=1)
        bench.prepare()
        primary = group.hosts[group.wait_whole(WHOLE_WITHIN)]
        with psycopg.connect(host=primary.address, port=5432, user="postgres", dbname="postgres", autocommit=True) as connection:
            connection.execute(
                "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
                "CREATE TRIGGER forget BEFORE INSERT ON pgbench_history FOR EACH ROW WHEN (new.aid % 2 = 0) "
                "EXECUTE FUNCTION forget()"
            )
        found = bench.run(2.0, 60.0)
        assert found.transactions > found.lost_commits > 0
        assert not found.sums_agree


def test_pgbench_is_for_postgresql():
    with pytest.raises(LabError, match="for PostgreSQL"), LabGroup(LabSettings()) as group:
        Pgbench(group, clients=1, scale=1)
