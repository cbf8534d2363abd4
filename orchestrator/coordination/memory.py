"""The mediator's rules in memory: what the simulator and the contract tests run. The asynchronous twin wraps it."""

from dataclasses import dataclass, field, replace

from orchestrator.domain.record import Control, Record, Snapshot
from orchestrator.domain.topology import GroupName


@dataclass(slots=True)
class Kept:
    record: Record | None = None
    control: Control = field(default_factory=lambda: Control(version=0))


class Store:
    """Records and controls with compare-and-set, as every mediator keeps them."""

    def __init__(self) -> None:
        self._groups: dict[GroupName, Kept] = {}

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
        return True

    def set_control(self, group: GroupName, control: Control, expected: int) -> bool:
        kept = self._groups.setdefault(group, Kept())
        if kept.control.version != expected:
            return False
        kept.control = replace(control, version=expected + 1)
        return True

    def restore(self, snapshot: Snapshot) -> None:
        """Somebody brings an old state back behind everybody's back."""
        self._groups[snapshot.group] = Kept(snapshot.record, snapshot.control)

    def erase(self, group: GroupName) -> None:
        """Somebody empties the mediator behind everybody's back."""
        self._groups.pop(group, None)
