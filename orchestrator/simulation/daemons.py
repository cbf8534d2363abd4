"""The daemon of a simulated host: the real engine, fed and obeyed in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.domain import effects, events
from orchestrator.domain.observations import Abstained, Answered, Hold, KeeperView, Outcome, Refused, Silent
from orchestrator.domain.record import Snapshot
from orchestrator.domain.spans import FOREVER, Instant
from orchestrator.engine.state import State
from orchestrator.engine.step import step
from orchestrator.keeper import core
from orchestrator.simulation.settings import Settings
from probes.interconnected.words import decode

if TYPE_CHECKING:
    from orchestrator.simulation.hosts import Host
    from orchestrator.simulation.world import World

EventMaker = Callable[[Instant, float], events.Event]

POLL_EVERY = 1.0
SESSION_TIMEOUT = 0.2


class Daemon:
    """Probes, lanes and mediator session of one run of the daemon. A new run is a new object."""

    def __init__(self, world: World, host: Host, settings: Settings) -> None:
        self.world = world
        self.host = host
        self.settings = settings
        self.alive = True
        self.frozen = False
        self.inbox: list[EventMaker] = []
        self.session_lost = False
        self.guard_froze = False
        self._tick_at = FOREVER
        self._covering: effects.EnsureReplicas | None = None
        """The newest wish, while one is being carried out."""
        self._service_busy_until = 0.0
        now = host.now()
        self.state = State(
            me=host.name,
            group=settings.group,
            policy=settings.policy,
            run=world.random.getrandbits(32),
            boot=f"{host.name}-{host.boots}",
            now=now,
            wall=world.wall(),
            began_at=now,
            phase_since=now,
            history=host.disk,
        ).with_remembered_record()

    # --- running -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.keeper_changed()
        self.poll()
        if self.host.instance is not None:
            self.look_on()
        self.feed(lambda at, wall: events.Ticked(at=at, wall=wall))

    def later(self, delay: float, act: Callable[[], None]) -> None:
        """Do something in this run of the daemon, when it is not frozen."""
        self.world.after(delay, lambda: self._if_running(act))

    def _if_running(self, act: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self.frozen:
            self.world.after(0.05, lambda: self._if_running(act))
            return
        act()

    def feed(self, make: EventMaker) -> None:
        if not self.alive:
            return
        if self.frozen:
            self.inbox.append(make)
            return
        self._step(make(self.host.now(), self.world.wall()))

    def thaw(self) -> None:
        self.frozen = False
        waiting, self.inbox = self.inbox, []
        for make in waiting:
            self.feed(make)

    def _step(self, event: events.Event) -> None:
        before = self.state.phase
        result = step(self.state, event)
        self.state = result.state
        self.world.checkers.saw_step(self.host.name, before, result)
        for effect in result.effects:
            self._carry_out(effect)
        self._wake(result.wake_at)

    def _wake(self, at: Instant) -> None:
        if at == FOREVER or (self._tick_at <= at and self._tick_at > self.host.now()):
            return
        self._tick_at = at
        delay = max(0.0, self.host.clock.true_at(at) - self.world.now) + self.world.random.uniform(0.0, 0.002)
        self.later(delay, self._tick)

    def _tick(self) -> None:
        now = self.host.now()
        if now + 1e-9 >= self._tick_at:
            self._tick_at = FOREVER
            self.feed(lambda at, wall: events.Ticked(at=at, wall=wall))

    # --- the keeper --------------------------------------------------------------------------------------------------

    def keeper_changed(self) -> None:
        self.later(0.0002, self._read_page)

    def _read_page(self) -> None:
        view = self._view()
        self.feed(lambda at, wall: events.KeeperSeen(at=at, wall=wall, view=view))
        self.guard()

    def _view(self) -> KeeperView | None:
        keeper = self.host.keeper
        if keeper is None:
            return None
        view = keeper.core.view()
        peers = tuple(replace(peer, statement=decode(keeper.core.peers[peer.name].words)) for peer in view.peers)
        return replace(view, peers=peers)

    def guard(self) -> None:
        """The daemon's own guard (rule 14): freeze at the published end of the right, whatever the keeper does."""
        memory = self.host.page
        if memory is None or not self.host.daemon_guard_needed():
            return
        budget = self.host.budget
        if self.host.now() >= memory.right_until - budget / 2:
            self.guard_froze = True
            self.host.freeze_service(by="daemon")
        else:
            due = self.host.clock.true_at(memory.right_until - budget / 2) - self.world.now
            self.later(max(due, 0.0) + 1e-6, self.guard)

    def tell_keeper(self, effect: effects.TellKeeper) -> None:
        keeper = self.host.keeper
        if keeper is None:
            return
        keeper.receive(lambda: self._obeyed(effect))

    def _obeyed(self, effect: effects.TellKeeper) -> None:
        keeper = self.host.keeper
        if keeper is None:
            return
        answer = keeper.obey(effect.command)
        if isinstance(answer, core.Declined):
            reason = answer.reason
            self.later(
                0.0001,
                lambda: self.feed(lambda at, wall: events.EffectFailed(at=at, wall=wall, effect=effect, reason=reason)),
            )

    # --- effects -----------------------------------------------------------------------------------------------------

    def _carry_out(self, effect: effects.Effect) -> None:
        match effect:
            case effects.TellKeeper():
                self.tell_keeper(effect)
            case effects.WriteRecord():
                self.write(effect)
            case effects.WriteControl():
                self.write_control(effect)
            case effects.ReadMediator():
                self.later(0.0, self.read)
            case effects.LookNow():
                self.later(0.0, self.look)
            case effects.EnsureService():
                self.ensure_service(effect)
            case effects.EnsureClients():
                self.host.clients_go_to = (effect.primary, effect.epoch)
            case effects.Remember(history=history):
                self.host.disk = history
            case effects.Notice():
                self.world.tell(self.host.name, f"{effect.kind}: {effect.text}")
            case effects.EnsureReplicas():
                self.ensure_replicas(effect)

    # --- the mediator ------------------------------------------------------------------------------------------------

    def poll(self) -> None:
        self.read()
        self.later(POLL_EVERY * self.world.random.uniform(0.9, 1.1), self.poll)

    def read(self) -> None:
        if not self.world.reaches_mediator(self.host.name):
            self.later(SESSION_TIMEOUT, self._lost)
            return
        snapshot = self.world.read_store(self.host.name)
        self.later(self.world.reply_latency(self.host.name), lambda: self.notice_snapshot(snapshot))

    def _lost(self) -> None:
        if not self.world.reaches_mediator(self.host.name):
            self.session_lost = True
            self.feed(lambda at, wall: events.MediatorLost(at=at, wall=wall, reason="no answer"))

    def notice_snapshot(self, snapshot: Snapshot) -> None:
        if self.world.reaches_mediator(self.host.name):
            self.session_lost = False
            self.feed(lambda at, wall: events.MediatorRead(at=at, wall=wall, snapshot=snapshot))

    def write(self, write: effects.WriteRecord) -> None:
        began_at = self.host.now()
        answered: list[bool] = []

        def ended(outcome: events.WriteOutcome) -> None:
            if answered:
                return
            answered.append(True)
            self.feed(lambda at, wall: events.RecordWritten(at=at, wall=wall, began_at=began_at, write=write, outcome=outcome))

        if self.session_lost:
            self.later(0.0, lambda: ended(events.WriteOutcome.NOT_SENT))
            return
        self.later(write.within, lambda: ended(events.WriteOutcome.UNKNOWN))

        def arrive() -> None:
            if not self.world.reaches_mediator(self.host.name):
                return
            applied = self.world.apply(self.host.name, write)
            outcome = events.WriteOutcome.APPLIED if applied else events.WriteOutcome.CONFLICT
            if self.world.random.random() >= self.world.lost_replies:
                self.later(self.world.reply_latency(self.host.name), lambda: ended(outcome))

        self.world.after(self.world.mediator_latency(), arrive)

    def write_control(self, effect: effects.WriteControl) -> None:
        def arrive() -> None:
            if not self.world.reaches_mediator(self.host.name):
                return
            if self.world.apply_control(effect.control, effect.expected):
                self.later(
                    self.world.network.latency(),
                    lambda: self.feed(lambda at, wall: events.EffectDone(at=at, wall=wall, effect=effect)),
                )
            else:
                self.later(0.0, self.read)

        self.world.after(self.world.mediator_latency(), arrive)

    # --- the service -------------------------------------------------------------------------------------------------

    def look_on(self) -> None:
        self.look()
        self.later(self.settings.policy.look_every, self.look_on)

    def look(self) -> None:
        instance = self.host.instance
        if instance is None:
            return
        began_at = self.host.now()
        if not instance.running:
            self._looked(began_at, Refused("connection refused", gone=True))
        elif instance.frozen:
            asked_pid = instance.pid
            within = self.settings.policy.timing.unresponsive.after / 2
            self.later(within, lambda: self._look_again(began_at, asked_pid, within))
        else:
            view = instance.view()
            self.later(0.0005, lambda: self._looked(began_at, Answered(view, 0.0005)))

    def _look_again(self, began_at: Instant, pid: int, within: float) -> None:
        """The look's deadline: thawed meanwhile means answered; stalled ourselves means no vote."""
        instance = self.host.instance
        assert instance is not None
        if self.host.now() > began_at + 1.5 * within:
            self._looked(began_at, Abstained("this daemon was stalled"))
        elif not instance.running or instance.pid != pid:
            self._looked(began_at, Refused("connection reset", gone=not instance.running))
        elif instance.frozen:
            self._looked(began_at, Silent(within))
        else:
            self._looked(self.host.now(), Answered(instance.view(), within))

    def _looked(self, began_at: Instant, outcome: Outcome) -> None:
        self.feed(lambda at, wall: events.Looked(at=at, wall=wall, began_at=began_at, outcome=outcome))

    def ensure_service(self, effect: effects.EnsureService) -> None:
        """One lane: an act begins when the one before it has ended."""
        takes = self.world.random.uniform(0.001, 0.02)
        if self.host.instance is not None and not self.host.instance.running:
            takes += self.world.random.uniform(0.01, 0.3)
        begins = max(self.world.now, self._service_busy_until)
        self._service_busy_until = begins + takes
        self.later(begins + takes - self.world.now, lambda: self._act_on_service(effect))

    def _act_on_service(self, effect: effects.EnsureService) -> None:
        """Each actuator refuses an epoch older than the last it obeyed, and nothing moves a frozen process."""
        host, instance = self.host, self.host.instance
        assert instance is not None
        reason = ""
        if effect.epoch < host.obeyed_epoch:
            reason = f"epoch {effect.epoch} is older than {host.obeyed_epoch}, which was obeyed already"
        elif instance.frozen:
            reason = "the service does not answer"
        elif not instance.running and effect.role is not effects.WantedRole.STANDBY:
            reason = "the service does not run"
        if reason:
            self.feed(lambda at, wall: events.EffectFailed(at=at, wall=wall, effect=effect, reason=reason))
            return
        host.obeyed_epoch = effect.epoch
        if not instance.running:
            host.start_service()
        match effect.role:
            case effects.WantedRole.PRIMARY:
                if not self._armed(effect.epoch):
                    reason = "guard and gate do not stand"
                    self.feed(lambda at, wall: events.EffectFailed(at=at, wall=wall, effect=effect, reason=reason))
                    return
                instance.promote(f"{host.name}-{effect.epoch}-{self.world.random.getrandbits(16)}")
                self.world.checkers.saw_promotion(host.name, effect.epoch)
            case effects.WantedRole.HELD:
                instance.held = True
            case effects.WantedRole.STANDBY:
                upstream = self.settings.group.member(effect.upstream) if effect.upstream else None
                instance.follow((upstream.address, upstream.port) if upstream else None)
        self.world.tell(host.name, f"service is {effect.role} in epoch {effect.epoch}")
        view = instance.view()
        self.feed(lambda at, wall: events.EffectDone(at=at, wall=wall, effect=effect, view=view))
        self.look()

    def ensure_replicas(self, effect: effects.EnsureReplicas) -> None:
        """A lane of its own, in which the newest wish takes the place of one that has not begun."""
        busy, self._covering = self._covering is not None, effect
        if not busy:
            self.later(self.world.random.uniform(0.001, 0.02), lambda: self._covered(effect))

    def _covered(self, effect: effects.EnsureReplicas) -> None:
        newest, self._covering = self._covering, None
        self._cover(effect)
        if newest is not None and newest != effect:
            self.ensure_replicas(newest)

    def _cover(self, effect: effects.EnsureReplicas) -> None:
        host, instance = self.host, self.host.instance
        assert instance is not None
        if instance.frozen or not instance.running or effect.epoch < host.obeyed_epoch:
            self.feed(lambda at, wall: events.EffectFailed(at=at, wall=wall, effect=effect, reason="it does not answer"))
            return
        instance.covered, instance.enough = effect.names, effect.enough
        self.feed(lambda at, wall: events.EffectDone(at=at, wall=wall, effect=effect))

    def _armed(self, epoch: int) -> bool:
        """The actuator's own check of rule 13, against the page."""
        memory = self.host.page
        return memory is not None and memory.hold is not Hold.NONE and memory.writable_epoch == epoch
