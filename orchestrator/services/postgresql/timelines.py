"""Timelines: every promotion begins one. Which histories share what, and who may simply follow whom. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from orchestrator.domain.positions import Position
from orchestrator.services.postgresql import lsn

PAST_KEPT: Final = 3
"""Older timelines told with a position: a beat must stay small. Rejoining compares whole histories, not these."""
ENDLESS: Final = 1 << 64


@dataclass(frozen=True, slots=True)
class Timelines:
    """One timeline and its ancestors, oldest first, each with the place where it was left."""

    number: int
    past: tuple[tuple[int, int], ...] = ()

    @property
    def fork(self) -> int:
        """Where this timeline began."""
        return self.past[-1][1] if self.past else 0


@dataclass(frozen=True, slots=True)
class Shared:
    """The last timeline that two histories have in common, and up to where; ENDLESS when both are still on it."""

    timeline: int
    upto: int


class Relation(StrEnum):
    FOLLOWS = "follows"
    """All that is here is there too."""
    AHEAD = "ahead"
    """The same history, but there is more of it here."""
    DIVERGED = "diverged"
    FOREIGN = "foreign"
    """No history in common: another database, or too old a copy."""


class BadHistory(ValueError):
    """The text is no timeline history."""


def read_history(number: int, text: str) -> Timelines:
    """From the text of `NNNNNNNN.history`. Raises BadHistory."""
    past: list[tuple[int, int]] = []
    for line in text.splitlines():
        fields = line.split("#", 1)[0].split(None, 2)
        if not fields:
            continue
        try:
            parent, left_at = int(fields[0]), lsn.parse(fields[1])
        except (IndexError, ValueError):
            raise BadHistory(f"timeline {number}: not a line of a history: {line!r}") from None
        if past and parent <= past[-1][0]:
            raise BadHistory(f"timeline {number}: timelines must increase: {line!r}")
        past.append((parent, left_at))
    if past and past[-1][0] >= number:
        raise BadHistory(f"timeline {number} cannot descend from {past[-1][0]}")
    return Timelines(number, tuple(past))


def history_file(number: int) -> str:
    return f"{number:08X}.history"


def position(system: str, timelines: Timelines, offset: int) -> Position:
    """In the domain's words. The place of the fork is part of the name: two promotions may choose the same number."""
    chain = list(_named(system, timelines))
    return Position(chain[-1][0], offset, tuple(chain[-1 - PAST_KEPT : -1]))


def _named(system: str, timelines: Timelines) -> Iterator[tuple[str, int]]:
    began = 0
    for number, left_at in (*timelines.past, (timelines.number, ENDLESS)):
        yield f"{system}/{number}" + (f"@{lsn.written(began)}" if began else ""), left_at
        began = left_at


def shared(own: Timelines, other: Timelines) -> Shared | None:
    """How far two histories run together."""
    found: Shared | None = None
    pairs = zip((*own.past, (own.number, ENDLESS)), (*other.past, (other.number, ENDLESS)), strict=False)
    for (mine, my_end), (theirs, their_end) in pairs:
        if mine != theirs:
            break
        found = Shared(mine, min(my_end, their_end))
        if my_end != their_end:
            break
    return found


def relate(own: Timelines, own_end: int, other: Timelines, other_end: int) -> Relation:
    """May whoever holds `own` up to `own_end` simply go on with what `other` has?"""
    common = shared(own, other)
    if common is None:
        return Relation.FOREIGN
    if own_end > common.upto:
        return Relation.DIVERGED
    if common.upto == ENDLESS and own_end > other_end:
        return Relation.AHEAD
    return Relation.FOLLOWS
