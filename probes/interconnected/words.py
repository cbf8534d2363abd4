"""The daemon's words in a beat: its statement as compact JSON."""

import json
from dataclasses import replace
from functools import lru_cache
from typing import Final

from orchestrator.domain.observations import Statement
from orchestrator.domain.plain import Unreadable, from_plain, to_plain
from probes.interconnected.wire import MAX_WORDS_BYTES

LETTER_BYTES: Final = 12
"""The most that JSON takes for one letter: two escapes of six bytes."""


def encode(statement: Statement) -> bytes:
    """Only what differs from an empty statement, so that a beat stays small; long sentences are cut to what a beat can carry."""
    words = _pack(statement)
    if len(words) > MAX_WORDS_BYTES:
        statement = replace(statement, why_not=statement.why_not[:MAX_WORDS_BYTES])
        words = _pack(statement)
    while len(words) > MAX_WORDS_BYTES and statement.why_not:
        statement = replace(statement, why_not=statement.why_not[: -_too_many(words)])
        words = _pack(statement)
    while len(words) > MAX_WORDS_BYTES and statement.finding is not None and statement.finding.words:
        shorter = replace(statement.finding, words=statement.finding.words[: -_too_many(words)])
        statement = replace(statement, finding=shorter)
        words = _pack(statement)
    return words


def _too_many(words: bytes) -> int:
    """Letters, at the least, that have to go."""
    return (len(words) - MAX_WORDS_BYTES) // LETTER_BYTES + 1


def _pack(statement: Statement) -> bytes:
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
