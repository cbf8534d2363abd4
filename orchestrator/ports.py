"""The seams: what the daemon needs of the world. Each port has real adapters and a twin in memory, under one contract suite.

Adapters translate their libraries' exceptions into the three of this module; `None` never means failure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from orchestrator.domain.effects import EnsureClients, EnsureReplicas, EnsureService, WriteRecord
from orchestrator.domain.events import WriteOutcome
from orchestrator.domain.observations import Outcome, ServiceView
from orchestrator.domain.record import Control, Record, Snapshot
from orchestrator.domain.spans import Span
from orchestrator.domain.topology import GroupName, NodeName


class Unreachable(Exception):
    """It does not answer: nothing is known of what it would have said."""


class RefusedByPeer(Exception):
    """It answered, and said no."""


class NotConfirmed(Exception):
    """The change was asked for, and reading back does not show it."""


class Conflict(Exception):
    """Compare-and-set: another version stands than the expected one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How a write ended; `began_at` is from before it was handed to the library (rule 8b)."""

    outcome: WriteOutcome
    reason: str = ""


class Mediator(Protocol):
    """Where the right is recorded. Every call is bounded and is never repeated by the adapter (rule 10)."""

    async def start(self) -> None:
        """Begin to connect; does not wait until that has succeeded."""

    async def stop(self) -> None: ...

    async def read(self, group: GroupName, within: Span) -> Snapshot:
        """Record and control. Raises Unreachable, or RefusedByPeer when what stands there must not be acted upon."""

    async def write_record(self, group: GroupName, write: WriteRecord) -> Written:
        """Compare-and-set in one transaction; ends within `write.within`."""

    async def write_control(self, group: GroupName, control: Control, expected: int, within: Span) -> None:
        """Raises Conflict, Unreachable."""

    async def adopt(self, group: GroupName, record: Record, within: Span) -> None:
        """Begin a new line of records, whatever stands there: only ever by a person's word. Raises Unreachable."""

    def watch(self, group: GroupName, changed: Callable[[], None]) -> None:
        """Call `changed` (from the event loop) whenever the group may have changed, or the connection came back."""

    async def present(self) -> tuple[NodeName, ...]:
        """Daemons that are present. Raises Unreachable."""

    @property
    def words(self) -> str:
        """The state of the connection, for people."""


class Service(Protocol):
    """The local instance of a replicated service."""

    async def look(self, within: Span) -> Outcome:
        """One look. Never raises: what it saw is the outcome."""

    async def ensure(self, wanted: EnsureService) -> ServiceView:
        """Bring the service to the wanted end state, read back. Raises Unreachable, RefusedByPeer, NotConfirmed."""

    async def ensure_replicas(self, wanted: EnsureReplicas) -> None: ...

    async def tend(self, primary: NodeName | None) -> None:
        """Upkeep, every few seconds: `primary` is whom this member follows, None on the primary itself. Raises like `ensure`."""

    async def why_not_start(self) -> str:
        """What keeps the daemon from starting it when it does not run, with its cure; empty when nothing does."""

    def cure(self, reason: str) -> str:
        """What a person can do about a refusal that gave this reason; empty when nothing is known."""

    async def check(self) -> tuple[str, ...]:
        """What in the service's settings stands against running it here; a sentence each, with its cure."""

    async def close(self) -> None: ...


class ClientConfig(Protocol):
    """Leads the clients on this host to the primary."""

    async def ensure(self, wanted: EnsureClients) -> bool:
        """True when something changed. Raises NotConfirmed with the reason; what stood before stands again."""

    async def would_change(self, wanted: EnsureClients) -> str:
        """Dry run: the difference, empty when there is none."""


class Journal(Protocol):
    """Every event and effect, and a short history for people."""

    def note(self, group: GroupName, kind: str, what: object) -> None: ...
