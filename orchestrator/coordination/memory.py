"""The mediator's rules in memory: what the simulator and the contract tests run. The asynchronous twin wraps it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from orchestrator.domain.effects import WriteRecord
from orchestrator.domain.events import WriteOutcome
from orchestrator.domain.record import Control, Record, Snapshot
from orchestrator.domain.spans import Span
from orchestrator.domain.topology import GroupName, NodeName
from orchestrator.ports import Conflict, Unreachable, Written


@dataclass(slots=True)
class Kept:
    record: Record | None = None
    control: Control = field(default_factory=lambda: Control(version=0))


class Store:
    """Records and controls with compare-and-set, as every mediator keeps them."""

    def __init__(self) -> None:
        self._groups: dict[GroupName, Kept] = {}
        self.present: set[NodeName] = set()
        self.watchers: list[Callable[[], None]] = []

    def read(self, group: GroupName) -> Snapshot:
        kept = self._groups.setdefault(group, Kept())
        return Snapshot(group=group, record=kept.record, control=kept.control)

    def set_record(
        self,
        group: GroupName,
        record: Record,
        expected: int | None,
        control: Control | None = None,
        control_expected: int | None = None,
    ) -> bool:
        """All or nothing: the record at `expected`, and the control still, or also, at `control_expected`."""
        kept = self._groups.setdefault(group, Kept())
        present = kept.record.version if kept.record is not None else None
        if present != expected:
            return False
        if control_expected is not None and kept.control.version != control_expected:
            return False
        kept.record = record
        if control is not None:
            kept.control = replace(control, version=kept.control.version + 1)
        self._tell()
        return True

    def _tell(self) -> None:
        for changed in self.watchers:
            changed()

    def set_control(self, group: GroupName, control: Control, expected: int) -> bool:
        kept = self._groups.setdefault(group, Kept())
        if kept.control.version != expected:
            return False
        kept.control = replace(control, version=expected + 1)
        self._tell()
        return True

    def restore(self, snapshot: Snapshot) -> None:
        """Somebody brings an old state back behind everybody's back."""
        self._groups[snapshot.group] = Kept(snapshot.record, snapshot.control)

    def erase(self, group: GroupName) -> None:
        """Somebody empties the mediator behind everybody's back."""
        self._groups.pop(group, None)


class MemoryMediator:
    """The port's twin in memory, for tests of the daemon and of the contract suite itself."""

    def __init__(self, store: Store, node: NodeName = "test") -> None:
        self._store = store
        self._node = node
        self._watchers: list[Callable[[], None]] = []
        self.reachable = True

    @property
    def words(self) -> str:
        return "reachable" if self.reachable else "not reachable"

    async def start(self) -> None:
        self._store.present.add(self._node)
        self._store.watchers.append(self._tell)

    async def stop(self) -> None:
        self._store.present.discard(self._node)
        self._store.watchers.remove(self._tell)

    def watch(self, group: GroupName, changed: Callable[[], None]) -> None:
        self._watchers.append(changed)

    def _tell(self) -> None:
        for changed in self._watchers:
            changed()

    def _check(self) -> None:
        if not self.reachable:
            raise Unreachable("the mediator in memory is switched off")

    async def read(self, group: GroupName, within: Span) -> Snapshot:
        self._check()
        return self._store.read(group)

    async def write_record(self, group: GroupName, write: WriteRecord) -> Written:
        if not self.reachable:
            return Written(outcome=WriteOutcome.UNKNOWN, reason="switched off")
        applied = self._store.set_record(group, write.record, write.expected, write.control, write.control_expected)
        return Written(outcome=WriteOutcome.APPLIED if applied else WriteOutcome.CONFLICT)

    async def write_control(self, group: GroupName, control: Control, expected: int, within: Span) -> None:
        self._check()
        if not self._store.set_control(group, control, expected):
            raise Conflict(f"the control of {group} is not at version {expected} any more")

    async def adopt(self, group: GroupName, record: Record, within: Span) -> None:
        self._check()
        self._store.restore(Snapshot(group=group, record=record, control=self._store.read(group).control))

    async def present(self) -> tuple[NodeName, ...]:
        self._check()
        return tuple(sorted(self._store.present))
