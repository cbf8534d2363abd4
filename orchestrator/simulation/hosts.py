"""A simulated host: its clock, its processes, its kernel gate, its disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.domain import commands
from orchestrator.domain.effects import History
from orchestrator.domain.observations import Hold
from orchestrator.domain.spans import FOREVER, NEVER, Instant
from orchestrator.keeper import core, memory
from orchestrator.keeper.core import Core
from orchestrator.keeper.memory import Memory
from orchestrator.services.memory import Instance
from orchestrator.simulation.clocks import Clock
from orchestrator.simulation.daemons import Daemon
from orchestrator.simulation.settings import Settings
from probes.interconnected.wire import Section

if TYPE_CHECKING:
    from orchestrator.simulation.world import World

GROUP = 1
SOCKET_BUFFER = 512
"""Datagrams that the kernel keeps for a process that does not read."""


class Keeper:
    """The keeper's process: the real core, its acts carried out in virtual time."""

    def __init__(self, world: World, host: Host, settings: Settings) -> None:
        assert host.page is not None
        self.world = world
        self.host = host
        self.alive = True
        self.frozen = False
        self.waiting: list[Callable[[], None]] = []
        self._tick_at = FOREVER
        self.core = Core(
            me=host.name,
            group=GROUP,
            memory=host.page,
            peers=settings.group.others(host.name),
            beat_every=settings.policy.beat_every,
            budget=host.budget,
            now=host.now(),
        )

    def start(self) -> None:
        if self.core.memory.pid and not self._runs(self.core.memory.pid):
            self._act(self.core.main_exited(self.host.now()))
        self._act(self.core.start(self.host.now()))

    def receive(self, work: Callable[[], None]) -> None:
        """Something has come through a socket; a frozen process reads it when it runs again."""
        self.world.after(self.world.random.uniform(0.0001, 0.0005), lambda: self._read(work))

    def _read(self, work: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self.frozen:
            if len(self.waiting) < SOCKET_BUFFER:
                self.waiting.append(work)
            return
        work()

    def thaw(self) -> None:
        self.frozen = False
        self._act(self.core.tick(self.host.now()))
        waiting, self.waiting = self.waiting, []
        for work in waiting:
            self._read(work)

    def hear(self, sender: str, section: Section) -> None:
        self._read(lambda: self._act(self.core.heard(self.host.now(), sender, section)))

    def obey(self, command: commands.Command) -> core.Answer:
        if isinstance(command, commands.Found) and not self._runs(command.pid):
            return core.Declined("found", f"process {command.pid} has ended already, or is another one by now")
        answer, acts = self.core.obey(self.host.now(), command)
        self._act(acts)
        return answer

    def _runs(self, pid: int) -> bool:
        instance = self.host.instance
        return instance is not None and instance.running and instance.pid == pid

    def service_exited(self) -> None:
        self.receive(lambda: self._act(self.core.main_exited(self.host.now())))

    def _act(self, acts: list[core.Act]) -> None:
        """The page is written by now (the core's memory is the page): perform, then tell the daemon what changed."""
        self._sync_gate()
        for act in acts:
            match act:
                case core.Send(peer, section):
                    self.world.send(self.host.name, peer, section)
                case core.Freeze():
                    self.world.after(self.world.random.uniform(0.0002, 0.4 * self.host.budget), self._frozen)
                case core.Thaw():
                    self.world.after(self.world.random.uniform(0.0002, 0.001), self._thawed)
                case core.Kill():
                    self.world.after(self.world.random.uniform(0.0005, 0.005), self._killed)
        if self.core.changed or self.core.words_changed:
            self.core.changed = self.core.words_changed = False
            if self.host.daemon is not None:
                self.host.daemon.keeper_changed()
        self._wake()

    def _frozen(self) -> None:
        def done() -> None:
            if self.core.memory.frozen_since is not None:
                self.host.freeze_service(by="keeper")
                self._act(self.core.frozen(self.host.now()))

        self._read(done)

    def _thawed(self) -> None:
        def done() -> None:
            if self.core.memory.frozen_since is not None and not self.core.killing:
                self.host.thaw_service()
                self._act(self.core.thawed(self.host.now()))

        self._read(done)

    def _killed(self) -> None:
        """Rule 22: what is frozen dies frozen; it is never let go on first."""

        def done() -> None:
            self.host.kill_service(tell=False)
            self._act(self.core.gone(self.host.now()))

        self._read(done)

    def _sync_gate(self) -> None:
        until = self.core.gate_until
        self.host.set_gate(until)

    def _wake(self) -> None:
        at = self.core.wake_at()
        if self._tick_at <= at and self._tick_at > self.host.now():
            return
        self._tick_at = at
        delay = max(0.0, self.host.clock.true_at(at) - self.world.now) + self.world.lateness()
        self.world.after(delay, lambda: self._read(self._tick))

    def _tick(self) -> None:
        if self.host.now() + 1e-9 >= self._tick_at:
            self._tick_at = FOREVER
            self._act(self.core.tick(self.host.now()))


class Host:
    def __init__(self, world: World, name: str, settings: Settings) -> None:
        drift = settings.drift
        self.world = world
        self.name = name
        self.settings = settings
        self.clock = Clock(1.0 + world.random.uniform(-drift, drift), world.random.uniform(0.0, 1000.0))
        self.budget = settings.lease / 10
        self.up = True
        self.boots = 1
        self.paused = False
        self.page: Memory | None = None
        self.disk = History()
        self.obeyed_epoch = 0
        self.keeper: Keeper | None = None
        self.daemon: Daemon | None = None
        self.gate_until = NEVER
        """True time at which the kernel shuts clients out."""
        self.clients_go_to: tuple[str, int] | None = None
        member = settings.group.member(name)
        self.instance = (
            Instance(address=(member.address, member.port), durable=settings.synchronous) if member is not None else None
        )

    def now(self) -> Instant:
        return self.clock.read(self.world.now)

    # --- processes ---------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        self.up = True
        self.boots += 1
        self.page = None
        self.start_keeper()
        self.start_daemon()

    def start_keeper(self) -> None:
        if not self.up or (self.keeper is not None and self.keeper.alive):
            return
        if self.page is None:
            life = self.world.random.getrandbits(63) | 1
            self.page = memory.begin_life(life, self.now(), self.settings.policy.lease, self.disk.epoch)
        self.keeper = Keeper(self.world, self, self.settings)
        self.keeper.start()
        if self.daemon is not None:
            self.daemon.keeper_changed()
            if self.daemon.guard_froze:
                keeper = self.keeper
                keeper.receive(lambda: self._report_guard(keeper))

    def _report_guard(self, keeper: Keeper) -> None:
        if self.daemon is not None:
            self.daemon.guard_froze = False
        keeper.obey(commands.Froze())

    def start_daemon(self) -> None:
        if not self.up or (self.daemon is not None and self.daemon.alive):
            return
        self.daemon = Daemon(self.world, self, self.settings)
        self.daemon.start()

    def kill_keeper(self) -> None:
        if self.keeper is None:
            return
        self.keeper.alive = False
        self.keeper = None
        if self.daemon is not None:
            self.daemon.keeper_changed()
            self.daemon.later(self.world.random.uniform(0.02, 0.1), self.start_keeper)

    def kill_daemon(self) -> None:
        if self.daemon is not None:
            self.daemon.alive = False
            self.daemon = None
            self.world.after(self.world.random.uniform(0.1, 3.0), self.start_daemon)

    def crash(self) -> None:
        """Power loss: every process, the page and the kernel's gate are gone at once."""
        self.up = False
        for process in (self.keeper, self.daemon):
            if process is not None:
                process.alive = False
        self.keeper = self.daemon = None
        self.page = None
        self.gate_until = NEVER
        if self.instance is not None:
            self.instance.stop()
        self.paused = False

    def pause(self, stop_clock: bool = False) -> None:
        """Every process stands still; the clocks go on, unless the hypervisor stops them too."""
        self.paused = True
        if self.keeper is not None:
            self.keeper.frozen = True
        if self.daemon is not None:
            self.daemon.frozen = True
        if stop_clock:
            self.clock.stop(self.world.now)

    def unpause(self) -> None:
        """They run again, in any order: the service may well be first."""
        if not self.paused:
            return
        self.paused = False
        self.clock.go_on(self.world.now)
        random = self.world.random
        keeper, daemon = self.keeper, self.daemon
        if keeper is not None:
            self.world.after(random.uniform(0.0, 0.02), keeper.thaw)
        if daemon is not None:
            self.world.after(random.uniform(0.0, 0.02), daemon.thaw)

    # --- the service -------------------------------------------------------------------------------------------------

    def start_service(self) -> None:
        if self.instance is not None and self.up:
            self.instance.start(self.world.random.getrandbits(30) | 1)

    def freeze_service(self, by: str) -> None:
        if self.instance is not None and self.instance.running and not self.instance.frozen:
            self.instance.frozen = True
            self.world.tell(self.name, f"service frozen by {by}")
            self.world.checkers.saw_freeze(self.name)

    def thaw_service(self) -> None:
        if self.instance is not None and self.instance.frozen:
            self.instance.frozen = False
            self.world.tell(self.name, "service thawed")

    def kill_service(self, tell: bool = True) -> None:
        if self.instance is None or not self.instance.running:
            return
        self.instance.stop()
        self.world.tell(self.name, "service process gone")
        if tell and self.keeper is not None:
            self.keeper.service_exited()

    def daemon_guard_needed(self) -> bool:
        page, instance = self.page, self.instance
        if page is None or instance is None or not instance.running or instance.frozen:
            return False
        return page.hold is not Hold.NONE and page.right_until != FOREVER

    # --- the kernel --------------------------------------------------------------------------------------------------

    def set_gate(self, until: Instant) -> None:
        if until == NEVER:
            self.gate_until = NEVER
        elif until == FOREVER:
            self.gate_until = FOREVER
        else:
            self.gate_until = self.clock.true_at(until)

    def can_commit(self) -> bool:
        """P1's question: could a client's write be committed here, at this instant?"""
        if not self.up or self.paused or self.instance is None or not self.instance.can_commit():
            return False
        return not self.settings.gate or self.world.now < self.gate_until
