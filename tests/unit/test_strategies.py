"""The operator's choices: one file, one question, and never anything but its answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenarios import policy

from orchestrator.domain.policy import Automation, TimingRule
from orchestrator.domain.positions import Position
from orchestrator.domain.verdicts import CANNOT_WORK, Diagnosis, Finding, Permission
from strategies.automation import permission
from strategies.candidate import Contender, choose
from strategies.cooldown import cool_at
from strategies.fusion import Case, judge
from strategies.timing import automation_for, rule_for

# --- automation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "by_itself", "by_word"),
    [
        (Automation.AUTOMATIC, Permission.GO, Permission.GO),
        (Automation.CONFIRM, Permission.ASK, Permission.GO),
        (Automation.MANUAL, Permission.HOLD, Permission.GO),
        (Automation.OBSERVE, Permission.HOLD, Permission.HOLD),
    ],
)
def test_each_level_says_who_may_act(level: Automation, by_itself: Permission, by_word: Permission):
    assert permission(level, approved=False) is by_itself
    assert permission(level, approved=True) is by_word


def test_only_automatic_ever_acts_without_a_person():
    assert [level for level in Automation if permission(level, approved=False) is Permission.GO] == [Automation.AUTOMATIC]


# --- timing and cool-down --------------------------------------------------------------------------------------------


def test_every_condition_has_its_own_rule():
    chosen = policy(
        host_down=TimingRule(after=1.0),
        process_down=TimingRule(after=2.0, automation=Automation.CONFIRM),
        unresponsive=TimingRule(after=3.0, automation=Automation.MANUAL),
    )
    assert rule_for(Diagnosis.HOST_DOWN, chosen).after == 1.0
    assert rule_for(Diagnosis.PROCESS_DOWN, chosen).after == 2.0
    assert rule_for(Diagnosis.UNRESPONSIVE, chosen).after == 3.0
    assert automation_for(Diagnosis.HOST_DOWN, chosen) is Automation.AUTOMATIC
    assert automation_for(Diagnosis.PROCESS_DOWN, chosen) is Automation.CONFIRM
    assert automation_for(Diagnosis.UNRESPONSIVE, chosen) is Automation.MANUAL


def test_a_release_needs_no_further_waiting():
    assert rule_for(Diagnosis.RELEASED, policy(host_down=TimingRule(after=60.0))).after == 0.0


def test_a_cool_down_is_counted_from_the_last_change():
    assert cool_at(100.0, 600.0) == 700.0
    assert cool_at(100.0, 0.0) == 100.0


# --- fusion ----------------------------------------------------------------------------------------------------------

NOW = 100.0


def found(code: Diagnosis, since: float, words: str = "") -> dict[str, object]:
    return {"finding": Finding(code, words), "found_since": since}


def verdict(**seen: object):
    return judge(Case(subject="db1", evidence=("seen",), **seen), policy(), NOW)


def test_a_member_against_whom_nothing_is_known_is_healthy():
    found = verdict()
    assert found.diagnosis is Diagnosis.HEALTHY
    assert found.certain_at is None
    assert not found.is_certain(NOW + 1e6)


@pytest.mark.parametrize(
    ("seen", "diagnosis", "certain_at"),
    [
        ({"silent_since": 99.5}, Diagnosis.HOST_DOWN, 100.5),
        ({"dead_since": 99.5}, Diagnosis.PROCESS_DOWN, 99.5),
        *((found(code, 99.5), code, 101.5) for code in sorted(CANNOT_WORK)),
        ({"released_since": 99.5}, Diagnosis.RELEASED, 99.5),
    ],
)
def test_each_condition_is_certain_when_it_has_lasted_as_long_as_policy_asks(
    seen: dict[str, float], diagnosis: Diagnosis, certain_at: float
):
    found = verdict(**seen)
    assert found.diagnosis is diagnosis
    assert found.subject == "db1"
    assert "db1" in found.sentence
    assert found.evidence == ("seen",)
    assert found.certain_at == pytest.approx(certain_at)
    assert not found.is_certain(certain_at - 0.001)
    assert found.is_certain(certain_at)


def test_a_release_is_stronger_than_silence_and_silence_than_what_was_said_before_it():
    everything = {"released_since": 99.0, "silent_since": 99.0, "dead_since": 99.0, **found(Diagnosis.UNRESPONSIVE, 99.0)}
    assert verdict(**everything).diagnosis is Diagnosis.RELEASED
    del everything["released_since"]
    assert verdict(**everything).diagnosis is Diagnosis.HOST_DOWN
    del everything["silent_since"]
    assert verdict(**everything).diagnosis is Diagnosis.PROCESS_DOWN


def test_a_dead_process_that_is_to_be_started_again_first_is_not_yet_a_failure():
    assert verdict(dead_since=90.0, restarts_left=1).diagnosis is Diagnosis.HEALTHY
    assert verdict(dead_since=90.0, restarts_left=0).diagnosis is Diagnosis.PROCESS_DOWN


def test_the_sentence_says_for_how_long():
    assert "1.5 s" in verdict(silent_since=98.5).sentence


@pytest.mark.parametrize("code", [Diagnosis.OVERLOADED, Diagnosis.READ_ONLY])
def test_overload_and_a_setting_are_told_and_never_become_a_failure(code: Diagnosis):
    judged = verdict(**found(code, 40.0, "as seen"))
    assert (judged.diagnosis, judged.since) == (code, 40.0)
    assert judged.sentence.endswith("for 60.0 s: as seen")
    assert not judged.is_failure
    assert not judged.is_certain(NOW + 1e6)
    assert automation_for(code, policy()) is Automation.AUTOMATIC


def test_behind_a_death_or_a_release_the_sentence_names_what_came_before():
    stalled = found(Diagnosis.STALLED_STORAGE, 98.0, "a commit does not come back")
    for since in ({"released_since": 99.5}, {"dead_since": 99.5}):
        assert verdict(**since, **stalled).sentence.endswith(": stalled storage: a commit does not come back")
    assert "stalled" not in verdict(silent_since=99.5, **stalled).sentence, (
        "what a silent host said before is not why it is silent"
    )
    assert "overloaded" not in verdict(dead_since=99.5, **found(Diagnosis.OVERLOADED, 98.0)).sentence


# --- candidate -------------------------------------------------------------------------------------------------------


def contender(name: str, offset: int | None = 100, preference: int = 0, history: str = "a", **changes: object) -> Contender:
    place = None if offset is None else Position(history, offset)
    return Contender(name=name, position=place, preference=preference, **changes)


def test_the_most_data_wins():
    choice = choose((contender("db1", 100, 0), contender("db2", 101, 5)), "a")
    assert choice.name == "db2"
    assert choice.position == Position("a", 101)


def test_between_equals_the_operators_preference_decides():
    assert choose((contender("db1", preference=1), contender("db2", preference=0)), "a").name == "db2"


def test_between_equals_of_equal_preference_every_member_chooses_the_same():
    one, other = contender("db1"), contender("db2")
    assert choose((one, other), "a").name == choose((other, one), "a").name == "db1"


def test_whom_something_bars_is_passed_over_with_that_reason():
    choice = choose((contender("db1", 900, barred="it says so"), contender("db2", 1)), "a")
    assert choice.name == "db2"
    assert "db1: it says so" in choice.passed_over


def test_whose_position_is_not_known_is_passed_over():
    choice = choose((contender("db1", None), contender("db2", 1)), "a")
    assert choice.name == "db2"
    assert any(line.startswith("db1: ") for line in choice.passed_over)


def test_who_holds_no_data_is_passed_over_while_somebody_holds_some():
    choice = choose((contender("db1", 900, empty=True), contender("db2", 1)), "a")
    assert choice.name == "db2"
    assert "db1: it holds no data" in choice.passed_over
    assert choose((contender("db1", 0, empty=True),), "a").name == "db1"


def test_a_copy_of_another_history_is_passed_over_while_one_of_the_known_history_stands():
    choice = choose((contender("db1", 900, history="b"), contender("db2", 1)), "a")
    assert choice.name == "db2"
    assert "db1: its data has another history" in choice.passed_over
    assert choose((contender("db1", 900, history="b"),), "a").name == "db1"


def test_who_lacks_data_is_told_how_much():
    choice = choose((contender("db1", 100), contender("db2", 142)), "a")
    assert "db1: it lacks 42 bytes that db2 has" in choice.passed_over


def test_of_nobody_nobody_is_chosen():
    assert choose((), "a").name is None
    assert choose((contender("db1", barred="no"), contender("db2", None)), "a").name is None


contenders = st.lists(
    st.builds(
        Contender,
        name=st.sampled_from([f"db{number}" for number in range(9)]),
        position=st.none() | st.builds(Position, st.sampled_from("ab"), st.integers(0, 50)),
        preference=st.integers(0, 8),
        barred=st.sampled_from(["", "", "", "it says so"]),
        empty=st.booleans(),
    ),
    max_size=6,
    unique_by=lambda each: each.name,
).map(tuple)
histories = st.none() | st.sampled_from("ab")


@given(contenders, histories, st.randoms())
def test_every_member_chooses_the_same_in_whatever_order_it_heard_them(found: tuple[Contender, ...], known: str | None, mix):
    shuffled = list(found)
    mix.shuffle(shuffled)
    assert choose(tuple(shuffled), known).name == choose(found, known).name


@given(contenders, histories)
def test_everybody_but_the_chosen_one_is_passed_over_with_exactly_one_reason(found: tuple[Contender, ...], known: str | None):
    choice = choose(found, known)
    told = [line.split(": ", 1) for line in choice.passed_over]
    assert sorted(name for name, _ in told) == sorted(each.name for each in found if each.name != choice.name)
    assert all(reason for _, reason in told)


@given(contenders, histories)
def test_the_chosen_one_lacks_nothing_that_another_able_copy_of_its_history_has(found: tuple[Contender, ...], known: str | None):
    choice = choose(found, known)
    if choice.name is None:
        assert all(each.barred or each.position is None for each in found)
        return
    chosen = next(each for each in found if each.name == choice.name)
    assert not chosen.barred
    rivals = [each for each in found if not each.barred and each.position and each.empty == chosen.empty]
    same = [each for each in rivals if each.position.history == chosen.position.history]
    assert chosen.position.offset == max(each.position.offset for each in same)
    if not chosen.empty:
        return
    assert all(each.empty for each in found if not each.barred and each.position)
