"""The promises, checked after every event. A broken one stops the run with what was seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.domain.policy import Automation
from orchestrator.domain.record import Cause, Record, Snapshot
from orchestrator.engine.phases import EDGES
from orchestrator.engine.state import Phase
from orchestrator.engine.step import Step

if TYPE_CHECKING:
    from orchestrator.services.memory import Instance
    from orchestrator.simulation.world import World


def _closure() -> frozenset[tuple[Phase, Phase]]:
    """One step may take several edges in a row."""
    reachable = set(EDGES)
    while True:
        further = {(a, d) for a, b in reachable for c, d in EDGES if b is c}
        if further <= reachable:
            return frozenset(reachable)
        reachable |= further


REACHABLE = _closure()


class Broken(AssertionError):
    """A promise does not hold."""

    def __init__(self, promise: str, at: float, what: str) -> None:
        super().__init__(f"{promise} broken at {at:.3f} s: {what}")
        self.promise = promise


def _holds_data(instance: Instance) -> bool:
    """What an emptied server took in, while its keeper stood still, is no data that another one could wipe: the guide's limit."""
    return instance.offset > 0 and not instance.history.startswith("empty-")


class Checkers:
    def __init__(self, world: World) -> None:
        self._world = world
        self._primary_of: dict[int, str] = {}
        self.newest_epoch = 0
        self._served: dict[int, str] = {}
        self.failovers = 0
        self.freezes: list[tuple[float, str]] = []
        self.must_stay: str | None = None
        """P4 and P5: while set, this host must be able to commit at every instant (but for pauses of the host itself)."""

    def _check_for_a_wipe(self, writable: list[str]) -> None:
        """A service that came back without its data must not serve while another member holds some."""
        hosts = self._world.hosts
        for name in writable:
            instance, keeper = hosts[name].instance, hosts[name].keeper
            if instance is None or instance.offset or keeper is None or keeper.frozen:
                continue  # while nothing runs that could close it, the gate is open to its end
            full = [other for other, host in hosts.items() if host.instance is not None and _holds_data(host.instance)]
            if full:
                self.broken("P3", f"{name} serves empty, and {', '.join(full)} would copy the emptiness")

    def broken(self, promise: str, what: str) -> None:
        raise Broken(promise, self._world.now, what)

    def check(self) -> None:
        """P1, after every event; and P4/P5 while a healthy primary is being tried."""
        writable = [name for name, host in self._world.hosts.items() if host.can_commit()]
        if len(writable) > 1:
            self.broken("P1", f"{' and '.join(writable)} can commit at the same instant")
        self._check_for_a_wipe(writable)
        if self.must_stay is not None and writable != [self.must_stay]:
            self.broken("P4/P5", f"the healthy primary {self.must_stay} cannot commit; writable: {writable or 'nobody'}")

    def saw_record(self, author: str, before: Snapshot, record: Record) -> None:
        """P2 and P8, at every applied write of the record."""
        if record.epoch < self.newest_epoch:
            self.broken("P2", f"epoch {record.epoch} was written after epoch {self.newest_epoch}")
        holder = self._primary_of.setdefault(record.epoch, record.primary.name)
        if holder != record.primary.name:
            self.broken("P2", f"epoch {record.epoch} has two primaries: {holder} and {record.primary.name}")
        if record.epoch > self.newest_epoch:
            self._check_word(before, record)
            if record.cause is Cause.FAILOVER:
                self.failovers += 1
        self.newest_epoch = record.epoch

    def _check_word(self, before: Snapshot, record: Record) -> None:
        """P8: under confirm and manual no role changes without a person's word for exactly this epoch."""
        level = self._world.settings.automation
        if record.cause in (Cause.FOUNDING, Cause.ADOPTION) or level is Automation.AUTOMATIC:
            return  # an adoption is itself a person's word
        request = before.control.request
        if level is Automation.OBSERVE:
            self.broken("P8", f"epoch {record.epoch} began although policy only observes")
        if request is None or before.record is None or request.epoch != before.record.epoch:
            self.broken("P8", f"{record.primary.name} took epoch {record.epoch} without a person's word")
        elif request.target not in (None, record.primary.name):
            self.broken("P8", f"{request.by} chose {request.target}, {record.primary.name} took over")

    def saw_promotion(self, name: str, epoch: int) -> None:
        """P2, at the service itself."""
        holder = self._served.setdefault(epoch, name)
        if holder != name:
            self.broken("P2", f"epoch {epoch} was promoted on {holder} and on {name}")

    def saw_freeze(self, name: str) -> None:
        self.freezes.append((self._world.now, name))

    def saw_step(self, name: str, before: Phase, result: Step) -> None:
        """P7: no change of phase that the table does not know, and none without a word for the history."""
        after = result.state.phase
        if before is not after and (before, after) not in REACHABLE:
            self.broken("P7", f"{name} went from {before} to {after}, an edge that the table does not have")
        if before is not after and not any(effect.__class__.__name__ == "Notice" for effect in result.effects):
            self.broken("P7", f"{name} went from {before} to {after} and told nobody why")
