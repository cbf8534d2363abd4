"""Candidate: who should be primary next? The most data wins; between equals, the operator's preference."""

from dataclasses import dataclass

from orchestrator.domain.positions import Position
from orchestrator.domain.topology import NodeName


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A standby that could take over, with what is known of its data."""

    name: NodeName
    position: Position | None
    preference: int
    """0 is the operator's favourite."""
    barred: str = ""
    """Why it must not become primary; empty when it may."""
    empty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The best contender, and for every other one why it is not."""

    name: NodeName | None
    position: Position | None = None
    passed_over: tuple[str, ...] = ()


def choose(contenders: tuple[Contender, ...], known_history: str | None) -> Choice:
    """The contender to promote, or none.

    `known_history` is the history that the lost primary wrote, where that is known: a copy of another history cannot be
    compared with it and is passed over while one of the known history stands.
    """
    passed: list[str] = [f"{each.name}: {each.barred}" for each in contenders if each.barred]
    able = [each for each in contenders if not each.barred]
    located = [each for each in able if each.position is not None]
    passed += [f"{each.name}: its position is not known" for each in able if each.position is None]
    full = [each for each in located if not each.empty] or located
    passed += [f"{each.name}: it holds no data" for each in located if each not in full]
    related = [each for each in full if each.position and each.position.history == known_history] or full
    passed += [f"{each.name}: its data has another history" for each in full if each not in related]
    if not related:
        return Choice(name=None, passed_over=tuple(passed))
    ranked = sorted(related, key=_rank)
    best = ranked[0]
    passed += [f"{each.name}: {_why_second(each, best)}" for each in ranked[1:]]
    return Choice(name=best.name, position=best.position, passed_over=tuple(passed))


def _rank(contender: Contender) -> tuple[int, int, str]:
    offset = contender.position.offset if contender.position else -1
    return (-offset, contender.preference, contender.name)


def _why_second(contender: Contender, best: Contender) -> str:
    if contender.position and best.position and contender.position.history == best.position.history:
        lacks = best.position.offset - contender.position.offset
        if lacks > 0:
            return f"it lacks {lacks} bytes that {best.name} has"
    return f"it has as much data as {best.name}, which is preferred"
