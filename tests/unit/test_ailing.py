"""A service whose process is there and that cannot do its work: seen, timed by policy, named by every member."""

from dataclasses import replace
from typing import Any

import pytest
from scenarios import (
    NOW,
    Engine,
    bereaved,
    keeper,
    notices,
    of,
    peer,
    peers_of,
    policy,
    primary_says,
    record,
    service,
    serving,
    state,
    told,
)

from orchestrator.domain import commands
from orchestrator.domain.effects import LookNow, WriteControl
from orchestrator.domain.observations import Abstained, Answered, Health, Hold, Refused, Release, Role, Silent
from orchestrator.domain.policy import Automation, TimingRule
from orchestrator.domain.verdicts import CANNOT_WORK, Diagnosis, Finding, Permission
from orchestrator.engine import electing, gates
from orchestrator.engine.informing import compose
from orchestrator.engine.state import Phase, State
from probes.interconnected.wire import MAX_WORDS_BYTES
from probes.interconnected.words import decode, encode

STALLED = Finding(Diagnosis.STALLED_STORAGE, "a commit to disk does not come back")
FULL = Finding(Diagnosis.DISK_FULL, "no room is left in /data")
SHUT = Finding(Diagnosis.NOT_ACCEPTING, "in recovery mode")
BUSY = Finding(Diagnosis.OVERLOADED, "all 97 connections that clients may have are taken")
SET = Finding(Diagnosis.READ_ONLY, "default_transaction_read_only is on for everybody")


def answers(finding: Finding | None = None, role: Role = Role.PRIMARY) -> Answered:
    return Answered(service(role), 0.001, finding)


def looked_for(seconds: float, *outcomes: Any, begin: State | None = None) -> Engine:
    """A primary whose looks show this, one after the other, and then the last of them for so long."""
    engine = Engine(begin or serving())
    for outcome in outcomes:
        engine.looked(outcome)
    for _ in range(round(seconds / 0.25)):
        engine.looked(outcomes[-1], after=0.25)
    return engine


# --- the member that is ill ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", sorted(CANNOT_WORK))
def test_what_keeps_a_primary_from_its_work_gives_the_role_away_after_policys_time(code: Diagnosis):
    engine = looked_for(1.75, answers(Finding(code, "as seen")))
    assert engine.state.phase is Phase.SERVING
    assert compose(engine.state).health is Health.WELL
    engine.looked(answers(Finding(code, "as seen")), after=0.25)
    assert engine.state.phase is Phase.LETTING_GO
    said = compose(engine.state)
    assert (said.health, said.finding) == (Health.UNRESPONSIVE, Finding(code, "as seen"))


@pytest.mark.parametrize("finding", [BUSY, SET], ids=lambda found: found.code)
def test_overload_and_a_read_only_setting_move_no_role_and_are_told_once(finding: Finding):
    engine = Engine(serving())
    said = [text for _ in range(400) for text in notices(engine.looked(answers(finding), after=0.25))]
    assert engine.state.phase is Phase.SERVING
    assert [text for text in said if str(finding) in text] == [f"db1: {finding}, for 2.0 s"]
    assert compose(engine.state).finding == finding
    assert notices(engine.looked(answers(), after=0.25)) == [f"db1: over: {finding}"]
    assert compose(engine.state).finding is None


def test_a_server_without_a_connection_for_us_is_overloaded_and_stays_primary():
    engine = looked_for(60.0, Abstained("all connections are taken", BUSY))
    assert engine.state.phase is Phase.SERVING
    assert compose(engine.state).finding == BUSY


def test_one_look_that_finds_nothing_begins_the_time_anew():
    engine = looked_for(1.5, answers(STALLED))
    engine.looked(answers(), after=0.25)
    for _ in range(7):
        engine.looked(answers(STALLED), after=0.25)
    assert engine.state.phase is Phase.SERVING
    engine.looked(answers(STALLED), after=0.25)
    engine.tick(0.25)
    assert engine.state.phase is Phase.LETTING_GO


def test_the_time_runs_on_when_it_goes_on_under_another_name_and_not_from_mere_overload():
    engine = looked_for(1.0, answers(SHUT))
    assert looked_for(1.0, answers(STALLED), begin=engine.state).state.phase is Phase.LETTING_GO
    engine = looked_for(60.0, answers(BUSY))
    assert looked_for(1.0, answers(STALLED), begin=engine.state).state.phase is Phase.SERVING


@pytest.mark.parametrize(
    "later", [answers(SHUT), Refused("in recovery", finding=SHUT), Silent(1.0)], ids=lambda each: type(each).__name__
)
def test_a_cause_is_not_replaced_by_what_follows_from_it(later: Any):
    engine = looked_for(0.25, answers(FULL), later)
    assert engine.state.local.finding == FULL
    assert looked_for(0.25, answers(SHUT), answers(FULL)).state.local.finding == FULL


def test_a_refusal_counts_only_where_clients_are_refused_too():
    assert looked_for(60.0, Refused("password authentication failed")).state.phase is Phase.SERVING
    assert looked_for(2.0, Refused("in recovery mode", finding=SHUT)).state.phase is Phase.LETTING_GO


def test_a_dead_process_is_told_with_what_was_wrong_before():
    engine = looked_for(0.5, answers(FULL))
    engine.looked(Refused("connection refused", gone=True), after=0.01)
    verdict = engine.state.verdict
    assert verdict is not None and verdict.diagnosis is Diagnosis.PROCESS_DOWN
    assert str(FULL) in verdict.sentence
    assert any(str(FULL) in line for line in verdict.evidence)
    assert looked_for(0.5, answers(BUSY), Refused("refused", gone=True)).state.local.finding is None


def test_without_anybody_to_take_over_a_primary_that_cannot_work_is_kept_and_told():
    full = peer("db2", statement=replace(primary_says(), role=Role.STANDBY, electable=False, why_not=str(FULL)))
    lonely = serving(keeper=replace(serving().keeper, peers=peers_of("db1", db2=full, db3=None)))
    engine = looked_for(5.0, answers(FULL), begin=lonely)
    assert engine.state.phase is Phase.SERVING
    assert str(FULL) in engine.state.refusals["let go"].reason


def test_policys_level_for_the_unresponsive_counts():
    asking = policy(unresponsive=TimingRule(after=2.0, automation=Automation.CONFIRM))
    assert looked_for(5.0, answers(STALLED), begin=serving(policy=asking)).state.phase is Phase.SERVING


@pytest.mark.parametrize(("finding", "fit"), [(FULL, False), (SHUT, False), (BUSY, True)], ids=lambda each: str(each))
def test_a_standby_that_could_not_serve_is_not_electable(finding: Finding, fit: bool):
    engine = Engine(state("db2"))
    engine.looked(answers(finding, Role.STANDBY))
    assert (electing.why_not_electable(engine.state) == "") is fit
    assert compose(engine.state).electable is fit


def test_a_beat_carries_the_longest_finding():
    for letter in ("x", "ü", "😀"):
        words = encode(primary_says(finding=Finding(Diagnosis.NOT_ACCEPTING, letter * 160), why_not=letter * 2000))
        assert len(words) <= MAX_WORDS_BYTES
        said = decode(words)
        assert said is not None and said.finding is not None and said.finding.words.startswith(letter * 30)
    said = decode(encode(primary_says(finding=STALLED)))
    assert said is not None and said.finding == STALLED


# --- the others ------------------------------------------------------------------------------------------------------


def hears(finding: Finding | None, **said: Any) -> Any:
    return keeper("db2", peers_of("db2", db1=peer("db1", statement=primary_says(finding=finding, **said))))


@pytest.mark.parametrize("finding", [STALLED, FULL, SHUT, BUSY, SET], ids=lambda found: found.code)
def test_every_member_names_the_diagnosis_from_the_first_beat_that_carries_it(finding: Finding):
    engine = Engine(state("db2"))
    engine.keeper_seen(hears(finding))
    verdict = engine.state.verdict
    assert verdict is not None and verdict.diagnosis is finding.code
    assert finding.words in verdict.sentence
    assert any(str(finding) in line for line in verdict.evidence)


def test_the_time_here_runs_beside_the_time_there():
    engine = Engine(state("db2"))
    engine.keeper_seen(hears(STALLED))
    engine.keeper_seen(hears(STALLED, health=Health.UNRESPONSIVE), after=1.9)
    assert engine.state.verdict is not None and not engine.state.verdict.is_certain(engine.now)
    engine.tick(0.1)
    assert engine.state.verdict.is_certain(engine.now), "not two seconds once more"


def test_a_primary_that_cannot_work_is_not_taken_for_gone_before_policys_time():
    engine = Engine(state("db2"))
    assert not of(engine.keeper_seen(hears(STALLED)), LookNow)
    assert engine.state.settled[0] < 0, "where our data ends is not known while the primary may write on"
    found = engine.tick(2.0)
    assert of(found, LookNow)
    assert engine.state.settled[0] == 5


@pytest.mark.parametrize("finding", [BUSY, SET], ids=lambda found: found.code)
def test_nobody_takes_over_from_an_overloaded_or_read_only_primary(finding: Finding):
    engine = Engine(state("db2", policy=policy(automation=Automation.CONFIRM)))
    for _ in range(200):
        found = engine.keeper_seen(replace(hears(finding), promised_until=NOW - 1.0), after=0.5)
        assert not told(found, commands.BeginClaim)
        assert not of(found, WriteControl)
    assert engine.state.verdict is not None
    record = engine.state.record
    assert record is not None
    red = dict(gates.red_gates(engine.state, record))
    assert "moves no role" in red["primary failed"].reason


def test_the_level_of_what_was_found_counts_behind_a_release():
    asking = policy(unresponsive=TimingRule(after=2.0, automation=Automation.CONFIRM))
    gone = peer(
        "db1",
        statement=primary_says(health=Health.DEAD, finding=STALLED),
        release=Release(epoch=3, version=5),
        exited=True,
    )
    engine = Engine(bereaved(policy=asking))
    engine.keeper_seen(keeper("db2", peers_of("db2", db1=gone)))
    assert engine.state.verdict is not None and engine.state.verdict.diagnosis is Diagnosis.RELEASED
    assert str(STALLED) in engine.state.verdict.sentence
    assert gates.may_act(engine.state) is Permission.ASK


@pytest.mark.parametrize("me", ["db3", "app1"])
def test_whoever_had_no_part_in_a_takeover_keeps_its_reason(me: str):
    engine = Engine(state(me))
    engine.tick()
    said = notices(engine.read(record(6, 4, "db2", ("db3",), reason=f"failover to db2: {STALLED}"), after=0.1))
    assert f"db2 is primary in epoch 4: failover to db2: {STALLED}" in said
    said = notices(engine.read(record(7, 4, "db2", ("db1", "db3")), after=0.1))
    assert not any("is primary" in text for text in said), "told once"


def test_a_standby_tells_how_long_ago_its_primary_was_heard_by_the_service():
    engine = Engine(state("db2"))
    engine.looked(Answered(service(link_heard_ago=0.4), 0.001))
    assert engine.state.verdict is not None
    assert "local: data from the primary is arriving, its last word 400 ms ago" in engine.state.verdict.evidence
    assert engine.state.keeper is not None and engine.state.keeper.hold is Hold.NONE
