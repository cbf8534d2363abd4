"""A virtual address in a whole group on hosts of its own: where it is when hosts, links and processes fail."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from orchestrator.lab.redis import RedisKind
from tests.contract.servers import why_no_zookeeper
from tests.system.hosts import Capture, why_no_hosts
from tests.system.postgresql_servers import why_not as why_no_postgresql
from tests.system.redis_servers import wait_for, why_no_redis
from tests.system.spread_group import CLIENT, MEMBERS, ClientOn, SpreadGroup, Whereabouts, spread_group
from tests.system.test_group import Hands
from tests.system.test_vip import announced

WHY_NOT = why_no_hosts() or why_no_zookeeper() or why_no_redis()
pytestmark = [
    pytest.mark.root,
    pytest.mark.redis,
    pytest.mark.zookeeper,
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
]

LEASE = 0.5
VIP, VIP6 = "10.77.0.200", "fd77::200"
WHOLE_WITHIN = 25.0


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpreadGroup]:
    with spread_group(tmp_path_factory.mktemp("spread"), (f"{VIP}/24", f"{VIP6}/64"), lease=LEASE) as made:
        yield made


@pytest.fixture
def primary(group: SpreadGroup) -> Iterator[str]:
    """Whatever a test does: at no moment was an address on two hosts."""
    name = group.wait_whole(WHOLE_WITHIN)
    wait_for(lambda: group.holders(VIP) == group.holders(VIP6) == [name])
    with Whereabouts([group.on[each] for each in MEMBERS], (VIP, VIP6)) as seen:
        yield name
    assert seen.together() == []


def end_of(address: str) -> tuple[str, int]:
    return address, RedisKind.port


@pytest.mark.parametrize("address", [VIP, VIP6], ids=["IPv4", "IPv6"])
def test_a_client_follows_the_address_when_the_service_is_killed(group: SpreadGroup, primary: str, address: str):
    capture = Capture(group.on[CLIENT])
    try:
        with ClientOn(group.on[CLIENT], end_of(address)) as client:
            wait_for(lambda: len(client.acked) > 20)
            pid = group.hosts[primary].service_pid()
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: group.holders(address) not in ([], [primary]))
            after = group.holders(address)
            killed_at = client.acked[-1][1]
            wait_for(lambda: client.accepted_after(killed_at + 0.2))
        assert after == [group.wait_whole(WHOLE_WITHIN)]
        wait_for(lambda: len({each.at for each in announced(capture, address) if each.mac == group.on[after[0]].mac}) >= 5)
        print(f"longest gap {client.longest_gap():.3f} s")
        assert client.longest_gap() < 2 * LEASE
    finally:
        capture.close()


def served_elsewhere(group: SpreadGroup, primary: str) -> str:
    """Its name, once another member has the address."""
    wait_for(lambda: [name for name in group.holders(VIP) if name != primary], why=group.logs)
    return next(name for name in group.holders(VIP) if name != primary)


def test_an_isolated_primary_drops_it_before_another_one_takes_it(group: SpreadGroup, primary: str):
    with ClientOn(group.on[CLIENT], end_of(VIP)) as client:
        wait_for(lambda: len(client.acked) > 20)
        group.on[primary].isolate()
        try:
            served_elsewhere(group, primary)
            moment = client.acked[-1][1]
            wait_for(lambda: client.accepted_after(moment + 0.2))
        finally:
            group.on[primary].heal()
    print(f"longest gap {client.longest_gap():.3f} s")
    assert client.longest_gap() < 3 * LEASE
    group.wait_whole(WHOLE_WITHIN)


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_without_a_daemon_the_keeper_drops_it_at_the_end_of_the_right(group: SpreadGroup, primary: str, how: str):
    daemon = group.hosts[primary].daemon
    assert daemon is not None
    os.kill(daemon.pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
    try:
        began = time.monotonic()
        while time.monotonic() < began + 6 * LEASE:  # longer than the kernel alone would let it stand
            assert group.holders(VIP) == group.holders(VIP6) == [primary]
        group.on[primary].isolate()
        lost_at = time.monotonic()
        wait_for(lambda: not group.on[primary].has(VIP) and not group.on[primary].has(VIP6), within=LEASE + 1)
        print(f"dropped {time.monotonic() - lost_at:.3f} s after isolation")
        served_elsewhere(group, primary)
        assert f"address {VIP} dropped" in group.keeper_log(primary)
    finally:
        group.on[primary].heal()
        if how == "killed":
            daemon.popen.wait(10)
            group.start_daemon(group.hosts[primary])
        else:
            os.kill(daemon.pid, signal.SIGCONT)
    after = group.wait_whole(WHOLE_WITHIN)
    wait_for(lambda: group.holders(VIP) == [after])


def test_a_stopped_keeper_and_daemon_keep_it_for_a_moment_only(group: SpreadGroup, primary: str):
    """F10: the gate refuses clients there at once, and the kernel takes the address away, so that it can be had elsewhere."""
    keeper, daemon = group.hosts[primary].keeper_pid(group.run), group.hosts[primary].daemon
    assert keeper is not None
    assert daemon is not None
    for pid in (daemon.pid, keeper):
        os.kill(pid, signal.SIGSTOP)
    try:
        after = served_elsewhere(group, primary)
        wait_for(lambda: group.holders(VIP) == [after])
    finally:
        for pid in (keeper, daemon.pid):
            os.kill(pid, signal.SIGCONT)
    group.wait_whole(WHOLE_WITHIN)


def test_a_switchover_takes_it_along_without_an_alarm(group: SpreadGroup, primary: str):
    other = next(name for name in MEMBERS if name != primary)
    with ClientOn(group.on[CLIENT], end_of(VIP)) as client:
        wait_for(lambda: len(client.acked) > 20)
        before = alarms(group)
        Hands(group).tanist(group.hosts[other], "switchover", "orders", "--to", other, "--by", "ann")
        wait_for(lambda: group.holders(VIP) == [other])
        moment = client.acked[-1][1]
        wait_for(lambda: client.accepted_after(moment + 0.2))
    print(f"longest gap {client.longest_gap():.3f} s")
    assert alarms(group) == before
    assert group.wait_whole(WHOLE_WITHIN) == other


def alarms(group: SpreadGroup) -> list[str]:
    found = []
    for name in MEMBERS:
        entries = group.hosts[name].api.get("/v1/groups/orders/history?last=200")
        found += [entry["text"] for entry in entries if entry["kind"] == "alarm" and VIP in entry["text"]]
    return found


def test_addresses_come_and_go_with_the_configuration_while_keepers_and_clients_go_on(group: SpreadGroup, primary: str):
    text, more = group.config.read_text(), "10.77.0.201"
    changed = json.loads(text)
    changed["groups"]["orders"]["clients"].append({"vip": {"address": f"{more}/24", "interface": "eth0"}})
    keepers = [group.hosts[name].keeper_pid(group.run) for name in MEMBERS]
    with Whereabouts([group.on[primary]], (VIP,)) as seen:
        start_anew(group, json.dumps(changed))
        wait_for(lambda: group.holders(more) == [primary])
        began = time.monotonic()
        while time.monotonic() < began + 5.0:  # longer than the kernel alone would let it stand
            assert group.holders(more) == [primary]
            time.sleep(0.1)
        start_anew(group, text)
        wait_for(lambda: not group.holders(more), within=2.0)
    assert [came for _, _, _, came in seen.moves if not came] == []
    assert [group.hosts[name].keeper_pid(group.run) for name in MEMBERS] == keepers


def start_anew(group: SpreadGroup, configuration: str) -> None:
    group.config.write_text(configuration)
    for name in MEMBERS:
        daemon = group.hosts[name].daemon
        assert daemon is not None
        daemon.popen.terminate()
        daemon.popen.wait(10)
        group.start_daemon(group.hosts[name])
    group.wait_whole(WHOLE_WITHIN)


@pytest.mark.postgresql
@pytest.mark.skipif(bool(why_no_postgresql()), reason=why_no_postgresql())
def test_postgresql_is_reached_at_its_address_by_whoever_connects_again(tmp_path: Path):
    """And what was committed there before is there afterwards."""
    with spread_group(tmp_path, (f"{VIP}/24",), service="postgresql", replication="synchronous", lease=LEASE) as group:
        primary = group.wait_whole(WHOLE_WITHIN)
        wait_for(lambda: group.holders(VIP) == [primary])
        client = group.on[CLIENT]

        def ask(statement: str) -> list[tuple[object, ...]]:
            def connect_and_ask() -> list[tuple[object, ...]]:
                with psycopg.connect(host=VIP, user="postgres", connect_timeout=2, autocommit=True) as connection:
                    found = connection.execute(statement.encode())
                    return found.fetchall() if found.description else []

            return client.inside(connect_and_ask)

        def written(number: int) -> bool:
            try:
                ask(f"INSERT INTO lab VALUES ('{number}', 'x')")
            except psycopg.Error:
                return False
            return True

        assert written(1)
        pid = group.hosts[primary].service_pid()
        assert pid is not None
        with Whereabouts([group.on[name] for name in MEMBERS], (VIP,)) as seen:
            os.kill(pid, signal.SIGKILL)
            killed_at = time.monotonic()
            wait_for(lambda: written(2), within=20)
            print(f"written again {time.monotonic() - killed_at:.3f} s after the server was killed")
            group.wait_whole(WHOLE_WITHIN)
        assert seen.together() == []
        assert ask("SELECT k FROM lab WHERE k IN ('1', '2') ORDER BY k") == [("1",), ("2",)]
        assert primary not in group.holders(VIP)
