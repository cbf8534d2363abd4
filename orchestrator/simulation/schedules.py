"""Schedules: a seed becomes a group, its troubles, and a verdict."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from orchestrator.domain.policy import Automation
from orchestrator.engine import words
from orchestrator.engine.adopting import adopted
from orchestrator.engine.starting import YIELD_GATE
from orchestrator.simulation.checkers import Broken
from orchestrator.simulation.faults import heal_everything, nemesis
from orchestrator.simulation.settings import Settings
from orchestrator.simulation.world import World

WHOLE_WITHIN = 40.0
"""Simulated seconds after the end of all trouble within which the group must be whole again by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    seed: int
    broken: str | None
    simulated: float
    failovers: int
    freezes: int
    transcript: tuple[str, ...]

    @property
    def held(self) -> bool:
        return self.broken is None


def settings_for(seed: int, *, trace: bool = False) -> Settings:
    """The seed chooses the group as well as its troubles."""
    random = Random(seed * 7919 + 1)
    settings = Settings(
        members=random.choice([2, 3, 3, 3, 4]),
        witnesses=random.choice([0, 1]),
        lease=random.choice([0.3, 1.0, 1.0, 3.0]),
        host_down_after=random.choice([0.35, 0.6, 1.0, 1.5]),
        automation=random.choice(
            [Automation.AUTOMATIC, Automation.AUTOMATIC, Automation.AUTOMATIC, Automation.CONFIRM, Automation.MANUAL]
        ),
        gate=random.random() < 0.7,
        loss=random.choice([0.0, 0.0, 0.01]),
        duplication=random.choice([0.0, 0.02]),
        synchronous=random.random() < 0.3,
        trace=trace,
    )
    quorums = [0, 1, 1, 2] if settings.synchronous and settings.members > 2 else [0]
    return replace(settings, quorum=random.choice(quorums), reserved=len(quorums) > 1 and random.random() < 0.3)


def run(seed: int, schedule: Callable[[World], None], settings: Settings | None = None, *, trace: bool = False) -> Result:
    """One schedule, with the promises checked after every event."""
    settings = replace(settings or settings_for(seed), trace=trace)
    world = World(seed, settings)
    broken = None
    try:
        schedule(world)
    except Broken as error:
        broken = str(error)
        world.tell("BROKEN", broken)
    return Result(
        seed=seed,
        broken=broken,
        simulated=world.now,
        failovers=world.checkers.failovers,
        freezes=len(world.checkers.freezes),
        transcript=tuple(world.transcript),
    )


def become_whole(world: World, within: float = WHOLE_WITHIN) -> None:
    if not world.run_until(world.is_whole, within):
        phases = {name: str(host.daemon.state.phase) if host.daemon else "no daemon" for name, host in world.hosts.items()}
        world.checkers.broken(
            "liveness", f"not whole {within:.0f} s after the last trouble: {phases}, writable {world.writable()}"
        )


def adopt_if_asked(world: World) -> None:
    """A service that came back empty waits for a person, who says that the member with the most data counts."""
    daemons = [host.daemon for host in world.hosts.values() if host.daemon is not None]
    waiting = [each.state.refusals.get("serve") for each in daemons]
    if not any(refusal is not None and refusal.gate == YIELD_GATE for refusal in waiting):
        return
    members = [host for host in world.hosts.values() if host.instance is not None]
    best = max(members, key=lambda host: host.instance.offset if host.instance is not None else 0)
    group = world.settings.group
    known = world.store.read(group.name)
    speaker = daemons[0].state
    record = adopted(speaker, known.record, best.name, by="ann", epoch_above=0, draw=lambda: world.random.getrandbits(62))
    world.tell("ann", f"adopts {best.name}")
    world.store.restore(replace(known, record=record))
    world.acknowledged = None


def random_trouble(world: World) -> None:
    """Faults, up to several at a time, around the length of the lease; then healing, and the group must be whole again."""
    become_whole(world)
    world.run(world.random.uniform(0.0, 2.0))
    lease = world.settings.lease
    for _ in range(world.random.randint(4, 14)):
        nemesis(world)
        world.run(world.random.choice([0.05, 0.3, 1.0, 2.5]) * lease * world.random.uniform(0.5, 1.5))
    heal_everything(world)
    if not world.run_until(world.is_whole, WHOLE_WITHIN / 4):
        adopt_if_asked(world)
    if world.settings.automation is Automation.AUTOMATIC:
        become_whole(world)
    else:
        _with_a_person(world)


def _with_a_person(world: World) -> None:
    """Under confirm and manual somebody must say the word: a person who looks once a second."""
    for _ in range(int(2 * WHOLE_WITHIN)):
        if world.run_until(world.is_whole, 1.0):
            return
        approve(world)
    become_whole(world, 1.0)


def approve(world: World) -> None:
    from orchestrator.domain.record import RequestKind

    snapshot = world.store.read(world.settings.group.name)
    record, proposal = snapshot.record, snapshot.control.proposal
    if record is None or world.writable():
        return
    try:
        if proposal is not None:
            control = words.approve(snapshot.control, record, proposal.id, proposal.epoch, "ann", world.wall())
        else:
            control = words.ask(snapshot.control, record, world.settings.group, RequestKind.FAILOVER, None, "ann", world.wall())
    except words.Void:
        return
    world.apply_control(control, snapshot.control.version)
