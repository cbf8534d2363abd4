"""Quorum replication (decision 0011): who must have a commit, who must be asked, and in which order the list changes."""

from dataclasses import replace
from itertools import combinations
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain import commands, events
from orchestrator.domain.effects import EnsureReplicas, EnsureService, LookNow, WriteControl, WriteRecord
from orchestrator.domain.observations import Answered, Hold, PeerView, Refused, Release, Role
from orchestrator.domain.policy import Replication
from orchestrator.domain.topology import Pair
from orchestrator.engine import asking, gates, quorum
from orchestrator.engine.quorum import Kept
from orchestrator.engine.state import Asking, Covered, Local, Phase
from tests.unit.scenarios import (
    LIVES,
    NOW,
    Engine,
    bereaved,
    keeper,
    notices,
    of,
    peer,
    peers_of,
    policy,
    position,
    record,
    service,
    serving,
    silent,
    state,
    statement,
    told,
)

# --- lists, against every case there is ------------------------------------------------------------------------------

NAMES = "abcde"
promises = st.frozensets(st.sampled_from(NAMES)).flatmap(
    lambda names: st.builds(Kept, st.just(names), st.integers(0, len(names)))
)


def holders(kept: Kept) -> list[frozenset[str]]:
    """Every set of standbys that may have a commit under this promise."""
    return [each for each in everybody() if len(each & kept.names) >= kept.enough]


def everybody() -> list[frozenset[str]]:
    return [frozenset(each) for size in range(len(NAMES) + 1) for each in combinations(NAMES, size)]


@given(st.lists(promises, min_size=1, max_size=4))
def test_whoever_has_a_commit_under_the_common_list_satisfies_every_promise(each: list[Kept]):
    common = quorum.satisfying(each)
    assert common.enough <= len(common.names), "a list that nobody could ever satisfy"
    for have in holders(common):
        assert all(len(have & one.names) >= one.enough for one in each), have


@given(promises)
def test_one_promise_is_its_own_list(kept: Kept):
    assert quorum.satisfying([kept, kept]) == kept


@given(promises, promises)
def test_implies_is_true_only_of_what_every_commit_keeps(one: Kept, other: Kept):
    if one.implies(other):
        assert all(len(have & other.names) >= other.enough for have in holders(one))


@given(st.sets(st.sampled_from(NAMES), min_size=1), st.data())
def test_so_many_surely_have_everything_and_one_of_those_who_are_asked_does(names: set[str], data: st.DataObject):
    succession = tuple(Pair(name, 1) for name in sorted(names))
    enough = data.draw(st.integers(1, len(names)))
    known = replace(record(), succession=succession, quorum=enough)
    later = data.draw(st.sets(st.sampled_from(NAMES)))
    sure = quorum.surely_having(known, tuple(Pair(name, 2) for name in later))
    possible = holders(quorum.promised(known))
    assert min(len(have & later & names) for have in possible) >= sure
    for asked in combinations(sorted(names), quorum.needed(known)):
        assert all(have & set(asked) for have in possible), "a commit that none of those who were asked has"


def test_a_synchronous_record_needs_nobody_but_the_claimant():
    assert quorum.needed(record()) == 1
    assert quorum.needed(replace(record(), quorum=1)) == 2
    assert quorum.needed(replace(record(), quorum=2)) == 1


# --- a claimant asks -------------------------------------------------------------------------------------------------

QUORUM = policy(replication=Replication.QUORUM, min_replicas=1)
ONE_OF_TWO = replace(record(), quorum=1)


def orphan(**changes: Any) -> Engine:
    return Engine(bereaved(policy=QUORUM, record=ONE_OF_TWO, **changes))


def others(*, answers: tuple[int, ...] = (), offset: int = 500, **changes: Any):
    said = statement(offset, settled=5, answers=answers, **changes)
    return keeper("db2", peers_of("db2", db1=silent(), db3=peer("db3", statement=said)))


def asked(engine: Engine) -> int:
    """The number of the question, with an own look after it."""
    engine.tick()
    assert engine.state.asking is not None
    engine.looked(Answered(service(durable=True), 0.001), after=0.01)
    return engine.state.asking.token


def test_it_asks_where_the_others_data_ends_and_looks_at_its_own_before_it_claims():
    engine = orphan()
    found = engine.tick()
    assert of(found, LookNow)
    (said,) = told(found, commands.Say)
    assert said.urgent
    assert said.statement.asks == engine.state.asking.token != 0
    assert not told(found, commands.BeginClaim)


def test_with_the_answer_it_claims_and_names_the_promise_on_which_that_rests():
    engine = orphan(keeper=keeper("db2", others().peers, promised_until=NOW - 1.0))
    token = asked(engine)
    assert not told(
        engine.keeper_seen(replace(engine.state.keeper, peers=others(answers=(token + 1,)).peers)), commands.BeginClaim
    )
    found = engine.keeper_seen(replace(engine.state.keeper, peers=others(answers=(token,)).peers), after=0.01)
    assert told(found, commands.BeginClaim) == [commands.BeginClaim(5, NOW - 1.0)]


def test_without_a_look_of_its_own_since_the_question_it_does_not_claim():
    engine = orphan()
    engine.tick()
    found = engine.keeper_seen(others(answers=(engine.state.asking.token,)), after=0.001)
    assert not told(found, commands.BeginClaim)


def test_a_promise_given_meanwhile_makes_the_question_void():
    engine = orphan(keeper=keeper("db2", others().peers, promised_until=NOW - 1.0))
    token = asked(engine)
    again = replace(engine.state.keeper, peers=others(answers=(token,)).peers, promised_until=NOW - 0.5)
    found = engine.keeper_seen(again, after=0.01)
    assert not told(found, commands.BeginClaim)
    assert engine.state.asking.token != token


def test_who_has_less_than_one_that_answered_does_not_claim():
    engine = orphan()
    token = asked(engine)
    found = engine.keeper_seen(others(answers=(token,), offset=501), after=0.01)
    assert not told(found, commands.BeginClaim)
    assert "db3 has 1 bytes more" in asking.missing(engine.state, ONE_OF_TWO)


def test_when_too_few_answer_a_person_is_asked_who_is_told_what_may_be_lost():
    engine = orphan(keeper=keeper("db2", peers_of("db2", db1=silent(), db3=silent("db3"))))
    asked(engine)
    assert not of(engine.tick(0.5), WriteControl), "it may answer yet"
    found = engine.tick(0.6)
    assert not told(found, commands.BeginClaim)
    (write,) = of(found, WriteControl)
    assert any("acknowledged commits may be lost" in line and "db3 did not" in line for line in write.control.proposal.evidence)
    assert write.control.proposal.id == "orders-3-host_down-unheard-db2"


def test_a_word_for_a_takeover_that_loses_nothing_does_not_allow_one_that_may():
    engine = orphan(keeper=keeper("db2", peers_of("db2", db1=silent(), db3=silent("db3"))))
    before = gates.situation_id(engine.state, ONE_OF_TWO, "db2")
    asked(engine)
    engine.tick(1.5)
    assert gates.situation_id(engine.state, ONE_OF_TWO, "db2") != before


def test_a_release_that_says_where_everything_ends_needs_no_question():
    def released(offset: int):
        gone = silent(release=Release(epoch=3, version=5, position=position(offset), target="db2"))
        return keeper("db2", peers_of("db2", db1=gone, db3=silent("db3")))

    assert told(orphan(keeper=released(500)).tick(), commands.BeginClaim)
    assert not told(orphan(keeper=released(501)).tick(), commands.BeginClaim)


def test_a_claim_lists_only_those_that_have_all_of_it_and_as_many_as_a_commit_must_be_on():
    for offset, listed, enough in ((500, (Pair("db3", 33),), 1), (499, (), 0)):
        engine = orphan()
        token = asked(engine)
        engine.keeper_seen(others(answers=(token,), offset=offset), after=0.01)
        (write,) = of(engine.keeper_seen(replace(others(answers=(token,), offset=offset), claim=5), after=0.01), WriteRecord)
        assert (write.record.succession, write.record.quorum) == (listed, enough)


def test_the_question_ends_with_the_claim_and_does_not_stand_in_the_way_of_the_next_one():
    engine = orphan()
    token = asked(engine)
    heard = others(answers=(token,))
    engine.keeper_seen(heard, after=0.01)
    (write,) = of(engine.keeper_seen(replace(heard, claim=5), after=0.01), WriteRecord)
    engine.written(write, events.WriteOutcome.APPLIED, after=0.01)
    assert engine.state.phase is Phase.PROMOTING
    assert engine.state.asking is None
    stale = Engine(serving(policy=QUORUM, record=ONE_OF_TWO, asking=Asking(7, 3, NOW - 60.0, None)))
    found = stale.looked(Refused("connection refused", gone=True), after=0.01)
    assert stale.state.phase is Phase.LETTING_GO, notices(found)


# --- the others answer -----------------------------------------------------------------------------------------------


def test_an_answer_is_a_look_that_began_after_the_question_was_heard():
    engine = Engine(state("db3", keeper=keeper("db3"), local=Local(view=service(durable=True), viewed_at=NOW - 0.1)))
    asking_ = peers_of("db3", db2=peer("db2", statement=statement(asks=77)))
    found = engine.keeper_seen(keeper("db3", asking_), after=0.01)
    assert of(found, LookNow)
    at = engine.now + 0.01
    late = events.Looked(at=at, wall=engine.state.wall, began_at=at - 0.015, outcome=Answered(service(durable=True), 0.001))
    engine.feed(late)
    assert engine.state.said.answers == (), "the look had begun before"
    (said,) = told(engine.looked(Answered(service(durable=True), 0.001), after=0.01), commands.Say)
    assert said.urgent
    assert said.statement.answers == (77,)
    engine.keeper_seen(keeper("db3"), after=0.01)
    assert engine.state.said.answers == (), "nobody asks any more"


def test_data_that_may_be_older_than_it_was_answers_nothing():
    question = keeper("db3", peers_of("db3", db1=silent(), db2=peer("db2", statement=statement(asks=77))))
    for has, answers in ((500, (77,)), (100, ())):
        engine = Engine(state("db3", keeper=question, local=Local()))
        engine.keeper_seen(question)
        engine.looked(Answered(service(offset=has, link_up=False), 0.001), after=0.01)
        assert engine.state.said.answers == answers


# --- the list and the record -----------------------------------------------------------------------------------------


def primary(listed: tuple[str, ...], counted: tuple[str, ...] = (), **changes: Any) -> Engine:
    known = replace(record(succession=listed), quorum=min(1, len(listed)))
    pairs = tuple(Pair(name, LIVES[name]) for name in counted or listed)
    peers = changes.pop("peers", peers_of("db1"))
    held = replace(serving().keeper, counted=pairs, peers=peers)
    usual = {"record": known, "keeper": held, "policy": QUORUM, "covered": Covered(names=listed, since=NOW - 9.0)}
    return Engine(serving(**{**usual, **changes}))


def lists(found: Any) -> list[tuple[tuple[str, ...], int | None]]:
    return [(each.names, each.enough) for each in of(found, EnsureReplicas)]


def test_who_is_added_comes_into_the_list_after_the_record():
    engine = primary(("db2",), ("db2", "db3"))
    found = engine.tick()
    (write,) = of(found, WriteRecord)
    assert (write.record.succession, write.record.quorum) == ((Pair("db2", 22), Pair("db3", 33)), 1)
    assert lists(found) == [(("db2",), None)]
    found = engine.written(write, events.WriteOutcome.APPLIED, after=0.01)
    assert lists(found) == [(("db2", "db3"), 1)]


def broken(offset: int = 500):
    away = peer("db3", statement=statement(electable=False, why_not="its service does not run"))
    return peers_of("db1", db2=peer("db2", statement=statement(offset)), db3=away)


def test_who_is_dropped_leaves_the_list_first_and_the_others_have_everything():
    engine = primary(("db2", "db3"), peers=broken(499))
    found = engine.tick()
    assert lists(found) == [(("db2",), None)]
    assert not of(found, WriteRecord), "a commit may be on db3 alone"
    (wish,) = [each for each in engine.state.asked if isinstance(each, EnsureReplicas)]
    assert not of(engine.done(wish, after=0.01), WriteRecord)
    assert not of(engine.looked(Answered(service(Role.PRIMARY), 0.001), after=0.01), WriteRecord)
    found = engine.keeper_seen(replace(engine.state.keeper, peers=broken(500)), after=0.01)
    (write,) = of(found, WriteRecord)
    assert (write.record.succession, write.record.quorum) == ((Pair("db2", 22),), 1)
    assert any("drop db3" in line for line in notices(found))


def test_more_are_promised_only_when_they_are_seen_to_have_everything():
    engine = primary(("db2", "db3"), policy=policy(replication=Replication.QUORUM, min_replicas=2))
    found = engine.tick()
    assert lists(found) == [(("db2", "db3"), None)]
    assert not of(found, WriteRecord)
    (wish,) = [each for each in engine.state.asked if isinstance(each, EnsureReplicas)]
    engine.done(wish, after=0.01)
    (write,) = of(engine.looked(Answered(service(Role.PRIMARY), 0.001), after=0.01), WriteRecord)
    assert write.record.quorum == 2


def test_a_part_of_what_is_wanted_is_written_only_if_commits_wait_for_just_that():
    """db3 is to leave, three to come, and db4 alone has what was acknowledged before. A later commit is on any four of five."""
    members = tuple(replace(serving().group.members[0], name=f"db{each}", preferred=False) for each in range(1, 7))
    offsets = {"db2": 500, "db3": 500, "db4": 500, "db5": 499, "db6": 499}
    peers = tuple(
        PeerView(name=name, life=11 * int(name[2:]), statement=statement(offset, electable=name != "db3", why_not="broken"))
        for name, offset in offsets.items()
    )
    engine = primary(
        ("db2", "db3"),
        policy=policy(replication=Replication.QUORUM, min_replicas=3),
        group=replace(serving().group, members=members),
        peers=peers,
    )
    assert lists(engine.tick()) == [(("db2", "db3", "db4", "db5", "db6"), 4)]
    (wish,) = [each for each in engine.state.asked if isinstance(each, EnsureReplicas)]
    found = engine.done(wish, after=0.01) + engine.looked(Answered(service(Role.PRIMARY), 0.001), after=0.01)
    assert not told(found, commands.Prepare), "of a later commit both db2 and db4 need not have heard"
    caught_up = tuple(replace(each, statement=replace(each.statement, position=position(500))) for each in peers)
    found = engine.keeper_seen(replace(engine.state.keeper, peers=caught_up), after=0.01)
    assert [len(each.pairs) for each in told(found, commands.Prepare)] == [3]


def test_less_is_promised_before_less_is_waited_for():
    engine = primary(("db2", "db3"), record=replace(record(), quorum=2))
    found = engine.tick()
    assert lists(found) == [(("db2", "db3"), None)]
    (write,) = of(found, WriteRecord)
    assert write.record.quorum == 1
    assert lists(engine.written(write, events.WriteOutcome.APPLIED, after=0.01)) == [(("db2", "db3"), 1)]


# --- what a standby that may not be primary has more -----------------------------------------------------------------


def reserved(offset: int, quorum_: int = 0) -> Engine:
    begin = bereaved(
        policy=policy(replication=Replication.QUORUM if quorum_ else Replication.ASYNCHRONOUS, min_replicas=quorum_),
        record=replace(record(), quorum=quorum_),
        keeper=others(offset=offset),
        local=Local(view=service(durable=True), viewed_at=NOW - 0.1),
    )
    members = tuple(replace(each, never_primary=each.name == "db3") for each in begin.group.members)
    return Engine(replace(begin, group=replace(begin.group, members=members)))


def test_what_a_reserved_standby_has_more_is_fetched_before_the_claim():
    engine = reserved(600)
    found = engine.tick()
    assert [(each.role, each.upstream) for each in of(found, EnsureService)] == [("standby", "db3")]
    assert not told(found, commands.BeginClaim)
    found = engine.looked(Answered(service(offset=600, durable=True, upstream=("10.0.0.3", 6379)), 0.001), after=0.1)
    assert told(found, commands.BeginClaim)


def test_nothing_is_fetched_where_nothing_is_more():
    found = reserved(500).tick()
    assert not of(found, EnsureService)
    assert told(found, commands.BeginClaim)


def test_after_its_time_an_asynchronous_group_goes_on_without():
    engine = reserved(600)
    engine.tick()
    assert not told(engine.tick(3.9), commands.BeginClaim)
    found = engine.tick(1.2)
    assert told(found, commands.BeginClaim)
    assert not of(found, EnsureService)


def test_after_its_time_a_quorum_asks_a_person():
    engine = reserved(600, quorum_=1)
    token = asked(engine)
    engine.keeper_seen(others(answers=(token,), offset=600), after=0.01)
    found = engine.tick(5.5)
    assert not told(found, commands.BeginClaim)
    assert "600" not in engine.state.refusals["takeover"].reason
    assert "db3 has 100 bytes more" in engine.state.refusals["takeover"].reason


def test_what_is_fetched_for_a_primary_that_is_well_again_is_left():
    engine = reserved(600)
    engine.tick()
    back = keeper("db2", peers_of("db2", db3=peer("db3", statement=statement(600))))
    engine.keeper_seen(back, after=0.01)
    view = service(offset=500, durable=True, upstream=("10.0.0.3", 6379))
    found = engine.looked(Answered(view, 0.001), after=0.1)
    assert [each.upstream for each in of(found, EnsureService)] == ["db1"]
    assert engine.state.fetching is None
    assert engine.state.phase is Phase.STANDBY
    assert engine.state.keeper.hold is Hold.NONE
