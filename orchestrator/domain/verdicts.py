"""What is concluded from what was seen, with the evidence."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from orchestrator.domain.spans import Instant
from orchestrator.domain.topology import NodeName


class Diagnosis(StrEnum):
    """Codes of the conditions that are told apart. The rows that recognise them stand in `strategies/fusion.py`."""

    HEALTHY = "healthy"
    RELEASED = "released"
    PROCESS_DOWN = "process_down"
    UNRESPONSIVE = "unresponsive"
    HOST_DOWN = "host_down"
    STALLED_STORAGE = "stalled_storage"
    DISK_FULL = "disk_full"
    WRITES_FAIL = "writes_fail"
    NOT_ACCEPTING = "not_accepting"
    """It answers on old connections, and lets no new one in."""
    READ_ONLY = "read_only"
    OVERLOADED = "overloaded"


CANNOT_WORK: Final = frozenset(
    {
        Diagnosis.UNRESPONSIVE,
        Diagnosis.STALLED_STORAGE,
        Diagnosis.DISK_FULL,
        Diagnosis.WRITES_FAIL,
        Diagnosis.NOT_ACCEPTING,
    }
)
"""The process is there, and the service cannot do what it is there for."""

CAUSES: Final = frozenset({Diagnosis.STALLED_STORAGE, Diagnosis.DISK_FULL, Diagnosis.WRITES_FAIL})
"""Of these: what explains the others. A server whose disk stalls or is full ends up answering nobody, or in recovery."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look found wrong with a service whose process is there: the code, and what was seen in a few stable words."""

    code: Diagnosis
    words: str = ""

    @property
    def cannot_work(self) -> bool:
        return self.code in CANNOT_WORK

    def continues(self, before: "Finding | None") -> bool:
        """The same condition as before: what keeps a service from its work may go on under another name."""
        return before is not None and (before.code is self.code or (before.cannot_work and self.cannot_work))

    def explains(self, later: "Finding | None") -> bool:
        return later is not None and self.code in CAUSES and later.cannot_work and later.code not in CAUSES

    def __str__(self) -> str:
        code = self.code.replace("_", " ")
        return f"{code}: {self.words}" if self.words else code


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All channels together, about one member."""

    diagnosis: Diagnosis
    subject: NodeName
    sentence: str
    since: Instant | None = None
    certain_at: Instant | None = None
    """When the condition has lasted as long as the policy asks; the verdict is certain from then on. None: it is no failure."""
    evidence: tuple[str, ...] = ()

    @property
    def is_failure(self) -> bool:
        """A condition that policy acts upon once it has lasted; the others are shown."""
        return self.certain_at is not None

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
