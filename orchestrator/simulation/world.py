"""Virtual time, the hosts, and the mediator: one seed, one run, exactly repeatable."""

import heapq
from collections.abc import Callable
from random import Random

from orchestrator.coordination.memory import Store
from orchestrator.domain.effects import WriteRecord
from orchestrator.domain.record import Control, Snapshot
from orchestrator.engine import asking
from orchestrator.services.memory import Instance
from orchestrator.simulation.checkers import Checkers
from orchestrator.simulation.hosts import Host
from orchestrator.simulation.network import Network
from orchestrator.simulation.settings import Settings
from probes.interconnected.wire import Section

REPLICATE_EVERY = 0.05
EPOCH_WALL = 1_700_000_000.0
MOST_EVENTS = 300_000
"""An ordinary schedule takes 5,000 to 40,000."""


class World:
    def __init__(self, seed: int, settings: Settings) -> None:
        self.seed = seed
        self.settings = settings
        self.random = Random(seed)
        self.now = 0.0
        self.transcript: list[str] = []
        self.network = Network(self.random, settings)
        self.store = Store()
        self.lagging: dict[str, Snapshot] = {}
        """Hosts whose mediator server has lost its leader without knowing it: they read what stood there before."""
        self.mediator_up = True
        self.mediator_slow = 0.0
        self.lost_replies = 0.0
        self.writing = True
        """Clients write wherever they can."""
        self.replicating = True
        self.starved: set[str] = set()
        """Standbys that nothing reaches of what their primary commits."""
        self.acknowledged: tuple[str, int] | None = None
        """Synchronous groups: history and offset up to which clients hold an acknowledgement."""
        self.reply_delay: dict[str, float] = {}
        """Extra seconds that the mediator's answers to a host take."""
        self.load = 0.0
        """Extra lateness of every wake-up, up to this many seconds: the hosts' cores are busy."""
        self.checkers = Checkers(self)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._events = 0
        self._changed_at = 0.0
        self._previous = self.store.read(settings.group.name)
        names = (*settings.group.member_names, *settings.group.witnesses)
        self.hosts = {name: Host(self, name, settings) for name in names}
        for host in self.hosts.values():
            self.after(self.random.uniform(0.0, 0.5), host.boot)
        self.after(REPLICATE_EVERY, self._replicate)

    # --- time --------------------------------------------------------------------------------------------------------

    def after(self, delay: float, act: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (self.now + max(0.0, delay), self._sequence, act))

    def run(self, span: float) -> None:
        self.run_until(lambda: False, span)

    def run_until(self, reached: Callable[[], bool], within: float) -> bool:
        """Go on until the condition holds; False when it did not within that many seconds."""
        end = self.now + within
        while self._queue and self._queue[0][0] <= end:
            self.now, _, act = heapq.heappop(self._queue)
            act()
            self.checkers.check()
            self._events += 1
            if self._events > MOST_EVENTS:
                self.checkers.broken("liveness", f"more than {MOST_EVENTS} events: somebody goes round in a circle")
            if reached():
                return True
        self.now = end
        return reached()

    def wall(self) -> float:
        return EPOCH_WALL + self.now

    def lateness(self) -> float:
        """How late a wake-up comes: the scheduler's usual fraction of a millisecond, more under load."""
        return self.random.uniform(0.0, 0.0005) + (self.random.uniform(0.0, self.load) if self.load else 0.0)

    def tell(self, who: str, what: str) -> None:
        if self.settings.trace:
            self.transcript.append(f"{self.now:9.3f}  {who:9}  {what}")

    # --- the network -------------------------------------------------------------------------------------------------

    def send(self, sender: str, receiver: str, section: Section) -> None:
        if not self.hosts[sender].up:
            return
        self.network.deliver(sender, receiver, lambda delay: self.after(delay, lambda: self._arrive(sender, receiver, section)))

    def _arrive(self, sender: str, receiver: str, section: Section) -> None:
        keeper = self.hosts[receiver].keeper
        if keeper is not None and self.hosts[receiver].up:
            keeper.hear(sender, section)

    # --- the mediator ------------------------------------------------------------------------------------------------

    def reaches_mediator(self, name: str) -> bool:
        return self.mediator_up and self.hosts[name].up and self.network.passes(name, "mediator")

    def reply_latency(self, name: str) -> float:
        return self.network.latency() + self.reply_delay.get(name, 0.0)

    def mediator_latency(self) -> float:
        slow = self.random.uniform(0.0, self.mediator_slow) if self.mediator_slow else 0.0
        return self.random.uniform(0.0003, 0.003) + slow

    def read_store(self, reader: str) -> Snapshot:
        """What a read answers: shortly after a change now and then what stood there before (a follower that lags)."""
        if reader in self.lagging:
            return self.lagging[reader]
        if self.now < self._changed_at + 0.3 and self.random.random() < 0.1:
            return self._previous
        return self.store.read(self.settings.group.name)

    def apply(self, author: str, write: WriteRecord) -> bool:
        before = self.store.read(self.settings.group.name)
        applied = self.store.set_record(
            self.settings.group.name, write.record, write.expected, write.control, write.control_expected
        )
        if applied:
            self.checkers.saw_record(author, before, write.record)
            self._allow_for_a_person(author, before)
            record = write.record
            self.tell(
                "mediator",
                f"version {record.version}: epoch {record.epoch}, primary {record.primary.name}, succession "
                f"({', '.join(pair.name for pair in record.succession)}), written by {author}",
            )
            self._changed(before)
        return applied

    def _allow_for_a_person(self, author: str, before: Snapshot) -> None:
        """Where a quorum was not heard, a person may take over all the same: what was acknowledged may be gone then."""
        daemon = self.hosts[author].daemon
        if not self.settings.quorum or daemon is None or before.record is None or before.record.primary.name == author:
            return
        if before.control.request is not None and asking.missing(daemon.state, before.record):
            self.acknowledged = None

    def apply_control(self, control: Control, expected: int) -> bool:
        before = self.store.read(self.settings.group.name)
        applied = self.store.set_control(self.settings.group.name, control, expected)
        if applied:
            self._changed(before)
        return applied

    def _changed(self, before: Snapshot) -> None:
        """Everybody who watches hears of it, somewhat later."""
        self._previous, self._changed_at = before, self.now
        for host in self.hosts.values():
            daemon = host.daemon
            if daemon is not None and self.reaches_mediator(host.name):
                self.after(self.network.latency(), daemon.read)

    # --- the data ----------------------------------------------------------------------------------------------------

    def _replicate(self) -> None:
        """Clients write wherever they can, and standbys copy from whom they follow."""
        for host in self.hosts.values():
            if self.writing and host.can_commit() and host.instance is not None:
                host.instance.offset += self.random.randint(0, 3)
        for host in self.hosts.values():
            instance = host.instance
            if instance is None or not instance.running or instance.frozen or host.paused or not host.up:
                continue
            if instance.upstream is None or not self.replicating or host.name in self.starved:
                continue
            source = self._source(host, instance.upstream)
            if source is None:
                instance.link_up = False
            elif source.instance is not None and self.random.random() < 0.9:
                instance.pull(source.instance)
        if self.settings.synchronous:
            self._acknowledge()
        self.after(REPLICATE_EVERY, self._replicate)

    def _acknowledge(self) -> None:
        """Clients are answered as far as every standby that the primary waits for has come."""
        for name in self.writable():
            instance = self.hosts[name].instance
            assert instance is not None
            if self.acknowledged is not None and not instance.holds(*self.acknowledged):
                self.checkers.broken("P3", f"{name} serves without the write {self.acknowledged}, which was acknowledged")
            received = sorted((self._received(each, instance) for each in instance.covered), reverse=True)
            enough = len(received) if instance.enough is None else instance.enough
            reached = received[enough - 1] if enough else instance.offset
            if reached > 0 and instance.holds(instance.history, reached):
                known = self.acknowledged
                if known is None or known[0] != instance.history or reached > known[1]:
                    self.acknowledged = (instance.history, reached)

    def _received(self, name: str, source: Instance) -> int:
        """What a standby has told its primary that it has; nothing while it does not follow."""
        standby = self.hosts[name].instance
        if standby is None or not standby.running or standby.upstream != source.address or not standby.link_up:
            return 0
        return standby.offset if standby.history == source.history else 0

    def _source(self, host: Host, upstream: tuple[str, int]) -> Host | None:
        """The host that answers at this address as a primary, if it can be reached; or a standby, that has all that we have."""
        for other in self.hosts.values():
            if other.instance is None or other.instance.address != upstream:
                continue
            reachable = self.network.passes(host.name, other.name) and self.network.passes(other.name, host.name)
            awake = other.up and not other.paused and other.instance.running and not other.instance.frozen
            open_gate = not self.settings.gate or self.now < other.gate_until
            serving = other.instance.upstream is None and other.instance.role.value == "primary"
            if self.settings.quorum and not serving and host.instance is not None:
                serving = other.instance.holds(host.instance.history, host.instance.offset)
            return other if reachable and awake and open_gate and serving else None
        return None

    # --- questions ---------------------------------------------------------------------------------------------------

    def writable(self) -> list[str]:
        return [name for name, host in self.hosts.items() if host.can_commit()]

    def is_whole(self) -> bool:
        """One writable primary, and every other member in its succession and led to it."""
        writable = self.writable()
        record = self.store.read(self.settings.group.name).record
        if len(writable) != 1 or record is None or record.primary.name != writable[0]:
            return False
        listed = {pair.name for pair in record.succession}
        return listed == set(self.settings.group.member_names) - {writable[0]}
