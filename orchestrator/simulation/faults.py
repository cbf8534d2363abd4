"""What goes wrong, by seed: the verbs, and random schedules of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orchestrator.domain.observations import Hold, Role
from orchestrator.domain.record import RequestKind
from orchestrator.engine import words

if TYPE_CHECKING:
    from orchestrator.simulation.daemons import Daemon
    from orchestrator.simulation.hosts import Host, Keeper
    from orchestrator.simulation.world import World


@dataclass(frozen=True, slots=True)
class Fault:
    """One verb: how often it is drawn, and what it does. `needs_gate`: not covered without the kernel gate (rule 15)."""

    name: str
    weight: int
    inject: Callable[[World, Host], None]
    needs_gate: bool = False


def _short(world: World) -> float:
    """A spell around the length of a lease, where the races are; now and then much longer."""
    lease = world.settings.lease
    return world.random.choice([world.random.uniform(0.1, 1.5), world.random.uniform(0.8, 4.0)]) * lease


def kill_service(world: World, host: Host) -> None:
    host.kill_service()


def hang_service(world: World, host: Host) -> None:
    """SIGSTOP from outside; undone from outside, unless the keeper holds the service frozen itself by then.

    A right that ended meanwhile, unseen by a keeper that stands still, ends at the gate alone: the guide names that limit.
    """
    host.freeze_service(by="somebody")

    def undo() -> None:
        page = host.page
        ended = page is None or page.right_until <= host.now()
        if page is not None and page.frozen_since is None and (world.settings.gate or not ended):
            host.thaw_service()

    world.after(_short(world) * 2, undo)


def crash(world: World, host: Host) -> None:
    host.crash()
    world.after(world.random.uniform(0.5, 6.0) * world.settings.lease + 0.2, lambda: host.boot() if not host.up else None)


def pause_host(world: World, host: Host) -> None:
    if host.up:
        host.pause()
        world.after(_short(world), host.unpause)


def restart_behind(world: World, host: Host) -> None:
    """Somebody else restarts the service at once, and it comes back as a primary: with its data, or without any."""
    instance = host.instance
    if instance is None or not instance.running:
        return
    emptied = world.random.random() < 0.5 and not world.settings.synchronous
    host.kill_service()

    def come_back() -> None:
        if not host.up or instance.running or _open_and_unwatched(world, host):
            return
        host.start_service()
        instance.role = Role.PRIMARY
        if emptied:
            instance.offset, instance.history, instance.past = 0, f"empty-{world.random.getrandbits(16)}", {}
        world.tell(host.name, "the service came back as primary" + (", empty" if emptied else ""))

    world.after(world.random.uniform(0.001, 0.05), come_back)


def _open_and_unwatched(world: World, host: Host) -> bool:
    """A standby's gate stands open to its time, and no keeper is there to shut it earlier: the guide names this limit."""
    keeper, page = host.keeper, host.page
    watched = keeper is not None and not keeper.frozen
    return not watched and world.now < host.gate_until and (page is None or page.hold is Hold.NONE)


def isolate(world: World, host: Host) -> None:
    world.network.isolate(host.name, [name for name in world.hosts if name != host.name] + ["mediator"])


def isolate_from_members(world: World, host: Host) -> None:
    world.network.isolate(host.name, [name for name in world.hosts if name != host.name])


def cut_one_way(world: World, host: Host) -> None:
    other = world.random.choice([name for name in (*world.hosts, "mediator") if name != host.name])
    pair = (host.name, other) if world.random.random() < 0.5 else (other, host.name)
    world.network.cut(*pair)


def cut_pair(world: World, host: Host) -> None:
    """Two hosts do not hear each other; everybody else hears both."""
    other = world.random.choice([name for name in world.hosts if name != host.name])
    world.network.isolate(host.name, [other])


def cut_from_mediator(world: World, host: Host) -> None:
    world.network.isolate(host.name, ["mediator"])


def split(world: World, host: Host) -> None:
    """Everybody, the mediator too, falls into two halves; now and then one node still sees both."""
    names = [*world.hosts, "mediator"]
    bridge = world.random.choice(names) if world.random.random() < 0.3 else None
    left = {name for name in names if world.random.random() < 0.5}
    for a in names:
        for b in names:
            if (a in left) != (b in left) and bridge not in (a, b):
                world.network.cut(a, b)


def lag_behind(world: World, host: Host) -> None:
    """The host's mediator server answers reads from the past, while writes still reach the leader."""
    world.lagging[host.name] = world.store.read(world.settings.group.name)

    def catch_up() -> None:
        world.lagging.pop(host.name, None)

    world.after(_short(world), catch_up)


def lose_page(world: World, host: Host) -> None:
    """The keeper's memory is gone although the host lives: a new life begins."""
    if _covered(world, host.daemon):
        host.kill_keeper()
        host.page = None


def deafen(world: World, host: Host) -> None:
    """It can speak and not hear, or hear and not speak."""
    deaf = world.random.random() < 0.5
    for other in world.hosts:
        if other != host.name:
            world.network.cut(*((other, host.name) if deaf else (host.name, other)))


def lose_datagrams(world: World, host: Host) -> None:
    world.network.loss = world.random.choice([0.05, 0.3, 0.6])


def delay_datagrams(world: World, host: Host) -> None:
    world.network.delay = world.random.uniform(0.1, 1.2) * world.settings.lease


def heal_network(world: World, host: Host) -> None:
    world.network.heal()


def lose_mediator(world: World, host: Host) -> None:
    world.mediator_up = False

    def back() -> None:
        world.mediator_up = True

    world.after(_short(world) * 2, back)


def slow_mediator(world: World, host: Host) -> None:
    world.mediator_slow = world.random.uniform(0.2, 3.0) * world.settings.lease
    world.lost_replies = world.random.choice([0.0, 0.3])

    def back() -> None:
        world.mediator_slow = world.lost_replies = 0.0

    world.after(_short(world) * 2, back)


def _covered(world: World, guard: Keeper | Daemon | None) -> bool:
    """Without the gate only one of keeper and daemon may fail at a time (rule 15; the guide says so)."""
    return world.settings.gate or (guard is not None and not guard.frozen)


def kill_daemon(world: World, host: Host) -> None:
    if _covered(world, host.keeper):
        host.kill_daemon()


def freeze_daemon(world: World, host: Host) -> None:
    daemon = host.daemon
    if daemon is not None and not daemon.frozen and _covered(world, host.keeper):
        daemon.frozen = True
        world.after(_short(world), daemon.thaw)


def kill_keeper(world: World, host: Host) -> None:
    if _covered(world, host.daemon):
        host.kill_keeper()


def freeze_keeper(world: World, host: Host) -> None:
    keeper = host.keeper
    if keeper is not None and not keeper.frozen and _covered(world, host.daemon):
        keeper.frozen = True
        world.after(_short(world), keeper.thaw)


def freeze_both(world: World, host: Host) -> None:
    """Keeper and daemon stand still while the service runs on: the gate alone is left."""
    freeze_keeper(world, host)
    freeze_daemon(world, host)


def burn(world: World, host: Host) -> None:
    """All cores busy: every wake-up comes late."""
    world.load = world.random.uniform(0.005, 0.08)

    def back() -> None:
        world.load = 0.0

    world.after(_short(world) * 3, back)


def ask_switchover(world: World, host: Host) -> None:
    _say(world, RequestKind.SWITCHOVER, host)


def ask_failover(world: World, host: Host) -> None:
    _say(world, RequestKind.FAILOVER, host)


def _say(world: World, kind: RequestKind, host: Host) -> None:
    snapshot = world.store.read(world.settings.group.name)
    target = world.random.choice([None, host.name])
    try:
        control = words.ask(snapshot.control, snapshot.record, world.settings.group, kind, target, "ann", world.wall())
    except words.Void:
        return
    world.tell("ann", f"asks for a {kind}" + (f" to {target}" if target else ""))
    world.apply_control(control, snapshot.control.version)


def answer_proposal(world: World, host: Host) -> None:
    """A person answers what is open: at once, late, or with a no."""
    snapshot = world.store.read(world.settings.group.name)
    proposal, record = snapshot.control.proposal, snapshot.record
    if proposal is None or record is None:
        return

    def answer() -> None:
        present = world.store.read(world.settings.group.name)
        if present.record is None:
            return
        try:
            if world.random.random() < 0.8:
                control = words.approve(present.control, present.record, proposal.id, proposal.epoch, "ann", world.wall())
            else:
                control = words.reject(present.control, proposal.id, "ann", world.wall())
        except words.Void as void:
            world.tell("ann", f"is told: {void}")
            return
        world.tell("ann", f"answers {proposal.id}")
        world.apply_control(control, present.control.version)

    world.after(world.random.choice([0.0, 0.5, 5.0]), answer)


def toggle_pause(world: World, host: Host) -> None:
    snapshot = world.store.read(world.settings.group.name)
    try:
        control = words.pause(snapshot.control, "ann", "", world.wall())
    except words.Void:
        control = words.resume(snapshot.control, "ann")
    world.apply_control(control, snapshot.control.version)


FAULTS: Final = (
    Fault("kill service", 3, kill_service),
    Fault("restart behind", 3, restart_behind, needs_gate=True),
    Fault("hang service", 3, hang_service),
    Fault("crash", 3, crash),
    Fault("pause host", 3, pause_host, needs_gate=True),
    Fault("isolate", 3, isolate),
    Fault("isolate from members", 3, isolate_from_members),
    Fault("cut one way", 4, cut_one_way),
    Fault("cut pair", 4, cut_pair),
    Fault("cut from mediator", 3, cut_from_mediator),
    Fault("split", 4, split),
    Fault("lag behind", 3, lag_behind),
    Fault("lose page", 2, lose_page),
    Fault("deafen", 2, deafen),
    Fault("lose datagrams", 2, lose_datagrams),
    Fault("delay datagrams", 2, delay_datagrams),
    Fault("heal network", 8, heal_network),
    Fault("lose mediator", 3, lose_mediator),
    Fault("slow mediator", 3, slow_mediator),
    Fault("kill daemon", 3, kill_daemon),
    Fault("freeze daemon", 3, freeze_daemon),
    Fault("kill keeper", 3, kill_keeper),
    Fault("freeze keeper", 3, freeze_keeper),
    Fault("freeze keeper and daemon", 2, freeze_both, needs_gate=True),
    Fault("burn", 2, burn),
    Fault("ask for a switchover", 3, ask_switchover),
    Fault("ask for a failover", 1, ask_failover),
    Fault("answer a proposal", 4, answer_proposal),
    Fault("pause or resume the group", 1, toggle_pause),
)


def nemesis(world: World, host: Host | None = None) -> None:
    """Draw one fault, for a random host or, more often than not, for the one that serves."""
    able = [fault for fault in FAULTS if world.settings.gate or not fault.needs_gate]
    fault = world.random.choices(able, weights=[each.weight for each in able])[0]
    members = [world.hosts[name] for name in world.settings.group.member_names]
    serving = [world.hosts[name] for name in world.writable()]
    target = host or (serving[0] if serving and world.random.random() < 0.6 else world.random.choice(members))
    world.tell("FAULT", f"{fault.name} ({target.name})")
    fault.inject(world, target)


def heal_everything(world: World) -> None:
    """The end of trouble: afterwards the group must become whole by itself."""
    world.tell("HEAL", "everything works again")
    world.network.heal()
    world.lagging.clear()
    world.mediator_up = True
    world.mediator_slow = world.lost_replies = world.load = 0.0
    world.reply_delay.clear()
    world.replicating = world.writing = True
    for host in world.hosts.values():
        if not host.up:
            host.boot()
        host.unpause()
        host.start_keeper()
        host.start_daemon()
        for process in (host.keeper, host.daemon):
            if process is not None and process.frozen:
                process.thaw()
        page = host.page
        if page is not None and page.frozen_since is None:
            host.thaw_service()
    snapshot = world.store.read(world.settings.group.name)
    if snapshot.control.paused is not None:
        world.apply_control(words.resume(snapshot.control, "ann"), snapshot.control.version)
