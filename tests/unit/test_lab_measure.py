"""The laboratory's arithmetic, on lists of writes made by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.lab.measure import APART, AT_LEAST, Gap, Write, longest_gap, outage, stretches, two_primaries

EVERY = 0.01


def writes(first: float, last: float, every: float = EVERY, takes: float = 0.001) -> list[Write]:
    """Acknowledged writes, one after the other."""
    number = round((last - first) / every)
    return [Write(first + each * every, first + each * every + takes) for each in range(number + 1)]


def acks(*spans: tuple[float, float]) -> list[float]:
    return [each.acked_at for first, last in spans for each in writes(first, last)]


# --- outage ----------------------------------------------------------------------------------------------------------


def test_an_outage_lasts_from_the_last_write_before_to_the_first_after_it():
    lost, gap = outage(acks((0.0, 5.0), (6.1, 10.0)), before=0.0, fault=5.0, until=10.0, every=EVERY)
    assert lost == pytest.approx(1.1)
    assert (gap.begins, gap.ends) == (pytest.approx(5.001), pytest.approx(6.101))


def test_writes_that_go_on_as_before_are_no_outage():
    lost, _ = outage(acks((0.0, 10.0)), before=0.0, fault=5.0, until=10.0, every=EVERY)
    assert lost == 0.0


def test_a_gap_as_usual_as_before_the_fault_is_no_outage():
    noisy = acks((0.0, 2.0), (2.3, 5.0), (5.4, 10.0))
    lost, gap = outage(noisy, before=0.0, fault=5.2, until=10.0, every=EVERY)
    assert lost == 0.0
    assert gap.lasts == pytest.approx(0.4)


def test_a_gap_before_calm_was_reached_does_not_hide_an_outage():
    lost, _ = outage(acks((0.0, 1.0), (3.0, 5.0), (5.8, 10.0)), before=3.0, fault=5.0, until=10.0, every=EVERY)
    assert lost == pytest.approx(0.8)


def test_an_outage_that_never_ends_lasts_until_the_end_of_the_measurement():
    lost, gap = outage(acks((0.0, 5.0)), before=0.0, fault=5.0, until=12.0, every=EVERY)
    assert lost == pytest.approx(12.0 - 5.001)
    assert gap.ends == 12.0


def test_without_any_write_at_all_everything_is_outage():
    lost, _ = outage([], before=0.0, fault=5.0, until=12.0, every=EVERY)
    assert lost == pytest.approx(7.0)


def test_the_longest_of_several_gaps_after_the_fault_counts():
    lost, gap = outage(acks((0.0, 5.0), (5.3, 6.0), (6.9, 8.0), (8.2, 10.0)), before=0.0, fault=5.0, until=10.0, every=EVERY)
    assert lost == pytest.approx(0.9)
    assert gap.begins == pytest.approx(6.001)


def test_a_gap_before_the_fault_does_not_count_and_one_that_reaches_over_it_does():
    over = acks((0.0, 4.9), (5.5, 10.0))
    assert longest_gap(over, since=5.0, until=10.0).lasts == pytest.approx(0.6)
    earlier = acks((0.0, 2.0), (4.0, 10.0))
    assert longest_gap(earlier, since=5.0, until=10.0).lasts == pytest.approx(EVERY)


def test_writes_after_the_end_of_the_measurement_do_not_count():
    assert longest_gap(acks((0.0, 5.0), (11.0, 12.0)), since=5.0, until=10.0) == Gap(pytest.approx(5.001), 10.0)


# --- stretches -------------------------------------------------------------------------------------------------------


def test_a_stretch_is_certain_from_its_first_acknowledgement_to_its_last_sending():
    assert stretches([Write(1.0, 1.02), Write(1.03, 1.05), Write(1.06, 1.09)]) == [(1.02, 1.06)]


def test_writes_far_apart_belong_to_two_stretches():
    found = stretches(writes(1.0, 1.5) + writes(1.5 + APART + 0.02, 2.0))
    assert len(found) == 2


def test_one_write_alone_is_a_moment():
    assert stretches([Write(1.0, 1.2)]) == [(1.2, 1.2)]


def test_no_writes_are_no_stretch():
    assert stretches([]) == []


def test_the_order_in_which_writes_were_noted_does_not_matter():
    noted = writes(1.0, 2.0) + writes(3.0, 4.0)
    assert stretches(reversed(noted)) == stretches(noted)


# --- two primaries ---------------------------------------------------------------------------------------------------


def test_a_clean_change_over_has_no_two_primaries():
    assert two_primaries({"db1": writes(0.0, 5.0), "db2": writes(5.2, 10.0), "db3": []}) == 0.0


def test_a_change_over_in_which_the_last_answer_was_read_late_has_no_two_primaries():
    """The old primary's last write took effect before its answer was read; the new one's first began in between."""
    before = [*writes(0.0, 5.0), Write(5.01, 5.30)]
    assert two_primaries({"db1": before, "db2": writes(5.1, 10.0)}) == 0.0


def test_an_overlap_counts_for_as_long_as_both_certainly_accept_writes():
    assert two_primaries({"db1": writes(0.0, 5.0), "db2": writes(4.6, 10.0)}) == pytest.approx(0.4, abs=0.01)


def test_an_overlap_of_a_few_milliseconds_is_seen():
    assert 0 < two_primaries({"db1": writes(0.0, 5.0), "db2": writes(4.985, 10.0)}) < 0.02


def test_a_single_write_in_the_midst_of_another_nodes_writes_is_seen():
    assert two_primaries({"db1": writes(0.0, 5.0), "db2": [Write(2.503, 2.504)]}) == pytest.approx(AT_LEAST)


def test_two_primaries_that_answer_in_turn_are_seen():
    one = [Write(first, first + 0.001) for first in (1.00, 1.02, 1.04, 1.06)]
    other = [Write(first, first + 0.001) for first in (1.01, 1.03, 1.05, 1.07)]
    assert two_primaries({"db1": one, "db2": other}) == pytest.approx(0.05, abs=0.005)


def test_single_writes_far_apart_from_each_other_but_at_the_same_moments_on_two_nodes_are_seen():
    one = [Write(moment, moment + 0.010) for moment in (1.0, 2.0, 3.0)]
    assert two_primaries({"db1": one, "db2": list(one)}) >= 3 * AT_LEAST * 0.99


def test_three_primaries_at_once_do_not_count_twice():
    everywhere = {name: writes(1.0, 2.0) for name in ("db1", "db2", "db3")}
    assert two_primaries(everywhere) == pytest.approx(1.0, abs=0.01)


def test_several_overlaps_add_up():
    one = writes(0.0, 1.0) + writes(2.0, 3.0)
    other = writes(0.8, 2.2)
    assert two_primaries({"db1": one, "db2": other}) == pytest.approx(0.4, abs=0.02)


def test_a_primary_that_comes_back_after_another_has_no_two_primaries():
    one = writes(0.0, 1.0) + writes(3.0, 4.0)
    assert two_primaries({"db1": one, "db2": writes(1.1, 2.9)}) == 0.0


def test_a_long_outage_on_one_node_does_not_bridge_over_the_other_nodes_turn():
    one = writes(0.0, 1.0) + writes(1.0 + 10 * APART, 2.0)
    other = writes(1.0 + 2 * APART, 1.0 + 8 * APART)
    assert two_primaries({"db1": one, "db2": other}) == 0.0


spans = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 2)), max_size=3)


def of(found: list[tuple[float, float]]) -> list[Write]:
    return [each for first, lasts in found for each in writes(first, first + lasts)]


@given(spans, spans, spans)
def test_whose_writes_come_first_in_the_report_does_not_matter(a: list, b: list, c: list):
    one, other, third = of(a), of(b), of(c)
    measured = two_primaries({"db1": one, "db2": other, "db3": third})
    assert measured == pytest.approx(two_primaries({"db3": one, "db1": other, "db2": third}))
    assert measured >= 0.0


@given(spans, st.floats(0, 9), st.floats(0.2, 1))
def test_one_node_alone_never_makes_two_primaries_and_its_copy_always_does(a: list, first: float, lasts: float):
    one = of(a) + writes(first, first + lasts)
    assert two_primaries({"db1": one, "db2": []}) == 0.0
    assert two_primaries({"db1": one, "db2": list(one)}) > 0.0
