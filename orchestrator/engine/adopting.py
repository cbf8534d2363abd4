"""Adoption: a person begins a new line of records after the mediator was emptied or restored (rule 23)."""

from collections.abc import Callable

from orchestrator.domain.record import Cause, Record
from orchestrator.domain.spans import Span, WallTime
from orchestrator.domain.topology import Pair


def adopted(
    found: Record | None, *, lease: Span, primary: Pair, epoch: int, by: str, wall: WallTime, draw: Callable[[], int]
) -> Record:
    """The first record of a new incarnation, in an epoch above all known. Nobody is in its succession yet."""
    return Record(
        version=0,
        incarnation=draw(),
        epoch=max(epoch, found.epoch + 1 if found is not None else 1),
        primary=primary,
        succession=(),
        lease=max(lease, found.lease if found is not None else 0.0),
        nonce=draw(),
        cause=Cause.ADOPTION,
        reason=f"adopted by {by}",
        since=wall,
    )
