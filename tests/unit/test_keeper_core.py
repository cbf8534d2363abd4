"""Section 5 of the design, rule by rule, as small examples on the keeper's core. The lease is one second throughout."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain import commands
from orchestrator.domain.observations import Health, Hold, Release, Statement
from orchestrator.domain.plain import to_plain
from orchestrator.domain.positions import Position
from orchestrator.domain.record import Cause, Record
from orchestrator.domain.spans import FOREVER, NEVER
from orchestrator.domain.topology import Pair
from orchestrator.keeper.clocks import SAMPLES
from orchestrator.keeper.core import ClaimBegun, Core, Declined, EndConnections, Freeze, Kill, Send, Thaw
from orchestrator.keeper.memory import Memory, begin_life
from probes.interconnected.wire import Section

GROUP = 77
LEASE = 1.0
BEAT = 0.1
BUDGET = 0.1
ME, MY_LIFE = "db1", 11
LIVES = {"db1": MY_LIFE, "db2": 22, "db3": 33, "app1": 44}
PEERS = ("db2", "db3", "app1")
PID, STARTED = 4711, 99


def record(version: int = 5, epoch: int = 3, primary: str = ME, succession: tuple[str, ...] = ("db2",), **changes: Any) -> Record:
    known = Record(
        version=version,
        incarnation=9,
        epoch=epoch,
        primary=Pair(primary, LIVES[primary]),
        succession=tuple(Pair(name, LIVES[name]) for name in succession),
        lease=LEASE,
        nonce=1,
        cause=Cause.FAILOVER,
        reason="for the test",
        since=0.0,
    )
    return replace(known, **changes)


class Keeper:
    """A core, its clock, and everything that it wanted done."""

    def __init__(self, memory: Memory | None = None, now: float = 0.0, warm: bool = False) -> None:
        self.now = now
        self.acts: list[Any] = []
        self.numbers: dict[str, int] = {}
        self.echoed = 0
        self.core = Core(
            me=ME,
            group=GROUP,
            memory=memory if memory is not None else begin_life(MY_LIFE, now, LEASE, 0),
            peers=PEERS,
            beat_every=BEAT,
            budget=BUDGET,
            now=now,
            warm=warm,
        )

    @property
    def memory(self) -> Memory:
        return self.core.memory

    @property
    def right_until(self) -> float:
        return self.memory.right_until

    def at(self, now: float) -> "Keeper":
        assert now >= self.now
        self.now = now
        return self

    def note(self, acts: list[Any]) -> list[Any]:
        self.acts += acts
        return acts

    def tick(self) -> list[Any]:
        return self.note(self.core.tick(self.now))

    def obey(self, command: commands.Command) -> Any:
        answer, acts = self.core.obey(self.now, command)
        self.note(acts)
        return answer

    def hear(self, peer: str, **said: Any) -> list[Any]:
        """A beat of a peer that knows our life and epoch, unless it says otherwise; the peer's clock runs like ours."""
        number = said.pop("number", max(self.numbers.get(peer, 0) + 1, int(self.now * 1e6)))
        self.numbers[peer] = max(number, self.numbers.get(peer, 0))
        self.echoed = max(self.echoed + 1, said.get("echo_number", 0))
        known = {
            "group": GROUP,
            "life": LIVES[peer],
            "number": number,
            "echo_life": self.memory.life,
            "echo_number": self.echoed,
            "epoch": self.memory.epoch,
            "version": self.memory.version,
            "incarnation": self.memory.incarnation,
            "lease_us": round(LEASE * 1e6),
        }
        slow = said.pop("slow", False)
        return self.note(self.core.heard(self.now, peer, Section(**{**known, **said}), slow=slow))

    def beat(self) -> dict[str, Section]:
        """The next beat to everybody."""
        self.core.next_beat_at = self.now
        return {act.peer: act.section for act in self.tick() if isinstance(act, Send)}

    def promised(self, peer: str, **said: Any) -> None:
        """The peer answers the beat that goes out now with a promise."""
        beat = self.beat()[peer]
        self.hear(peer, answer=True, granted=True, echo_number=beat.number, **said)

    def runs(self, pid: int = PID, epoch: int = 0, readable: bool = False) -> None:
        self.obey(commands.Found(pid, STARTED, epoch, readable=readable))

    def serve(self) -> "Keeper":
        """Become primary of epoch 3 by a write begun now, as the design has it: write, arm, promote, open."""
        self.runs()
        self.obey(commands.Wrote(record(), self.now))
        assert self.obey(commands.Arm(3)) is None
        self.obey(commands.Opened(3))
        return self

    def of(self, kind: type) -> list[Any]:
        return [act for act in self.acts if isinstance(act, kind)]

    def forget_acts(self) -> None:
        self.acts = []


def kinds(acts: list[Any]) -> set[type]:
    return {type(act) for act in acts}


@pytest.fixture
def fresh() -> Keeper:
    """A new life whose initial promise has run out; it knows the record of a primary elsewhere."""
    keeper = Keeper()
    keeper.at(2.0).obey(commands.Saw(record(primary="db2", succession=("db1", "db3"))))
    keeper.forget_acts()
    return keeper


@pytest.fixture
def primary() -> Keeper:
    """Serves epoch 3 since second 2, with db2 in its succession; nobody has promised yet."""
    keeper = Keeper().at(2.0).serve()
    keeper.forget_acts()
    return keeper


@pytest.fixture
def frozen(primary: Keeper) -> Keeper:
    """Its right has run out unrenewed, and every thread of its service is seen stopped."""
    primary.at(2.95).tick()
    assert primary.of(Freeze)
    primary.core.frozen(primary.now)
    primary.forget_acts()
    return primary


# --- rule 4: lives ---------------------------------------------------------------------------------------------------


def test_a_new_life_counts_as_having_promised_at_its_start():
    keeper = Keeper()
    keeper.at(0.5).obey(commands.Saw(record(primary="db2", succession=("db1",))))
    assert isinstance(keeper.at(1.0).obey(commands.BeginClaim(5)), Declined)
    assert keeper.at(1.02).obey(commands.BeginClaim(5)) == ClaimBegun(5)


def test_the_first_promise_of_a_new_life_covers_the_largest_lease_it_hears_of():
    keeper = Keeper()
    keeper.at(0.5).obey(commands.Saw(record(primary="db2", succession=("db1",), lease=3.0)))
    assert isinstance(keeper.at(2.9).obey(commands.BeginClaim(5)), Declined)
    assert keeper.at(3.04).obey(commands.BeginClaim(5)) == ClaimBegun(5)


def test_a_keeper_with_its_predecessors_memory_is_the_same_life(primary: Keeper):
    heir = Keeper(copy.deepcopy(primary.memory), now=2.1)
    heir.core.start(2.1)
    assert heir.memory.life == MY_LIFE
    assert heir.right_until == pytest.approx(2.99)


def test_a_successor_freezes_again_what_its_predecessor_had_meant_to_freeze(frozen: Keeper):
    heir = Keeper(copy.deepcopy(frozen.memory), now=3.0)
    assert Freeze in kinds(heir.core.start(3.0))


def test_a_successor_does_not_take_for_stopped_what_it_has_not_seen_stopped_itself(primary: Keeper):
    """Rule 17: its predecessor may have died between recording the freeze and sending the signals."""
    primary.at(2.95).tick()
    heir = Keeper(copy.deepcopy(primary.memory), now=5.0)
    heir.note(heir.core.start(5.0))
    assert heir.memory.release is None
    heir.obey(commands.Wrote(record(version=6), 4.99))
    assert not heir.of(Thaw)
    heir.note(heir.core.frozen(5.01))
    assert heir.of(Thaw)


# --- rules 4 and 7: whom to believe ----------------------------------------------------------------------------------


def unchanged(keeper: Keeper, before: dict[str, Any]) -> bool:
    return to_plain(keeper.memory) == before


@pytest.fixture
def knows_db2(fresh: Keeper) -> Keeper:
    fresh.hear("db2", number=5_000_000)
    fresh.forget_acts()
    return fresh


@pytest.mark.parametrize("number", [5_000_000, 4_999_999, 0])
def test_a_replayed_beat_is_refused(knows_db2: Keeper, number: int):
    before, heard_at = to_plain(knows_db2.memory), knows_db2.core.peers["db2"].heard_at
    acts = knows_db2.at(2.5).hear("db2", number=number, asking=True, epoch=8, version=50, exited=True)
    assert acts == []
    assert unchanged(knows_db2, before)
    assert knows_db2.core.peers["db2"].heard_at == heard_at
    assert not knows_db2.core.peers["db2"].exited


def test_a_beat_that_does_not_echo_our_life_changes_nothing_but_is_told_our_life(knows_db2: Keeper):
    before = to_plain(knows_db2.memory)
    acts = knows_db2.hear("db2", number=6_000_000, echo_life=12345, asking=True, epoch=8, version=50)
    assert unchanged(knows_db2, before)
    (introduction,) = acts
    assert (introduction.peer, introduction.section.life) == ("db2", MY_LIFE)
    assert introduction.section.answer
    assert not introduction.section.granted
    assert not introduction.section.asking


def test_an_answer_that_does_not_echo_our_life_is_not_answered_so_that_two_strangers_do_not_talk_for_ever(knows_db2: Keeper):
    assert knows_db2.hear("db2", number=6_000_000, echo_life=12345, answer=True) == []


def test_a_beat_of_somebody_unknown_changes_nothing(knows_db2: Keeper):
    before = to_plain(knows_db2.memory)
    section = Section(group=GROUP, life=9, number=9_000_000, echo_life=MY_LIFE, epoch=8, version=50, incarnation=9, asking=True)
    assert knows_db2.core.heard(2.5, "db9", section) == []
    assert unchanged(knows_db2, before)


def test_a_life_that_was_left_never_returns(knows_db2: Keeper):
    knows_db2.hear("db2", life=222, number=100)
    assert knows_db2.core.peers["db2"].life == 222
    before = to_plain(knows_db2.memory)
    assert knows_db2.hear("db2", life=22, number=9_000_000, asking=True, epoch=8) == []
    assert unchanged(knows_db2, before)
    assert knows_db2.core.peers["db2"].life == 222


def test_a_beat_of_an_earlier_life_that_was_held_up_does_not_end_the_present_one(knows_db2: Keeper):
    """Were it believed, the peer's present life would be the one that was left, and the peer would be silent for good."""
    knows_db2.hear("db2", life=222, number=100, echo_number=2_000_000)
    knows_db2.hear("db2", life=7, number=9_000_000, echo_number=1_999_999)
    knows_db2.hear("db2", life=222, number=200, echo_number=2_100_000)
    assert (knows_db2.core.peers["db2"].life, knows_db2.core.peers["db2"].number) == (222, 200)
    knows_db2.hear("db2", life=333, number=100, echo_number=2_200_000)
    assert knows_db2.core.peers["db2"].life == 333


def test_who_does_not_know_our_life_is_answered_with_its_own_number(knows_db2: Keeper):
    """By that it believes an introduction: it answers a beat of now."""
    (sent,) = knows_db2.hear("db2", echo_life=0, number=9_000_000)
    assert (sent.section.echo_life, sent.section.echo_number, sent.section.answer) == (22, 9_000_000, True)


def test_numbers_begin_anew_with_a_new_life(knows_db2: Keeper):
    knows_db2.hear("db2", life=222, number=1)
    assert knows_db2.core.peers["db2"].number == 1


def test_what_an_old_life_promised_and_released_is_forgotten_with_it(primary: Keeper):
    primary.promised("db2", release=Release(epoch=2, version=1))
    primary.hear("db2", life=222, number=1)
    assert primary.core.peers["db2"].release is None
    assert primary.core.peers["db2"].granted_until == NEVER


def test_an_old_beat_is_still_refused_after_the_keeper_was_restarted(knows_db2: Keeper):
    heir = Keeper(copy.deepcopy(knows_db2.memory), now=2.5)
    before = to_plain(heir.memory)
    assert heir.hear("db2", number=5_000_000, asking=True) == []
    assert unchanged(heir, before)


def test_a_left_life_does_not_return_even_after_the_keeper_was_restarted(knows_db2: Keeper):
    """Were it believed, the peer's present life would be the one that was left, and the peer would be silent for good."""
    knows_db2.hear("db2", life=222, number=100)
    heir = Keeper(copy.deepcopy(knows_db2.memory), now=2.5)
    heir.hear("db2", life=22, number=9_000_000)
    heir.hear("db2", life=222, number=200)
    assert heir.core.peers["db2"].life == 222
    assert heir.core.peers["db2"].number == 200


# --- rules 2, 7 and 8: the right -------------------------------------------------------------------------------------


def test_a_write_gives_the_right_for_099_of_a_lease_from_before_it_was_sent():
    keeper = Keeper().at(2.0)
    keeper.runs()
    keeper.at(2.3).obey(commands.Wrote(record(), 2.0))
    assert keeper.right_until == pytest.approx(2.99)


def test_a_promise_counts_from_the_sending_of_the_beat_that_it_answers(primary: Keeper):
    beat = primary.at(2.5).beat()["db2"]
    primary.at(2.8).hear("db2", answer=True, granted=True, echo_number=beat.number)
    assert primary.right_until == pytest.approx(2.5 + 0.99)


def test_the_right_lasts_as_long_as_the_oldest_promise_of_the_whole_succession():
    keeper = Keeper().at(2.0).serve()
    keeper.obey(commands.Wrote(record(version=6, succession=("db2", "db3")), 2.0))
    keeper.at(2.4).promised("db2")
    assert keeper.right_until == pytest.approx(2.99)
    keeper.at(2.6).promised("db3")
    assert keeper.right_until == pytest.approx(2.4 + 0.99)


def test_the_right_is_the_later_of_promises_and_write(primary: Keeper):
    primary.at(2.5).promised("db2")
    primary.at(2.6).obey(commands.Wrote(record(version=6), 2.2))
    assert primary.right_until == pytest.approx(2.5 + 0.99)
    primary.at(2.8).obey(commands.Wrote(record(version=7), 2.7))
    assert primary.right_until == pytest.approx(2.7 + 0.99)


def test_a_right_that_nobody_could_take_over_has_no_end():
    keeper = Keeper().at(2.0)
    keeper.obey(commands.Wrote(record(succession=()), 2.0))
    assert keeper.right_until == FOREVER


def test_a_promise_of_a_life_that_the_succession_does_not_list_does_not_count(primary: Keeper):
    beat = primary.at(2.5).beat()["db2"]
    primary.hear("db2", life=222, number=1, answer=True, granted=True, echo_number=beat.number)
    assert primary.right_until == pytest.approx(2.99)


def test_a_promise_of_a_witness_or_of_an_unlisted_member_does_not_count(primary: Keeper):
    primary.at(2.5).promised("db3")
    primary.promised("app1")
    assert primary.right_until == pytest.approx(2.99)


@pytest.mark.parametrize("said", [{"echo_number": 12345}, {"granted": False}, {"epoch": 2}])
def test_a_promise_counts_only_as_an_answer_to_an_own_beat_of_this_epoch(primary: Keeper, said: dict[str, Any]):
    beat = primary.at(2.5).beat()["db2"]
    primary.hear("db2", **{"answer": True, "granted": True, "echo_number": beat.number, **said})
    assert primary.right_until == pytest.approx(2.99)


def test_of_two_leases_a_holder_counts_the_smaller(primary: Keeper):
    primary.at(2.5).promised("db2", lease_us=600_000)
    primary.at(2.6)
    assert primary.core.peers["db2"].granted_until == pytest.approx(2.5 + 0.99 * 0.6)
    primary.promised("db2", lease_us=5_000_000)
    assert primary.core.peers["db2"].granted_until == pytest.approx(2.6 + 0.99)


def test_an_older_answer_never_shortens_a_newer_promise(primary: Keeper):
    early = primary.at(2.4).beat()["db2"]
    late = primary.at(2.5).beat()["db2"]
    primary.hear("db2", answer=True, granted=True, echo_number=late.number)
    primary.hear("db2", answer=True, granted=True, echo_number=early.number)
    assert primary.right_until == pytest.approx(2.5 + 0.99)


# --- rule 7: promising -----------------------------------------------------------------------------------------------


def granted(acts: list[Any]) -> bool:
    answers = [act.section for act in acts if isinstance(act, Send) and act.section.answer]
    assert len(answers) == 1
    return answers[0].granted


def test_a_promise_holds_for_101_of_a_lease_from_when_it_was_asked_for(fresh: Keeper):
    assert granted(fresh.at(2.5).hear("db2", asking=True))
    assert fresh.memory.promised_to == "db2"
    assert fresh.memory.promised_until == pytest.approx(2.5 + 1.01)


def test_of_two_leases_a_promiser_counts_the_larger(fresh: Keeper):
    fresh.hear("db2", asking=True, lease_us=4_000_000)
    assert fresh.memory.promised_until == pytest.approx(2.0 + 1.01 * 4)
    fresh.at(2.1).hear("db2", asking=True, lease_us=300_000)
    assert fresh.memory.promised_until == pytest.approx(2.1 + 1.01)


def test_an_answer_echoes_life_and_number_of_the_beat_that_it_answers(fresh: Keeper):
    acts = fresh.at(2.5).hear("db2", asking=True, number=7_000_000)
    (answer,) = [act.section for act in acts if isinstance(act, Send)]
    assert (answer.echo_life, answer.echo_number) == (22, 7_000_000)


def test_nothing_is_promised_to_whom_does_not_ask(fresh: Keeper):
    assert fresh.at(2.5).hear("db2") == []
    assert fresh.memory.promised_until <= 2.5


def test_nothing_is_promised_in_an_epoch_older_than_the_newest_known(fresh: Keeper):
    assert not granted(fresh.at(2.5).hear("db2", asking=True, epoch=2))
    assert fresh.memory.promised_until <= 2.5


def test_a_primary_promises_nothing_to_others_of_its_own_epoch(primary: Keeper):
    assert not granted(primary.at(2.2).hear("db2", asking=True))
    assert primary.right_until > 2.2


# --- rule 6: the highest epoch ---------------------------------------------------------------------------------------


def test_who_finds_itself_primary_by_record_has_no_right_until_an_own_write_has_succeeded():
    keeper = Keeper().at(2.0)
    keeper.obey(commands.Saw(record()))
    assert keeper.right_until == NEVER
    keeper.obey(commands.Wrote(record(version=6), 2.0))
    assert keeper.right_until == pytest.approx(2.99)


def test_a_write_that_names_an_earlier_life_gives_no_right():
    keeper = Keeper().at(2.0)
    keeper.obey(commands.Wrote(record(primary=ME, version=6), 2.0))
    other = Keeper(begin_life(12, 0.0, LEASE, 0)).at(2.0)
    other.obey(commands.Wrote(record(version=6), 2.0))
    assert keeper.right_until > 2.0
    assert other.right_until == NEVER


def test_a_new_life_has_no_right_by_what_its_predecessors_wrote(primary: Keeper):
    reborn = Keeper(begin_life(12, 2.1, LEASE, 0), now=2.1).at(4.0)
    reborn.obey(commands.Saw(record()))
    assert reborn.right_until == NEVER


def test_a_beat_of_a_newer_epoch_ends_the_right_at_once(primary: Keeper):
    primary.at(2.2).hear("db3", epoch=4)
    assert primary.right_until == NEVER
    assert primary.memory.epoch == 4


def test_a_beat_of_another_line_of_records_teaches_nothing(primary: Keeper):
    primary.at(2.2).hear("db3", epoch=40, version=400, incarnation=8)
    assert (primary.memory.epoch, primary.memory.version) == (3, 5)


# --- rule 5: a clock that stood still --------------------------------------------------------------------------------


def beats_of(
    keeper: Keeper, peer: str, first: float, number: int, ahead: float = 0.0, rate: float = 1.0, slow: bool = False
) -> float:
    """Regular beats of a peer whose clock is ahead of ours by so much; when the last one came."""
    moment = first
    for each in range(number):
        moment = first + each * BEAT
        theirs = ahead + first + (moment - first) * rate
        keeper.at(moment).hear(peer, number=int(theirs * 1e6), slow=slow)
    return moment


def test_a_peers_clock_that_jumps_ahead_shows_that_ours_stood_still_and_voids_the_right(primary: Keeper):
    primary.obey(commands.Wrote(record(version=6, succession=()), 2.0))
    primary.obey(commands.Wrote(record(version=7, succession=("db2",)), 9.5))
    last = beats_of(primary, "db3", 2.0, SAMPLES + 5)
    assert primary.right_until > last
    primary.hear("db3", number=int((last + 0.5) * 1e6))
    assert primary.right_until <= last
    assert primary.of(Freeze)
    assert primary.core.wants_write


def test_a_stop_that_the_freeze_budget_covers_voids_nothing(primary: Keeper):
    primary.obey(commands.Wrote(record(version=7), 9.5))
    last = beats_of(primary, "db3", 2.0, SAMPLES + 5)
    primary.at(last + BEAT).hear("db3", number=int((last + BEAT + 0.04) * 1e6))
    assert primary.right_until == pytest.approx(9.5 + 0.99)


def test_clocks_that_part_by_two_percent_at_most_void_nothing(primary: Keeper):
    primary.obey(commands.Wrote(record(version=7), 99.0))
    beats_of(primary, "db3", 2.0, 300, rate=1.02)
    assert primary.right_until == pytest.approx(99.99)


def test_a_beat_that_was_long_on_its_way_voids_nothing(primary: Keeper):
    primary.obey(commands.Wrote(record(version=7), 9.5))
    last = beats_of(primary, "db3", 2.0, SAMPLES + 5)
    primary.at(last + 2.0).hear("db3", number=int((last + 0.1) * 1e6))
    assert primary.right_until == pytest.approx(9.5 + 0.99)


def test_after_a_while_on_a_slow_path_alone_the_first_quick_beat_voids_nothing(primary: Keeper):
    """A serial line's beats come 80 ms late; beside them one over the network would look as if our clock had stood still."""
    primary.obey(commands.Wrote(record(version=7), 99.0))
    last = beats_of(primary, "db3", 2.0, SAMPLES + 5)
    last = beats_of(primary, "db3", last + BEAT, 150, ahead=-0.081, slow=True)
    last = beats_of(primary, "db3", last + BEAT, 1, ahead=-0.08, slow=True)
    primary.at(last + BEAT).hear("db3", number=int((last + BEAT) * 1e6))
    assert primary.right_until == pytest.approx(99.99)


def test_a_quick_path_is_watched_as_closely_beside_a_slow_one(primary: Keeper):
    primary.obey(commands.Wrote(record(version=7), 99.0))
    last = 2.0
    for _ in range(SAMPLES):
        last = beats_of(primary, "db3", last + BEAT, 1)
        last = beats_of(primary, "db3", last + BEAT, 1, ahead=-0.08, slow=True)
    primary.at(last + BEAT).hear("db3", number=int((last + BEAT + 0.2) * 1e6))
    assert primary.right_until <= last + BEAT


def test_a_beat_over_a_slow_path_too_shows_that_our_clock_stood_still(primary: Keeper):
    """By what the quick one has shown."""
    primary.obey(commands.Wrote(record(version=7), 99.0))
    last = beats_of(primary, "db3", 2.0, SAMPLES + 5)
    primary.at(last + BEAT).hear("db3", number=int((last + BEAT + 0.2) * 1e6), slow=True)
    assert primary.right_until <= last + BEAT


def test_on_a_slow_path_alone_a_beat_that_was_quicker_than_others_voids_nothing_and_a_stop_does(primary: Keeper):
    primary.obey(commands.Wrote(record(version=7), 99.0))
    last = beats_of(primary, "db3", 2.0, 150, ahead=-0.141, slow=True)
    last = beats_of(primary, "db3", last + BEAT, 1, ahead=-0.14, slow=True)
    primary.at(last + BEAT).hear("db3", number=int((last + BEAT) * 1e6), slow=True)
    assert primary.right_until == pytest.approx(99.99)
    primary.at(last + 2 * BEAT).hear("db3", number=int((last + 2 * BEAT + 0.2) * 1e6), slow=True)
    assert primary.right_until <= last + 2 * BEAT


# --- words that a slow path leaves out -------------------------------------------------------------------------------


def test_a_beat_without_words_leaves_those_that_were_said(primary: Keeper):
    primary.at(2.2).hear("db3", words=b"one")
    primary.at(2.3).hear("db3", wordless=True)
    assert primary.core.peers["db3"].words == b"one"
    assert primary.core.peers["db3"].heard_at == 2.3


def test_words_are_taken_from_a_beat_that_a_path_without_them_was_first_to_bring(primary: Keeper):
    number = int(2.2 * 1e6)
    primary.at(2.2).hear("db3", number=number, wordless=True)
    primary.at(2.21).hear("db3", number=number, words=b"one", urgent=True)
    assert primary.core.peers["db3"].words == b"one"
    primary.at(2.3).hear("db3", words=b"two")
    primary.hear("db3", number=number, words=b"one")
    assert primary.core.peers["db3"].words == b"two", "older words never replace newer ones"


def test_the_words_of_a_past_life_do_not_outlive_it(primary: Keeper):
    primary.at(2.2).hear("db3", words=b"one")
    primary.at(2.3).hear("db3", life=333, wordless=True)
    assert primary.core.peers["db3"].words == b""


# --- rule 9: who is counted ------------------------------------------------------------------------------------------


def test_a_member_is_counted_before_it_is_written_and_only_once_it_has_promised(primary: Keeper):
    newcomer = Pair("db3", 33)
    assert isinstance(primary.at(2.3).obey(commands.Prepare((newcomer,), LEASE)), Declined)
    assert primary.core.view().counted == (Pair("db2", 22),)
    primary.promised("db3")
    assert primary.obey(commands.Prepare((newcomer,), LEASE)) is None
    assert primary.core.view().counted == (Pair("db2", 22), newcomer)


def test_from_then_on_the_right_needs_the_newcomers_promise_too(primary: Keeper):
    primary.at(2.3).promised("db3")
    primary.obey(commands.Prepare((Pair("db3", 33),), LEASE))
    primary.at(2.9).promised("db2")
    assert primary.right_until == pytest.approx(2.3 + 0.99)


def test_a_member_whose_life_changed_counts_in_both_lives_until_the_write_is_confirmed(primary: Keeper):
    primary.at(2.3).hear("db2", life=222, number=1)
    beat = primary.beat()["db2"]
    primary.hear("db2", life=222, number=2, answer=True, granted=True, echo_number=beat.number)
    primary.obey(commands.Prepare((Pair("db2", 222),), LEASE))
    assert primary.core.view().counted == (Pair("db2", 22), Pair("db2", 222))
    assert primary.right_until == pytest.approx(2.99)
    changed = replace(record(version=6), succession=(Pair("db2", 222),))
    primary.at(2.4).obey(commands.Wrote(changed, 2.35))
    assert primary.core.view().counted == (Pair("db2", 222),)


def test_a_member_is_counted_until_the_write_that_drops_it_is_confirmed(primary: Keeper):
    assert primary.at(2.3).core.view().counted == (Pair("db2", 22),)
    primary.obey(commands.Wrote(record(version=6, succession=()), 2.25))
    assert primary.core.view().counted == ()


def test_an_add_that_lost_against_another_write_is_counted_no_more(primary: Keeper):
    primary.at(2.3).promised("db3")
    primary.obey(commands.Prepare((Pair("db3", 33),), LEASE))
    primary.obey(commands.Saw(record(version=6)))
    assert primary.core.view().counted == (Pair("db2", 22),)


def test_the_smaller_of_two_leases_counts_before_the_shorter_one_is_written(primary: Keeper):
    primary.obey(commands.Prepare((), 0.5))
    primary.at(2.5).promised("db2")
    assert primary.core.peers["db2"].granted_until == pytest.approx(2.5 + 0.99 * 0.5)


def test_three_silent_beats_ask_for_a_write_and_two_do_not():
    keeper = Keeper().at(2.0).serve()
    for step in range(20):
        keeper.at(2.0 + step * BEAT).promised("db2")
    last = keeper.now
    keeper.at(last + 2 * BEAT).beat()
    assert not keeper.core.wants_write
    keeper.at(last + 4 * BEAT).beat()
    assert keeper.core.wants_write
    assert keeper.right_until > keeper.now


def test_a_peer_is_silent_after_three_missing_beats_since_it_was_last_heard(fresh: Keeper):
    fresh.at(2.5).hear("db2")
    fresh.at(2.8).tick()
    assert fresh.core.view().peer("db2").silent_since is None
    fresh.at(2.9).tick()
    assert fresh.core.view().peer("db2").silent_since == 2.5


# --- rule 11: claiming -----------------------------------------------------------------------------------------------


def test_a_claim_is_refused_while_the_own_promise_runs(fresh: Keeper):
    fresh.at(2.5).hear("db2", asking=True)
    declined = fresh.at(3.5).obey(commands.BeginClaim(5))
    assert isinstance(declined, Declined)
    assert "db2" in declined.reason
    assert fresh.memory.claim is None
    assert fresh.at(3.52).obey(commands.BeginClaim(5)) == ClaimBegun(5)


def test_a_claim_that_rests_on_an_earlier_promise_is_declined(fresh: Keeper):
    """The others were asked where their data ends; promised again since, the primary may have acknowledged more."""
    fresh.at(2.5).hear("db2", asking=True)
    before = fresh.memory.promised_until
    fresh.at(4.5).hear("db2", asking=True)
    assert isinstance(fresh.at(9.0).obey(commands.BeginClaim(5, before)), Declined)
    assert fresh.obey(commands.BeginClaim(5, fresh.memory.promised_until)) == ClaimBegun(5)


def test_who_claims_promises_nothing_to_anybody(fresh: Keeper):
    fresh.obey(commands.BeginClaim(5))
    assert not granted(fresh.at(2.5).hear("db2", asking=True))
    assert not granted(fresh.hear("db3", asking=True, epoch=9))


def test_only_a_newer_version_ends_a_claim(fresh: Keeper):
    fresh.obey(commands.BeginClaim(5))
    fresh.at(60.0).tick()
    fresh.obey(commands.Saw(record(primary="db2", succession=("db1", "db3"))))
    fresh.hear("db2", asking=True, version=5)
    assert fresh.memory.claim == 5
    fresh.hear("db2", version=6)
    assert fresh.memory.claim is None
    assert granted(fresh.hear("db2", asking=True))


def test_a_newer_record_ends_a_claim(fresh: Keeper):
    fresh.obey(commands.BeginClaim(5))
    fresh.obey(commands.Saw(record(version=6, primary="db2", succession=("db1",))))
    assert fresh.memory.claim is None


def test_a_claim_outlives_the_keeper_that_began_it(fresh: Keeper):
    fresh.obey(commands.BeginClaim(5))
    heir = Keeper(copy.deepcopy(fresh.memory), now=2.5)
    assert not granted(heir.hear("db2", asking=True))


def test_a_claim_on_an_older_version_than_the_newest_known_is_refused(fresh: Keeper):
    fresh.hear("db3", version=6)
    assert isinstance(fresh.obey(commands.BeginClaim(5)), Declined)


def test_who_may_still_be_committing_does_not_claim(primary: Keeper):
    assert isinstance(primary.at(9.0).obey(commands.BeginClaim(5)), Declined)


# --- rules 13 and 15: guard and gate ---------------------------------------------------------------------------------


def test_without_a_right_nothing_is_armed(fresh: Keeper):
    assert isinstance(fresh.obey(commands.Arm(3)), Declined)
    assert fresh.memory.hold is Hold.NONE
    assert fresh.core.gate_until == NEVER


@pytest.fixture
def claimed() -> Keeper:
    """Its claim of epoch 3, begun at second 2, was applied; its service runs as a standby."""
    keeper = Keeper().at(2.0)
    keeper.runs(readable=True)
    keeper.obey(commands.Wrote(record(), 2.0))
    keeper.forget_acts()
    return keeper


def test_nothing_is_armed_in_another_epoch_than_that_of_the_right(claimed: Keeper):
    assert isinstance(claimed.obey(commands.Arm(4)), Declined)
    assert isinstance(claimed.obey(commands.Arm(2)), Declined)
    assert claimed.memory.hold is Hold.NONE


@pytest.mark.parametrize(("moment", "lasts_long_enough"), [(2.78, True), (2.80, False)])
def test_nothing_is_armed_when_less_than_two_budgets_are_left(claimed: Keeper, moment: float, lasts_long_enough: bool):
    declined = isinstance(claimed.at(moment).obey(commands.Arm(3)), Declined)
    assert declined is not lasts_long_enough


def test_nothing_is_armed_whose_process_is_not_known_because_it_could_not_be_frozen():
    keeper = Keeper().at(2.0)
    keeper.obey(commands.Wrote(record(), 2.0))
    assert isinstance(keeper.obey(commands.Arm(3)), Declined)


def test_once_armed_gate_and_guard_stand_until_the_end_of_the_right(claimed: Keeper):
    assert claimed.obey(commands.Arm(3)) is None
    assert claimed.memory.hold is Hold.PROMOTING
    assert claimed.memory.writable_epoch == 3
    assert not claimed.memory.readable
    assert claimed.core.gate_until == pytest.approx(2.99)


def test_a_promotion_whose_right_lapses_is_killed_and_never_thawed_into_it(claimed: Keeper):
    claimed.obey(commands.Arm(3))
    claimed.at(2.95).tick()
    assert claimed.of(Kill)
    assert not claimed.of(Freeze)
    claimed.obey(commands.Wrote(record(version=6), 2.9))
    assert not claimed.of(Thaw)


def test_opening_another_epoch_than_the_armed_one_opens_nothing(claimed: Keeper):
    claimed.obey(commands.Arm(3))
    claimed.obey(commands.Opened(2))
    assert claimed.memory.hold is Hold.PROMOTING
    claimed.obey(commands.Opened(3))
    assert claimed.memory.hold is Hold.SERVING


def test_a_writable_service_without_a_right_is_frozen_at_once(fresh: Keeper):
    fresh.runs(epoch=3)
    assert fresh.of(Freeze)
    assert fresh.core.gate_until == NEVER


def test_a_standbys_gate_is_open_only_while_it_was_found_readable_and_beats_go_on(fresh: Keeper):
    assert fresh.core.gate_until == NEVER
    fresh.runs(readable=True)
    fresh.at(2.5).beat()
    assert fresh.core.gate_until == pytest.approx(2.5 + LEASE)
    fresh.at(3.0).beat()
    assert fresh.core.gate_until == pytest.approx(3.0 + LEASE)
    fresh.runs(readable=False)
    assert fresh.core.gate_until == NEVER


def test_addresses_go_with_a_primarys_open_gate_and_never_with_a_standbys(fresh: Keeper, primary: Keeper):
    fresh.runs(readable=True)
    fresh.at(2.5).beat()
    assert fresh.core.gate_until > 2.5
    assert fresh.core.addresses_until == NEVER
    assert primary.core.addresses_until == primary.core.gate_until == pytest.approx(2.99)
    primary.at(2.89).tick()
    assert primary.of(Freeze)
    assert primary.core.addresses_until == NEVER
    primary.core.frozen(2.9)
    primary.obey(commands.Wrote(record(version=6), 2.9))
    primary.core.thawed(2.95)
    assert primary.core.addresses_until == pytest.approx(2.9 + 0.99)
    primary.obey(commands.KillService())
    assert primary.core.addresses_until == NEVER


def test_a_standby_whose_process_ended_cannot_be_read_from(fresh: Keeper):
    fresh.runs(readable=True)
    fresh.core.main_exited(2.1)
    assert fresh.core.gate_until == NEVER
    fresh.core.gone(2.2)
    assert fresh.core.gate_until == NEVER


def test_a_service_that_is_writable_is_never_readable_as_a_standby(fresh: Keeper):
    fresh.obey(commands.Found(PID, STARTED, 3, readable=True))
    assert not fresh.memory.readable
    assert fresh.core.gate_until == NEVER


# --- rule 14: the freeze begins in time ------------------------------------------------------------------------------


def test_the_freeze_begins_one_budget_before_the_right_ends(primary: Keeper):
    primary.at(2.88).tick()
    assert not primary.of(Freeze)
    primary.at(2.89).tick()
    assert primary.of(Freeze)
    assert primary.memory.frozen_since == 2.89


def test_the_keeper_wants_to_be_woken_in_time_for_the_freeze(primary: Keeper):
    primary.core.next_beat_at = 99.0
    assert primary.core.wake_at() <= 2.99 - BUDGET


def test_a_frozen_service_is_frozen_once_and_its_gate_is_closed(primary: Keeper):
    primary.at(2.95).tick()
    primary.at(2.96).tick()
    primary.at(3.5).tick()
    assert len(primary.of(Freeze)) == 1
    assert primary.core.gate_until == NEVER


def test_a_freeze_by_the_daemon_is_taken_over(primary: Keeper):
    primary.at(2.5).obey(commands.Froze())
    assert primary.memory.frozen_since == 2.5
    assert primary.of(Freeze)


# --- rule 16: thawing ------------------------------------------------------------------------------------------------


def test_a_renewed_right_thaws_the_service(frozen: Keeper):
    frozen.at(3.1).obey(commands.Wrote(record(version=6), 3.05))
    assert frozen.of(Thaw)
    assert frozen.core.gate_until == NEVER
    frozen.core.thawed(3.11)
    assert frozen.memory.frozen_since is None
    assert frozen.core.gate_until == pytest.approx(3.05 + 0.99)


def test_nothing_thaws_before_every_thread_was_seen_stopped(primary: Keeper):
    primary.at(2.95).tick()
    primary.at(3.0).obey(commands.Wrote(record(version=6), 2.98))
    assert not primary.of(Thaw)
    assert Thaw in kinds(primary.core.frozen(3.01))


def test_a_right_that_ends_within_two_budgets_thaws_nothing(frozen: Keeper):
    frozen.at(3.5).obey(commands.Wrote(record(version=6), 2.7))
    assert frozen.right_until == pytest.approx(3.69)
    assert not frozen.of(Thaw)


def test_what_is_frozen_asks_for_no_promise_and_wants_a_write(frozen: Keeper):
    assert not any(section.asking for section in frozen.at(3.0).beat().values())
    assert frozen.core.wants_write


def test_a_thaw_that_comes_too_late_is_followed_by_a_freeze(frozen: Keeper):
    frozen.at(3.1).obey(commands.Wrote(record(version=6), 3.05))
    assert Freeze in kinds(frozen.core.thawed(3.99))


def test_a_service_of_another_epoch_than_the_right_is_not_thawed(fresh: Keeper):
    fresh.runs(epoch=2)
    fresh.core.frozen(2.0)
    fresh.at(2.1).obey(commands.Wrote(record(version=6, epoch=4), 2.1))
    assert not fresh.of(Thaw)


def test_a_released_right_thaws_nothing(frozen: Keeper):
    frozen.obey(commands.GiveUp(None, None))
    frozen.at(3.1).obey(commands.Wrote(record(version=6), 2.9))
    assert not frozen.of(Thaw)


def test_nothing_thaws_while_an_own_promise_runs(frozen: Keeper):
    frozen.memory.promised_to, frozen.memory.promised_until = "db2", 4.0
    frozen.at(3.1).obey(commands.Wrote(record(version=6), 3.05))
    assert frozen.right_until == NEVER
    assert not frozen.of(Thaw)


# --- rules 17 to 20: letting go --------------------------------------------------------------------------------------


def test_a_right_is_not_released_while_the_service_can_commit(primary: Keeper):
    assert isinstance(primary.obey(commands.GiveUp(None, None)), Declined)
    assert primary.memory.release is None


def test_a_freeze_that_is_not_seen_complete_does_not_allow_a_release(primary: Keeper):
    primary.at(2.95).tick()
    assert isinstance(primary.obey(commands.GiveUp(None, None)), Declined)
    primary.core.frozen(2.96)
    assert primary.obey(commands.GiveUp(None, None)) is None


def test_a_demoted_service_may_be_released_with_position_and_target(primary: Keeper):
    primary.at(2.3).obey(commands.Demoted())
    assert primary.obey(commands.GiveUp(Position("a", 7), "db2")) is None
    assert primary.memory.release == Release(epoch=3, version=5, position=Position("a", 7), target="db2")


def test_the_end_of_the_main_process_alone_allows_no_release(primary: Keeper):
    primary.note(primary.core.main_exited(2.3))
    assert primary.of(Kill)
    assert isinstance(primary.obey(commands.GiveUp(None, None)), Declined)
    primary.core.gone(2.31)
    assert primary.obey(commands.GiveUp(None, None)) is None


def test_a_release_ends_the_right_although_promises_and_write_are_fresh(primary: Keeper):
    primary.at(2.3).promised("db2")
    primary.obey(commands.Demoted())
    primary.obey(commands.GiveUp(None, None))
    assert primary.right_until == NEVER
    assert primary.core.gate_until == NEVER


def test_a_release_goes_out_at_once_to_everybody_and_with_every_later_beat(primary: Keeper):
    primary.obey(commands.Demoted())
    primary.forget_acts()
    primary.obey(commands.GiveUp(None, "db2"))
    assert {act.peer for act in primary.of(Send) if act.section.release == primary.memory.release} == set(PEERS)
    for moment in (2.3, 2.4, 2.5):
        assert all(section.release is not None for section in primary.at(moment).beat().values())


def test_after_a_release_only_a_write_sent_later_gives_the_right_back(primary: Keeper):
    primary.obey(commands.Demoted())
    primary.at(2.5).obey(commands.GiveUp(None, None))
    primary.at(2.6).obey(commands.Wrote(record(version=6), 2.45))
    assert primary.right_until == NEVER
    primary.at(2.7).obey(commands.Wrote(record(version=7), 2.55))
    assert primary.right_until == pytest.approx(2.55 + 0.99)
    assert primary.memory.release is None


def test_promises_alone_do_not_give_a_released_right_back(primary: Keeper):
    primary.obey(commands.Demoted())
    primary.at(2.5).obey(commands.GiveUp(None, None))
    assert not any(section.asking for section in primary.at(2.6).beat().values())


def test_a_release_moves_along_when_an_earlier_own_write_turns_out_to_have_been_applied(primary: Keeper):
    primary.obey(commands.Demoted())
    primary.at(2.5).obey(commands.GiveUp(None, "db2"))
    primary.obey(commands.Saw(record(version=6)))
    assert primary.memory.release == Release(epoch=3, version=6, target="db2")


def test_who_does_not_hold_the_record_has_nothing_to_release(fresh: Keeper):
    assert isinstance(fresh.obey(commands.GiveUp(None, None)), Declined)


def test_what_stays_frozen_for_a_lease_is_released_without_being_asked(frozen: Keeper):
    since = frozen.memory.frozen_since
    frozen.at(since + 1.0).tick()
    assert frozen.memory.release is None
    frozen.at(since + 1.02).tick()
    assert frozen.memory.release == Release(epoch=3, version=5)


def heard_release(keeper: Keeper, **changes: Any) -> None:
    release = Release(**{"epoch": 3, "version": 5, "position": None, "target": None, **changes})
    keeper.hear("db2", asking=False, release=release)


def test_a_release_replaces_the_wait_for_the_own_promise(fresh: Keeper):
    fresh.at(2.5).hear("db2", asking=True)
    heard_release(fresh)
    assert fresh.obey(commands.BeginClaim(5)) == ClaimBegun(5)


@pytest.mark.parametrize("changes", [{"version": 4}, {"epoch": 2}, {"target": "db3"}], ids=["version", "epoch", "target"])
def test_a_release_of_another_version_or_epoch_or_for_another_target_replaces_nothing(fresh: Keeper, changes: dict[str, Any]):
    fresh.at(2.5).hear("db2", asking=True)
    heard_release(fresh, **changes)
    assert isinstance(fresh.obey(commands.BeginClaim(5)), Declined)


def test_a_release_meant_for_us_can_be_used(fresh: Keeper):
    fresh.at(2.5).hear("db2", asking=True)
    heard_release(fresh, target=ME)
    assert fresh.obey(commands.BeginClaim(5)) == ClaimBegun(5)


def test_a_release_from_somebody_else_than_the_primary_replaces_nothing(fresh: Keeper):
    fresh.at(2.5).hear("db2", asking=True)
    fresh.hear("db3", release=Release(epoch=3, version=5))
    assert isinstance(fresh.obey(commands.BeginClaim(5)), Declined)


def test_a_release_by_another_life_of_the_primary_replaces_nothing(fresh: Keeper):
    fresh.at(2.5).hear("db2", asking=True)
    fresh.hear("db2", life=222, number=1, release=Release(epoch=3, version=5))
    assert isinstance(fresh.obey(commands.BeginClaim(5)), Declined)


# --- rule 22: superseded ---------------------------------------------------------------------------------------------


def test_a_superseded_service_is_killed_while_frozen_and_never_let_go_on(frozen: Keeper):
    frozen.at(3.1).hear("db2", epoch=4, version=6)
    assert frozen.of(Kill)
    frozen.at(3.2).obey(commands.Saw(record(version=6, epoch=4, primary="db2", succession=())))
    frozen.at(3.3).tick()
    assert not frozen.of(Thaw)
    frozen.note(frozen.core.gone(3.4))
    assert frozen.memory.hold is Hold.NONE
    assert frozen.memory.frozen_since is None
    assert not frozen.of(Thaw)


def test_a_superseded_service_is_killed_even_when_it_was_serving(primary: Keeper):
    primary.at(2.2).obey(commands.Saw(record(version=6, epoch=4, primary="db2", succession=())))
    assert primary.of(Kill)
    assert primary.core.gate_until == NEVER


def test_a_kill_is_asked_for_once(primary: Keeper):
    primary.obey(commands.KillService())
    primary.obey(commands.KillService())
    primary.at(2.5).tick()
    assert len(primary.of(Kill)) == 1


# --- rule 23: older records ------------------------------------------------------------------------------------------


def test_a_record_older_than_one_seen_changes_nothing(fresh: Keeper):
    before = to_plain(fresh.memory)
    fresh.obey(commands.Saw(record(version=4, primary="db3", succession=("db1",))))
    fresh.obey(commands.Wrote(record(version=4), 1.9))
    assert unchanged(fresh, before)


def test_a_record_of_an_older_epoch_changes_nothing(fresh: Keeper):
    before = to_plain(fresh.memory)
    fresh.obey(commands.Saw(record(version=9, epoch=2, primary="db3")))
    assert unchanged(fresh, before)


def test_another_line_of_records_counts_only_with_an_epoch_above_all_known(fresh: Keeper):
    before = to_plain(fresh.memory)
    fresh.obey(commands.Saw(record(version=0, epoch=3, primary="db3", succession=(), incarnation=10)))
    assert unchanged(fresh, before)
    fresh.obey(commands.Saw(record(version=0, epoch=4, primary="db3", succession=(), incarnation=10)))
    assert (fresh.memory.incarnation, fresh.memory.version, fresh.memory.primary) == (10, 0, Pair("db3", 33))


# --- rule 25: the dead do not ask ------------------------------------------------------------------------------------


def test_a_serving_primary_asks_everybody_ten_times_in_a_lease(primary: Keeper):
    asked = []
    moment = 2.0
    while moment < 2.0 + LEASE:
        primary.at(moment)
        primary.core.obey(moment, commands.Wrote(record(version=5), moment))
        asked += [act for act in primary.tick() if isinstance(act, Send) and act.section.asking and act.peer == "db2"]
        moment = max(primary.core.wake_at(), moment + 1e-6)
    assert len(asked) in (10, 11)


def test_a_primary_whose_service_is_said_to_be_dead_asks_for_nothing(primary: Keeper):
    primary.obey(commands.Say(Statement(health=Health.DEAD)))
    assert not any(section.asking for section in primary.at(2.3).beat().values())
    primary.obey(commands.Say(Statement(health=Health.WELL)))
    assert all(section.asking for section in primary.at(2.4).beat().values())


def test_a_primary_whose_service_is_being_killed_asks_for_nothing(primary: Keeper):
    primary.core.main_exited(2.2)
    assert not any(section.asking for section in primary.at(2.3).beat().values())


def test_a_standby_asks_for_nothing(fresh: Keeper):
    assert not any(section.asking for section in fresh.beat().values())


def test_beats_say_that_the_service_has_ended_as_the_keeper_itself_saw_it(primary: Keeper):
    primary.core.main_exited(2.2)
    primary.core.gone(2.21)
    assert all(section.exited for section in primary.at(2.3).beat().values())
    primary.runs(pid=PID + 1)
    assert not any(section.exited for section in primary.at(2.4).beat().values())


def test_a_promise_goes_on_as_long_as_nobody_says_that_the_service_is_dead_even_without_a_daemon(primary: Keeper):
    for step in range(100):
        primary.at(2.0 + step * BEAT).promised("db2")
    assert primary.right_until > primary.now + 0.9
    assert not primary.of(Freeze)
    assert not primary.core.wants_write


# --- beats -----------------------------------------------------------------------------------------------------------


def test_numbers_grow_with_every_section_even_when_the_clock_does_not(fresh: Keeper):
    numbers = [section.number for _ in range(5) for section in fresh.beat().values()]
    assert numbers == sorted(set(numbers))


def test_urgent_words_go_out_at_once(fresh: Keeper):
    fresh.obey(commands.Say(Statement(health=Health.WELL)))
    assert not fresh.of(Send)
    fresh.obey(commands.Say(Statement(health=Health.DEAD), urgent=True))
    assert {act.peer for act in fresh.of(Send) if act.section.urgent} == set(PEERS)


def test_a_missed_turn_is_not_made_up_for_by_a_burst_of_beats(fresh: Keeper):
    fresh.beat()
    fresh.at(12.0).tick()
    fresh.forget_acts()
    fresh.tick()
    fresh.at(12.01).tick()
    assert not fresh.of(Send)


# --- whatever comes in -----------------------------------------------------------------------------------------------

records = st.builds(
    record,
    version=st.integers(3, 9),
    epoch=st.integers(2, 5),
    primary=st.sampled_from(["db1", "db1", "db2", "db3"]),
    succession=st.sampled_from([(), ("db1",), ("db2",), ("db2", "db3"), ("db1", "db3")]),
    incarnation=st.sampled_from([9, 9, 9, 10]),
)
ago = st.sampled_from([0.0, 0.1, 0.5, 1.5])
orders = st.one_of(
    st.builds(commands.Saw, records),
    st.tuples(records, ago),
    st.builds(
        commands.Prepare,
        st.lists(st.builds(Pair, st.sampled_from(PEERS), st.sampled_from([22, 33, 222]))).map(tuple),
        st.just(LEASE),
    ),
    st.builds(commands.Arm, st.integers(2, 5)),
    st.builds(commands.BeginClaim, st.integers(3, 9)),
    st.builds(commands.Found, st.sampled_from([PID, PID + 1]), st.just(STARTED), st.integers(0, 5), readable=st.booleans()),
    st.builds(commands.Opened, st.integers(2, 5)),
    st.just(commands.Demoted()),
    st.builds(commands.GiveUp, st.none(), st.none() | st.sampled_from(["db1", "db2"])),
    st.just(commands.Froze()),
    st.just(commands.KillService()),
    st.builds(commands.Say, st.builds(Statement, health=st.sampled_from([Health.WELL, Health.DEAD]))),
)
said = st.fixed_dictionaries(
    {
        "asking": st.booleans(),
        "granted": st.booleans(),
        "answer": st.booleans(),
        "epoch": st.integers(2, 5),
        "version": st.integers(3, 9),
        "lease_us": st.sampled_from([300_000, 1_000_000, 3_000_000]),
        "release": st.none() | st.builds(Release, epoch=st.integers(2, 5), version=st.integers(3, 9)),
    },
    optional={"life": st.sampled_from([22, 33, 222])},
)
inputs = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.8, 1.2])),
        st.tuples(st.just("hear"), st.sampled_from(PEERS), said),
        st.tuples(st.just("obey"), orders),
        st.tuples(st.just("report"), st.sampled_from(["frozen", "thawed", "gone", "main_exited"])),
    ),
    min_size=5,
    max_size=50,
)


def feed(keeper: Keeper, step: tuple[Any, ...]) -> list[Any]:
    match step:
        case ("pass", span):
            return keeper.at(keeper.now + span).tick()
        case ("hear", peer, words):
            beat = keeper.beat()[peer]
            return keeper.hear(peer, echo_number=beat.number, **words)
        case ("obey", (written, before)):
            keeper.obey(commands.Wrote(written, keeper.now - before))
        case ("obey", order):
            keeper.obey(order)
        case ("report", "frozen") if keeper.memory.frozen_since is None:
            return []
        case ("report", name):
            return keeper.note(getattr(keeper.core, name)(keeper.now))
    return []


@given(inputs, st.booleans())
def test_whatever_comes_in_the_right_is_never_claimed_against_the_rules(steps: list[tuple[Any, ...]], serving: bool):
    keeper = Keeper().at(2.0)
    if serving:
        keeper.serve()
    known = (0, -1, 0)
    for step in steps:
        keeper.forget_acts()
        feed(keeper, step)
        memory, now = keeper.memory, keeper.now
        if memory.right_until > now:
            assert memory.primary == Pair(ME, MY_LIFE)
            assert memory.right_epoch == memory.epoch
            assert memory.written
            assert memory.release is None
            assert memory.promised_until <= now
        if memory.hold is not Hold.NONE:
            assert keeper.core.gate_until <= memory.right_until
            at_rest = memory.frozen_since is not None or keeper.core.killing
            assert at_rest or now < memory.right_until - BUDGET
        for answer in keeper.of(Send):
            if answer.section.granted:
                assert memory.claim is None
                assert memory.promised_until >= now + 1.01 * LEASE
                assert memory.right_until <= now
        for _ in keeper.of(Thaw):
            assert memory.right_until > now + 2 * BUDGET
            assert memory.writable_epoch == memory.right_epoch
        seen = (memory.incarnation, memory.version, memory.epoch)
        assert memory.epoch >= known[2]
        assert seen[0] != known[0] or memory.version >= known[1]
        known = seen


@given(inputs)
def test_a_keeper_restarted_at_any_moment_holds_no_more_than_its_predecessor(steps: list[tuple[Any, ...]]):
    keeper = Keeper().at(2.0).serve()
    for step in steps:
        feed(keeper, step)
    heir = Keeper(copy.deepcopy(keeper.memory), now=keeper.now)
    heir.note(heir.core.start(keeper.now))
    assert heir.right_until <= keeper.right_until
    assert heir.memory.promised_until == keeper.memory.promised_until
    assert heir.memory.claim == keeper.memory.claim


# --- clients of a service that serves nobody any more ----------------------------------------------------------------


def turned_away(keeper: Keeper) -> int:
    """How often clients' connections were ended since this was asked last."""
    count = len(keeper.of(EndConnections))
    keeper.forget_acts()
    return count


def test_a_hiccup_ends_no_connection(primary: Keeper):
    primary.at(2.89).tick()
    assert primary.of(Freeze)
    primary.core.frozen(2.9)
    primary.obey(commands.Wrote(record(version=6), 2.9))
    assert primary.of(Thaw)
    assert turned_away(primary) == 0


def test_a_frozen_service_whose_right_is_given_up_keeps_nobody_waiting(primary: Keeper):
    primary.at(2.89).tick()
    primary.note(primary.core.frozen(2.9))
    assert turned_away(primary) == 0
    primary.at(3.95).tick()
    assert primary.memory.release is not None
    assert turned_away(primary) == 1


def test_whoever_is_connected_to_a_service_that_is_killed_is_told_before(primary: Keeper):
    primary.hear("db2", epoch=4, version=6)
    kinds = [type(act) for act in primary.acts if isinstance(act, EndConnections | Kill)]
    assert kinds == [EndConnections, Kill]


def test_a_demoted_primarys_clients_go_once_and_its_readers_stay_through_later_failovers(primary: Keeper):
    primary.obey(commands.Demoted())
    assert turned_away(primary) == 1
    primary.obey(commands.Demoted())
    primary.runs(readable=True)
    primary.obey(commands.Saw(record(version=6, epoch=4, primary="db2")))
    primary.obey(commands.Saw(record(version=9, epoch=5, primary="db3")))
    primary.at(2.5).beat()
    assert turned_away(primary) == 0
    assert primary.core.gate_until > primary.now


def test_a_hot_standbys_readers_stay_whoever_is_primary_and_when_it_is_promoted(fresh: Keeper):
    fresh.obey(commands.Saw(record(primary="db2")))
    fresh.runs(readable=True)
    fresh.at(2.5).beat()
    fresh.obey(commands.Saw(record(version=9, epoch=5, primary="db3")))
    fresh.at(4.1)
    fresh.obey(commands.Wrote(record(version=12, epoch=6), fresh.now))
    assert fresh.obey(commands.Arm(6)) is None
    assert fresh.core.gate_until > fresh.now
    assert turned_away(fresh) == 0


@pytest.fixture
def warm() -> Keeper:
    """A standby that serves nothing."""
    made = Keeper(warm=True)
    made.obey(commands.Saw(record(primary="db2")))
    made.at(2.5).beat()
    return made


def test_a_warm_standby_lets_only_members_in_and_turns_its_clients_away_once(warm: Keeper):
    warm.runs(readable=True)
    assert turned_away(warm) == 1
    warm.at(2.6).beat()
    assert warm.core.gate_until == NEVER
    assert warm.core.members_until == pytest.approx(2.6 + LEASE)
    warm.runs(readable=True)
    assert turned_away(warm) == 0


def test_a_warm_standby_that_is_promoted_lets_clients_in(warm: Keeper):
    warm.runs(readable=True)
    warm.at(4.1)
    warm.obey(commands.Wrote(record(version=12, epoch=6), warm.now))
    assert warm.obey(commands.Arm(6)) is None
    assert warm.core.gate_until == warm.core.members_until == warm.right_until > warm.now


def test_a_keeper_that_starts_again_disturbs_nobody_a_second_time(warm: Keeper):
    warm.runs(readable=True)
    again = Keeper(warm.memory, now=3.0, warm=True)
    again.tick()
    assert turned_away(again) == 0


def test_clients_of_a_foreign_primary_are_turned_away_once_another_one_is_known():
    unknown = Keeper().at(2.0)
    unknown.runs(readable=False)
    assert turned_away(unknown) == 0, "it may yet become the group's first primary"
    unknown.obey(commands.Saw(record(primary="db2")))
    assert turned_away(unknown) == 1


def test_members_come_in_to_a_primary_no_longer_than_clients(primary: Keeper):
    primary.core.warm = True
    assert primary.core.members_until == primary.core.gate_until > primary.now
    primary.at(2.89).tick()
    assert primary.core.members_until == primary.core.gate_until == NEVER


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda keeper: None, "no service is known to run on db1; the primary is db2"),
        (lambda keeper: keeper.runs(readable=True), "db1 is a warm standby; the primary is db2"),
        (
            lambda keeper: keeper.runs(readable=False),
            "the service on db1 runs as a primary without the right to; the primary is db2",
        ),
        (lambda keeper: keeper.runs(epoch=3), "db1 has no right to serve at this moment; the primary is db2"),
    ],
)
def test_why_clients_are_refused_is_said_in_words(warm: Keeper, change: Callable[[Keeper], object], said: str):
    change(warm)
    assert warm.core.why_refused(warm.now) == said


def test_why_a_killed_and_a_replaced_service_refuse_and_that_a_primary_does_not(primary: Keeper):
    assert primary.core.why_refused(primary.now) == ""
    primary.obey(commands.KillService())
    assert primary.core.why_refused(primary.now) == "the service on db1 is being ended"
    primary.core.gone(primary.now)
    primary.runs(pid=PID + 1)
    assert "taken another one's place" in primary.core.why_refused(primary.now)
