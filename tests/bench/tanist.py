"""Tanist on the bench's hosts: the system tests' group, with a virtual address and ZooKeeper on three hosts of its own."""

from typing import Any

from orchestrator import __version__
from orchestrator.lab.clients import RecordingClient
from orchestrator.lab.group import GROUP, LabSettings
from tests.bench.system import VIP, ZOOKEEPERS, BenchError, PostgresSystem, RedisSystem, System, Zookeepers
from tests.system.spread_group import SpreadGroup


class Tanist(System):
    tool = "Tanist"
    client_is = "virtual address"
    faults = ("F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8", "F9", "F9-frozen", "F10")
    group: SpreadGroup

    def __init__(
        self, *args: Any, lease: float, service: str, replication: str = "asynchronous", hosts: bool = False, **more: Any
    ) -> None:
        super().__init__(*args, **more)
        self.lease, self.service, self.replication = lease, service, replication
        self.hosts = hosts
        """Its clients find the primary as those of tools without a virtual address do."""
        if hosts:
            self.client_is = "libpq's rule for several hosts"
        self.zookeepers = Zookeepers(self.on, self.directory / "zookeeper")

    def start(self) -> None:
        self.zookeepers.start()
        mediator = f"zookeeper://{self.zookeepers.ends}/tanist"
        settings = LabSettings(mediator=mediator, service=self.service, replication=self.replication, lease=self.lease)
        self.group = SpreadGroup(settings, self.on, (f"{VIP}/24",))
        self.kind = self.group.kind  # type: ignore[assignment]
        self.group.start()

    def stop(self) -> None:
        if hasattr(self, "group"):
            self.group.end()
        super().stop()
        self.zookeepers.stop()

    def boot(self, name: str) -> None:
        self.group.start_daemon(self.group.hosts[name])

    start_agents = boot

    def why_not_settled(self) -> str:
        self.group.note_processes()
        if reason := self.group.why_not_whole():
            return reason
        holders = self.group.holders(VIP)
        return "" if holders == [self.primary()] else f"the address is on {holders}"

    def primary(self) -> str:
        return self.group.wait_whole(25.0)

    def settings(self) -> dict[str, Any]:
        return {
            "lease": f"{self.lease * 1000:.0f} ms",
            "unresponsive": "500 ms",
            "replication": self.replication,
            "mediator": self.zookeepers.says,
        }

    def versions(self) -> dict[str, str]:
        return {"tanist": __version__, **super().versions()}

    def make_client(self) -> RecordingClient:
        return super().make_client() if self.hosts else self.vip_client()

    def service_pid(self, name: str) -> int:
        return _there(self.group.hosts[name].service_pid(), f"{name} has no server running")

    def keeper(self, name: str) -> int:
        return _there(self.group.hosts[name].keeper_pid(self.group.run), f"{name} has no keeper")

    def agents(self, name: str) -> list[int]:
        """The daemon; the keeper has faults of its own."""
        daemon = self.group.hosts[name].daemon
        return [_there(daemon.pid if daemon else None, f"{name} has no daemon")]

    def arbiters(self) -> tuple[str, ...]:
        return ZOOKEEPERS

    def switchover(self, primary: str) -> None:
        self.group.hosts[primary].api.post(f"/v1/groups/{GROUP}/switchover", {"by": "bench"})


def _there(pid: int | None, otherwise: str) -> int:
    if pid is None:
        raise BenchError(otherwise)
    return pid


class TanistRedis(Tanist, RedisSystem):
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, service="redis", **more)


class TanistPostgresql(Tanist, PostgresSystem):
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, service="postgresql", **more)
