"""The daemon's words in a beat: its statement as compact JSON."""

import json
from functools import lru_cache

from orchestrator.domain.observations import Statement
from orchestrator.domain.plain import Unreadable, from_plain, to_plain


def encode(statement: Statement) -> bytes:
    """Only what differs from an empty statement, so that a beat stays small."""
    plain = {name: value for name, value in to_plain(statement).items() if value != _EMPTY[name]}
    return json.dumps(plain, separators=(",", ":")).encode()


@lru_cache(maxsize=1024)
def decode(words: bytes) -> Statement | None:
    """The statement, or None when there is none or it cannot be read (a much newer daemon)."""
    if not words:
        return None
    try:
        return from_plain(Statement, json.loads(words))
    except (Unreadable, ValueError):
        return None


_EMPTY = to_plain(Statement())
