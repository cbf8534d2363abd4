"""Instants and spans: seconds as `float`, on the host's `CLOCK_BOOTTIME` unless a name ends in `wall`."""

from typing import Final, TypeAlias

Instant: TypeAlias = float
"""Seconds of this host's CLOCK_BOOTTIME. Never compared with another host's."""

Span: TypeAlias = float
"""A duration in seconds."""

WallTime: TypeAlias = float
"""Seconds since 1970 (UTC). For people and for expiries of hours; never for a lease."""

NEVER: Final[Instant] = float("-inf")
"""Earlier than every instant: a right that was never given."""

FOREVER: Final[Instant] = float("inf")
"""Later than every instant: a right that nobody can end (the succession is empty)."""

HOLDER_SHARE: Final = 0.99
"""A holder counts this share of a lease (design, rule 2): clocks may run up to 1 % apart."""

WAITER_SHARE: Final = 1.01
"""Everybody who waits for a lease to end counts this share of it (design, rule 2)."""


def held_until(began_at: Instant, lease: Span) -> Instant:
    """The end of a lease as its holder must count it, from before it was asked for."""
    return began_at + HOLDER_SHARE * lease


def waited_until(began_at: Instant, lease: Span) -> Instant:
    """The end of a lease as everybody but its holder must count it."""
    return began_at + WAITER_SHARE * lease


def in_words(span: Span) -> str:
    """A span as people read it: `40 ms`, `1.2 s`, `3 min 20 s`, `2 h 5 min`.

    >>> in_words(0.04), in_words(1.25), in_words(200), in_words(7500)
    ('40 ms', '1.2 s', '3 min 20 s', '2 h 5 min')
    """
    if span == FOREVER:
        return "without end"
    if span == NEVER:
        return "never"
    if abs(span) < 1:
        return f"{span * 1000:.0f} ms"
    if abs(span) < 120:
        return f"{span:.1f} s"
    minutes, seconds = divmod(round(span), 60)
    if minutes < 120:
        return f"{minutes} min {seconds} s" if seconds else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
