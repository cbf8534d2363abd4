"""A whole group on hosts of its own: members, mediator and client on network stacks of their own, joined by one switch."""

import contextlib
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.lab.group import GROUP, WITNESS, LabGroup, LabSettings, Process, _die_with_lab
from orchestrator.lab.group import Host as Member
from orchestrator.lab.orphans import Orphans
from orchestrator.lab.postgresql import PostgresqlKind
from orchestrator.lab.redis import RedisKind
from tests.contract.servers import Server
from tests.system.hosts import INTERFACE, NET, Host, hosts
from tests.system.redis_servers import Writer

MEMBERS = ("db1", "db2", "db3")
MEDIATOR, CLIENT = "zk", "client"


class ZooKeeper(Server):
    """One server on a host of its own."""

    host: Host

    def start(self) -> None:
        (self.directory / "data").mkdir(parents=True)
        (self.directory / "zoo.cfg").write_text(
            f"tickTime=500\ndataDir={self.directory}/data\nclientPort=2181\nclientPortAddress={self.address}\n"
            "admin.enableServer=false\n4lw.commands.whitelist=*\n"
        )
        self.start_prepared()

    def start_prepared(self) -> None:
        """Again, or with a configuration that somebody else has written."""
        with open(self.directory / "log", "ab") as log:
            self.process = self.host.start(*self.command, stdout=log, stderr=log)

    def serves(self) -> bool:
        return self.host.inside(super().serves)


class EverywhereRedis(RedisKind):
    """Answers at the virtual address too, wherever that is."""

    def prepare_host(self, directory: Path, address: str) -> None:
        super().prepare_host(directory, "* -::*")


class EverywherePostgresql(PostgresqlKind):
    def prepare(self, directory: Path) -> None:
        super().prepare(directory)
        with open(directory / "model" / "pg_hba.conf", "a", encoding="utf-8") as stream:
            stream.writelines(f"host {database} all {NET} trust\n" for database in ("all", "replication"))

    def prepare_host(self, directory: Path, address: str) -> None:
        super().prepare_host(directory, "*")


class SpreadGroup(LabGroup):
    """A laboratory group whose hosts are hosts."""

    def __init__(self, settings: LabSettings, on: dict[str, Host], vips: tuple[str, ...]) -> None:
        self.on = on
        self.vips = vips
        super().__init__(settings)
        postgresql = settings.service == "postgresql"
        self.kind = EverywherePostgresql(settings.replication) if postgresql else EverywhereRedis(settings.redis_server)

    def _host(self, name: str, number: int) -> Member:
        made = super()._host(name, number)
        made.address = self.on[name].address
        return made

    def _configuration(self) -> dict[str, Any]:
        made = super()._configuration()
        made["groups"][GROUP]["clients"] += [{"vip": {"address": each, "interface": INTERFACE}} for each in self.vips]
        return made

    def start_daemon(self, host: Member) -> None:
        command = [sys.executable, "-m", "orchestrator.cli", "--config", str(self.config_of(host)), "--node", host.name, "run"]
        with open(host.directory / "daemon.log", "ab") as log:
            popen = self.on[host.name].start(
                *command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, preexec_fn=_die_with_lab
            )
        Orphans.except_for(popen.pid)
        host.daemon = Process(popen)

    def holders(self, address: str) -> list[str]:
        return [name for name in MEMBERS if self.on[name].has(address)]

    def logs(self) -> str:
        """The last that every member's daemon said."""
        last = {name: (self.hosts[name].directory / "daemon.log").read_text().splitlines()[-15:] for name in MEMBERS}
        return "\n".join(f"{name}: {line}" for name, lines in last.items() for line in lines)

    def keeper_log(self, name: str) -> str:
        return (self.run / name / "keeper.log").read_text()


class ClientOn(Writer):
    """Writes from that host."""

    def __init__(self, host: Host, end: tuple[str, int]) -> None:
        super().__init__(lambda: end, host.address6 if ":" in end[0] else host.address)
        self._host = host

    def _run(self) -> None:
        self._host.inside(super()._run)


class Whereabouts:
    """Hears from the kernels of several hosts when addresses come and go."""

    def __init__(self, on: list[Host], addresses: tuple[str, ...]) -> None:
        self.moves: list[tuple[float, str, str, bool]] = []
        """When, which address, which host, and whether it came."""
        self._packed = {socket.inet_pton(socket.AF_INET6 if ":" in each else socket.AF_INET, each): each for each in addresses}
        began = time.monotonic()
        self._sockets = {host.inside(self._listen): host.name for host in on}
        self.moves += [(began, each, host.name, True) for host in on for each in addresses if host.has(each)]
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @staticmethod
    def _listen() -> socket.socket:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        made.bind((0, 0x110))  # RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
        return made

    def __enter__(self) -> "Whereabouts":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(10)
        for each in self._sockets:
            each.close()

    def _run(self) -> None:
        while not self._ending.is_set():
            ready, _, _ = select.select(list(self._sockets), [], [], 0.1)
            moment = time.monotonic()
            heard = [(self._sockets[each], each.recv(8192)) for each in ready]
            found = [self._move(moment, name, data) for name, data in heard]
            self.moves += sorted((move for move in found if move is not None), key=lambda move: move[3])

    def _move(self, moment: float, name: str, data: bytes) -> tuple[float, str, str, bool] | None:
        kind = int.from_bytes(data[4:6], sys.byteorder)
        address = next((text for packed, text in self._packed.items() if packed in data[24:]), None)
        return (moment, address, name, kind == 20) if address is not None and kind in (20, 21) else None

    def together(self) -> list[str]:
        """Each moment at which an address came to a host while another one still had it."""
        at: dict[str, set[str]] = {}
        found = []
        for moment, address, name, came in self.moves:
            held = at.setdefault(address, set())
            (held.add if came else held.discard)(name)
            if len(held) > 1:
                found.append(f"{moment:.4f}: {address} on {', '.join(sorted(held))}")
        return found


@contextlib.contextmanager
def spread_group(directory: Path, vips: tuple[str, ...], **settings: Any) -> Iterator[SpreadGroup]:
    """`settings` are the laboratory's."""
    with hosts(*MEMBERS, WITNESS, MEDIATOR, CLIENT) as made:
        mediator = ZooKeeper(directory / "zookeeper", made[MEDIATOR].address)
        mediator.host = made[MEDIATOR]
        mediator.start()
        mediator.wait_up()
        with SpreadGroup(LabSettings(mediator=f"zookeeper://{mediator.end}/tanist", **settings), made, vips) as group:
            group.start()
            group.wait_whole(25.0)
            yield group
