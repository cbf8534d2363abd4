"""What a keeper must not forget: everything on which its word to others, or its own right, rests.

Kept in the page (`page.py`), written before any act that it records. Whoever reads the page of this boot is the same
life; without it a new life begins, which counts as having promised at its start (rule 4).
"""

from dataclasses import dataclass, field

from orchestrator.domain.observations import Hold, Release
from orchestrator.domain.spans import NEVER, Instant, Span, waited_until
from orchestrator.domain.topology import Life, NodeName, Pair

ANYBODY = "*"
"""To whom a new life counts as having promised: it cannot know whom its lost memory named."""


@dataclass(slots=True)
class Counted:
    """A pair whose promise the right needs, and until when it is promised (0.99 L from the sending of the beat it answered)."""

    pair: Pair
    until: Instant = NEVER
    prepared_at: int | None = None
    """The record version at which it was counted ahead of the write that adds it; None once confirmed."""


def begin_life(life: Life, now: Instant, lease: Span, epoch: int) -> "Memory":
    """Rule 4: a keeper without memory cannot know what it promised, so it counts as having promised just now, to anybody."""
    return Memory(
        life=life,
        began_at=now,
        lease=lease,
        wait_lease=lease,
        epoch=epoch,
        promised_to=ANYBODY,
        promised_until=waited_until(now, lease),
    )


@dataclass(slots=True)
class Memory:
    """One group's part of a keeper's memory."""

    life: Life
    began_at: Instant
    lease: Span
    """The lease by which this node holds: the smallest of those that may be in force (rule 2)."""
    wait_lease: Span
    """The lease by which this node promises and waits: the largest."""
    epoch: int = 0
    version: int = -1
    """The highest version of the record that is known, be it only from a beat."""
    seen_version: int = -1
    """The version of the record whose content was taken over last."""
    incarnation: int = 0
    primary: Pair | None = None
    hold: Hold = Hold.NONE
    right_epoch: int = 0
    """The epoch of the right that is held, or was held last."""
    writable_epoch: int = 0
    """The epoch in which the service was made, or is being made, primary."""
    written: bool = False
    """A write sent by this life succeeded (rule 6)."""
    write_until: Instant = NEVER
    """0.99 L from the beginning of the newest own write known to be applied (rule 8b)."""
    counted: list[Counted] = field(default_factory=list)
    promised_to: NodeName | None = None
    promised_life: Life = 0
    promised_until: Instant = NEVER
    claim: int | None = None
    release: Release | None = None
    released_at: Instant = NEVER
    right_until: Instant = NEVER
    frozen_since: Instant | None = None
    superseded: bool = False
    """Another epoch is known to be served: what is frozen here is killed, never thawed (rule 22)."""
    pid: int = 0
    process_started: int = 0
    exited: bool = False
    watched: bool = False
    """This life has watched a process of the service: the next one is a stranger."""
    stranger: bool = False
    """The process took the place of another one, and nobody has compared its data yet: it is not let into a right."""
    readable: bool = False
    """The service is a confirmed standby, which clients may read from."""
    heard: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Per peer: its life and the highest number heard, so that nothing old is believed after a restart."""
    left: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Per peer: lives that it has left, which it never takes up again."""
