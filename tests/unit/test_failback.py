"""Failback: when the role goes back to the preferred member, by whose word, and when it does not."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.domain.effects import WriteControl
from orchestrator.domain.observations import Hold, Role
from orchestrator.domain.policy import Automation, Failback, Window
from orchestrator.domain.record import Cause, Pause, RequestKind
from orchestrator.engine import words
from orchestrator.engine.state import Local, Phase
from strategies.failback import earliest, opens_at
from tests.unit.scenarios import (
    GROUP,
    NOW,
    WALL,
    Engine,
    control,
    keeper,
    of,
    peer,
    peers_of,
    policy,
    record,
    service,
    state,
    statement,
)

SUNDAY = 6
NIGHT = Window(days=(SUNDAY,), begins=3 * 60, ends=4 * 60)
FOLLOWS = statement(following="db2")


def wall(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("window", "at", "opens"),
    [
        (NIGHT, "2026-11-22 02:59", "2026-11-22 03:00"),
        (NIGHT, "2026-11-22 03:00", "2026-11-22 03:00"),
        (NIGHT, "2026-11-22 03:59", "2026-11-22 03:59"),
        (NIGHT, "2026-11-22 04:00", "2026-11-29 03:00"),
        (NIGHT, "2026-11-25 12:00", "2026-11-29 03:00"),
        (Window(days=(5, SUNDAY), begins=1410, ends=30), "2026-11-22 00:10", "2026-11-22 00:10"),
        (Window(days=(5, SUNDAY), begins=1410, ends=30), "2026-11-23 00:29", "2026-11-23 00:29"),
        (Window(days=(5, SUNDAY), begins=1410, ends=30), "2026-11-23 00:30", "2026-11-28 23:30"),
        (Window(days=tuple(range(7)), begins=60, ends=120), "2026-11-24 02:00", "2026-11-25 01:00"),
    ],
)
def test_a_window_opens(window: Window, at: str, opens: str):
    """22 November 2026 is a Sunday."""
    assert opens_at(window, wall(at)) == wall(opens)


def test_the_preferred_member_is_fit_first_and_the_window_open_then():
    failback = Failback(after=600.0, window=NIGHT)
    assert earliest(failback, NOW, NOW, wall("2026-11-22 02:55")) == NOW + 600.0
    assert earliest(failback, NOW, NOW, wall("2026-11-22 03:55")) == NOW + 7 * 86400 - 55 * 60
    assert earliest(failback, NOW - 600.0, NOW, wall("2026-11-22 03:55")) == NOW


def deputy(**changes: Any) -> Engine:
    """db2, primary since a failover; db1, which is preferred, follows it and could take over."""
    known = changes.pop("record", record(primary="db2", succession=("db1", "db3")))
    rules = {"failback": Failback(after=60.0), **changes.pop("rules", {})}
    others = peers_of("db2", db1=changes.pop("preferred", peer("db1", statement=FOLLOWS)), db3=peer("db3", statement=FOLLOWS))
    holds = keeper(
        "db2", others, hold=Hold.SERVING, right_epoch=3, right_until=NOW + 1e6, counted=known.succession, readable=False
    )
    local = Local(view=service(Role.PRIMARY), viewed_at=NOW - 0.1)
    begin = state("db2", record=known, phase=Phase.SERVING, keeper=holds, local=local, policy=policy(**rules), **changes)
    engine = Engine(begin)
    engine.tick()
    return engine


def words_of(effects: tuple[Any, ...]) -> list[WriteControl]:
    return [each for each in of(effects, WriteControl) if each.control.request or each.control.proposal]


def test_the_role_goes_back_once_the_preferred_member_has_been_fit_for_long_enough():
    engine = deputy()
    assert not words_of(engine.tick(59.0))
    assert engine.last.wake_at <= NOW + 60.0
    write = words_of(engine.tick(1.1))[0]
    request = write.control.request
    assert (request.kind, request.target, request.by, request.epoch) == (RequestKind.SWITCHOVER, "db1", "policy (failback)", 3)
    assert not words_of(engine.tick(0.1)), "it is asked for once"
    engine.done(write, after=0.01)
    engine.tick(0.01)
    assert engine.state.phase is Phase.HANDING_OVER
    assert engine.state.handover.target == "db1"


def test_a_break_begins_the_time_anew():
    engine = deputy()
    engine.tick(59.0)
    well = engine.state.keeper
    ill = peer("db1", statement=replace(FOLLOWS, electable=False, why_not="its data is being copied"))
    engine.keeper_seen(replace(well, peers=peers_of("db2", db1=ill)), after=0.1)
    engine.keeper_seen(well, after=0.1)
    assert not words_of(engine.tick(58.0))
    assert words_of(engine.tick(3.0))


def test_after_an_attempt_that_failed_the_time_begins_anew():
    engine = deputy()
    write = words_of(engine.tick(60.1))[0]
    engine.done(write, after=0.01)
    engine.tick(0.01)
    engine.state = replace(engine.state, phase=Phase.SERVING, handover=None)
    engine.read(engine.state.record, control(9))
    assert not words_of(engine.tick(59.0))
    assert words_of(engine.tick(2.0))


@pytest.mark.parametrize(
    ("changes", "gate"),
    [
        ({"preferred": peer("db1", silent_since=NOW - 9.0)}, "preferred member"),
        ({"preferred": peer("db1", statement=replace(FOLLOWS, following=None))}, "preferred member"),
        ({"record": record(primary="db2", succession=("db3",))}, "preferred member"),
        ({"control": control(paused=Pause(by="ann", at_wall=WALL))}, "preferred member"),
        ({"record": record(primary="db2", succession=("db1",), cause=Cause.SWITCHOVER)}, "failover"),
        ({"record": record(primary="db2", succession=("db1",), cause=Cause.ADOPTION)}, "failover"),
        ({"rules": {"cooldown": 7200.0}}, "time"),
        ({"rules": {"automation": Automation.MANUAL}}, "permitted"),
        ({"rules": {"automation": Automation.OBSERVE}}, "permitted"),
    ],
)
def test_it_stays_and_says_why(changes: dict[str, Any], gate: str):
    engine = deputy(**changes)
    assert not words_of(engine.tick(61.0))
    assert engine.state.refusals["failback"].gate == gate
    assert engine.state.phase is Phase.SERVING


def test_without_a_policy_or_another_preferred_member_nobody_thinks_of_it():
    plain = replace(GROUP, members=tuple(replace(each, preferred=False) for each in GROUP.members))
    at_home = replace(GROUP, members=tuple(replace(each, preferred=each.name == "db2") for each in GROUP.members))
    for engine in (deputy(rules={"failback": None}), deputy(group=plain), deputy(group=at_home)):
        assert not words_of(engine.tick(61.0))
        assert "failback" not in engine.state.refusals


def asked() -> tuple[Engine, WriteControl]:
    engine = deputy(rules={"automation": Automation.CONFIRM})
    write = words_of(engine.tick(60.1))[0]
    assert not words_of(engine.tick(0.1)), "it is asked for once"
    engine.done(write, after=0.01)
    return engine, write


def test_under_confirm_a_person_is_asked_once_and_the_approval_is_an_ordinary_switchover():
    engine, write = asked()
    proposal = write.control.proposal
    assert (proposal.candidate, proposal.diagnosis, proposal.expected_loss_bytes) == ("db1", "failback", 0)
    assert not words_of(engine.tick(5.0))
    approved = words.approve(engine.state.control, engine.state.record, proposal.id, 3, "ann", engine.state.wall)
    assert (approved.request.kind, approved.request.by, approved.request.proposal) == (RequestKind.SWITCHOVER, "ann", None)
    engine.read(engine.state.record, replace(approved, version=approved.version + 1), after=0.1)
    assert engine.state.phase is Phase.HANDING_OVER


def test_its_proposal_is_void_when_the_preferred_member_is_fit_no_more():
    engine, _ = asked()
    found = engine.keeper_seen(replace(engine.state.keeper, peers=peers_of("db2", db1=peer("db1", silent_since=NOW))), after=0.1)
    assert [each.control.proposal for each in of(found, WriteControl)] == [None]


def test_a_rejected_one_does_not_come_again_in_this_epoch_and_says_nothing_about_failures():
    engine, write = asked()
    rejected = words.reject(engine.state.control, write.control.proposal.id, "ann", engine.state.wall)
    engine.read(engine.state.record, replace(rejected, version=rejected.version + 1), after=0.1)
    assert not words_of(engine.tick(3600.0))
    assert engine.state.refusals["failback"].gate == "rejected"
    assert not rejected.rejected.startswith("orders-3-")
