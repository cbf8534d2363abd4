"""A Redis and a PostgreSQL group and three ZooKeeper servers on hosts of their own, with clients and watchers, for long runs."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.keeper.tree import state_of
from orchestrator.lab.clients import Connection, Failed, RecordingClient, Watcher
from orchestrator.lab.group import GROUP, WITNESS, LabSettings
from orchestrator.lab.group import Host as Member
from orchestrator.lab.measure import Write, two_primaries
from tests.contract.servers import CLIENT_PORT
from tests.system.hosts import Host, hosts
from tests.system.spread_group import CLIENT, MEMBERS, SpreadGroup, ZooKeeper

ZOOKEEPERS = ("zk1", "zk2", "zk3")
WRITE_EVERY = 0.01
WATCH_EVERY = 0.02
CARRIED = 2.0
"""Seconds of the watchers' writes that are looked at together with those of the next look."""


class Client(RecordingClient):
    """Writes through the virtual address, from the clients' host."""

    def __init__(self, host: Host, connect: type[Connection], config: Path, number: int, count: int) -> None:
        super().__init__(connect, config, host.address, WRITE_EVERY, number, count)
        self._host = host

    def _run(self) -> None:
        self._host.inside(super()._run)

    def take(self) -> list[int]:
        """Numbers that were acknowledged since the last time."""
        count = len(self.numbers)
        found = self.numbers[:count]
        del self.numbers[:count], self.acked[:count]
        return found


class WatcherOn(Watcher):
    """Tries to write on a member all the time, from a host that may be the member itself."""

    def __init__(self, host: Host, connect: type[Connection], member: str, address: tuple[str, int]) -> None:
        super().__init__(connect, member, address, host.address)
        self._host = host

    def _run(self) -> None:
        self._host.inside(self._watch)

    def _watch(self) -> None:
        connection: Connection | None = None
        number = 0
        while not self._ending.is_set():
            try:
                connection = connection or self._connect(self._address, self._source)
                number += 1
                self.writes.append(connection.write(f"watcher:{self.member}", str(number)))
            except Failed as error:
                if connection is not None and not str(error).startswith("-"):
                    connection.close()
                    connection = None
            time.sleep(WATCH_EVERY)
        if connection is not None:
            connection.close()


class Watched:
    """One group with its clients and watchers, and what is known of it."""

    def __init__(self, group: SpreadGroup, client: Host, vip: str, writers: int) -> None:
        self.group = group
        self.name = group.kind.name
        self.acknowledged = 0
        self.lost = 0
        self.two_primaries = 0.0
        self._client = client
        self._carried: dict[str, list[Write]] = {}
        config = group.directory / "vip.conf"
        config.write_text(f"{vip} {group.kind.port}\n")
        connect = group.kind.connection
        self.clients = [Client(client, connect, config, number + 1, writers) for number in range(writers)]
        ends = {name: (group.hosts[name].address, group.kind.port) for name in MEMBERS}
        self.watchers = [WatcherOn(each, connect, name, ends[name]) for name in MEMBERS for each in (client, group.on[name])]

    def start(self) -> None:
        for each in (*self.clients, *self.watchers):
            each.start()

    def stop(self) -> None:
        for each in (*self.clients, *self.watchers):
            each.stop()

    def look(self) -> str:
        """What is wrong with what was written since the last look; empty when nothing is. The group must be whole."""
        primary = self.group.whole()
        if primary is None:
            return f"{self.name}: {self.group.why_not_whole()}"
        numbers = [number for each in self.clients for number in each.take()]
        member = self.group.hosts[primary]
        lost = self._client.inside(lambda: self.group.kind.lost(member.address, self._client.address, numbers))
        self.acknowledged += len(numbers)
        self.lost += len(lost)
        both = self._both()
        self.two_primaries += both
        found = [f"{both * 1000:.1f} ms with two primaries"] if both else []
        if lost and self.group.settings.replication != "asynchronous":
            found.append(f"acknowledged writes lost: {lost[:20]}")
        return f"{self.name}: {'; '.join(found)}" if found else ""

    def _both(self) -> float:
        accepted: dict[str, list[Write]] = {name: [] for name in MEMBERS}
        for each in self.watchers:
            while each.writes:
                accepted[each.member].append(each.writes.popleft())
        together = {name: self._carried.get(name, []) + accepted[name] for name in MEMBERS}
        newest = max((write.acked_at for writes in accepted.values() for write in writes), default=0.0)
        self._carried = {name: [each for each in together[name] if each.acked_at > newest - CARRIED] for name in MEMBERS}
        return two_primaries(together)

    def newest(self) -> float:
        """When a client's write was acknowledged last."""
        return max((each.acked[-1] for each in self.clients if each.acked), default=0.0)

    def epoch(self) -> int:
        return self.group.epoch()

    def wait_whole(self, within: float) -> str:
        """The primary, after a person has said yes to whatever was asked: the words are counted by the caller."""
        return self.group.wait_whole(within)

    def proposal(self) -> str | None:
        """The open proposal's id, where one waits for a person."""
        for member in self.group.members:
            report = self.group.report(member) or {}
            if report.get("proposal"):
                return str(report["proposal"]["id"])
        return None

    def processes(self, member: Member) -> dict[str, int]:
        """Those that can be frozen and killed, by what they are."""
        daemon = member.daemon.pid if member.daemon is not None and member.daemon.popen.poll() is None else None
        found = {"daemon": daemon, "keeper": member.keeper_pid(self.group.run), "service": member.service_pid()}
        return {name: pid for name, pid in found.items() if pid is not None}

    def revive(self) -> None:
        """Whatever has ended is started again, as supervisor and power switch would."""
        for member in self.group.hosts.values():
            if member.daemon is None or member.daemon.popen.poll() is not None:
                self.group.start_daemon(member)


def send(pid: int, what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, what)


def is_stopped(pid: int) -> bool:
    return state_of(pid) == "T"


class Field:
    def __init__(self, made: dict[str, Host], servers: list[ZooKeeper], groups: list[Watched]) -> None:
        self.hosts = made
        self.servers = servers
        self.groups = groups

    def host(self, watched: Watched, member: str) -> Host:
        return watched.group.on[member]


def _servers(made: dict[str, Host], directory: Path) -> list[ZooKeeper]:
    addresses = [made[name].address for name in ZOOKEEPERS]
    quorum = "".join(f"server.{number}={address}:2888:3888\n" for number, address in enumerate(addresses, 1))
    servers = []
    for number, name in enumerate(ZOOKEEPERS, 1):
        server = ZooKeeper(directory / name, made[name].address)
        server.host = made[name]
        (server.directory / "data").mkdir(parents=True)
        (server.directory / "data" / "myid").write_text(f"{number}\n")
        (server.directory / "zoo.cfg").write_text(
            f"tickTime=500\ninitLimit=20\nsyncLimit=10\ndataDir={server.directory}/data\nclientPort={CLIENT_PORT}\n"
            f"clientPortAddress={server.address}\nadmin.enableServer=false\n4lw.commands.whitelist=*\n{quorum}"
        )
        servers.append(server)
    return servers


@contextlib.contextmanager
def field(directory: Path, lease: float, services: tuple[str, ...] = ("redis", "postgresql"), **policy: Any) -> Iterator[Field]:
    """Both groups whole and under load."""
    own = {service: [f"{service[0]}-{name}" for name in (*MEMBERS, WITNESS)] for service in services}
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(hosts(*(name for names in own.values() for name in names), *ZOOKEEPERS, CLIENT))
        servers = _servers(made, directory)
        for server in servers:
            server.start_prepared()
        for server in servers:
            server.wait_up()
        ends = ",".join(server.end for server in servers)
        groups = []
        for number, service in enumerate(services):
            on = {name: made[f"{service[0]}-{name}"] for name in (*MEMBERS, WITNESS)}
            vip = f"10.77.0.{200 + number}"
            settings = LabSettings(
                service=service,
                lease=lease,
                replication="synchronous" if service == "postgresql" else "asynchronous",
                mediator=f"zookeeper://{ends}/tanist-{service}",
                policy=policy,
            )
            group = stack.enter_context(SpreadGroup(settings, on, (f"{vip}/24",)))
            group.start()
            groups.append(Watched(group, made[CLIENT], vip, 4 if service == "postgresql" else 1))
        for watched in groups:
            watched.wait_whole(40.0)
            watched.start()
            stack.callback(watched.stop)
        yield Field(made, servers, groups)


__all__ = ["GROUP", "Field", "Watched", "field", "is_stopped", "send"]
