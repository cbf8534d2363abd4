"""Whole groups: what people say to them, what happens to their mediator, and strangers in their services' places."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestrator.keeper.gate import why_impossible
from orchestrator.lab.faults import MediatorLost
from orchestrator.lab.group import GROUP, WITNESS, Host, LabGroup, LabSettings
from orchestrator.lab.redis import RedisKind
from tests.contract.servers import Ensemble, ensemble, why_no_zookeeper
from tests.system.redis_servers import Writer, ask, is_alive, state_of, wait_for, why_no_redis

pytestmark = [
    pytest.mark.redis,
    pytest.mark.timeout(120),
    pytest.mark.skipif(bool(why_no_redis()), reason=why_no_redis()),
]
needs_gate = [
    pytest.mark.root,
    pytest.mark.skipif(bool(why_impossible()), reason=f"kernel rules: {why_impossible()}"),
]

LEASE = 0.5
WHOLE_WITHIN = 25.0
PERSON = "ann"


class Hands:
    """What a test does to a group, and how it looks at it."""

    def __init__(self, group: LabGroup) -> None:
        self.group = group

    def whole(self) -> str:
        return self.group.wait_whole(WHOLE_WITHIN)

    def primary(self) -> Host:
        return self.group.hosts[self.whole()]

    def others(self, host: Host) -> list[Host]:
        return [each for each in self.group.members if each is not host]

    def report(self, host: Host) -> dict[str, Any]:
        return self.group.report(host) or {}

    def epoch(self, host: Host) -> int:
        return int(self.report(host).get("epoch", -1))

    def end(self, host: Host) -> tuple[str, int]:
        return host.address, RedisKind.port

    def ask(self, host: Host, *words: str) -> str:
        """Past a shut gate; what went wrong is an answer too."""
        try:
            return ask(self.end(host), *words)
        except OSError as error:
            return f"-{error}"

    def tanist(self, host: Host, *words: str, status: int = 0) -> str:
        config = host.directory / "tanist.yaml"
        command = [sys.executable, "-m", "orchestrator.cli", "--config", str(config), "--node", host.name, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def alarms(self, host: Host) -> str:
        entries = host.api.get(f"/v1/groups/{GROUP}/history?last=200")
        return "; ".join(entry["text"] for entry in entries if entry["kind"] == "alarm")

    def refusals(self, host: Host) -> str:
        return "; ".join(f"{each['gate']}: {each['reason']}" for each in self.report(host).get("refusals", ()))

    def kill_service(self, host: Host) -> None:
        pid = host.service_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def kill_host(self, host: Host) -> None:
        keeper, service, daemon = host.keeper_pid(self.group.run), host.service_pid(), host.daemon
        assert keeper is not None
        assert service is not None
        assert daemon is not None
        for pid in (keeper, daemon.pid, service):
            os.kill(pid, signal.SIGKILL)
        daemon.popen.wait(5)

    def revive(self, host: Host) -> None:
        if host.daemon is not None and host.daemon.popen.poll() is not None:
            self.group.start_daemon(host)

    def leads_to(self) -> tuple[str, int]:
        """Where the client file leads to."""
        host, port = self.group.client_file.read_text().split()[:2]
        return host, int(port)

    def client(self) -> Writer:
        """As an application would: it follows the client file."""
        return Writer(self.leads_to, self.group.hosts[WITNESS].address)

    def watcher(self, host: Host) -> Writer:
        """Tries to write there, whoever is primary."""
        end = self.end(host)
        return Writer(lambda: end, self.group.hosts[WITNESS].address)


def stays(condition: Callable[[], object], lasts: float) -> None:
    until = time.monotonic() + lasts
    while time.monotonic() < until:
        assert condition()
        time.sleep(0.02)


def stands_still(pid: int) -> bool:
    """Stopped for a while: right after SIGCONT the letter may still be the old one."""
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        if state_of(pid) != "T":
            return False
        time.sleep(0.002)
    return True


@contextlib.contextmanager
def running(group: LabGroup) -> Iterator[Hands]:
    with group:
        group.start()
        group.wait_whole(WHOLE_WITHIN)
        yield Hands(group)


# --- on a real ZooKeeper ---------------------------------------------------------------------------------------------


class UngatedGroup(LabGroup):
    """With a mediator that serves many hosts a gate guards its port on every address: not for several members on one."""

    def _configuration(self) -> dict[str, Any]:
        made = super()._configuration()
        made["groups"][GROUP]["gate"] = "off"
        return made


@pytest.fixture(scope="module")
def zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    if reason := why_no_zookeeper():
        pytest.skip(reason)
    with ensemble(tmp_path_factory.mktemp("zookeeper"), 1) as made:
        yield made


@pytest.fixture(scope="module")
def on_zookeeper(zookeeper: Ensemble) -> Iterator[Hands]:
    settings = LabSettings(lease=LEASE, mediator=f"zookeeper://{zookeeper.hosts}/tanist")
    with running(UngatedGroup(settings)) as hands:
        yield hands


@pytest.mark.zookeeper
def test_on_zookeeper_a_killed_primary_is_replaced(on_zookeeper: Hands):
    hands = on_zookeeper
    primary = hands.primary()
    epoch = hands.epoch(primary)
    hands.ask(primary, "SET", "before", "1")
    wait_for(lambda: all(hands.ask(host, "GET", "before") == "1" for host in hands.others(primary)))
    hands.kill_service(primary)
    wait_for(lambda: hands.epoch(primary) == epoch + 1)
    after = hands.primary()
    assert after is not primary
    assert hands.epoch(after) == epoch + 1
    assert all(hands.ask(host, "GET", "before") == "1" for host in hands.group.members)


@pytest.mark.zookeeper
def test_a_zookeeper_that_is_away_for_a_while_stops_nobody(on_zookeeper: Hands, zookeeper: Ensemble):
    """P4, over several leases."""
    hands = on_zookeeper
    primary = hands.primary()
    epoch = hands.epoch(primary)
    with hands.client() as client:
        zookeeper.kill()
        try:
            wait_for(lambda: hands.report(primary)["mediator"]["lost_seconds"] is not None)
            stays(lambda: hands.report(primary)["right"]["held"], 6 * LEASE)
            assert hands.report(primary)["mediator"]["because"]
        finally:
            zookeeper.start()
        wait_for(lambda: hands.report(primary)["mediator"]["lost_seconds"] is None, within=30)
    assert client.longest_gap() < LEASE / 2
    assert hands.primary() is primary
    assert hands.epoch(primary) == epoch


@pytest.mark.zookeeper
def test_a_zookeeper_that_was_emptied_is_an_alarm_and_adoption_ends_it(on_zookeeper: Hands, zookeeper: Ensemble):
    hands = on_zookeeper
    primary = hands.primary()
    epoch = hands.epoch(primary)
    with hands.client() as client:
        zookeeper.kill()
        zookeeper.servers[0].empty()
        zookeeper.start()
        for host in hands.group.members:
            wait_for(lambda host=host: "tanist adopt" in hands.alarms(host), within=30, why=lambda host=host: hands.report(host))
            assert hands.report(host)["mediator"]["record"] == "absent"
        stays(lambda: hands.report(primary)["right"]["held"], 3 * LEASE)
        told = hands.tanist(primary, "adopt", GROUP, "--primary", primary.name, "--by", PERSON, "--yes")
        assert f"adopted in the name of {PERSON}: {primary.name} in epoch {epoch}" in told
        assert hands.primary() is primary
    assert client.longest_gap() < LEASE / 2, "nobody who serves or follows may notice"
    assert hands.epoch(primary) == epoch
    hands.kill_service(primary)
    wait_for(lambda: hands.epoch(primary) == epoch + 1)
    assert hands.primary() is not primary


# --- strangers -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gated() -> Iterator[Hands]:
    with running(LabGroup(LabSettings(lease=LEASE, policy={"min_replicas": 1}))) as hands:
        yield hands


class Somebody:
    """Somebody else who starts the service again at once and without its data, as many a supervisor does."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []
        self.ended_at = float("inf")
        """When the old process had ended (CLOCK_BOOTTIME)."""

    def replaces(self, hands: Hands, host: Host) -> float:
        """Seconds from the end of the old process until the new one answered."""
        pid = host.service_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while is_alive(pid):
            pass
        self.ended_at = time.clock_gettime(time.CLOCK_BOOTTIME)
        began = time.monotonic()
        command = ["redis-server", str(host.directory / "redis.conf")]
        while True:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            self.started.append(process)
            while process.poll() is None:
                if hands.ask(host, "PING") == "PONG":
                    return time.monotonic() - began
            assert time.monotonic() < began + 5, "the port was not free again"

    def end(self) -> None:
        for process in self.started:
            process.kill()
            process.wait(10)


@pytest.fixture
def somebody() -> Iterator[Somebody]:
    made = Somebody()
    yield made
    made.end()


KEYS = 200


def fill(hands: Hands, primary: Host) -> None:
    hands.ask(primary, "EVAL", f"for i = 1, {KEYS} do redis.call('SET', 'data:' .. i, i) end return 1", "0")
    wait_for(lambda: all(holds_all(hands, host) for host in hands.group.members))


def held_by(hands: Hands, host: Host) -> str:
    """How many of the keys it has; or why it does not say."""
    found = f"local n = 0 for i = 1, {KEYS} do n = n + redis.call('EXISTS', 'data:' .. i) end return n"
    return hands.ask(host, "EVAL", found, "0")


def holds_all(hands: Hands, host: Host) -> bool:
    return held_by(hands, host) == str(KEYS)


def lost_some(hands: Hands, host: Host) -> bool:
    found = held_by(hands, host)
    return found.isdigit() and int(found) < KEYS


@pytest.mark.parametrize("daemon", ["daemon runs", "daemon stopped"])
@pytest.mark.parametrize("_marks", [pytest.param("", marks=needs_gate, id="gated")])
def test_a_primary_that_somebody_restarts_empty_never_serves(gated: Hands, somebody: Somebody, daemon: str, _marks: str):
    """Its standbys would copy the emptiness, and a client would write into it."""
    hands, primary = gated, gated.primary()
    fill(hands, primary)
    epoch = hands.epoch(primary)
    others = hands.others(primary)
    with contextlib.ExitStack() as stack:
        watchers = {host.name: stack.enter_context(hands.watcher(host)) for host in hands.group.members}
        wait_for(lambda: watchers[primary.name].acked)
        if daemon == "daemon stopped":
            os.kill(primary.daemon.pid, signal.SIGSTOP)
            stack.callback(os.kill, primary.daemon.pid, signal.SIGCONT)
        took = somebody.replaces(hands, primary)
        until = time.monotonic() + 5.0
        while not any(watchers[host.name].accepted_after(somebody.ended_at) for host in others):
            assert all(hands.ask(host, "GET", "data:1") == "1" for host in others), "the emptiness was copied"
            assert time.monotonic() < until, "nobody took over"
        stays(lambda: not any(lost_some(hands, host) for host in others), 1.0)
    served = watchers[primary.name].accepted_after(somebody.ended_at)
    assert served == [], f"the stranger accepted {len(served)} writes (it was there after {took * 1000:.0f} ms)"
    assert hands.whole() != primary.name
    assert hands.epoch(hands.primary()) == epoch + 1
    wait_for(lambda: all(holds_all(hands, host) for host in hands.group.members))


@pytest.mark.parametrize("dead", ["keeper", "keeper and daemon"])
@pytest.mark.parametrize("_marks", [pytest.param("", marks=needs_gate, id="gated")])
def test_a_stranger_never_serves_although_its_guards_died_with_the_service(
    gated: Hands, somebody: Somebody, dead: str, _marks: str
):
    """As when memory runs out, or a container ends: nobody shuts the gate before its time, so the server's own configuration
    must say that it begins as a replica of nobody, as `tanist check` asks.
    """
    hands, primary = gated, gated.primary()
    with open(primary.directory / "redis.conf", "a") as config:
        config.write("replicaof 127.0.0.1 1\n")
    fill(hands, primary)
    others = hands.others(primary)
    with contextlib.ExitStack() as stack:
        stack.callback(hands.revive, primary)
        watchers = {host.name: stack.enter_context(hands.watcher(host)) for host in hands.group.members}
        wait_for(lambda: watchers[primary.name].acked)
        os.kill(primary.keeper_pid(hands.group.run), signal.SIGKILL)
        if dead == "keeper and daemon":
            os.kill(primary.daemon.pid, signal.SIGKILL)
            primary.daemon.popen.wait(5)
        took = somebody.replaces(hands, primary)
        wait_for(lambda: any(watchers[host.name].accepted_after(somebody.ended_at) for host in others))
        stays(lambda: not any(lost_some(hands, host) for host in others), 1.0)
    hands.whole()
    wait_for(lambda: all(holds_all(hands, host) for host in hands.group.members))
    served = watchers[primary.name].accepted_after(somebody.ended_at)
    assert served == [], f"the stranger accepted {len(served)} writes (it was there after {took * 1000:.0f} ms)"


@pytest.mark.parametrize("_marks", [pytest.param("", marks=needs_gate, id="gated")])
def test_a_standby_that_somebody_restarts_empty_follows_again(gated: Hands, somebody: Somebody, _marks: str):
    hands, primary = gated, gated.primary()
    fill(hands, primary)
    epoch = hands.epoch(primary)
    standby = hands.others(primary)[0]
    with hands.watcher(standby) as watcher:
        took = somebody.replaces(hands, standby)
        wait_for(lambda: holds_all(hands, standby))
    assert watcher.acked == [], f"it accepted writes before it followed (it was there after {took * 1000:.0f} ms)"
    assert (hands.whole(), hands.epoch(primary)) == (primary.name, epoch)


@pytest.mark.parametrize("_marks", [pytest.param("", marks=needs_gate, id="gated")])
def test_a_frozen_service_that_somebody_lets_go_on_is_frozen_again(gated: Hands, _marks: str):
    """Mediator and promises are lost: the primary stands still, and stays so whatever somebody does to it."""
    hands, primary = gated, gated.primary()
    stopped = [pid for host in hands.others(primary) for pid in (host.daemon.pid, host.keeper_pid(hands.group.run))]
    lost = MediatorLost(hands.group, primary)
    service = primary.service_pid()
    assert service is not None
    lost.inject()
    try:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: stands_still(service))
        for _ in range(3):
            os.kill(service, signal.SIGCONT)
            wait_for(lambda: stands_still(service), within=2.5)
        assert hands.report(primary)["right"]["frozen"]
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        lost.mend()
    hands.whole()


# --- people ----------------------------------------------------------------------------------------------------------


def test_a_pause_holds_a_failover_until_it_is_resumed(gated: Hands):
    hands, primary = gated, gated.primary()
    other = hands.others(primary)[0]
    epoch = hands.epoch(other)
    hands.tanist(other, "pause", GROUP, "--by", PERSON, "--reason", "new disks")
    try:
        hands.kill_host(primary)
        wait_for(lambda: f"paused by {PERSON}: new disks" in hands.refusals(other), why=lambda: hands.refusals(other))
        stays(lambda: hands.epoch(other) == epoch, 3 * LEASE)
        assert "paused already" in hands.tanist(other, "pause", GROUP, "--by", "bob", status=1)
    finally:
        hands.tanist(other, "resume", GROUP, "--by", PERSON)
        hands.revive(primary)
    wait_for(lambda: hands.epoch(other) == epoch + 1, why=lambda: hands.refusals(other))
    assert hands.whole() != primary.name


def test_the_primary_insists_on_as_many_standbys_as_policy_wants(gated: Hands):
    hands = gated

    def wanted(host: Host) -> str:
        return hands.ask(host, "CONFIG", "GET", "min-replicas-to-write").splitlines()[-1]

    primary = hands.primary()
    wait_for(lambda: wanted(primary) == "1")
    hands.tanist(primary, "switchover", GROUP, "--by", PERSON)
    after = hands.primary()
    assert after is not primary
    wait_for(lambda: wanted(after) == "1")
    assert hands.ask(after, "SET", "key", "value") == "OK"


def test_the_role_goes_back_to_the_preferred_member_after_a_failover_and_not_after_a_persons_switchover():
    with running(LabGroup(LabSettings(lease=LEASE, policy={"failback": {"mode": "when_healthy", "for": "1s"}}))) as hands:
        preferred, other = hands.primary(), hands.group.hosts["db2"]
        epoch = hands.epoch(preferred)
        hands.kill_service(preferred)
        wait_for(lambda: hands.epoch(preferred) == epoch + 2, why=lambda: hands.refusals(other) or hands.refusals(preferred))
        assert hands.whole() == preferred.name
        assert "policy (failback)" in hands.report(preferred)["reason"]
        hands.tanist(other, "switchover", GROUP, "--to", other.name, "--by", PERSON)
        assert hands.whole() == other.name
        wait_for(lambda: "stays it until a person says otherwise" in hands.refusals(other))
        stays(lambda: hands.epoch(other) == epoch + 3, 1.5)


@pytest.fixture(scope="module")
def asking() -> Iterator[Hands]:
    with running(LabGroup(LabSettings(lease=LEASE, policy={"automation": "confirm", "proposal_expires": "30s"}))) as hands:
        yield hands


def proposal_of(hands: Hands, host: Host) -> dict[str, Any]:
    """Once it stands."""

    def stands() -> bool:
        return all(hands.report(host).get("proposal") is not None for _ in range(50))

    wait_for(stands, why=lambda: hands.refusals(host))
    found: dict[str, Any] = hands.report(host)["proposal"]
    return found


def test_under_confirm_a_named_persons_word_moves_it_and_nothing_else(asking: Hands):
    hands, primary = asking, asking.primary()
    other = hands.others(primary)[0]
    epoch = hands.epoch(other)
    hands.kill_service(primary)
    proposal = proposal_of(hands, other)
    assert (proposal["subject"], proposal["epoch"]) == (primary.name, epoch)
    assert proposal["id"] in hands.tanist(other, "proposals")
    stays(lambda: hands.epoch(other) == epoch, 3 * LEASE)
    assert "a person's name is needed" in hands.tanist(other, "confirm", proposal["id"], "--by", " ", status=1)
    wrong = str(epoch + 1)
    told = hands.tanist(other, "confirm", proposal["id"], "--by", PERSON, "--epoch", wrong, status=1)
    assert f"was for epoch {epoch}" in told
    assert "no open proposal" in hands.tanist(other, "confirm", "orders-1-nothing-db9", "--by", PERSON, status=1)
    assert hands.epoch(other) == epoch
    hands.tanist(other, "confirm", proposal["id"], "--by", PERSON)
    after = hands.primary()
    assert (after.name, hands.epoch(after)) == (proposal["candidate"], epoch + 1)
    assert f"by the word of {PERSON}" in hands.report(after)["reason"]
    assert "no open proposal" in hands.tanist(after, "confirm", proposal["id"], "--by", PERSON, status=1)


def test_under_confirm_a_rejected_proposal_moves_nothing(asking: Hands):
    hands, primary = asking, asking.primary()
    other = hands.others(primary)[0]
    epoch = hands.epoch(other)
    hands.kill_host(primary)
    proposal = proposal_of(hands, other)
    assert PERSON in hands.tanist(other, "reject", proposal["id"], "--by", PERSON)
    stays(lambda: hands.epoch(other) == epoch, 4 * LEASE)
    assert hands.report(other)["proposal"] is None, "the same situation does not ask again for a while"
    assert "no open proposal" in hands.tanist(other, "confirm", proposal["id"], "--by", PERSON, status=1)
    hands.revive(primary)
    hands.whole()
    hands.tanist(
        other, "switchover", GROUP, "--by", PERSON
    )  # what was rejected counts for its epoch only: the next test has its own
    hands.whole()


def test_under_confirm_an_approval_of_what_is_over_is_refused(asking: Hands):
    """The primary hangs and comes back by itself: the situation that was shown is no more."""
    hands, primary = asking, asking.primary()
    other = hands.others(primary)[0]
    epoch = hands.epoch(other)
    service = primary.service_pid()
    assert service is not None
    os.kill(service, signal.SIGSTOP)
    try:
        proposal = proposal_of(hands, other)
    finally:
        os.kill(service, signal.SIGCONT)
    wait_for(lambda: hands.report(other).get("proposal") is None, within=20)
    told = hands.tanist(other, "confirm", proposal["id"], "--by", PERSON, status=1)
    assert "no open proposal" in told
    stays(lambda: hands.epoch(other) == epoch, 2 * LEASE)
    assert hands.whole() == primary.name


# --- taking it off ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("_marks", [pytest.param("", marks=needs_gate, id="gated")])
def test_dismantled_nothing_of_it_is_left_but_the_service(_marks: str):
    def tables() -> list[str]:
        done = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True)
        return [line for line in done.stdout.splitlines() if hands.group.cluster.replace("-", "_") in line]

    with running(LabGroup(LabSettings(lease=LEASE, members=2))) as hands:
        primary = hands.primary()
        hands.ask(primary, "SET", "key", "value")
        wait_for(lambda: len(tables()) == 2)
        refused = hands.tanist(primary, "dismantle", "--yes", status=1)
        assert "another daemon of this node runs" in refused
        keepers = [host.keeper_pid(hands.group.run) for host in hands.group.hosts.values()]
        services = [host.service_pid() for host in hands.group.members]
        daemons = [host.daemon.popen for host in hands.group.hosts.values()]
        for daemon in daemons:
            daemon.terminate()
        assert [daemon.wait(10) for daemon in daemons] == [0, 0, 0]
        assert len(tables()) == 2, "a daemon that ends takes nothing with it"
        for host in hands.group.hosts.values():
            assert f"{host.name}: the keeper has ended and the gates are gone" in hands.tanist(host, "dismantle", "--yes")
        assert tables() == []
        assert list(hands.group.run.rglob("*.page")) == []
        assert not any(is_alive(pid) for pid in keepers)
        assert all(is_alive(pid) and state_of(pid) != "T" for pid in services)
        assert ask(hands.end(primary), "GET", "key", source="127.0.0.1") == "value", "clients get through, guarded by nobody"
        hands.tanist(primary, "dismantle", "--yes")
