"""People's words: each given once, for exactly the situation that was shown, in somebody's name; else it is void (P8)."""

from dataclasses import replace

import pytest
from scenarios import GROUP, PAUSE, WALL, control, proposal, record, request

from orchestrator.domain.record import Control, RequestKind
from orchestrator.engine import words
from orchestrator.engine.words import REQUEST_HOLDS, Void

NOBODY = ["", "   ", "\t"]


def void(call, *args, **kwargs) -> str:
    with pytest.raises(Void) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def ask(said: Control | None = None, **changes):
    usual = {"known": record(), "group": GROUP, "kind": RequestKind.SWITCHOVER, "target": "db2", "by": "ann", "wall": WALL}
    usual.update(changes)
    return words.ask(
        said or control(), usual["known"], usual["group"], usual["kind"], usual["target"], usual["by"], usual["wall"]
    )


OPEN = control(proposal=proposal())


def approve(said: Control = OPEN, **changes) -> Control:
    usual = {"known": record(), "proposal_id": "orders-3-host_down-db2", "epoch": 3, "by": "ann", "wall": WALL}
    usual.update(changes)
    return words.approve(said, usual["known"], usual["proposal_id"], usual["epoch"], usual["by"], usual["wall"])


# --- pause and resume ------------------------------------------------------------------------------------------------


def test_a_pause_keeps_name_moment_and_reason():
    paused = words.pause(control(), " ann ", "maintenance", WALL).paused
    assert paused is not None
    assert (paused.by, paused.at_wall, paused.reason) == ("ann", WALL, "maintenance")


def test_a_pause_leaves_open_proposals_and_requests_alone():
    before = control(proposal=proposal(), request=request())
    assert replace(words.pause(before, "ann", "", WALL), paused=None) == before


def test_a_second_pause_is_void_and_names_who_was_first():
    assert "ann" in void(words.pause, control(paused=PAUSE), "bob", "", WALL)


def test_a_pause_can_be_ended_by_anybody_with_a_name():
    assert words.resume(control(paused=PAUSE), "bob").paused is None


def test_what_is_not_paused_cannot_be_resumed():
    assert "not paused" in void(words.resume, control(), "ann")


@pytest.mark.parametrize("by", NOBODY)
def test_nobody_can_say_anything(by: str):
    assert "name" in void(words.pause, control(), by, "", WALL)
    assert "name" in void(words.resume, control(paused=PAUSE), by)
    assert "name" in void(words.reject, OPEN, "orders-3-host_down-db2", by, WALL)
    assert "name" in void(approve, by=by)
    assert "name" in void(ask, by=by)


# --- approving -------------------------------------------------------------------------------------------------------


def test_an_approval_becomes_a_request_for_exactly_what_was_proposed():
    after = approve(by=" ann ")
    asked = after.request
    assert asked is not None
    assert asked.kind is RequestKind.FAILOVER
    assert (asked.epoch, asked.target, asked.by) == (3, "db2", "ann")
    assert asked.proposal == "orders-3-host_down-db2"
    assert asked.expires_wall == WALL + REQUEST_HOLDS


def test_an_approval_counts_once():
    after = approve()
    assert after.proposal is None
    assert "no open proposal" in void(approve, after)


def test_an_approval_of_another_proposal_than_the_open_one_is_void_and_names_the_open_one():
    assert "orders-3-host_down-db2" in void(approve, proposal_id="orders-2-host_down-db2")


@pytest.mark.parametrize("changes", [{"epoch": 2}, {"epoch": 4}, {"known": record(epoch=4)}], ids=["older", "newer", "moved on"])
def test_an_approval_for_another_epoch_is_void(changes: dict):
    assert "epoch" in void(approve, **changes)


@pytest.mark.parametrize("wall", [WALL + 595.0, WALL + 10_000.0])
def test_an_approval_of_an_expired_proposal_is_void(wall: float):
    assert "expired" in void(approve, wall=wall)


def test_an_approval_in_the_last_moment_counts():
    assert approve(wall=WALL + 594.9).request is not None


def test_two_approvals_of_two_proposals_have_different_ids():
    one = approve(control(version=4, proposal=proposal()))
    other = approve(control(version=9, proposal=proposal()))
    assert one.request.id != other.request.id


# --- rejecting -------------------------------------------------------------------------------------------------------


def test_a_rejection_takes_the_proposal_away_and_is_remembered():
    after = words.reject(OPEN, "orders-3-host_down-db2", "ann", WALL)
    assert after.proposal is None
    assert (after.rejected, after.rejected_wall) == ("orders-3-host_down-db2", WALL)
    assert after.request is None


@pytest.mark.parametrize(("said", "proposal_id"), [(control(), "orders-3-host_down-db2"), (OPEN, "another"), (OPEN, "")])
def test_what_is_not_proposed_cannot_be_rejected(said: Control, proposal_id: str):
    assert "no open proposal" in void(words.reject, said, proposal_id, "ann", WALL)


def test_a_rejected_proposal_cannot_be_approved_any_more():
    assert "no open proposal" in void(approve, words.reject(OPEN, "orders-3-host_down-db2", "ann", WALL))


# --- asking ----------------------------------------------------------------------------------------------------------


def test_a_request_holds_for_a_minute_and_for_the_present_epoch():
    asked = ask().request
    assert asked is not None
    assert (asked.kind, asked.epoch, asked.target, asked.by) == (RequestKind.SWITCHOVER, 3, "db2", "ann")
    assert asked.expires_wall - asked.at_wall == REQUEST_HOLDS == 60.0
    assert asked.proposal is None


def test_a_request_answers_an_open_proposal():
    assert ask(OPEN).proposal is None


def test_a_request_may_leave_the_choice_to_tanist():
    assert ask(target=None).request.target is None


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("db9", "db1, db2, db3"),
        ("app1", "no member"),
        ("db1", "primary already"),
        ("db3", "ready to take over: db2"),
    ],
)
def test_a_target_that_cannot_take_over_makes_the_request_void_and_says_who_can(target: str, why: str):
    assert why in void(ask, target=target, known=record(succession=("db2",)))


def test_without_a_record_there_is_nothing_to_ask_for():
    assert "no record" in void(ask, known=None)


def test_a_second_request_is_void_while_the_first_one_holds():
    assert "ann" in void(ask, control(request=request()), by="bob")


@pytest.mark.parametrize("over", [request(expires_wall=WALL), request(epoch=2)], ids=["expired", "other epoch"])
def test_a_request_that_holds_no_more_stands_in_nobodys_way(over):
    assert ask(control(request=over), by="bob").request.by == "bob"


def test_requests_of_different_moments_have_different_ids():
    assert ask(control(version=4)).request.id != ask(control(version=5)).request.id


def test_no_word_changes_anything_else():
    before = control(paused=PAUSE, proposal=proposal(), rejected="x", rejected_wall=1.0)
    assert replace(ask(before), request=None, proposal=before.proposal) == before
    assert replace(approve(before), request=None, proposal=before.proposal) == before
