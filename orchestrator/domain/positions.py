"""How far a copy of the data has come."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Position:
    """A point in one history of the data.

    `history` names the line of writes (Redis: the replication id), `offset` counts its bytes. Positions of
    different histories cannot be compared: neither is "more".
    """

    history: str
    offset: int
    past: tuple[tuple[str, int], ...] = ()
    """Older histories that this one grew out of, each with the offset up to which it shares them."""


def bytes_behind(copy: Position, other: Position) -> int | None:
    """Bytes of `other` that `copy` lacks; negative when it is ahead; None when neither contains the other's data."""
    if copy.history == other.history or _is_prefix(copy, other) or _is_prefix(other, copy):
        return other.offset - copy.offset
    return None


def _is_prefix(older: Position, newer: Position) -> bool:
    """All that `older` holds is in the history that `newer` grew out of."""
    return any(history == older.history and older.offset <= shared for history, shared in newer.past)
