"""From recorded writes to figures. Pure, so that the figures themselves can be tested."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from orchestrator.domain.spans import Instant, Span

APART: Span = 0.05
"""Acknowledged writes on one node that are further apart than this belong to two stretches."""

AT_LEAST: Span = 0.001
"""A single write on one node, in the midst of another node's writes, counts as this long."""

NOISE_FACTOR = 3.0
"""A gap is an outage when it is longer than this many of the longest gaps seen before the fault."""


@dataclass(frozen=True, slots=True)
class Write:
    """One acknowledged write; it took effect at some moment between the two."""

    sent_at: Instant
    acked_at: Instant


@dataclass(frozen=True, slots=True)
class Gap:
    """Time between two acknowledged writes in a row."""

    begins: Instant
    ends: Instant

    @property
    def lasts(self) -> Span:
        return self.ends - self.begins


def longest_gap(acked: Sequence[Instant], since: Instant, until: Instant) -> Gap:
    """The longest gap that reaches into [since, until]; a gap that had not ended by then ends there."""
    inside = [each for each in acked if each <= until]
    gaps = [Gap(before, after) for before, after in pairwise([*inside, until]) if after > since]
    return max(gaps, key=lambda gap: gap.lasts, default=Gap(since, until))


def outage(acked: Sequence[Instant], before: Instant, fault: Instant, until: Instant, every: Span) -> tuple[Span, Gap]:
    """The longest gap after the fault, and the outage: 0 when such gaps were seen before the fault too.

    The client pauses for `every` between two writes; from `before` to `fault` nothing was wrong.
    """
    calm = [after - first for first, after in pairwise(acked) if first >= before and after <= fault]
    gap = longest_gap(acked, fault, until)
    usual = max([every * 2, *calm])
    return (gap.lasts if gap.lasts > NOISE_FACTOR * usual else 0.0), gap


def stretches(writes: Iterable[Write]) -> list[tuple[Instant, Instant]]:
    """When the node certainly accepted writes: from the first acknowledgement of a stretch to its last sending."""
    found: list[tuple[Instant, Instant]] = []
    first: Write | None = None
    last: Write | None = None
    for write in sorted(writes, key=lambda each: each.sent_at):
        if last is None or write.sent_at - last.acked_at > APART:
            if first is not None and last is not None:
                found.append(_stretch(first, last))
            first = write
        last = write
    if first is not None and last is not None:
        found.append(_stretch(first, last))
    return found


def _stretch(first: Write, last: Write) -> tuple[Instant, Instant]:
    return first.acked_at, max(first.acked_at, last.sent_at)


def two_primaries(by_node: dict[str, list[Write]]) -> Span:
    """Total time in which at least two nodes certainly accepted writes."""
    names = sorted(by_node)
    known = {name: stretches(by_node[name]) for name in names}
    overlaps = []
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            overlaps += [_overlap(a, b) for a in known[one] for b in known[other]]
    return _measure([each for each in overlaps if each is not None])


def _overlap(a: tuple[Instant, Instant], b: tuple[Instant, Instant]) -> tuple[Instant, Instant] | None:
    begins, ends = max(a[0], b[0]), min(a[1], b[1])
    if begins > ends:
        return None
    return begins, max(ends, begins + AT_LEAST)


def _measure(intervals: list[tuple[Instant, Instant]]) -> Span:
    """Length of the union."""
    total, reached = 0.0, float("-inf")
    for begins, ends in sorted(intervals):
        total += max(0.0, ends - max(begins, reached))
        reached = max(reached, ends)
    return total
