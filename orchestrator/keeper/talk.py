"""How daemon and keeper talk: JSON messages over a local socket that keeps their boundaries (SOCK_SEQPACKET)."""

import json
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.domain.commands import Command
from orchestrator.domain.observations import KeeperView
from orchestrator.domain.plain import from_plain, to_plain
from orchestrator.domain.spans import Instant, Span

LARGEST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Daemon to keeper: one command for one group."""

    group: str
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconfigure:
    """Daemon to keeper: the setup file has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a peer's daemon said last, as it came."""

    peer: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Keeper to daemon: one group's page has changed in a way that matters."""

    group: str
    view: KeeperView
    words: tuple[Words, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotObeyed:
    group: str
    command: Command
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    name: str
    label: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Keeper to daemon, once a second: counters and gauges since its start, for the metrics."""

    at: Instant
    counts: tuple[Count, ...]
    remarks: tuple[str, ...] = ()
    """What it may not or cannot do here: real-time priority, locked memory, gate. For `status` and `check`."""
    budget: Span = 0.0


FromDaemon: TypeAlias = Order | Reconfigure
FromKeeper: TypeAlias = Seen | NotObeyed | Tally


def encode_to_keeper(message: FromDaemon) -> bytes:
    return json.dumps(to_plain(message, FromDaemon), separators=(",", ":")).encode()


def encode_to_daemon(message: FromKeeper) -> bytes:
    return json.dumps(to_plain(message, FromKeeper), separators=(",", ":")).encode()


def decode_from_daemon(data: bytes) -> FromDaemon:
    return from_plain(FromDaemon, json.loads(data))  # type: ignore[arg-type]


def decode_from_keeper(data: bytes) -> FromKeeper:
    return from_plain(FromKeeper, json.loads(data))  # type: ignore[arg-type]
