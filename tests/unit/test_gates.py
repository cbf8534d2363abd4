"""The gates of a takeover: all green only when everything of rule 12 and policy agrees; each red one says why."""

from dataclasses import replace

import pytest
from scenarios import (
    NOW,
    PAUSE,
    WALL,
    bereaved,
    control,
    keeper,
    peer,
    peers_of,
    policy,
    position,
    primary_says,
    record,
    request,
    service,
    settled,
    silent,
    state,
    statement,
)

from orchestrator.domain.effects import History
from orchestrator.domain.observations import Health, Hold, Release, Role
from orchestrator.domain.policy import Automation, TimingRule
from orchestrator.domain.positions import Position
from orchestrator.domain.record import Cause
from orchestrator.domain.topology import Pair
from orchestrator.domain.verdicts import Permission
from orchestrator.engine import gates
from orchestrator.engine.diagnosing import verdict_on_primary
from orchestrator.engine.state import Local, Mediation, State, Told


def judged(known: State) -> State:
    return replace(known, verdict=verdict_on_primary(known))


def red(known: State) -> dict[str, gates.Red]:
    known = judged(known)
    assert known.record is not None
    return dict(gates.red_gates(known, known.record))


def released(target: str | None = None, at: Position | None = None, **changes: object):
    """The primary is heard, and has given the right up."""
    release = Release(**{"epoch": 3, "version": 5, "position": at, "target": target, **changes})
    return peer("db1", statement=primary_says(), release=release)


def with_peers(**views: object) -> State:
    return bereaved(keeper=keeper("db2", peers_of("db2", **{**settled(), **views})))


def test_a_standby_whose_primary_is_gone_for_good_may_take_over():
    assert red(bereaved()) == {}


def test_the_gates_are_asked_in_the_documented_order():
    names = [name for name, _ in gates.TAKEOVER]
    assert names == [
        "primary failed",
        "mediator answers",
        "in the succession",
        "service ready",
        "not paused",
        "best of all",
        "holds everything",
        "permitted",
        "promise over",
        "lease over",
        "nothing left elsewhere",
        "quorum heard",
    ]


CLOSED = {
    "the primary is heard": ("primary failed", with_peers(db1=peer("db1", statement=primary_says())), "db1 is well"),
    "silent only for a moment": ("primary failed", with_peers(db1=silent(since=NOW - 0.3)), "counts as failed in 700 ms"),
    "the mediator is away": ("mediator answers", bereaved(lost_since=NOW - 1.0, lost_because="no route"), "no route"),
    "no record was read yet": ("mediator answers", bereaved(status=Mediation.UNKNOWN), "unknown"),
    "the record is an older one": ("mediator answers", bereaved(status=Mediation.OLDER), "older"),
    "there is no record any more": ("mediator answers", bereaved(status=Mediation.ABSENT), "absent"),
    "a beat knew a newer version": (
        "mediator answers",
        bereaved(keeper=keeper("db2", peers_of("db2", db1=silent(), **settled()), version=6)),
        "newer",
    ),
    "a beat knew a newer epoch": (
        "mediator answers",
        bereaved(keeper=keeper("db2", peers_of("db2", db1=silent(), **settled()), epoch=4)),
        "newer",
    ),
    "the disk remembers a newer epoch": ("mediator answers", bereaved(history=History(served_epoch=4)), "newer"),
    "not listed": ("in the succession", bereaved(record=record(succession=("db3",))), "db2 is not in the succession"),
    "listed in an earlier life": (
        "in the succession",
        bereaved(record=replace(record(), succession=(Pair("db2", 21), Pair("db3", 33)))),
        "earlier life",
    ),
    "our service does not run": ("service ready", bereaved(local=Local(view=None, gone_since=NOW - 1)), "does not run"),
    "our service refuses": ("service ready", bereaved(local=Local(view=None, refused="loading")), "loading"),
    "our service does not answer": (
        "service ready",
        bereaved(local=Local(view=service(), viewed_at=NOW - 5, silent_since=NOW - 4)),
        "does not answer",
    ),
    "our service is no standby": (
        "service ready",
        bereaved(local=Local(view=service(Role.PRIMARY), viewed_at=NOW - 0.1)),
        "not a standby",
    ),
    "our service may still commit": (
        "service ready",
        bereaved(keeper=keeper("db2", peers_of("db2", db1=silent(), **settled()), hold=Hold.SERVING)),
        "older epoch",
    ),
    "somebody paused": ("not paused", bereaved(control=control(paused=PAUSE)), "ann: maintenance"),
    "another has more": (
        "best of all",
        with_peers(db1=silent(), db3=peer("db3", statement=statement(900, settled=5))),
        "the candidate is db3",
    ),
    "a person chose another": ("best of all", bereaved(control=control(request=request(target="db3"))), "ann chose db3"),
    "released to another": ("best of all", with_peers(db1=released("db3")), "released to db3"),
    "final positions are awaited": (
        "best of all",
        replace(with_peers(db1=silent(), db3=peer("db3", statement=statement(settled=4))), settled=(5, NOW - 0.1)),
        "final positions",
    ),
    "policy asks": ("permitted", bereaved(policy=policy(automation=Automation.CONFIRM)), "confirmation"),
    "policy leaves it to a person": ("permitted", bereaved(policy=policy(automation=Automation.MANUAL)), "to a person"),
    "policy only observes": ("permitted", bereaved(policy=policy(automation=Automation.OBSERVE)), "would have taken over"),
    "cool-down": (
        "permitted",
        bereaved(policy=policy(cooldown=600.0), record=record(since=WALL - 500.0)),
        "cool-down after the last failover for another 100.0 s",
    ),
    "the own promise runs": (
        "promise over",
        bereaved(keeper=keeper("db2", peers_of("db2", db1=silent(), **settled()), promised_to="db1", promised_until=NOW + 0.4)),
        "the promise to db1 runs for another 400 ms",
    ),
    "the record may be alive": ("lease over", bereaved(first_seen_at=NOW - 0.5), "may be alive for another 510 ms"),
}


@pytest.mark.parametrize("case", CLOSED, ids=str)
def test_a_closed_gate_comes_first_and_says_why(case: str):
    gate, known, words = CLOSED[case]
    closed = red(known)
    assert next(iter(closed), "none") == gate
    assert words in closed[gate].reason
    assert set(closed) <= {gate, "best of all"}, "who is not ready is no candidate either; nothing else may be in the way"


def test_a_gate_that_time_alone_opens_says_when():
    assert red(with_peers(db1=silent(since=NOW - 0.3)))["primary failed"].until == pytest.approx(NOW + 0.7)
    assert red(bereaved(first_seen_at=NOW - 0.5))["lease over"].until == pytest.approx(NOW - 0.5 + 1.01)
    cooling = bereaved(policy=policy(cooldown=600.0), record=record(since=WALL - 500.0))
    assert red(cooling)["permitted"].until == pytest.approx(NOW + 100.0)


def test_the_lease_counts_101_of_what_the_record_says_from_when_this_run_first_saw_its_version():
    long = record(lease=30.0)
    assert "lease over" in red(bereaved(record=long, first_seen_at=NOW - 30.29))
    assert "lease over" not in red(bereaved(record=long, first_seen_at=NOW - 30.31))


def test_a_record_that_is_only_remembered_is_not_known_to_be_alive_or_not():
    known = replace(bereaved(status=Mediation.UNKNOWN), history=History(record=record()))
    assert "mediator answers" in red(known)


# --- releases --------------------------------------------------------------------------------------------------------


def hurried(**views: object) -> State:
    """Everything that a release makes up for is still in the way: promise, lease, and a primary that is heard."""
    seen = keeper("db2", peers_of("db2", **{**settled(), **views}), promised_to="db1", promised_until=NOW + 0.9)
    return bereaved(keeper=seen, first_seen_at=NOW - 0.1)


def test_a_release_replaces_promise_and_lease():
    assert red(hurried(db1=released())) == {}


@pytest.mark.parametrize("changes", [{"version": 4}, {"version": 6}, {"epoch": 2}], ids=str)
def test_a_release_of_another_version_replaces_nothing(changes: dict[str, int]):
    assert {"primary failed", "promise over", "lease over"} <= set(red(hurried(db1=released(**changes))))


def test_a_release_by_another_life_replaces_nothing():
    assert "promise over" in red(hurried(db1=replace(released(), life=111)))


def test_a_release_to_us_makes_us_the_candidate_although_another_is_preferred_or_ahead():
    ahead = peer("db3", statement=statement(900, settled=5))
    assert red(hurried(db1=released("db2"), db3=ahead)) == {}


def test_the_target_must_hold_everything_that_was_released():
    assert red(hurried(db1=released("db2", position(500)))) == {}
    closed = red(hurried(db1=released("db2", position(510))))
    assert set(closed) == {"holds everything"}
    assert "10 bytes" in closed["holds everything"].reason


def test_the_target_must_be_able_to_compare_its_data_with_what_was_released():
    closed = red(hurried(db1=released("db2", position(500, "another line"))))
    assert set(closed) == {"holds everything"}


def test_a_release_to_another_that_is_silent_may_be_used_by_nobody_else_before_the_lease():
    closed = red(hurried(db1=released("db3"), db3=silent("db3")))
    assert {"promise over", "lease over"} <= set(closed)


# --- data ------------------------------------------------------------------------------------------------------------


def test_a_member_whose_data_ends_earlier_but_that_is_preferred_does_not_go_first():
    behind = bereaved(keeper=keeper("db2", peers_of("db2", db1=silent(), db3=peer("db3", statement=statement(499, settled=5)))))
    assert red(behind) == {}


def test_final_positions_are_not_awaited_for_ever():
    waiting = with_peers(db1=silent(), db3=peer("db3", statement=statement(settled=4)))
    assert "best of all" in red(replace(waiting, settled=(5, NOW - 0.24)))
    assert "best of all" not in red(replace(waiting, settled=(5, NOW - 0.26)))


def test_a_member_that_is_not_heard_is_not_waited_for():
    assert red(replace(with_peers(db1=silent(), db3=silent("db3")), settled=(5, NOW - 0.11))) == {}


def test_a_never_primary_member_is_never_the_candidate():
    known = bereaved()
    members = tuple(replace(each, never_primary=each.name == "db2") for each in known.group.members)
    closed = red(replace(known, group=replace(known.group, members=members)))
    assert "never_primary" in closed["best of all"].reason


# --- people and policy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [Automation.CONFIRM, Automation.MANUAL])
def test_a_persons_word_opens_what_policy_keeps_closed(level: Automation):
    word = control(request=request(target="db2"))
    assert red(bereaved(policy=policy(automation=level), control=word)) == {}


def test_where_policy_only_observes_no_word_helps():
    word = control(request=request(target="db2"))
    assert set(red(bereaved(policy=policy(automation=Automation.OBSERVE), control=word))) == {"permitted"}


@pytest.mark.parametrize(
    "word", [request(epoch=2), request(expires_wall=WALL - 0.1), request(expires_wall=WALL)], ids=["epoch", "past", "now"]
)
def test_a_word_for_another_epoch_or_an_expired_one_is_none(word):
    known = bereaved(policy=policy(automation=Automation.MANUAL), control=control(request=word))
    assert set(red(known)) == {"permitted"}
    assert gates.standing_request(known) is None


def test_a_persons_word_goes_through_a_pause():
    assert red(bereaved(control=control(paused=PAUSE, request=request(target="db2")))) == {}


def test_a_timing_rule_may_have_its_own_level():
    known = policy(host_down=TimingRule(after=1.0, automation=Automation.MANUAL))
    assert gates.may_act(judged(bereaved(policy=known))) is Permission.HOLD
    assert gates.may_act(judged(bereaved(policy=policy()))) is Permission.GO


@pytest.mark.parametrize(
    ("health", "rule"), [(Health.DEAD, "process_down"), (Health.UNRESPONSIVE, "unresponsive"), (None, "host_down")], ids=str
)
def test_behind_a_release_the_level_of_its_reason_counts(health: Health | None, rule: str):
    level = {rule: TimingRule(after=0.0, automation=Automation.CONFIRM)}
    told = {"db1": Told(health=health, since=NOW - 1.0)} if health else {}
    known = replace(hurried(db1=released()), policy=policy(**level), told=told)
    assert gates.may_act(judged(known)) is Permission.ASK


def test_in_the_cool_down_a_failover_becomes_a_question_and_a_word_answers_it():
    cooling = {"policy": policy(cooldown=600.0), "record": record(since=WALL - 10.0)}
    assert gates.may_act(judged(bereaved(**cooling))) is Permission.ASK
    assert gates.may_act(judged(bereaved(**cooling, control=control(request=request())))) is Permission.GO


@pytest.mark.parametrize("cause", [Cause.FOUNDING, Cause.SWITCHOVER, Cause.ADOPTION])
def test_only_a_failover_is_followed_by_a_cool_down(cause: Cause):
    recent = record(since=WALL - 10.0, cause=cause)
    assert red(bereaved(policy=policy(cooldown=600.0), record=recent)) == {}


def test_a_wall_clock_that_was_set_back_does_not_make_the_cool_down_longer_than_it_is():
    ahead = record(since=WALL + 86400.0)
    known = judged(bereaved(policy=policy(cooldown=600.0), record=ahead))
    assert gates.not_cooled_down(known) == pytest.approx(NOW + 600.0)


@pytest.mark.parametrize(("cap", "answer"), [(242, Permission.GO), (241, Permission.ASK)])
def test_who_lacks_more_than_policy_lets_go_of_takes_over_by_a_persons_word(cap: int, answer: Permission):
    """What piled up in the moment before the failure: the standby was in the succession all the while."""
    ahead = peer("db1", silent_since=NOW - 5.0, statement=primary_says(position=position(742)))
    view = keeper("db2", peers_of("db2", db1=ahead, **settled()))
    durable = Local(view=service(durable=True), viewed_at=NOW - 0.1)
    known = judged(bereaved(policy=policy(max_lag_bytes=cap), keeper=view, local=durable))
    assert gates.may_act(known) is answer
    assert ("242 bytes that db1" in getattr(red(known).get("permitted"), "reason", "")) is (answer is Permission.ASK)
    said = control(request=request(target="db2"))
    assert gates.may_act(replace(known, mediated=replace(known.mediated, control=said))) is Permission.GO


def test_nobody_is_permitted_anything_before_there_is_a_verdict():
    assert gates.may_act(state()) is Permission.HOLD
