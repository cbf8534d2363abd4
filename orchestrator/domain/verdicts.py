"""What is concluded from what was seen, with the evidence."""

from dataclasses import dataclass
from enum import StrEnum

from orchestrator.domain.spans import Instant
from orchestrator.domain.topology import NodeName


class Diagnosis(StrEnum):
    """Codes of the conditions that are told apart. The rows that recognise them stand in `strategies/fusion.py`."""

    HEALTHY = "healthy"
    RELEASED = "released"
    PROCESS_DOWN = "process_down"
    UNRESPONSIVE = "unresponsive"
    HOST_DOWN = "host_down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All channels together, about one member."""

    diagnosis: Diagnosis
    subject: NodeName
    sentence: str
    since: Instant | None = None
    certain_at: Instant | None = None
    """When the condition has lasted as long as the policy asks; the verdict is certain from then on."""
    evidence: tuple[str, ...] = ()

    def is_certain(self, now: Instant) -> bool:
        return self.certain_at is not None and now >= self.certain_at


class Permission(StrEnum):
    GO = "go"
    ASK = "ask"
    HOLD = "hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why something was not done. Kept, so that `tanist explain` can tell (P7)."""

    act: str
    gate: str
    reason: str
    since: Instant
    until: Instant | None = None
    """When the gate turns green by time alone; None when it takes an event."""
