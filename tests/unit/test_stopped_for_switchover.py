"""Services whose writes can only be held by stopping them, and standbys without which no write is acknowledged."""

from dataclasses import replace

import pytest

from orchestrator.domain import commands, events
from orchestrator.domain.effects import EnsureReplicas, EnsureService, History, WantedRole, WriteRecord
from orchestrator.domain.observations import Answered, Health, Hold, Refused, Role
from orchestrator.domain.policy import Replication
from orchestrator.domain.record import RequestKind
from orchestrator.domain.topology import Pair
from orchestrator.engine.informing import compose
from orchestrator.engine.state import HandoverStage, Phase
from tests.unit.scenarios import (
    LIVES,
    Engine,
    control,
    of,
    peer,
    peers_of,
    policy,
    position,
    record,
    request,
    service,
    serving,
    silent,
    state,
    statement,
    told,
)

HELD = EnsureService(role=WantedRole.HELD, epoch=3)
STOPPED = service(Role.PRIMARY, pid=0, process_started=0, writes_held=True)
GONE = Refused("stopped for a switchover", gone=True)


def holding(*, target_at: int = 500) -> Engine:
    """A switchover to db2 is under way, and the service has been told to hold its writes."""
    near = peer("db2", statement=statement(target_at))
    engine = Engine(serving(keeper=replace(serving().keeper, peers=peers_of("db1", db2=near))))
    engine.read(record(), control(version=5, request=request(RequestKind.SWITCHOVER, target="db2")))
    return engine


def stopped(engine: Engine):
    when = {"at": engine.now + 0.01, "wall": engine.state.wall + 0.01}
    return engine.feed(events.EffectDone(**when, effect=HELD, view=STOPPED))


def test_the_renewal_during_a_switchover_is_the_present_life_s():
    """A keeper that has lost its memory meanwhile gets no right by a record that names its older life."""
    engine = holding()
    anew = replace(engine.state.keeper, life=77, wants_write=True, hold=Hold.SERVING)
    (write,) = of(engine.keeper_seen(anew, after=1.0), WriteRecord)
    assert write.record.primary == Pair("db1", 77)


def ended(engine: Engine):
    return engine.keeper_seen(replace(engine.state.keeper, hold=Hold.NONE, main_exited=True), after=0.001)


@pytest.mark.parametrize("first", ["the act's answer", "the keeper", "the look"])
def test_a_service_that_was_stopped_for_the_switchover_is_released_to_the_target(first: str):
    engine = holding()
    if first == "the keeper":
        ended(engine)
    if first == "the look":
        engine.looked(GONE, after=0.001)
    assert engine.state.phase is Phase.HANDING_OVER
    found = stopped(engine) + engine.looked(GONE, after=0.001)
    if first != "the keeper":
        assert not told(found, commands.GiveUp), "the keeper has not seen its processes gone"
        found += ended(engine)
    assert told(found, commands.GiveUp)[:1] == [commands.GiveUp(position(500), "db2")]
    assert not [each for each in of(found, EnsureService) if each.role is WantedRole.STANDBY], "it follows later"


def test_while_it_is_stopped_for_the_switchover_it_does_not_call_itself_dead():
    engine = holding()
    stopped(engine)
    engine.looked(GONE, after=0.001)
    assert compose(engine.state).health is Health.WELL


def test_a_stopped_service_waits_for_a_target_that_lacks_some_of_it():
    engine = holding(target_at=499)
    stopped(engine)
    found = ended(engine)
    assert not told(found, commands.GiveUp)
    assert engine.state.handover.stage is HandoverStage.DRAIN


def test_a_service_that_dies_before_it_is_held_is_no_switchover_any_more():
    engine = holding()
    ended(engine)
    engine.failed(HELD, "it has ended", after=0.01)
    assert engine.state.handover is None
    assert engine.state.phase is Phase.LETTING_GO


def test_a_stopped_service_is_started_again_when_the_target_does_not_take_over():
    engine = holding(target_at=499)
    stopped(engine)
    ended(engine)
    engine.looked(GONE, after=0.001)
    engine.keeper_seen(replace(engine.state.keeper, peers=peers_of("db1", db2=silent("db2"))), after=0.01)
    found = engine.tick(0.01)
    assert engine.state.phase is Phase.STARTING
    assert EnsureService(role=WantedRole.STANDBY, epoch=3) in (*found, *engine.state.asked)


# --- synchronous groups ----------------------------------------------------------------------------------------------

NEWCOMER = Pair("db3", LIVES["db3"])


def synchronous(**changes: object) -> Engine:
    lonely = record(succession=("db2",))
    held = replace(serving().keeper, counted=(Pair("db2", 22),))
    usual = {"record": lonely, "keeper": held, "history": History(record=lonely, served_epoch=3)}
    return Engine(serving(policy=policy(replication=Replication.SYNCHRONOUS), **{**usual, **changes}))


def test_a_newcomer_is_waited_for_before_it_is_counted():
    engine = synchronous()
    found = engine.tick()
    (asked,) = of(found, EnsureReplicas)
    assert asked.names == ("db2", "db3")
    assert not told(found, commands.Prepare)
    found = engine.done(asked, after=0.01)
    found += engine.looked(Answered(service(Role.PRIMARY), 0.001), after=0.01)
    assert [each.pairs for each in told(found, commands.Prepare)] == [(NEWCOMER,)]
    assert not of(found, WriteRecord)


def covering(newcomer_at: int) -> Engine:
    """The list with the newcomer is in force, and the newcomer has said how far it is."""
    engine = synchronous()
    near = peers_of("db1", db3=peer("db3", statement=statement(newcomer_at)))
    engine.keeper_seen(replace(engine.state.keeper, peers=near))
    (asked,) = [each for each in engine.state.asked if isinstance(each, EnsureReplicas)]
    engine.done(asked, after=0.01)
    return engine


def looked_at(engine: Engine, offset: int, began_ago: float = 0.0):
    outcome = Answered(service(Role.PRIMARY, offset), 0.001)
    at = engine.now + 0.01
    return engine.feed(events.Looked(at=at, wall=engine.state.wall + 0.01, began_at=at - began_ago, outcome=outcome))


def test_a_newcomer_is_counted_only_when_it_has_what_was_acknowledged_without_it():
    engine = covering(newcomer_at=499)
    assert not told(looked_at(engine, 500) + engine.tick(0.3), commands.Prepare), "a commit that it lacks may be in these bytes"
    caught_up = peers_of("db1", db3=peer("db3", statement=statement(500)))
    found = looked_at(engine, 700) + engine.keeper_seen(replace(engine.state.keeper, peers=caught_up), after=0.01)
    assert [each.pairs for each in told(found, commands.Prepare)] == [(NEWCOMER,)], "later commits wait for it already"


def test_a_look_from_before_the_list_was_in_force_does_not_tell_what_a_newcomer_must_have():
    engine = covering(newcomer_at=500)
    assert not told(looked_at(engine, 500, began_ago=0.1), commands.Prepare)
    assert told(looked_at(engine, 500), commands.Prepare)


def test_a_list_that_was_perhaps_taken_back_has_to_be_seen_again():
    engine = covering(newcomer_at=500)
    (asked,) = [each for each in engine.state.asked if isinstance(each, EnsureReplicas)]
    engine.failed(asked, after=0.01)
    assert engine.state.covered is None


def test_a_newcomer_whose_list_is_refused_is_never_counted():
    engine = synchronous()
    (asked,) = of(engine.tick(), EnsureReplicas)
    found = engine.failed(asked, after=0.01) + engine.tick(1.0)
    assert not told(found, commands.Prepare)
    assert not of(found, WriteRecord)


def test_a_dropped_member_is_waited_for_until_the_record_has_forgotten_it():
    both = record(succession=("db2", "db3"))
    gone = peers_of("db1", db3=peer("db3", statement=statement(electable=False, why_not="its service does not run")))
    held = replace(serving().keeper, peers=gone)
    engine = Engine(serving(policy=policy(replication=Replication.SYNCHRONOUS), keeper=held))
    found = engine.tick()
    (write,) = of(found, WriteRecord)
    assert write.record.succession == (Pair("db2", 22),)
    assert [each.names for each in of(found, EnsureReplicas)] == [("db2", "db3")]
    found = engine.written(write, events.WriteOutcome.APPLIED, after=0.01)
    assert not [each for each in of(found, EnsureReplicas) if "db3" not in each.names], "its promise still counts"
    found = engine.keeper_seen(replace(held, version=6, seen_version=6, counted=(Pair("db2", 22),)), after=0.01)
    assert [each.names for each in of(found, EnsureReplicas)] == [("db2",)]
    assert both.succession != write.record.succession


def test_the_same_list_as_before_the_last_one_is_asked_for_at_once():
    """Added and dropped within half a minute: commits must not wait for who is gone."""
    engine = synchronous()
    (first,) = of(engine.tick(), EnsureReplicas)
    engine.done(first, after=0.01)
    away = peers_of("db1", db3=silent("db3"))
    found = engine.keeper_seen(replace(engine.state.keeper, peers=away), after=0.01)
    assert [each.names for each in of(found, EnsureReplicas)] == [("db2",)]


def test_a_new_primary_has_its_list_before_its_service_is_promoted():
    mine = record(version=6, epoch=4, primary="db2", succession=("db3",))
    held = replace(
        state("db2").keeper, epoch=4, version=6, seen_version=6, right_epoch=4, right_until=1000.9, hold=Hold.PROMOTING
    )
    engine = Engine(
        state(
            "db2",
            phase=Phase.PROMOTING,
            phase_since=1000.0,
            record=mine,
            keeper=held,
            policy=policy(replication=Replication.SYNCHRONOUS),
            history=History(record=mine),
        )
    )
    found = engine.tick()
    (asked,) = of(found, EnsureReplicas)
    assert asked.names == ("db3",)
    assert not of(found, EnsureService)
    found = engine.done(asked, after=0.01)
    assert of(found, EnsureService) == [EnsureService(role=WantedRole.PRIMARY, epoch=4)]


def test_a_standby_to_which_nothing_comes_is_led_to_the_primary_again():
    engine = Engine(state("db2"))
    stuck = Answered(service(link_up=False), 0.001)
    engine.looked(stuck, after=0.01)
    found = [each for number in range(8) for each in engine.looked(stuck, after=0.5)]
    assert EnsureService(role=WantedRole.STANDBY, epoch=3, upstream="db1") in found


# --- strict groups ---------------------------------------------------------------------------------------------------


def alone(**policy_changes: object) -> Engine:
    """A primary without any standby."""
    lonely = record(succession=())
    held = replace(serving().keeper, counted=(), peers=peers_of("db1", db2=silent("db2"), db3=silent("db3")))
    return Engine(
        serving(policy=policy(**policy_changes), record=lonely, keeper=held, history=History(record=lonely, served_epoch=3))
    )


@pytest.mark.parametrize(
    ("policy_changes", "at_least"),
    [
        ({"replication": Replication.SYNCHRONOUS}, 0),
        ({"replication": Replication.SYNCHRONOUS, "strict": True}, 1),
        ({"min_replicas": 1, "strict": True}, 1),
    ],
    ids=["relaxed", "strict", "strict Redis"],
)
def test_a_primary_without_standbys_goes_on_alone_unless_it_is_strict(policy_changes: dict[str, object], at_least: int):
    (asked,) = of(alone(**policy_changes).tick(), EnsureReplicas)
    assert (asked.names, asked.at_least) == ((), at_least)


@pytest.mark.parametrize("given", [{"replication": Replication.SYNCHRONOUS}, {"min_replicas": 1}], ids=["PostgreSQL", "Redis"])
def test_a_strict_primary_insists_before_its_service_is_promoted(given: dict[str, object]):
    mine = record(version=6, epoch=4, primary="db2", succession=())
    held = replace(
        state("db2").keeper, epoch=4, version=6, seen_version=6, right_epoch=4, right_until=1000.9, hold=Hold.PROMOTING
    )
    engine = Engine(
        state(
            "db2",
            phase=Phase.PROMOTING,
            phase_since=1000.0,
            record=mine,
            keeper=held,
            policy=policy(strict=True, **given),
            history=History(record=mine),
        )
    )
    found = engine.tick()
    (asked,) = of(found, EnsureReplicas)
    assert asked.at_least == 1
    assert not of(found, EnsureService)
    assert of(engine.done(asked, after=0.01), EnsureService) == [EnsureService(role=WantedRole.PRIMARY, epoch=4)]


def test_a_never_synchronous_member_is_neither_waited_for_nor_may_it_take_over():
    engine = synchronous()
    members = tuple(replace(each, never_synchronous=each.name == "db3") for each in engine.state.group.members)
    engine.state = replace(engine.state, group=replace(engine.state.group, members=members))
    found = engine.tick()
    assert [each.names for each in of(found, EnsureReplicas)] == [("db2",)]
    assert not told(found, commands.Prepare)
    relaxed = replace(engine.state, policy=policy())
    assert told(Engine(relaxed).tick(), commands.Prepare), "where no commit waits for anybody it is like the others"
