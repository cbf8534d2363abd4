"""What a keeper is told when it starts: one JSON file, written by the daemon from the cluster's configuration."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.domain.plain import from_plain, to_plain
from orchestrator.domain.spans import Span

PRIORITY: Final = 10
"""SCHED_FIFO priority: above every ordinary process, below the kernel's own threads (50)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    peer: str
    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSetup:
    """One path: this node's end and, by name, its peers' ends."""

    host: str
    port: int
    peers: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineSetup:
    """A serial line to one peer."""

    peer: str
    device: str
    baud: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressSetup:
    """An address that goes with the right, to be dropped with it."""

    address: str
    prefix: int
    interface: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSetup:
    name: str
    peers: tuple[str, ...]
    lease: Span
    beat_every: Span
    gate_port: int = 0
    """The service's client port; 0: nothing to guard here."""
    gate_addresses: tuple[str, ...] = ()
    """Local addresses to guard; empty: all."""
    gate: str = "auto"
    """`auto`: where possible; `required`: refuse to start without; `off`."""
    warm: bool = False
    """Standbys serve nothing: clients are let in to a primary only."""
    member_addresses: tuple[str, ...] = ()
    """Of the other members' hosts: what comes from there is replication, and no client's."""
    addresses: tuple[AddressSetup, ...] = ()
    directory: str = ""
    """Where the service's processes work, if its children can outlive the main process; empty: they cannot."""
    program: str = ""
    """The file name of their program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperSetup:
    node: str
    cluster: str
    keys: tuple[str, ...]
    """Files that hold the keys; the first signs."""
    run_directory: str
    """On tmpfs: pages, lock and socket."""
    state_directory: str
    """On disk: the lives that this node has had."""
    paths: tuple[PathSetup, ...]
    groups: tuple[GroupSetup, ...]
    realtime: bool = True
    lines: tuple[LineSetup, ...] = ()

    def beat_every(self, peer: str) -> Span:
        """The shortest of the groups that this peer has part in."""
        return min((group.beat_every for group in self.groups if peer in group.peers), default=1.0)

    @property
    def run(self) -> Path:
        return Path(self.run_directory)

    @property
    def socket_path(self) -> Path:
        return self.run / "keeper.sock"

    def page_path(self, group: str) -> Path:
        return self.run / f"{group}.page"


def write_setup(setup: KeeperSetup, path: Path) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(to_plain(setup), indent=1))
    temporary.chmod(0o600)
    temporary.rename(path)


def read_setup(path: Path) -> KeeperSetup:
    return from_plain(KeeperSetup, json.loads(path.read_text()))
