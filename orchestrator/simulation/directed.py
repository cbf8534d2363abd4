"""Schedules that go straight for one race, which random trouble meets once in thousands of runs.

Each builds up the moment at which one rule of the protocol is all that stands between two primaries, with enough
randomness left to hit it from several sides. With every rule on they must hold; with the rule off they must not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from orchestrator.domain.record import RequestKind
from orchestrator.engine import words
from orchestrator.engine.asking import missing

if TYPE_CHECKING:
    from orchestrator.simulation.hosts import Host
    from orchestrator.simulation.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Directed:
    name: str
    says: str
    run: Callable[[World], None]
    settings: tuple[tuple[str, Any], ...] = ()
    """Settings that the race needs, over those that the seed draws."""


def _cast(world: World) -> tuple[Host, list[Host]]:
    """The primary and the standbys of a whole group, a little while after it became whole."""
    from orchestrator.simulation.schedules import become_whole

    become_whole(world)
    world.run(world.random.uniform(2.5, 3.5) * world.settings.lease)
    become_whole(world)
    record = world.store.read(world.settings.group.name).record
    assert record is not None
    primary = world.hosts[record.primary.name]
    standbys = [world.hosts[name] for name in world.settings.group.member_names if name != primary.name]
    world.tell("SCENE", f"{primary.name} is primary")
    return primary, standbys


def _members(world: World, host: Host) -> list[str]:
    return [name for name in world.hosts if name != host.name]


def _leases(world: World, number: float) -> None:
    world.run(number * world.settings.lease)


def regained_after_release(world: World) -> None:
    """Frozen for long, it released; then its own write came through first, while nobody could hear it any more."""
    primary, standbys = _cast(world)
    world.mediator_up = False
    if primary.keeper is not None:
        primary.keeper.frozen = True
        _leases(world, 1.1)
        primary.keeper.thaw()
    page = primary.page
    world.run_until(lambda: page is not None and page.release is not None, 3 * world.settings.lease)
    _leases(world, 0.02)
    for standby in standbys:
        world.network.isolate(standby.name, ["mediator"])
    world.network.isolate(primary.name, _members(world, primary))
    world.mediator_up = True
    world.run_until(lambda: primary.can_commit(), 2 * world.settings.lease)
    world.network.heal()
    world.network.isolate(primary.name, _members(world, primary))
    _leases(world, 2.0)


def lost_page(world: World) -> None:
    """A standby that has just promised loses its keeper's memory, and its beats from the primary, at the same moment."""
    primary, standbys = _cast(world)
    standby = standbys[0]
    standby.kill_keeper()
    standby.page = None
    world.network.isolate(standby.name, [primary.name])
    world.network.isolate(primary.name, ["mediator"])
    _leases(world, 2.5)


def rebooted_with_an_old_record(world: World) -> None:
    """The primary reboots in an instant, hears nobody, and reads a record from before its only standby was added."""
    primary, standbys = _cast(world)
    for standby in standbys:
        standby.crash()
    world.run_until(lambda: _succession(world) == (), 6 * world.settings.lease)
    world.lagging[primary.name] = world.store.read(world.settings.group.name)
    standbys[0].boot()
    listed = world.run_until(lambda: _succession(world) == (standbys[0].name,), 12 * world.settings.lease + 5)
    if not listed:
        return
    primary.crash()
    world.network.isolate(primary.name, _members(world, primary))
    world.run(0.01)
    primary.boot()
    _leases(world, 8.0)


def _succession(world: World) -> tuple[str, ...]:
    record = world.store.read(world.settings.group.name).record
    return tuple(pair.name for pair in record.succession) if record is not None else ("?",)


def late_answers(world: World) -> None:
    """Answers take half a lease; then nothing leaves the primary any more, while old answers still arrive."""
    primary, standbys = _cast(world)
    for standby in standbys:
        world.network.lag[standby.name, primary.name] = 0.5 * world.settings.lease
    _leases(world, world.random.uniform(1.2, 2.0))
    for name in [*_members(world, primary), "mediator"]:
        world.network.cut(primary.name, name)
    _leases(world, 4.0)


def late_replies(world: World) -> None:
    """The right rests on writes alone, whose answers come late; then the primary is cut off from the mediator."""
    primary, standbys = _cast(world)
    for standby in standbys:
        world.network.isolate(primary.name, [standby.name])
    world.reply_delay[primary.name] = 0.4 * world.settings.lease
    _leases(world, world.random.uniform(1.0, 2.0))
    world.network.isolate(primary.name, [*_members(world, primary), "mediator"])
    _leases(world, 4.0)


def added_without_an_answer(world: World) -> None:
    """The write that adds a standby is applied, but its answer is lost, and so is everything after it."""
    primary, standbys = _cast(world)
    joiner = standbys[0]
    world.writing = False
    joiner.crash()
    world.run_until(lambda: joiner.name not in _succession(world), 6 * world.settings.lease)
    joiner.boot()
    world.lost_replies = 1.0
    if not world.run_until(lambda: joiner.name in _succession(world), 8 * world.settings.lease + 5):
        return
    world.network.isolate(primary.name, ["mediator", joiner.name])
    world.lost_replies = 0.0
    _leases(world, 5.0)


def one_standby_apart(world: World) -> None:
    """One standby is cut off from the primary and reaches the mediator; the other goes on promising."""
    primary, standbys = _cast(world)
    world.writing = False
    world.run(0.3)
    world.network.isolate(primary.name, [standbys[0].name, "mediator"])
    _leases(world, 4.0)


def claim_in_the_post(world: World) -> None:
    """A claim is on its way for a long time; meanwhile the beats come back."""
    primary, standbys = _cast(world)
    world.network.isolate(primary.name, [*_members(world, primary), "mediator"])
    world.run_until(lambda: any(_is_claiming(standby) for standby in standbys), 4 * world.settings.lease)
    _leases(world, world.random.uniform(0.0, 0.05))
    world.network.heal()
    world.network.isolate(primary.name, ["mediator"])
    world.run_until(lambda: world.checkers.newest_epoch > 1, 3.0 * world.settings.lease)
    world.mediator_slow = 0.0
    world.network.isolate(primary.name, _members(world, primary))
    _leases(world, 3.0)


def _is_claiming(host: Host) -> bool:
    page = host.page
    claims = page is not None and page.claim is not None
    if claims:
        host.world.mediator_slow = 0.8 * host.world.settings.lease
    return claims


def late_switchover(world: World) -> None:
    """The release goes out at the last moment, the giver rolls back at once, and the target's claim is in the post."""
    primary, standbys = _cast(world)
    target = standbys[0]
    snapshot = world.store.read(world.settings.group.name)
    world.replicating = False
    world.run(0.5)
    control = words.ask(
        snapshot.control, snapshot.record, world.settings.group, RequestKind.SWITCHOVER, target.name, "ann", world.wall()
    )
    world.apply_control(control, snapshot.control.version)
    world.run(world.random.uniform(4.6, 4.95))
    world.replicating = True
    world.run_until(lambda: _is_claiming(target), 1.0)
    world.mediator_slow = 0.8 * world.settings.lease
    world.run_until(lambda: primary.can_commit(), 1.0)
    world.network.isolate(primary.name, [*_members(world, primary), "mediator"])
    world.run(4.0)


def frozen_daemon_dead_service(world: World) -> None:
    """The daemon stands still when the service dies: the keeper alone must let the others go ahead (P6)."""
    primary, _ = _cast(world)
    if primary.daemon is not None:
        primary.daemon.frozen = True
    primary.kill_service()
    lease = world.settings.lease
    if not world.run_until(lambda: bool(world.writable()), 1.1 * lease + 0.4 * lease + 1.0):
        world.checkers.broken("P6", "nobody replaced a dead primary although a standby and the mediator were well")


def stopped_clock(world: World) -> None:
    """The hypervisor stops the primary's machine, clocks and all; when it goes on, it hears and is not heard."""
    primary, standbys = _cast(world)
    claimant, other = standbys[0], standbys[-1]
    primary.pause(stop_clock=True)
    _leases(world, world.random.uniform(0.6, 0.9))
    for name in [*_members(world, primary), "mediator"]:
        world.network.cut(primary.name, name)
        if name != other.name:
            world.network.cut(name, primary.name)
    world.network.isolate(other.name, ["mediator"])
    primary.unpause()
    world.tell("SCENE", f"{claimant.name} may claim; only {other.name} is heard by {primary.name}")
    _leases(world, 3.0)


def apart_clocks(world: World) -> None:
    """The primary's clock is as slow and the standbys' as fast as is allowed; only the gate ends the old right."""
    primary, standbys = _cast(world)
    for host, rate in [(primary, 0.995), *((standby, 1.005) for standby in standbys)]:
        reading = host.now()
        host.clock.rate = rate
        host.clock.set(world.now, reading)
    _leases(world, 2.0)
    for process in (primary.keeper, primary.daemon):
        if process is not None:
            process.frozen = True
    _leases(world, 2.0)


def hung_then_recovered(world: World) -> None:
    """The service hangs, is given up, and comes back by itself at the worst moment."""
    primary, _ = _cast(world)
    primary.freeze_service(by="somebody")
    page = primary.page
    world.run_until(lambda: page is not None and page.release is not None, 3 * world.settings.lease + 2)
    world.run(world.random.uniform(0.0, 0.05))
    primary.thaw_service()
    _leases(world, 3.0)


def restored_mediator(world: World) -> None:
    """Somebody restores the mediator to what stood there before the last failover; then the primary dies."""
    primary, _ = _cast(world)
    old = world.store.read(world.settings.group.name)
    primary.kill_service()
    world.run_until(lambda: world.writable() not in ([], [primary.name]), 4 * world.settings.lease + 2)
    world.run(world.random.uniform(0.5, 4.0) * world.settings.lease)
    serving = world.writable()
    world.store.restore(old)
    _leases(world, 4.0)
    if world.writable() != serving:
        world.checkers.broken("P4", f"{serving} stopped serving because the mediator was restored")
    world.run(3.0)
    for name in serving:
        world.hosts[name].kill_service()
    _leases(world, 6.0)


# --- the promises about a healthy primary ----------------------------------------------------------------------------


def mediator_alone(world: World) -> None:
    """P4: losing the mediator alone never stops a healthy primary."""
    primary, _ = _cast(world)
    world.checkers.must_stay = primary.name
    world.mediator_up = False
    _leases(world, world.random.uniform(2.0, 20.0))
    world.mediator_up = True
    _leases(world, 3.0)
    world.checkers.must_stay = None


def daemon_alone(world: World) -> None:
    """P5: a daemon that is killed, frozen or restarted never stops a healthy primary."""
    primary, _ = _cast(world)
    world.checkers.must_stay = primary.name
    for _ in range(3):
        daemon = primary.daemon
        if daemon is None:
            pass
        elif world.random.random() < 0.5:
            primary.kill_daemon()
        else:
            daemon.frozen = True
            world.after(world.random.uniform(0.1, 5.0) * world.settings.lease, daemon.thaw)
        _leases(world, world.random.uniform(0.5, 6.0))
    world.checkers.must_stay = None


def keeper_alone(world: World) -> None:
    """A keeper that dies is started again within the lease, and goes on with the memory of its predecessor."""
    primary, _ = _cast(world)
    world.checkers.must_stay = primary.name
    for _ in range(3):
        primary.kill_keeper()
        _leases(world, world.random.uniform(1.0, 4.0))
    world.checkers.must_stay = None


def standbys_fail(world: World) -> None:
    """Standbys die and come back: the primary renews around them and goes on."""
    primary, standbys = _cast(world)
    world.checkers.must_stay = primary.name
    for _ in range(4):
        standby = world.random.choice(standbys)
        if standby.up:
            standby.crash()
        else:
            standby.boot()
        _leases(world, world.random.uniform(0.5, 5.0))
    world.checkers.must_stay = None


def primary_dies(world: World) -> None:
    """P6: with a healthy electable standby and the mediator, a dead primary is replaced within lease + promotion time."""
    primary, _ = _cast(world)
    primary.crash()
    lease = world.settings.lease
    waits = max(1.02, world.settings.host_down_after) * lease
    if not world.run_until(lambda: bool(world.writable()), waits + 0.25 * lease + 0.3):
        world.checkers.broken("P6", f"nobody serves {waits + 0.25 * lease + 0.3:.2f} s after the primary's death")


def replaced_unseen(world: World) -> None:
    """The service is replaced, with its data or without, while the keeper stands still for a moment."""
    from orchestrator.simulation.faults import restart_behind

    primary, _ = _cast(world)
    keeper = primary.keeper
    assert keeper is not None
    keeper.frozen = True
    restart_behind(world, primary)
    _leases(world, world.random.uniform(0.05, 0.3))
    keeper.thaw()
    _leases(world, 2.0)


def dropped_unwritten(world: World) -> None:
    """A silent standby is to be dropped, and just then the mediator is lost, so that the record goes on to list it."""
    primary, standbys = _cast(world)
    lease, gone = world.settings.lease, standbys[0]
    world.network.isolate(gone.name, [name for name in world.hosts if name != gone.name])
    _leases(world, world.random.uniform(2.85, 3.1))
    world.mediator_up = False
    _leases(world, 1.2)
    primary.crash()
    world.mediator_up = True
    world.run_until(lambda: bool(world.writable()), 6 * lease + 2)
    _leases(world, 1.0)


def twice_in_a_row(world: World) -> None:
    """The primary dies, and its successor dies a moment after its first writes."""
    primary, _ = _cast(world)
    lease = world.settings.lease
    primary.crash()
    world.run_until(lambda: bool(world.writable()), 8 * lease + 4)
    for name in world.writable():
        _leases(world, world.random.uniform(0.02, 0.2))
        world.hosts[name].crash()
    world.run_until(lambda: bool(world.writable()), 8 * lease + 4)
    _leases(world, 1.0)


def one_behind_and_twice(world: World) -> None:
    """A quorum's other standby is behind when the primary dies, and again when its successor dies."""
    primary, standbys = _cast(world)
    ahead, behind = standbys
    world.starved.add(behind.name)
    _leases(world, world.random.uniform(0.3, 1.0))
    primary.crash()
    if not world.run_until(ahead.can_commit, 8 * world.settings.lease + 4):
        return
    world.run(world.random.uniform(0.0, 0.06))
    ahead.crash()
    world.starved.clear()
    world.run_until(lambda: bool(world.writable()), 6 * world.settings.lease + 2)
    _leases(world, 1.0)


def dropped_alone_with_it(world: World) -> None:
    """One standby alone has the last commits, fails and is to be dropped; then the primary dies."""
    primary, standbys = _cast(world)
    behind, alone = standbys
    world.starved.add(behind.name)
    _leases(world, world.random.uniform(0.3, 0.8))
    alone.kill_service()
    world.run_until(lambda: _listed(world) == {behind.name}, world.random.uniform(0.5, 1.0) * world.settings.lease)
    primary.crash()
    world.starved.clear()
    world.run_until(lambda: bool(world.writable()), 6 * world.settings.lease + 2)
    _leases(world, 1.0)


def listed_without_an_answer(world: World) -> None:
    """A standby comes back as the mediator is lost; the one that is listed gets nothing any more, and then has to take over."""
    primary, standbys = _cast(world)
    listed, back = standbys
    lease = world.settings.lease
    back.crash()
    world.run_until(lambda: _listed(world) == {listed.name}, 6 * lease)
    back.boot()
    world.run_until(lambda: back.instance is not None and back.instance.running, 4 * lease + 2)
    world.mediator_up = False
    world.run_until(lambda: back.instance is not None and back.instance.link_up, 8 * lease + 2)
    world.starved.add(listed.name)
    _leases(world, world.random.uniform(0.5, 1.5))
    primary.crash()
    world.starved.clear()
    world.mediator_up = True
    world.run_until(lambda: bool(world.writable()), 6 * lease + 2)
    _leases(world, 1.0)


def answered_long_ago(world: World) -> None:
    """A candidate has its answers and waits for a person; it sleeps while the primary is back for a moment."""
    from orchestrator.simulation.schedules import approve

    primary, standbys = _cast(world)
    lease, (one, two) = world.settings.lease, standbys
    world.network.isolate(primary.name, [*_members(world, primary), "mediator"])
    asked = world.run_until(lambda: _proposed_by(world) is not None, 8 * lease + 2)
    candidate = one if _proposed_by(world) == one.name else two
    other = two if candidate is one else one
    if not asked or candidate.daemon is None or other.daemon is None:
        return
    answered = world.run_until(lambda: _has_its_answers(world, candidate), 4 * lease)
    if not answered:
        return
    candidate.daemon.frozen = other.daemon.frozen = True
    world.starved.add(candidate.name)
    world.network.heal()
    world.network.isolate(primary.name, ["mediator"])
    world.run_until(primary.can_commit, 2 * lease)
    _leases(world, 0.5)
    world.network.isolate(primary.name, [*_members(world, primary), "mediator"])
    primary.crash()
    _leases(world, 1.2)
    if candidate.daemon is not None:
        candidate.daemon.thaw()
    world.run(0.05)
    approve(world)
    world.run_until(lambda: bool(world.writable()), 2 * lease)
    _leases(world, 0.5)


def _has_its_answers(world: World, host: Host) -> bool:
    state = host.daemon.state if host.daemon is not None else None
    return state is not None and state.record is not None and state.asking is not None and not missing(state, state.record)


def _proposed_by(world: World) -> str | None:
    proposal = world.store.read(world.settings.group.name).control.proposal
    return proposal.author if proposal is not None else None


def back_and_needed(world: World) -> None:
    """A standby that was away comes back, and the primary dies as soon as the record lists it."""
    primary, standbys = _cast(world)
    back = standbys[0]
    for each in standbys:
        each.crash()
    _leases(world, world.random.uniform(4.0, 6.0))
    back.boot()
    world.run_until(lambda: back.instance is not None and back.instance.link_up, 8 * world.settings.lease + 2)
    world.replicating = False
    world.run_until(lambda: back.name in _listed(world), 2 * world.settings.lease)
    world.replicating = True
    _leases(world, world.random.uniform(0.0, 0.05))
    primary.crash()
    world.run_until(lambda: bool(world.writable()), 6 * world.settings.lease + 2)
    _leases(world, 1.0)


def _listed(world: World) -> set[str]:
    record = world.store.read(world.settings.group.name).record
    return {pair.name for pair in record.succession} if record is not None else set()


def short_pauses(world: World) -> None:
    """Pauses of up to 0.8 leases are a hiccup, never a failover."""
    primary, _ = _cast(world)
    epoch = world.checkers.newest_epoch
    for _ in range(4):
        primary.pause()
        _leases(world, world.random.uniform(0.1, 0.8))
        primary.unpause()
        _leases(world, world.random.uniform(2.0, 4.0))
    if world.checkers.newest_epoch != epoch:
        world.checkers.broken("no failover without cause", "a pause of at most 0.8 leases cost the role")
    if world.writable() != [primary.name]:
        world.checkers.broken("liveness", f"{primary.name} does not serve after its pauses")


AUTOMATIC: Final = (("automation", "automatic"), ("loss", 0.0), ("duplication", 0.0))
THREE: Final = (*AUTOMATIC, ("members", 3))
ONE_OF_TWO: Final = (*THREE, ("synchronous", True), ("quorum", 1), ("reserved", False))

DIRECTED: Final = (
    Directed(
        name="regained after release", says=regained_after_release.__doc__ or "", run=regained_after_release, settings=THREE
    ),
    Directed(
        name="lost page",
        says=lost_page.__doc__ or "",
        run=lost_page,
        settings=(*AUTOMATIC, ("members", 2), ("host_down_after", 0.35)),
    ),
    Directed(
        name="rebooted with an old record",
        says=rebooted_with_an_old_record.__doc__ or "",
        run=rebooted_with_an_old_record,
        settings=(*AUTOMATIC, ("members", 2)),
    ),
    Directed(
        name="late answers", says=late_answers.__doc__ or "", run=late_answers, settings=(*THREE, ("host_down_after", 0.35))
    ),
    Directed(
        name="late replies", says=late_replies.__doc__ or "", run=late_replies, settings=(*THREE, ("host_down_after", 0.35))
    ),
    Directed(
        name="added without an answer",
        says=added_without_an_answer.__doc__ or "",
        run=added_without_an_answer,
        settings=(*THREE, ("host_down_after", 0.35)),
    ),
    Directed(
        name="one standby apart",
        says=one_standby_apart.__doc__ or "",
        run=one_standby_apart,
        settings=(*THREE, ("host_down_after", 0.6)),
    ),
    Directed(name="claim in the post", says=claim_in_the_post.__doc__ or "", run=claim_in_the_post, settings=THREE),
    Directed(name="late switchover", says=late_switchover.__doc__ or "", run=late_switchover, settings=(*THREE, ("lease", 3.0))),
    Directed(
        name="frozen daemon, dead service",
        says=frozen_daemon_dead_service.__doc__ or "",
        run=frozen_daemon_dead_service,
        settings=(*THREE, ("host_down_after", 1.0)),
    ),
    Directed(
        name="stopped clock",
        says=stopped_clock.__doc__ or "",
        run=stopped_clock,
        settings=(*THREE, ("witnesses", 0), ("host_down_after", 0.6)),
    ),
    Directed(
        name="clocks apart",
        says=apart_clocks.__doc__ or "",
        run=apart_clocks,
        settings=(*THREE, ("gate", True), ("host_down_after", 0.35), ("lease", 3.0)),
    ),
    Directed(name="hung, then recovered", says=hung_then_recovered.__doc__ or "", run=hung_then_recovered, settings=THREE),
    Directed(name="restored mediator", says=restored_mediator.__doc__ or "", run=restored_mediator, settings=THREE),
    Directed(name="mediator alone", says=mediator_alone.__doc__ or "", run=mediator_alone, settings=AUTOMATIC),
    Directed(name="daemon alone", says=daemon_alone.__doc__ or "", run=daemon_alone, settings=AUTOMATIC),
    Directed(name="keeper alone", says=keeper_alone.__doc__ or "", run=keeper_alone, settings=AUTOMATIC),
    Directed(name="standbys fail", says=standbys_fail.__doc__ or "", run=standbys_fail, settings=AUTOMATIC),
    Directed(name="primary dies", says=primary_dies.__doc__ or "", run=primary_dies, settings=AUTOMATIC),
    Directed(
        name="replaced unseen",
        says=replaced_unseen.__doc__ or "",
        run=replaced_unseen,
        settings=(*AUTOMATIC, ("gate", True)),
    ),
    Directed(
        name="back, and needed at once",
        says=back_and_needed.__doc__ or "",
        run=back_and_needed,
        settings=(*AUTOMATIC, ("members", 2), ("synchronous", True), ("host_down_after", 0.35)),
    ),
    Directed(
        name="twice in a row",
        says=twice_in_a_row.__doc__ or "",
        run=twice_in_a_row,
        settings=(*THREE, ("synchronous", True), ("host_down_after", 1.0)),
    ),
    Directed(
        name="one behind, and twice",
        says=one_behind_and_twice.__doc__ or "",
        run=one_behind_and_twice,
        settings=(*ONE_OF_TWO, ("host_down_after", 0.6)),
    ),
    Directed(
        name="dropped, and alone with it",
        says=dropped_alone_with_it.__doc__ or "",
        run=dropped_alone_with_it,
        settings=(*ONE_OF_TWO, ("host_down_after", 0.6)),
    ),
    Directed(
        name="listed without an answer",
        says=listed_without_an_answer.__doc__ or "",
        run=listed_without_an_answer,
        settings=(*ONE_OF_TWO, ("host_down_after", 0.6)),
    ),
    Directed(
        name="answered long ago",
        says=answered_long_ago.__doc__ or "",
        run=answered_long_ago,
        settings=(*ONE_OF_TWO, ("automation", "confirm"), ("host_down_after", 0.6)),
    ),
    Directed(
        name="dropped, not written",
        says=dropped_unwritten.__doc__ or "",
        run=dropped_unwritten,
        settings=(*AUTOMATIC, ("members", 2), ("synchronous", True)),
    ),
    Directed(
        name="short pauses",
        says=short_pauses.__doc__ or "",
        run=short_pauses,
        settings=(*AUTOMATIC, ("gate", True), ("host_down_after", 1.0)),
    ),
)
