"""Cool-down: may another failover start by itself so soon after the last one?"""

from orchestrator.domain.spans import Instant, Span


def cool_at(last_change_at: Instant, cooldown: Span) -> Instant:
    """From when on the next failover may start by itself. Until then it takes a person."""
    return last_change_at + cooldown
