"""The engine's one door: `step(state, event)`. Pure, along the table of phases, and never a role without a reason."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenarios import (
    LEASE,
    LIVES,
    NOW,
    PAUSE,
    WALL,
    Engine,
    bereaved,
    control,
    keeper,
    notices,
    of,
    peer,
    peers_of,
    policy,
    position,
    primary_says,
    proposal,
    record,
    request,
    service,
    serving,
    settled,
    silent,
    state,
    statement,
    told,
)

from orchestrator.domain import commands, effects, events
from orchestrator.domain.effects import (
    EnsureClients,
    EnsureService,
    History,
    LookNow,
    NoticeKind,
    ReadMediator,
    WantedRole,
    WriteControl,
    WriteRecord,
)
from orchestrator.domain.events import WriteOutcome
from orchestrator.domain.observations import Abstained, Answered, Health, Hold, Refused, Release, Role, ServiceView, Silent
from orchestrator.domain.policy import Automation
from orchestrator.domain.record import Cause, Record, RequestKind
from orchestrator.domain.spans import FOREVER, NEVER
from orchestrator.domain.topology import Pair
from orchestrator.engine import electing
from orchestrator.engine.phases import EDGES
from orchestrator.engine.state import Local, Mediation, Phase, State
from orchestrator.engine.turn import Turn


def bereaved_keeper(**changes: Any):
    return keeper("db2", peers_of("db2", db1=silent(), **settled()), **changes)


def claiming(**changes: Any) -> Engine:
    """The keeper has stopped promising for version 5; the next step sends the claim."""
    engine = Engine(bereaved(**changes))
    engine.tick()
    return engine


def claim_of(engine: Engine) -> WriteRecord:
    (write,) = of(engine.keeper_seen(bereaved_keeper(claim=5)), WriteRecord)
    return write


# --- failover, step by step ------------------------------------------------------------------------------------------


def test_when_every_gate_is_green_the_keeper_is_asked_to_stop_promising_before_anything_is_written():
    found = Engine(bereaved()).tick()
    assert told(found, commands.BeginClaim) == [commands.BeginClaim(5)]
    assert not of(found, WriteRecord)


def test_the_claim_goes_out_only_when_the_keeper_shows_that_it_stopped_promising():
    engine = claiming()
    assert not of(engine.tick(0.01), WriteRecord)
    write = claim_of(engine)
    assert engine.state.phase is Phase.CLAIMING
    assert write.expected == 5


def test_a_claim_is_the_next_epoch_and_version_of_the_same_line_in_our_own_name_and_life():
    claimed = claim_of(claiming()).record
    assert (claimed.version, claimed.epoch, claimed.incarnation) == (6, 4, 9)
    assert claimed.primary == Pair("db2", 22)
    assert claimed.cause is Cause.FAILOVER
    assert "db1" in claimed.reason


def test_a_claim_keeps_in_the_succession_whom_it_hears_and_neither_itself_nor_the_old_primary():
    assert claim_of(claiming()).record.succession == (Pair("db3", 33),)


def test_a_claim_leaves_out_whom_it_does_not_hear():
    deaf = keeper("db2", peers_of("db2", db1=silent(), db3=silent("db3")))
    engine = Engine(bereaved(keeper=deaf))
    engine.tick()
    (write,) = of(engine.keeper_seen(replace(deaf, claim=5)), WriteRecord)
    assert write.record.succession == ()


def test_a_claim_that_a_beat_overtakes_is_waited_for():
    """The keeper has heard of a newer version: that is our own write more often than not."""
    engine = claiming()
    write = claim_of(engine)
    found = engine.keeper_seen(bereaved_keeper(claim=None, version=6, epoch=4), after=0.01)
    assert engine.state.phase is Phase.CLAIMING
    assert of(found, ReadMediator)
    engine.read(write.record, after=0.01)
    assert engine.state.phase is Phase.PROMOTING


@pytest.mark.parametrize("found", [service(Role.PRIMARY, 0, empty=True), service(offset=100, pid=4712, link_up=False)])
def test_a_service_that_was_replaced_during_the_claim_is_compared_before_it_is_promoted(found: ServiceView):
    engine = claiming()
    write = claim_of(engine)
    engine.keeper_seen(bereaved_keeper(claim=5, pid=found.pid), after=0.01)
    engine.looked(Answered(found, 0.001), after=0.01)
    engine.written(write, WriteOutcome.APPLIED, after=0.01)
    assert engine.state.phase is Phase.STARTING


@pytest.mark.parametrize("role", list(Role))
def test_a_service_that_is_replaced_before_it_is_promoted_is_compared_first(role: Role):
    """The claim rested on the data of the process before; nothing is armed for this one."""
    engine = claiming()
    applied(engine)
    engine.keeper_seen(replace(with_right(), pid=0, process_started=0), after=0.01)
    found = engine.looked(Answered(service(role, 0, pid=4712, empty=True), 0.001), after=0.01)
    found += engine.keeper_seen(replace(with_right(), pid=4712), after=0.01)
    assert engine.state.phase is Phase.STARTING
    assert not told(found, commands.Arm)


def test_a_standby_looks_for_its_last_position_when_the_primary_can_write_no_more():
    """A primary that is not heard any more writes on until its right has ended."""
    promising = keeper("db2", peers_of("db2", db1=silent()), promised_to="db1", promised_until=NOW + 0.5)
    engine = Engine(bereaved(keeper=promising, settled=(-1, NEVER)))
    engine.tick(0.4)
    assert engine.state.settled[0] < 0
    assert of(engine.tick(0.2), LookNow)
    assert engine.state.settled[0] == 5


def test_a_claim_holds_only_while_peoples_words_are_as_they_were_read():
    assert claim_of(claiming()).control_expected == 4


def test_the_epoch_of_a_claim_is_above_every_epoch_known():
    engine = Engine(bereaved(record=record(epoch=3), history=History(served_epoch=3)))
    engine.tick()
    assert claim_of(engine).record.epoch == 4


def test_two_claims_never_have_the_same_nonce():
    one, other = claim_of(claiming()), claim_of(claiming(run=8))
    assert one.record.nonce != other.record.nonce


def applied(engine: Engine) -> WriteRecord:
    write = claim_of(engine)
    engine.written(write, WriteOutcome.APPLIED, after=0.01)
    return write


def test_an_applied_claim_is_told_to_the_keeper_with_the_moment_before_it_was_sent():
    engine = claiming()
    write = claim_of(engine)
    began = engine.now
    found = engine.written(write, WriteOutcome.APPLIED, after=0.3)
    assert told(found, commands.Wrote) == [commands.Wrote(write.record, began)]
    assert engine.state.phase is Phase.PROMOTING


def with_right(**changes: Any):
    usual = {"right_epoch": 4, "right_until": NOW + 0.9, "epoch": 4, "version": 6, "seen_version": 6, "readable": False}
    return bereaved_keeper(**{**usual, **changes})


def test_nothing_is_promoted_before_the_keeper_is_armed():
    engine = claiming()
    applied(engine)
    for _ in range(5):
        found = engine.keeper_seen(with_right(), after=0.06)
        assert told(found, commands.Arm) == [commands.Arm(4)]
        assert not of(found, EnsureService)
    found = engine.keeper_seen(with_right(hold=Hold.PROMOTING))
    assert of(found, EnsureService) == [EnsureService(role=WantedRole.PRIMARY, epoch=4)]


def promoted(engine: Engine) -> EnsureService:
    applied(engine)
    engine.keeper_seen(with_right())
    (wanted,) = of(engine.keeper_seen(with_right(hold=Hold.PROMOTING)), EnsureService)
    return wanted


def test_it_is_opened_only_after_the_service_has_said_that_it_is_primary():
    engine = claiming()
    wanted = promoted(engine)
    assert not told(engine.tick(0.01), commands.Opened)
    found = engine.done(wanted, after=0.01)
    assert told(found, commands.Opened) == [commands.Opened(4)]
    assert engine.state.phase is Phase.SERVING


def test_a_served_epoch_is_remembered_on_disk():
    engine = claiming()
    found = engine.done(promoted(engine), after=0.01)
    assert any(each.history.served_epoch == 4 for each in of(found, effects.Remember)) or engine.state.history.served_epoch == 4
    assert engine.state.history.record.epoch == 4


def test_clients_are_led_to_the_new_primary_once_it_serves():
    engine = claiming()
    wanted = promoted(engine)
    assert not of(engine.tick(0.01), EnsureClients)
    assert EnsureClients(primary="db2", epoch=4) in engine.done(wanted, after=0.01)


def test_a_promotion_that_does_not_succeed_is_given_up_so_that_another_may_try():
    engine = claiming()
    wanted = promoted(engine)
    engine.failed(wanted, "it says no")
    engine.keeper_seen(with_right(hold=Hold.PROMOTING, right_until=FOREVER), after=31.0)
    assert engine.state.phase is Phase.LETTING_GO


def test_a_promotion_during_which_a_newer_epoch_appears_is_given_up():
    engine = claiming()
    promoted(engine)
    engine.read(record(version=7, epoch=5, primary="db3", succession=()))
    assert engine.state.phase in (Phase.JOINING, Phase.STANDBY)


# --- rule 10: writes whose outcome is not known ----------------------------------------------------------------------


def test_a_claim_without_an_answer_is_not_repeated_before_a_lease_has_passed():
    engine = claiming()
    write = claim_of(engine)
    found = engine.written(write, WriteOutcome.UNKNOWN, after=0.5)
    assert engine.state.phase is Phase.CLAIMING
    assert not of(found, WriteRecord)
    assert not of(engine.tick(0.4), WriteRecord)
    assert of(engine.tick(0.2), WriteRecord)


def test_a_claim_without_an_answer_counts_neither_as_applied_nor_as_lost():
    engine = claiming()
    write = claim_of(engine)
    found = engine.written(write, WriteOutcome.UNKNOWN, after=0.5)
    assert not told(found, commands.Wrote)
    assert engine.state.pending


def test_reading_the_same_version_proves_nothing_about_a_claim_without_an_answer():
    engine = claiming()
    engine.written(claim_of(engine), WriteOutcome.UNKNOWN, after=0.5)
    engine.read(record())
    assert engine.state.phase is Phase.CLAIMING
    assert engine.state.pending


def test_a_newer_version_with_our_own_nonce_shows_that_the_claim_was_applied():
    engine = claiming()
    write = claim_of(engine)
    began = engine.now
    engine.written(write, WriteOutcome.UNKNOWN, after=0.5)
    found = engine.read(write.record, after=0.1)
    assert told(found, commands.Wrote) == [commands.Wrote(write.record, began)]
    assert engine.state.phase is Phase.PROMOTING
    assert write not in [each.write for each in engine.state.pending]


def test_a_newer_version_with_another_nonce_shows_that_the_claim_was_lost():
    engine = claiming()
    engine.written(claim_of(engine), WriteOutcome.CONFLICT)
    found = engine.read(record(version=6, epoch=4, primary="db3", succession=()), after=0.1)
    assert not told(found, commands.Wrote)
    assert not engine.state.pending
    assert engine.state.phase is not Phase.CLAIMING


def test_a_late_answer_to_a_write_that_a_newer_version_has_decided_changes_nothing():
    engine = claiming()
    write = claim_of(engine)
    engine.read(record(version=7, epoch=5, primary="db3", succession=("db1",)), after=0.1)
    found = engine.written(write, WriteOutcome.APPLIED, after=0.1)
    assert not told(found, commands.Wrote)
    assert engine.state.record.primary.name == "db3"


def test_only_one_write_is_in_flight_at_a_time():
    engine = claiming()
    claim_of(engine)
    for _ in range(5):
        assert not of(engine.tick(0.05), WriteRecord)


def test_a_write_has_a_deadline_shorter_than_the_lease():
    assert 0 < claim_of(claiming()).within < LEASE


def test_a_write_that_the_shell_lost_does_not_block_every_other_for_ever():
    engine = claiming()
    claim_of(engine)
    assert any(of(engine.tick(0.5), WriteRecord) for _ in range(6))


def test_a_claim_refused_because_of_newer_words_goes_out_again_with_them():
    engine = claiming()
    engine.written(claim_of(engine), WriteOutcome.CONFLICT, after=0.01)
    (again,) = of(engine.read(record(), control(version=5), after=0.01), WriteRecord)
    assert again.control_expected == 5


# --- people ----------------------------------------------------------------------------------------------------------


def proposed(found: tuple[effects.Effect, ...]) -> list[Any]:
    return [each.control.proposal for each in of(found, WriteControl) if each.control.proposal is not None]


def test_under_confirm_a_proposal_says_everything_that_a_person_needs():
    found = Engine(bereaved(policy=policy(automation=Automation.CONFIRM))).tick()
    (asked,) = proposed(found)
    assert (asked.epoch, asked.subject, asked.candidate, asked.author) == (3, "db1", "db2", "db2")
    assert asked.diagnosis == "host_down"
    assert "db1 has not been heard" in asked.situation
    assert "epoch 4" in asked.situation
    assert asked.evidence
    assert asked.expected_loss_bytes == 0
    assert asked.expires_wall == WALL + 600.0
    assert not told(found, commands.BeginClaim)


def test_what_a_primary_last_told_is_what_may_be_lost_when_its_service_is_gone():
    engine = Engine(state())
    engine.keeper_seen(keeper(peers=peers_of("db2", db1=peer("db1", statement=primary_says(position=position(742))))), after=0.1)
    gone = peer("db1", exited=True, statement=primary_says(position=None, health=Health.DEAD, serving_epoch=0))
    engine.keeper_seen(keeper(peers=peers_of("db2", db1=gone)), after=0.1)
    assert electing.expected_loss(engine.state, record(), position(500)) == 242


def test_the_expected_loss_is_what_the_primary_had_and_the_candidate_lacks():
    ahead = peer("db1", silent_since=NOW - 5.0, statement=primary_says(position=position(742)))
    view = keeper("db2", peers_of("db2", db1=ahead, **settled()))
    (asked,) = proposed(Engine(bereaved(policy=policy(automation=Automation.CONFIRM), keeper=view)).tick())
    assert asked.expected_loss_bytes == 242


def test_a_loss_that_cannot_be_told_is_not_shown_as_none():
    ahead = peer("db1", silent_since=NOW - 5.0, statement=primary_says(position=position(742, "another")))
    view = keeper("db2", peers_of("db2", db1=ahead, **settled()))
    found = proposed(Engine(bereaved(policy=policy(automation=Automation.CONFIRM), keeper=view)).tick())
    assert [each.expected_loss_bytes for each in found] == [None]


def test_a_situation_is_proposed_once():
    engine = Engine(bereaved(policy=policy(automation=Automation.CONFIRM)))
    (written,) = of(engine.tick(), WriteControl)
    assert not of(engine.tick(0.1), WriteControl)
    engine.done(written)
    for _ in range(10):
        assert not of(engine.tick(5.0), WriteControl)


def test_a_proposal_that_ran_out_is_made_anew():
    open_proposal = control(version=5, proposal=proposal(expires_wall=WALL + 1.0))
    engine = Engine(bereaved(policy=policy(automation=Automation.CONFIRM), control=open_proposal))
    assert not of(engine.tick(), WriteControl)
    (asked,) = proposed(engine.tick(1.5))
    assert asked.expires_wall > WALL + 600.0


def test_a_rejected_situation_does_not_ask_again_for_a_while():
    rejected = control(rejected="orders-3-host_down-db2", rejected_wall=WALL)
    engine = Engine(bereaved(policy=policy(automation=Automation.CONFIRM), control=rejected))
    assert not of(engine.tick(), WriteControl)
    assert proposed(engine.tick(601.0))


def test_a_proposal_is_withdrawn_when_the_primary_is_well_again():
    engine = Engine(bereaved(policy=policy(automation=Automation.CONFIRM), control=control(proposal=proposal())))
    (written,) = of(engine.keeper_seen(keeper("db2")), WriteControl)
    assert written.control.proposal is None
    assert written.expected == 4


@pytest.mark.parametrize("level", [Automation.MANUAL, Automation.OBSERVE])
def test_manual_and_observe_propose_nothing_and_claim_nothing(level: Automation):
    engine = Engine(bereaved(policy=policy(automation=level)))
    found = engine.tick()
    assert not proposed(found)
    assert not told(found, commands.BeginClaim)
    assert "takeover" in engine.state.refusals


def test_observe_records_what_it_would_have_done():
    engine = Engine(bereaved(policy=policy(automation=Automation.OBSERVE)))
    words = " ".join(notices(engine.tick()))
    assert "would" in words


def test_a_person_is_asked_even_while_promise_and_lease_still_run():
    view = bereaved_keeper(promised_to="db1", promised_until=NOW + 0.5)
    found = Engine(bereaved(policy=policy(automation=Automation.CONFIRM), keeper=view, first_seen_at=NOW - 0.1)).tick()
    assert proposed(found)


def test_nobody_is_asked_while_something_else_stands_against_it():
    found = Engine(bereaved(policy=policy(automation=Automation.CONFIRM), lost_since=NOW - 1.0)).tick()
    assert not of(found, WriteControl)


def test_nobody_is_asked_while_paused():
    found = Engine(bereaved(policy=policy(automation=Automation.CONFIRM), control=control(paused=PAUSE))).tick()
    assert not of(found, WriteControl)


def approved(**changes: Any):
    return control(version=5, request=request(target="db2", proposal="orders-3-host_down-db2", **changes))


def test_an_approved_failover_is_carried_out_and_the_word_is_used_up_by_the_same_write():
    engine = claiming(policy=policy(automation=Automation.CONFIRM), control=approved())
    write = claim_of(engine)
    assert write.control_expected == 5
    assert write.control is not None
    assert write.control.request is None
    assert write.control.proposal is None
    assert "ann" in write.record.reason


def test_a_word_that_expires_between_the_keepers_answer_and_the_claim_counts_no_more():
    engine = claiming(policy=policy(automation=Automation.CONFIRM), control=approved(expires_wall=WALL + 1.0))
    found = engine.keeper_seen(bereaved_keeper(claim=5), after=2.0)
    assert not of(found, WriteRecord)
    assert "takeover" in engine.state.refusals


def test_a_pause_that_comes_after_the_keepers_answer_holds_the_claim_back():
    engine = claiming()
    engine.read(record(), control(version=5, paused=PAUSE))
    assert not of(engine.keeper_seen(bereaved_keeper(claim=5)), WriteRecord)
    assert "ann" in engine.state.refusals["takeover"].reason


def test_a_primary_that_is_heard_again_holds_the_claim_back():
    engine = claiming()
    revived = keeper("db2", peers_of("db2", **settled()), claim=5)
    assert not of(engine.keeper_seen(revived), WriteRecord)


def undecided() -> Engine:
    """A claim is out, and was not answered."""
    engine = claiming()
    engine.written(claim_of(engine), WriteOutcome.UNKNOWN, after=0.5)
    return engine


def test_an_undecided_claim_is_not_sent_again_after_a_pause():
    engine = undecided()
    engine.read(record(), control(version=5, paused=PAUSE))
    assert not any(of(engine.tick(0.5), WriteRecord) for _ in range(10))
    assert engine.state.phase is Phase.CLAIMING
    assert "ann" in engine.state.refusals["takeover"].reason


def test_an_undecided_claim_is_not_sent_again_when_the_primary_is_heard():
    engine = undecided()
    engine.keeper_seen(keeper("db2", peers_of("db2", **settled()), claim=5))
    assert not any(of(engine.tick(0.5), WriteRecord) for _ in range(10))


def test_an_undecided_claim_is_not_sent_again_when_its_word_has_expired():
    engine = claiming(policy=policy(automation=Automation.CONFIRM), control=approved(expires_wall=WALL + 1.0))
    engine.written(claim_of(engine), WriteOutcome.UNKNOWN, after=0.5)
    assert not any(of(engine.tick(0.5), WriteRecord) for _ in range(10))


# --- rule 23 and rule 6 ----------------------------------------------------------------------------------------------


def test_an_older_record_ends_every_claim_and_renewal():
    engine = Engine(state("db2"))
    for _ in range(6):
        engine.read(record(version=4), after=0.5)
    assert engine.state.mediated.status is Mediation.OLDER
    found = engine.keeper_seen(bereaved_keeper(), after=0.1) + engine.tick(5.0)
    assert not told(found, commands.BeginClaim)
    renewing = Engine(serving(status=Mediation.OLDER))
    assert not of(renewing.keeper_seen(replace(renewing.state.keeper, wants_write=True)), WriteRecord)


def test_a_moment_of_a_lagging_mediator_does_not_count_as_a_restored_one():
    engine = Engine(serving())
    engine.read(record(version=4), after=0.1)
    engine.read(record(version=5), after=0.1)
    assert engine.state.mediated.status is Mediation.PRESENT
    assert engine.state.record.version == 5


def test_a_record_of_another_line_counts_only_with_an_epoch_above_all_known():
    engine = Engine(bereaved())
    engine.read(record(version=0, incarnation=77, epoch=3))
    assert engine.state.record.incarnation == 9
    engine.read(record(version=0, incarnation=77, epoch=4, cause=Cause.ADOPTION, succession=()))
    assert engine.state.record.incarnation == 77


def test_an_emptied_mediator_is_never_founded_anew_by_who_has_lived_through_a_record():
    alone = state("db1", phase=Phase.STARTING, record=None, status=Mediation.ABSENT, history=History(record=record()))
    engine = Engine(
        replace(alone, keeper=keeper("db1", epoch=0, version=-1), local=Local(view=service(Role.PRIMARY), viewed_at=NOW))
    )
    assert not of(engine.tick(), WriteRecord)
    assert "adopt" in engine.state.refusals["found"].reason


def test_an_emptied_mediator_is_never_founded_anew_by_whose_keeper_knows_an_epoch():
    alone = state("db1", phase=Phase.STARTING, record=None, status=Mediation.ABSENT)
    engine = Engine(
        replace(alone, keeper=keeper("db1", epoch=3, version=-1), local=Local(view=service(Role.PRIMARY), viewed_at=NOW))
    )
    assert not of(engine.tick(), WriteRecord)


# --- founding --------------------------------------------------------------------------------------------------------


def newborn(me: str, view, **peers: Any) -> Engine:
    """A group without a record, seen by a member whose service runs."""
    begin = state(me, phase=Phase.STARTING, record=None, status=Mediation.ABSENT, began_at=NOW - 1.0)
    seen = keeper(me, peers_of(me, **peers), epoch=0, version=-1, seen_version=-1)
    return Engine(replace(begin, keeper=seen, local=Local(view=view, viewed_at=NOW - 0.1)))


def idle(offset: int = 500, **changes: Any):
    return statement(offset, **{"following": None, **changes})


def test_a_running_primary_founds_its_group():
    engine = newborn("db1", service(Role.PRIMARY), db2=peer("db2", statement=idle()), db3=peer("db3", statement=idle()))
    (write,) = of(engine.tick(), WriteRecord)
    assert write.expected is None
    assert (write.record.version, write.record.epoch, write.record.primary) == (0, 1, Pair("db1", 11))
    assert write.record.succession == ()
    assert write.record.cause is Cause.FOUNDING


def test_two_running_primaries_found_nothing():
    rival = peer("db2", statement=idle(role=Role.PRIMARY, wants_role=True))
    engine = newborn("db1", service(Role.PRIMARY), db2=rival, db3=peer("db3", statement=idle()))
    assert not of(engine.tick(), WriteRecord)
    assert "db2" in engine.state.refusals["found"].reason


def test_where_none_runs_as_primary_the_most_data_founds_and_then_the_operators_preference():
    others = {"db1": peer("db1", statement=idle(500)), "db3": peer("db3", statement=idle(500))}
    assert not of(newborn("db2", service(upstream=None, link_up=False), **others).tick(), WriteRecord)
    assert of(newborn("db2", service(offset=501, upstream=None, link_up=False), **others).tick(), WriteRecord)


def test_standbys_wait_until_every_member_was_heard_before_one_founds():
    engine = newborn("db1", service(upstream=None, link_up=False), db2=peer("db2", statement=idle()), db3=silent("db3"))
    assert not of(engine.tick(), WriteRecord)
    assert "db3" in engine.state.refusals["found"].reason


def test_members_with_different_data_found_nothing_by_themselves():
    foreign = peer("db3", statement=idle(position=position(10, "another line")))
    engine = newborn("db1", service(upstream=None, link_up=False), db2=peer("db2", statement=idle()), db3=foreign)
    assert not of(engine.tick(), WriteRecord)
    assert "different data" in engine.state.refusals["found"].reason


# --- a daemon, or a service, that is back ----------------------------------------------------------------------------


def begun(view=None, **changes: Any) -> Engine:
    """The daemon of db1, which the record names, has just begun."""
    local = Local(view=view, viewed_at=NOW - 0.1) if view is not None else Local()
    usual = {"phase": Phase.STARTING, "began_at": NOW - 1.0, "local": local, "keeper": keeper("db1")}
    return Engine(state("db1", **{**usual, **changes}))


def test_a_daemon_that_comes_back_to_a_held_right_goes_on_serving_and_changes_nothing():
    engine = begun(service(Role.PRIMARY), keeper=serving().keeper, history=History(record=record(), served_epoch=3))
    found = engine.tick()
    assert engine.state.phase is Phase.SERVING
    assert {(each.role, each.epoch) for each in of(found, EnsureService)} <= {(WantedRole.PRIMARY, 3)}
    assert not of(found, WriteRecord)
    assert not told(found, commands.KillService)


def test_a_daemon_that_comes_back_without_the_mediator_goes_on_serving_too():
    remembered = {"status": Mediation.UNKNOWN, "first_seen_at": NEVER, "history": History(record=record(), served_epoch=3)}
    engine = begun(service(Role.PRIMARY), keeper=serving().keeper, **remembered)
    engine.tick()
    assert engine.state.phase is Phase.SERVING


def test_who_is_primary_by_record_takes_office_only_by_a_write_of_this_life():
    engine = begun(service(), keeper=keeper("db1", life=111))
    (write,) = of(engine.tick(), WriteRecord)
    assert write.record.primary == Pair("db1", 111)
    assert (write.record.epoch, write.record.version) == (3, 6)
    assert engine.state.phase is Phase.STARTING
    found = engine.written(write, WriteOutcome.APPLIED, after=0.01)
    assert told(found, commands.Wrote)
    engine.keeper_seen(
        keeper("db1", life=111, right_epoch=3, right_until=engine.now + 0.9, version=6, seen_version=6), after=0.01
    )
    assert engine.state.phase is Phase.PROMOTING


def test_a_service_that_runs_as_primary_without_a_right_is_killed_and_compared_before_it_serves():
    engine = begun(service(Role.PRIMARY), history=History(record=record(), served_epoch=3))
    found = engine.tick()
    assert told(found, commands.KillService)
    assert not of(found, WriteRecord)


def test_a_service_that_came_back_with_less_than_a_standby_holds_yields():
    engine = begun(service(offset=499))
    found = engine.tick()
    assert told(found, commands.GiveUp) == [commands.GiveUp(None, None)]
    assert not of(found, WriteRecord)
    assert "1 bytes less than db2" in engine.state.refusals["serve"].reason
    (said,) = told(found, commands.Say)
    assert said.statement.health is Health.YIELDING


def test_a_service_that_came_back_empty_never_serves_while_a_standby_holds_data():
    engine = begun(service(offset=0, empty=True))
    found = engine.tick()
    assert not of(found, WriteRecord)
    assert not of(found, EnsureService)
    assert told(found, commands.GiveUp)


def test_a_service_that_does_not_run_is_started_as_a_standby_of_nobody():
    found = begun().tick()
    assert of(found, EnsureService) == [EnsureService(role=WantedRole.STANDBY, epoch=3, upstream=None)]


def test_nothing_is_decided_before_the_mediator_was_read():
    engine = begun(service(), status=Mediation.UNKNOWN, record=None)
    found = engine.tick()
    assert engine.state.phase is Phase.STARTING
    assert effects.ReadMediator() in found
    assert not of(found, EnsureService)


def letting_go(view) -> Engine:
    local = Local(gone_since=NOW - 1.0, refused="connection refused")
    return Engine(serving(phase=Phase.LETTING_GO, phase_since=NOW, local=local, keeper=view))


def test_who_has_let_go_starts_again_only_after_the_others_had_time_to_take_over():
    released = replace(serving().keeper, hold=Hold.NONE, main_exited=True, release=Release(epoch=3, version=5), right_until=NEVER)
    engine = letting_go(released)
    engine.tick(4.9)
    assert engine.state.phase is Phase.LETTING_GO
    engine.tick(0.2)
    assert engine.state.phase is Phase.STARTING


def test_who_has_let_go_follows_whoever_took_over():
    released = replace(serving().keeper, hold=Hold.NONE, main_exited=True, release=Release(epoch=3, version=5), right_until=NEVER)
    engine = letting_go(released)
    engine.read(record(version=6, epoch=4, primary="db2", succession=("db3",)), after=0.1)
    assert engine.state.phase is Phase.JOINING


def test_the_right_is_never_let_go_of_while_the_service_may_still_commit():
    engine = letting_go(serving().keeper)
    for _ in range(20):
        found = engine.tick(0.2)
        assert not told(found, commands.GiveUp)


def test_every_edge_of_the_table_has_a_reason_and_every_phase_can_be_reached():
    assert all(why for why in EDGES.values())
    assert {target for _, target in EDGES} | {Phase.STARTING} == set(Phase)


# --- joining ---------------------------------------------------------------------------------------------------------


def test_a_service_that_runs_as_a_primary_with_data_of_its_own_is_not_overwritten_without_a_word():
    mine = Local(view=service(Role.PRIMARY), viewed_at=NOW - 0.1)
    engine = Engine(state("db2", phase=Phase.JOINING, local=mine))
    assert not of(engine.tick(), EnsureService)
    assert "data of its own" in engine.state.refusals["join"].reason


def test_a_service_that_served_before_follows_the_new_primary():
    mine = Local(view=service(Role.PRIMARY), viewed_at=NOW - 0.1)
    engine = Engine(state("db2", phase=Phase.JOINING, local=mine, history=History(record=record(), served_epoch=2)))
    assert EnsureService(role=WantedRole.STANDBY, epoch=3, upstream="db1") in engine.tick()


def test_nothing_is_made_a_standby_while_the_keeper_still_stops_it():
    mine = Local(view=service(Role.PRIMARY), viewed_at=NOW - 0.1)
    stopping = keeper("db2", hold=Hold.SERVING)
    engine = Engine(state("db2", phase=Phase.JOINING, local=mine, keeper=stopping, history=History(served_epoch=2)))
    assert not of(engine.tick(), EnsureService)
    assert "join" in engine.state.refusals


def test_whose_data_arrives_is_a_standby():
    engine = Engine(state("db2", phase=Phase.JOINING))
    engine.tick()
    assert engine.state.phase is Phase.STANDBY


# --- serving ---------------------------------------------------------------------------------------------------------


def test_a_healthy_primary_writes_nothing_to_the_mediator():
    engine = Engine(serving())
    for _ in range(50):
        assert not of(engine.tick(0.2), WriteRecord)


def test_a_primary_renews_when_its_keeper_wants_a_write_and_only_once_at_a_time():
    engine = Engine(serving())
    wanting = replace(engine.state.keeper, wants_write=True)
    (write,) = of(engine.keeper_seen(wanting), WriteRecord)
    assert (write.expected, write.record.version, write.record.epoch) == (5, 6, 3)
    assert write.record.primary == Pair("db1", 11)
    assert write.record.succession == record().succession
    assert write.control_expected is None
    assert not of(engine.tick(0.05), WriteRecord)


def test_a_renewal_without_an_answer_is_tried_again_within_the_lease():
    engine = Engine(serving())
    (write,) = of(engine.keeper_seen(replace(engine.state.keeper, wants_write=True)), WriteRecord)
    assert not of(engine.written(write, WriteOutcome.UNKNOWN, after=0.1), WriteRecord)
    assert of(engine.tick(0.3), WriteRecord)


def test_the_loss_of_the_mediator_alone_changes_nothing_about_a_primary():
    engine = Engine(serving())
    for _ in range(100):
        found = engine.lost(0.5)
        assert engine.state.phase is Phase.SERVING
        assert not of(found, EnsureService)
        assert not told(found, commands.GiveUp)
        assert not told(found, commands.KillService)


def test_a_standby_that_caught_up_is_counted_first_and_then_written():
    lonely = record(succession=("db2",))
    newcomer = Pair("db3", 33)
    held = replace(serving().keeper, counted=(Pair("db2", 22),))
    engine = Engine(serving(record=lonely, keeper=held, history=History(record=lonely, served_epoch=3)))
    found = engine.tick()
    assert [each.pairs for each in told(found, commands.Prepare)] == [(newcomer,)]
    assert not of(found, WriteRecord)
    (write,) = of(engine.keeper_seen(replace(held, counted=(Pair("db2", 22), newcomer))), WriteRecord)
    assert write.record.succession == (Pair("db2", 22), newcomer)


def test_a_silent_standby_is_renewed_around_for_three_leases_and_then_dropped():
    def hearing(since: float):
        return replace(serving().keeper, peers=peers_of("db1", db3=silent("db3", since=since)))

    assert not of(Engine(serving(keeper=hearing(NOW - 2.9))).tick(), WriteRecord)
    (write,) = of(Engine(serving(keeper=hearing(NOW - 3.1))).tick(), WriteRecord)
    assert write.record.succession == (Pair("db2", 22),)


def test_a_standby_that_says_that_it_is_not_electable_is_dropped_at_once():
    broken = peer("db3", statement=statement(electable=False, why_not="its service does not run", health=Health.DEAD))
    engine = Engine(serving(keeper=replace(serving().keeper, peers=peers_of("db1", db3=broken))))
    found = engine.tick()
    (write,) = of(found, WriteRecord)
    assert write.record.succession == (Pair("db2", 22),)
    assert any("db3" in text and "does not run" in text for text in notices(found))


def test_a_standby_that_lags_too_far_is_dropped():
    far = peer("db3", statement=statement(500))
    ahead = Local(view=service(Role.PRIMARY, offset=500 + 17 * 1024 * 1024), viewed_at=NOW - 0.1)
    near = peer("db2", statement=statement(500 + 17 * 1024 * 1024))
    caught_up = peer("db3", statement=near.statement)
    lagging = replace(serving().keeper, peers=peers_of("db1", db2=near, db3=far))
    engine = Engine(serving(local=ahead, policy=policy(lag_after=0.1)))
    found = engine.keeper_seen(lagging)
    found += engine.keeper_seen(replace(lagging, peers=peers_of("db1", db2=near, db3=caught_up)), after=0.09)
    found += engine.keeper_seen(lagging, after=0.02) + engine.tick(0.09)
    assert not of(found, WriteRecord), "a moment's lag is none: a base backup moves positions without data"
    (write,) = of(engine.tick(0.02), WriteRecord)
    assert write.record.succession == (Pair("db2", 22),)


def test_a_standby_that_lags_does_not_come_in():
    lonely = record(succession=("db2",))
    far = peer("db3", statement=statement(500))
    ahead = Local(view=service(Role.PRIMARY, offset=500 + 17 * 1024 * 1024), viewed_at=NOW - 0.1)
    held = replace(serving().keeper, counted=(Pair("db2", 22),), peers=peers_of("db1", db3=far))
    engine = Engine(serving(local=ahead, record=lonely, history=History(record=lonely, served_epoch=3)))
    found = engine.keeper_seen(held)
    assert not told(found + engine.tick(), commands.Prepare)


GONE = Refused("connection refused", gone=True)


def test_a_primary_whose_process_is_gone_kills_what_is_left_and_then_releases():
    engine = Engine(serving())
    found = engine.looked(GONE)
    assert engine.state.phase is Phase.LETTING_GO
    assert told(found, commands.KillService)
    assert not told(found, commands.GiveUp)
    found = engine.keeper_seen(replace(engine.state.keeper, hold=Hold.NONE, main_exited=True))
    assert told(found, commands.GiveUp) == [commands.GiveUp(None, None)]


SEEN_BY_KEEPER = {"hold": Hold.NONE, "main_exited": True}
NOT_YET_SEEN_BY_KEEPER: dict[str, Any] = {}


@pytest.mark.parametrize("seen", [SEEN_BY_KEEPER, NOT_YET_SEEN_BY_KEEPER], ids=["keeper knows", "keeper does not know yet"])
def test_a_primary_that_policy_wants_restarted_first_is_restarted_before_it_is_given_away(seen: dict[str, Any]):
    engine = Engine(serving(policy=policy(restarts_first=1)))
    if seen:
        engine.keeper_seen(replace(engine.state.keeper, **seen))
    found = engine.looked(GONE, after=0.01)
    assert not told(found, commands.GiveUp)
    assert engine.state.phase is not Phase.LETTING_GO
    assert engine.state.local.restarts <= 1
    engine.keeper_seen(replace(engine.state.keeper, **SEEN_BY_KEEPER), after=0.01)
    assert engine.state.phase is Phase.STARTING
    assert engine.state.local.restarts == 1


def test_a_paused_primary_whose_process_is_gone_is_not_given_away():
    engine = Engine(serving(control=control(paused=PAUSE)))
    engine.looked(GONE)
    assert engine.state.phase is not Phase.LETTING_GO
    assert "ann" in engine.state.refusals["let go"].reason


@pytest.mark.parametrize("level", [Automation.CONFIRM, Automation.MANUAL, Automation.OBSERVE])
def test_without_permission_a_primary_whose_process_is_gone_is_not_given_away_by_itself(level: Automation):
    engine = Engine(serving(policy=policy(automation=level)))
    found = engine.looked(GONE)
    assert not told(found, commands.GiveUp)
    assert engine.state.phase is not Phase.LETTING_GO or level is Automation.CONFIRM


@pytest.mark.parametrize("seen", [SEEN_BY_KEEPER, NOT_YET_SEEN_BY_KEEPER], ids=["keeper knows", "keeper does not know yet"])
def test_a_dead_primary_that_nobody_could_replace_is_started_again_in_place_once(seen: dict[str, Any]):
    lonely = record(succession=())
    engine = Engine(serving(record=lonely, history=History(record=lonely, served_epoch=3)))
    if seen:
        engine.keeper_seen(replace(engine.state.keeper, **seen))
    found = engine.looked(GONE, after=0.01)
    found += engine.keeper_seen(replace(engine.state.keeper, **SEEN_BY_KEEPER), after=0.01)
    assert engine.state.phase is Phase.STARTING
    assert engine.state.local.restarts == 1
    assert len([text for text in notices(found) if "starting it again" in text]) <= 1


def test_one_silent_look_is_not_a_failure():
    engine = Engine(serving())
    engine.looked(Silent(1.0))
    assert engine.state.phase is Phase.SERVING


def test_silence_for_as_long_as_policy_says_gives_the_role_away():
    engine = Engine(serving())
    engine.looked(Silent(1.0))
    engine.looked(Silent(1.0), after=1.0)
    assert engine.state.phase is Phase.SERVING
    engine.tick(1.0)
    assert engine.state.phase is Phase.LETTING_GO


def test_an_abstention_is_never_a_vote():
    engine = Engine(serving())
    engine.looked(Silent(1.0))
    engine.looked(Abstained("this daemon was stalled"), after=1.5)
    engine.tick(1.0)
    assert engine.state.phase is Phase.SERVING


def test_a_look_that_began_before_the_role_was_changed_is_out_of_date():
    begin = serving()
    begin = replace(begin, local=replace(begin.local, changed_at=NOW + 0.2))
    engine = Engine(begin)
    engine.feed(events.Looked(at=NOW + 0.3, wall=WALL, began_at=NOW + 0.1, outcome=GONE))
    assert engine.state.local.view is not None
    assert engine.state.phase is Phase.SERVING


def test_a_primary_that_finds_a_newer_epoch_in_the_record_leaves_its_office():
    engine = Engine(serving())
    engine.read(record(version=6, epoch=4, primary="db2", succession=("db3",)))
    assert engine.state.phase is Phase.JOINING


def test_a_word_about_an_epoch_that_is_over_is_cleared_away_by_the_primary():
    old = control(proposal=proposal(epoch=2), request=request(epoch=2))
    (written,) = of(Engine(serving(control=old)).tick(), WriteControl)
    assert written.control.proposal is None
    assert written.control.request is None


# --- switchover ------------------------------------------------------------------------------------------------------


def switchover(target: str | None = "db2", **changes: Any):
    return control(version=5, request=request(RequestKind.SWITCHOVER, target=target, **changes))


def test_a_switchover_first_holds_the_clients_writes():
    engine = Engine(serving())
    found = engine.read(record(), switchover())
    assert engine.state.phase is Phase.HANDING_OVER
    assert EnsureService(role=WantedRole.HELD, epoch=3) in found
    assert not told(found, commands.GiveUp)


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (silent("db2"), "not heard"),
        (peer("db2", statement=statement(electable=False, why_not="loading")), "loading"),
        (peer("db2", statement=statement(following=None)), "does not follow"),
        (peer("db2", statement=statement(position=position(9000, "older"))), "before db1 began anew"),
        (peer("db2", life=222), "not heard"),
    ],
    ids=["silent", "not electable", "not following", "not copied yet", "other life"],
)
def test_a_switchover_to_whom_is_not_ready_is_refused_before_anything_is_touched(view, words: str):
    engine = Engine(serving(keeper=replace(serving().keeper, peers=peers_of("db1", db2=view))))
    found = engine.read(record(), switchover())
    assert engine.state.phase is Phase.SERVING
    assert not of(found, EnsureService)
    assert words in engine.state.refusals["switchover"].reason
    assert any(each.kind is NoticeKind.REFUSAL for each in of(found, effects.Notice))
    (written,) = of((*found, *engine.tick()), WriteControl)
    assert written.control.request is None
    assert written.control.answer.request == switchover().request.id, "whoever asked may have asked on another host"
    assert words in written.control.answer.text


def test_a_switchover_to_nobody_in_particular_passes_over_whom_it_would_refuse_by_name():
    fuller = peer("db2", statement=statement(900, following=None))
    engine = Engine(serving(keeper=replace(serving().keeper, peers=peers_of("db1", db2=fuller))))
    engine.read(record(), switchover(target=None))
    assert engine.state.handover is not None
    assert engine.state.handover.target == "db3"


def handed_over(engine: Engine) -> tuple[effects.Effect, ...]:
    """Writes are held, the target has everything, and the old primary has become a standby."""
    engine.read(record(), switchover())
    engine.done(EnsureService(role=WantedRole.HELD, epoch=3), after=0.01)
    engine.looked(Answered(service(Role.PRIMARY, writes_held=True), 0.001), after=0.01)
    engine.done(EnsureService(role=WantedRole.STANDBY, epoch=3, upstream="db2"), after=0.01)
    engine.looked(Answered(service(upstream=("10.0.0.2", 6379), link_up=False), 0.001), after=0.01)
    return engine.keeper_seen(replace(engine.state.keeper, hold=Hold.NONE), after=0.01)


def test_a_switchover_releases_to_its_target_with_the_position_that_was_held():
    engine = Engine(serving())
    found = handed_over(engine)
    assert told(found, commands.GiveUp) == [commands.GiveUp(position(500), "db2")]


def test_a_switchover_does_not_go_on_before_the_target_has_everything():
    behind = replace(serving().keeper, peers=peers_of("db1", db2=peer("db2", statement=statement(499))))
    engine = Engine(serving(keeper=behind))
    engine.read(record(), switchover())
    engine.done(EnsureService(role=WantedRole.HELD, epoch=3), after=0.01)
    found = engine.looked(Answered(service(Role.PRIMARY, writes_held=True), 0.001), after=0.01)
    assert not of(found, EnsureService)
    found = engine.keeper_seen(replace(behind, peers=peers_of("db1")), after=0.01)
    assert EnsureService(role=WantedRole.STANDBY, epoch=3, upstream="db2") in found


def test_a_position_looked_at_before_the_writes_were_held_does_not_count():
    engine = Engine(serving())
    engine.read(record(), switchover())
    engine.done(EnsureService(role=WantedRole.HELD, epoch=3), after=0.01)
    assert engine.state.handover.position is None


def test_a_switchover_whose_target_falls_silent_is_rolled_back_and_the_old_primary_serves_on():
    engine = Engine(serving())
    engine.read(record(), switchover())
    engine.done(EnsureService(role=WantedRole.HELD, epoch=3), after=0.01)
    engine.keeper_seen(replace(engine.state.keeper, peers=peers_of("db1", db2=silent("db2"))), after=0.01)
    engine.looked(Answered(service(Role.PRIMARY, writes_held=True), 0.001), after=0.01)
    wanted = EnsureService(role=WantedRole.PRIMARY, epoch=3)
    found = engine.tick(0.01)
    assert wanted in engine.state.asked or wanted in found
    engine.done(wanted, after=0.01)
    assert engine.state.phase is Phase.SERVING
    assert engine.state.handover is None


def test_clients_writes_are_not_held_for_longer_than_a_few_seconds():
    behind = replace(serving().keeper, peers=peers_of("db1", db2=peer("db2", statement=statement(1))), right_until=FOREVER)
    engine = Engine(serving(keeper=behind))
    engine.read(record(), switchover())
    engine.done(EnsureService(role=WantedRole.HELD, epoch=3), after=0.01)
    engine.looked(Answered(service(Role.PRIMARY, writes_held=True), 0.001), after=0.01)
    found = engine.tick(5.1)
    assert EnsureService(role=WantedRole.PRIMARY, epoch=3) in found


def test_after_a_release_a_rollback_is_a_write_and_only_then_a_promotion():
    engine = Engine(serving())
    handed_over(engine)
    released = replace(engine.state.keeper, release=Release(epoch=3, version=5, target="db2"), right_until=NEVER)
    engine.keeper_seen(released)
    found = engine.tick(2.5) + engine.tick(0.01)
    assert [each.record.primary for each in of(found, WriteRecord)] == [Pair("db1", 11)]
    assert not of(found, EnsureService)


@pytest.mark.parametrize("role", list(Role))
def test_after_a_rollback_only_what_was_compared_with_the_others_is_promoted(role: Role):
    """Somebody may have restarted the service while the right was away (schedule 2773)."""
    engine = Engine(serving())
    handed_over(engine)
    released = replace(engine.state.keeper, release=Release(epoch=3, version=5, target="db2"), right_until=NEVER)
    engine.keeper_seen(released)
    engine.looked(Answered(service(role, 0, pid=4712, empty=True, link_up=False), 0.001), after=0.01)
    write = of(engine.tick(2.5) + engine.tick(0.01), WriteRecord)[0]
    found = engine.written(write, WriteOutcome.APPLIED, after=0.01)
    back = replace(released, pid=4712, release=None, version=6, seen_version=6, right_epoch=3, right_until=engine.now + 0.9)
    found += engine.keeper_seen(back, after=0.01)
    assert engine.state.phase is Phase.STARTING
    assert not told(found, commands.Arm)


@pytest.mark.parametrize("stage", ["drain", "release"])
def test_a_switchover_that_failed_begins_to_roll_back_in_the_same_step(stage: str):
    """Clients' writes are held meanwhile: nothing may wait for the next event."""
    engine = Engine(serving())
    if stage == "release":
        handed_over(engine)
        released = replace(engine.state.keeper, release=Release(epoch=3, version=5, target="db2"), right_until=NEVER)
        engine.keeper_seen(released)
        assert of(engine.tick(2.5), WriteRecord)
        return
    behind = replace(serving().keeper, peers=peers_of("db1", db2=peer("db2", statement=statement(1))))
    engine.keeper_seen(behind)
    engine.read(record(), switchover())
    engine.done(EnsureService(role=WantedRole.HELD, epoch=3), after=0.01)
    engine.looked(Answered(service(Role.PRIMARY, writes_held=True), 0.001), after=0.01)
    found = engine.keeper_seen(replace(behind, peers=peers_of("db1", db2=silent("db2"))), after=0.01)
    assert EnsureService(role=WantedRole.PRIMARY, epoch=3) in found


def test_a_switchover_whose_target_took_over_is_followed():
    engine = Engine(serving())
    handed_over(engine)
    engine.read(record(version=6, epoch=4, primary="db2", succession=("db3",)), control(version=6))
    assert engine.state.handover is None
    assert engine.state.phase in (Phase.JOINING, Phase.STANDBY)


def test_a_request_is_acted_upon_once():
    engine = Engine(serving(keeper=replace(serving().keeper, peers=peers_of("db1", db2=silent("db2")))))
    first = engine.read(record(), switchover())
    again = engine.read(record(), switchover(), after=0.1)
    assert any("refused" in text for text in notices(first))
    assert not any("refused" in text for text in notices(again))


def test_a_switchover_is_carried_out_although_automation_is_paused():
    engine = Engine(serving())
    engine.read(record(), replace(switchover(), paused=PAUSE))
    assert engine.state.phase is Phase.HANDING_OVER


# --- clients ---------------------------------------------------------------------------------------------------------


def test_clients_go_to_whoever_says_that_it_serves_in_the_highest_epoch():
    newer = peer("db3", statement=primary_says(serving_epoch=4))
    engine = Engine(state("db2", keeper=keeper("db2", peers_of("db2", db3=newer))))
    assert [each.primary for each in of(engine.tick(), EnsureClients)] == ["db3"]


def test_clients_are_led_nowhere_while_nobody_says_that_it_serves():
    nobody = peer("db1", statement=primary_says(serving_epoch=0))
    engine = Engine(state("db2", keeper=keeper("db2", peers_of("db2", db1=nobody))))
    assert not of(engine.tick(), EnsureClients)


def test_clients_do_not_follow_who_serves_an_epoch_older_than_the_newest_known():
    engine = Engine(state("db2", keeper=keeper("db2", epoch=4)))
    assert not of(engine.tick(), EnsureClients)


def test_a_witness_leads_its_clients_and_nothing_else():
    engine = Engine(state("app1", phase=Phase.STARTING, keeper=keeper("app1"), local=Local()))
    found = engine.tick()
    assert engine.state.phase is Phase.WITNESS
    assert of(found, EnsureClients) == [EnsureClients(primary="db1", epoch=3)]
    assert not of(found, EnsureService)


# --- whatever happens ------------------------------------------------------------------------------------------------

moments = st.sampled_from([0.0, 0.001, 0.05, 0.3, 1.1, 3.5, 40.0])
spans_back = st.sampled_from([0.05, 1.5, 10.0])
healths = st.sampled_from(Health)
outcomes = st.one_of(
    st.builds(
        Answered,
        st.builds(
            service,
            st.sampled_from(Role),
            st.integers(490, 510),
            pid=st.sampled_from([4711, 4712]),
            empty=st.booleans(),
            link_up=st.booleans(),
        ),
        st.just(0.001),
    ),
    st.just(GONE),
    st.just(Refused("loading")),
    st.just(Silent(1.0)),
    st.just(Abstained("stalled")),
)
words_of_peers = st.fixed_dictionaries(
    {},
    optional={
        "silent": spans_back,
        "life": st.integers(20, 23),
        "offset": st.integers(490, 510),
        "health": healths,
        "electable": st.booleans(),
        "serving_epoch": st.integers(0, 6),
        "following": st.sampled_from([None, "db1", "db2", "db3"]),
        "settled": st.integers(0, 7),
        "handover": st.sampled_from([None, "db1", "db2"]),
        "wants_role": st.booleans(),
        "release": st.sampled_from([None, "db1", "db2", "anybody"]),
    },
)
keeper_words = st.fixed_dictionaries(
    {},
    optional={
        "claim": st.sampled_from([None, "present"]),
        "hold": st.sampled_from(Hold),
        "right": st.sampled_from([-1.0, 0.5, 5.0]),
        "right_epoch": st.sampled_from(["present", "older"]),
        "promised": st.sampled_from([-1.0, 0.5]),
        "wants_write": st.booleans(),
        "newer": st.sampled_from([0, 0, 0, 1]),
        "release": st.booleans(),
        "counted": st.booleans(),
        "main_exited": st.booleans(),
        "life": st.sampled_from([0, 0, 0, 100]),
    },
)
moves = st.one_of(
    st.tuples(st.just("tick"), moments),
    st.tuples(st.just("look"), outcomes),
    st.tuples(st.just("keeper"), keeper_words),
    st.tuples(st.just("keeper"), st.just({"claim": "present"})),
    st.tuples(st.just("no keeper")),
    st.tuples(st.just("peer"), st.sampled_from(["db1", "db2", "db3"]), words_of_peers),
    st.tuples(
        st.just("record"), st.sampled_from(["same", "own", "other", "older", "none", "foreign"]), st.sampled_from(sorted(LIVES))
    ),
    st.tuples(
        st.just("people"),
        st.sampled_from(["pause", "resume", "approve", "ask", "switch", "forget"]),
        st.sampled_from([None, "db1", "db2", "db3"]),
    ),
    st.tuples(st.just("lost")),
    st.tuples(st.just("answer"), st.sampled_from(WriteOutcome)),
    st.tuples(st.just("done"), st.integers(0, 5)),
    st.tuples(st.just("failed"), st.integers(0, 5)),
)
scripts = st.lists(moves, min_size=4, max_size=40)
BEGINNINGS = (
    "standby",
    "bereaved",
    "bereaved",
    "claiming",
    "promoting",
    "serving",
    "handing over",
    "letting go",
    "starting",
    "founding",
    "joining",
)
beginnings = st.sampled_from(BEGINNINGS)
levels = st.sampled_from([*Automation, Automation.AUTOMATIC, Automation.AUTOMATIC, Automation.CONFIRM, Automation.CONFIRM])


def beginning(name: str, level: Automation, restarts_first: int = 0) -> State:
    chosen = {"policy": policy(automation=level, restarts_first=restarts_first, cooldown=30.0)}
    match name:
        case "standby":
            return state("db2", **chosen)
        case "bereaved":
            return bereaved(**chosen)
        case "claiming":
            return bereaved(phase=Phase.CLAIMING, keeper=bereaved_keeper(claim=5), **chosen)
        case "promoting":
            with_right_of_3 = keeper("db1", right_epoch=3, right_until=NOW + 0.9)
            return state("db1", phase=Phase.PROMOTING, phase_since=NOW - 1.0, keeper=with_right_of_3, **chosen)
        case "serving":
            return serving(**chosen)
        case "handing over":
            giving = Engine(serving(**chosen))
            giving.read(record(), switchover())
            return giving.state
        case "letting go":
            gone = Local(gone_since=NOW - 1.0, refused="connection refused")
            return serving(phase=Phase.LETTING_GO, phase_since=NOW - 1.0, local=gone, **chosen)
        case "starting":
            return state("db1", phase=Phase.STARTING, keeper=keeper("db1"), **chosen)
        case "founding":
            return state(
                "db1",
                phase=Phase.STARTING,
                record=None,
                status=Mediation.ABSENT,
                keeper=keeper("db1", epoch=0, version=-1),
                **chosen,
            )
        case _:
            return state("db2", phase=Phase.JOINING, **chosen)


class Chaos(Engine):
    """An engine in a world in which anything may be said at any time, by anybody."""

    def __init__(self, begin: State) -> None:
        super().__init__(begin)
        self.writes: list[WriteRecord] = []
        self.asked: list[effects.Effect] = []
        self.seen = begin.record
        self.said = begin.control
        self.view = begin.keeper
        self.peers = {each.name: each for each in (begin.keeper.peers if begin.keeper else ())}
        self.before = begin
        self.event: events.Event | None = None

    def feed(self, event: events.Event) -> tuple[effects.Effect, ...]:
        self.before, self.event = self.state, event
        found = super().feed(event)
        self.writes += of(found, WriteRecord)
        self.asked += [each for each in found if not isinstance(each, effects.Notice | effects.TellKeeper)]
        return found

    def move(self, move: tuple[Any, ...]) -> tuple[effects.Effect, ...]:
        match move:
            case ("tick", after):
                return self.tick(after)
            case ("look", outcome):
                return self.looked(outcome, after=0.01)
            case ("no keeper",):
                return self.keeper_seen(None)
            case ("keeper", words):
                self._keeper(words)
                return self.keeper_seen(self.view, after=0.01)
            case ("peer", name, words):
                if name in self.peers:
                    self._peer(name, words)
                self.view = replace(self.view, peers=tuple(self.peers.values()))
                return self.keeper_seen(self.view, after=0.01)
            case ("record", which, who):
                return self._record(which, who)
            case ("people", what, target):
                self._people(what, target)
                return self.read(self.seen, self.said, after=0.01)
            case ("lost",):
                return self.lost(0.2)
            case ("answer", outcome):
                return self._answer(outcome)
            case ("done", number) if self.asked:
                return self.done(self.asked[-1 - number % len(self.asked)], after=0.01)
            case ("failed", number) if self.asked:
                return self.failed(self.asked[-1 - number % len(self.asked)], after=0.01)
        return self.tick(0.01)

    def _keeper(self, words: dict[str, Any]) -> None:
        known = self.seen
        version, epoch = (known.version, known.epoch) if known else (-1, 0)
        changes: dict[str, Any] = {"version": version + words.get("newer", 0), "epoch": epoch + words.get("newer", 0)}
        if "claim" in words:
            changes["claim"] = version if words["claim"] else None
        if "right" in words:
            changes["right_until"] = self.now + words["right"]
        if "right_epoch" in words:
            changes["right_epoch"] = epoch if words["right_epoch"] == "present" else epoch - 1
        if "promised" in words:
            changes["promised_until"] = self.now + words["promised"]
        if "release" in words:
            changes["release"] = Release(epoch=epoch, version=version) if words["release"] else None
        if "counted" in words:
            changes["counted"] = tuple(Pair(name, view.life) for name, view in self.peers.items()) if words["counted"] else ()
        if "life" in words:
            changes["life"] = LIVES[self.state.me] + words["life"]
        plain = {name: words[name] for name in ("hold", "wants_write", "main_exited") if name in words}
        self.view = replace(self.view, **changes, **plain)

    def _peer(self, name: str, words: dict[str, Any]) -> None:
        view = self.peers[name]
        known = self.seen or record()
        said = {
            key: words[key]
            for key in ("health", "electable", "serving_epoch", "following", "settled", "handover", "wants_role")
            if key in words
        }
        if "offset" in words:
            said["position"] = position(words["offset"])
        silent_since = self.now - words["silent"] if "silent" in words else None
        release = view.release
        if "release" in words:
            target = None if words["release"] == "anybody" else words["release"]
            release = Release(epoch=known.epoch, version=known.version, target=target) if words["release"] else None
        life = words.get("life", view.life)
        self.peers[name] = replace(
            view, statement=replace(view.statement, **said), silent_since=silent_since, release=release, life=life
        )

    def _record(self, which: str, who: str) -> tuple[effects.Effect, ...]:
        known = self.seen or record(version=0, epoch=1)
        if which == "none":
            return self.read(None, self.said, after=0.01)
        if which == "own":
            who = self.state.me
        if who == "app1":
            who = "db3"
        succession = tuple(name for name in ("db1", "db2", "db3") if name != who)
        if which in ("own", "other"):
            self.seen = record(
                version=known.version + 1, epoch=known.epoch + 1, primary=who, succession=succession, since=self.state.wall
            )
            return self.read(self.seen, self.said, after=0.01)
        if which == "older":
            return self.read(replace(known, version=known.version - 1), self.said, after=0.01)
        if which == "foreign":
            return self.read(replace(known, incarnation=99, version=0, epoch=known.epoch), self.said, after=0.01)
        return self.read(self.seen, self.said, after=0.01)

    def _people(self, what: str, target: str | None) -> None:
        known = self.seen
        version, epoch = self.said.version + 1, known.epoch if known else 0
        changes: dict[str, Any] = {"version": version}
        if what == "pause":
            changes["paused"] = PAUSE
        elif what == "resume":
            changes["paused"] = None
        elif what == "forget":
            changes |= {"request": None, "proposal": None}
        else:
            kind = RequestKind.SWITCHOVER if what == "switch" else RequestKind.FAILOVER
            word = request(kind, id=f"{what}-{version}", epoch=epoch, target=target, expires_wall=self.state.wall + 60.0)
            approval = self.said.proposal.id if what == "approve" and self.said.proposal else None
            changes |= {"request": replace(word, proposal=approval), "proposal": None}
        self.said = replace(self.said, **changes)

    def _answer(self, outcome: WriteOutcome) -> tuple[effects.Effect, ...]:
        if not self.writes:
            return self.tick(0.01)
        write = self.writes[-1]
        present = self.seen.version if self.seen else None
        if outcome is WriteOutcome.APPLIED and write.expected != present:
            outcome = WriteOutcome.CONFLICT
        if outcome is WriteOutcome.APPLIED:
            self.seen = write.record
            if write.control is not None:
                self.said = write.control
        return self.written(write, outcome, after=0.01)


@given(scripts, beginnings, levels)
def test_a_step_changes_nothing_but_what_it_returns(script, begin: str, level: Automation):
    """`feed` compares two steps from the same state; here, that the state it came from is as it was."""
    engine = Chaos(beginning(begin, level))
    for move in script:
        engine.move(move)
        assert repr(engine.before) == repr(replace(engine.before))
        assert engine.state.now >= engine.before.now


@given(scripts, beginnings, levels, st.integers(0, 1))
def test_phases_change_only_along_the_edges_of_the_table_and_each_change_is_told(script, begin: str, level, restarts: int):
    taken: list[tuple[Phase, Phase, str]] = []
    original = Turn.enter

    def enter(turn: Turn, phase: Phase, because: str, evidence: tuple[str, ...] = ()) -> None:
        if phase is not turn.state.phase:
            taken.append((turn.state.phase, phase, because))
        original(turn, phase, because, evidence)

    engine = Chaos(beginning(begin, level, restarts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Turn, "enter", enter)
        for move in script:
            taken.clear()
            was = engine.state.phase
            found = engine.move(move)
            for origin, target, because in taken:
                assert (origin, target) in EDGES
                assert because
                assert because in notices(found)
            assert engine.state.phase is (taken[-1][1] if taken else was)


TOLD = (NoticeKind.REFUSAL, NoticeKind.ALARM)


@given(scripts, beginnings, levels)
def test_every_refusal_says_which_gate_and_why(script, begin: str, level: Automation):
    engine = Chaos(beginning(begin, level))
    for move in script:
        found = engine.move(move)
        for act, refusal in engine.state.refusals.items():
            assert refusal.act == act
            assert refusal.gate.strip()
            assert refusal.reason.strip()
            assert refusal.since <= engine.now
            known = engine.before.refusals.get(act)
            if engine.before.phase is engine.state.phase and (known is None or known.gate != refusal.gate):
                assert refusal.reason in " ".join(each.text for each in of(found, effects.Notice) if each.kind in TOLD)


def taken_over(found: tuple[effects.Effect, ...], before: Record | None) -> list[WriteRecord]:
    """Writes that give the role to somebody else than who has it."""
    return [each for each in of(found, WriteRecord) if before is not None and each.record.epoch > before.epoch]


@given(scripts, beginnings, levels)
def test_a_role_changes_only_as_policy_and_a_persons_word_allow(script, begin: str, level: Automation):
    """P8, and the pause: whatever keeper, mediator and peers say."""
    engine = Chaos(beginning(begin, level))
    for move in script:
        found = engine.move(move)
        now, known = engine.state, engine.state.record
        word = now.control.request
        standing = word is not None and known is not None and word.epoch == known.epoch and now.wall < word.expires_wall
        for write in taken_over(found, known):
            assert write.record.primary.name == now.me
            assert write.expected == known.version
            assert write.record.version == known.version + 1
            assert write.control_expected == now.control.version
            assert level is not Automation.OBSERVE
            assert standing or level is Automation.AUTOMATIC
            assert standing or now.control.paused is None
            assert not standing or write.control is not None
            assert write.control is None or (write.control.request is None and write.control.proposal is None)
        if told(found, commands.BeginClaim) and not standing:
            assert level is Automation.AUTOMATIC
            assert now.control.paused is None
        for proposed_control in of(found, WriteControl):
            assert proposed_control.control.request in (None, now.control.request)


@given(scripts, beginnings, levels)
def test_hearing_the_same_event_twice_asks_for_no_second_write(script, begin: str, level: Automation):
    engine = Chaos(beginning(begin, level))
    for move in script:
        if of(engine.move(move), WriteRecord):
            assert not of(engine.feed(engine.event), WriteRecord)


@given(scripts, beginnings, levels)
def test_an_own_write_always_goes_on_from_the_version_that_is_known(script, begin: str, level: Automation):
    engine = Chaos(beginning(begin, level))
    nonces: set[int] = set()
    for move in script:
        for write in of(engine.move(move), WriteRecord):
            known = engine.state.record
            assert write.expected == (known.version if known is not None and write.record.version > 0 else None)
            assert write.record.nonce not in nonces
            assert write.record.primary.name == engine.state.me
            assert write.record.epoch >= engine.state.epoch
            assert engine.state.me not in [pair.name for pair in write.record.succession]
            assert sum(each.in_flight for each in engine.state.pending) == 1
            nonces.add(write.record.nonce)


@given(scripts, beginnings, levels)
def test_the_engine_asks_to_be_woken_only_in_the_future(script, begin: str, level: Automation):
    engine = Chaos(beginning(begin, level))
    for move in script:
        engine.move(move)
        assert engine.last.wake_at > engine.now


@given(scripts, beginnings, levels)
def test_nothing_becomes_primary_before_guard_and_gate_stand(script, begin: str, level: Automation):
    engine = Chaos(beginning(begin, level))
    for move in script:
        for wanted in of(engine.move(move), EnsureService):
            if wanted.role is not WantedRole.PRIMARY:
                continue
            view = engine.state.keeper
            assert view is not None
            assert view.hold is not Hold.NONE
            assert view.right_epoch == wanted.epoch == engine.state.record.epoch
            assert engine.state.record.primary.name == engine.state.me
