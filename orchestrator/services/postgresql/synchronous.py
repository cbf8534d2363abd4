"""The list of standbys without whose word no commit is acknowledged: set, and seen by every process that acts on it.

Who releases a waiting commit is the walsender that hears of it, by the list that *it* has read. So a change is not made when
the setting shows it, but when every walsender does: each tells the priority that it gives its standby.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from orchestrator.domain.spans import Span
from orchestrator.domain.topology import NodeName
from orchestrator.ports import NotConfirmed
from orchestrator.services.postgresql.line import Line, change_settings

SEEN_WITHIN: Span = 5.0
LOOK_AGAIN: Span = 0.002
NOBODY: Final = "tanist-nobody"
"""The beginning of names that no standby has: they shift priorities, so that who has read the list can be told from others."""

SENDERS: Final = """
SELECT application_name, sync_priority FROM pg_stat_replication WHERE state IN ('streaming', 'catchup')
"""
CHECKPOINTER: Final = """
SELECT coalesce(max(pid), 0), coalesce(max(wait_event), ''), current_setting('synchronous_standby_names')
FROM pg_stat_activity WHERE backend_type = 'checkpointer'
"""
NAMES: Final = "synchronous_standby_names"


class SynchronousMode(StrEnum):
    FIRST = "first"
    """The first ones of the list that are there must have a commit."""
    ANY = "any"
    """Any ones of the list must have it: a quorum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Synchronous:
    """Standbys without whose word no commit is acknowledged (PostgreSQL `synchronous_standby_names`)."""

    names: tuple[NodeName, ...]
    at_least: int = 1
    mode: SynchronousMode = SynchronousMode.FIRST


@dataclass(frozen=True, slots=True)
class Listed:
    """One value of synchronous_standby_names, and the priority that a walsender gives each name under it."""

    text: str
    priorities: tuple[tuple[str, int], ...]

    def of(self, name: str) -> int:
        return dict(self.priorities).get(name, 0)


def listed(wanted: Synchronous) -> Listed:
    """As PostgreSQL writes it; empty names mean that no commit waits."""
    if not wanted.names:
        return Listed("", ())
    number = max(1, min(wanted.at_least, len(wanted.names)))
    names = ", ".join(_quoted(name) for name in wanted.names)
    if wanted.mode is SynchronousMode.ANY:
        return Listed(f"ANY {number} ({names})", tuple((name, 1) for name in wanted.names))
    return Listed(f"FIRST {number} ({names})", tuple((name, rank) for rank, name in enumerate(wanted.names, 1)))


def absent(number: int) -> tuple[NodeName, ...]:
    """Names that no standby has, so that every commit waits."""
    return tuple(f"{NOBODY}-absent-{each}" for each in range(1, number + 1))


def between(wanted: Synchronous, above: int) -> Listed:
    """As strict as what is wanted, with priorities larger than `above`: names that no standby has stand before the others."""
    number = max(1, min(wanted.at_least, len(wanted.names)))
    nobodies = tuple(f"{NOBODY}-{rank}" for rank in range(1, above + 1))
    names = ", ".join(_quoted(name) for name in (*nobodies, *wanted.names))
    return Listed(f"FIRST {number} ({names})", tuple((name, rank) for rank, name in enumerate(wanted.names, above + 1)))


def steps(before: str, wanted: Synchronous, shown: Mapping[NodeName, int]) -> tuple[Listed, ...]:
    """The lists to go through, given the priorities that connected walsenders show.

    One of them that counts before and after, and would show the same priority, could go on by the older list unnoticed:
    then the way leads through a list under which it shows another one.
    """
    target = listed(wanted)
    if before == target.text:
        return (target,)
    if any(priority and priority == target.of(name) for name, priority in shown.items()):
        return (between(wanted, max(*shown.values(), len(wanted.names))), target)
    return (target,)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


async def ensure(line: Line, wanted: Synchronous, *, standby: bool) -> None:
    """Raises NotConfirmed when a process has not been seen to have read the list in time.

    A standby's own walsenders release nothing: there only the setting and the checkpointer count.
    """
    ((_, _, before),) = await line.ask(CHECKPOINTER)
    shown = {} if standby else await _shown(line)
    for each in steps(str(before), wanted, shown):
        if before != each.text:
            await change_settings(line, {NAMES: each.text})
        await _seen(line, each, standby)
        before = each.text


async def _shown(line: Line) -> dict[str, int]:
    return {str(name): int(priority) for name, priority in await line.ask(SENDERS)}


async def _seen(line: Line, wanted: Listed, standby: bool) -> None:
    """Our session has it, the checkpointer (which tells all others whether to wait at all) has read it, every walsender shows it.

    The checkpointer reads it before it idles, and between two pages of a checkpoint that is spread over minutes: woken by the
    reload, or after 100 ms (CheckpointWriteDelay in PostgreSQL's checkpointer.c). Seen waiting there after it has gone to sleep
    twice since our session had the list, it has been through that.
    """
    deadline = time.monotonic() + SEEN_WITHIN
    late = ""
    asleep: tuple[int, int] | None = None
    """The checkpointer, and how often it had gone to sleep when our session had the list."""
    while time.monotonic() < deadline:
        sleeps = sleeps_of(asleep[0]) if asleep is not None else 0
        ((pid, waits_for, setting),) = await line.ask(CHECKPOINTER)
        spread = asleep is not None and asleep[0] == pid and sleeps >= asleep[1] + 2 and waits_for == "CheckpointWriteDelay"
        if setting != wanted.text:
            late = "the server has not read it yet"
        elif waits_for == "CheckpointerMain" or spread:
            shown = {} if standby else await _shown(line)
            late = ", ".join(f"the walsender of {name}" for name, priority in shown.items() if priority != wanted.of(name))
            if not late:
                return
        else:
            late = "the checkpointer is busy"
            if asleep is None or asleep[0] != pid:
                asleep = (int(pid), sleeps_of(int(pid)))
        await asyncio.sleep(LOOK_AGAIN)
    raise NotConfirmed(f"synchronous_standby_names = {wanted.text!r} is not seen everywhere after {SEEN_WITHIN:.0f} s: {late}")


def sleeps_of(pid: int) -> int:
    """How often a process of this host has gone to sleep by itself (proc(5), status); 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/status").read_text().split("voluntary_ctxt_switches:")[1].split()[0])
    except (OSError, IndexError, ValueError):
        return 0
