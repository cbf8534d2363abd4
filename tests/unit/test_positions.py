"""Positions: bytes are compared only between copies of which one holds what the other's history grew out of."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.positions import Position, bytes_behind

offsets = st.integers(0, 10_000)


@given(offsets, offsets)
def test_within_one_history_the_difference_of_the_offsets_counts(copy: int, other: int):
    assert bytes_behind(Position("a", copy), Position("a", other)) == other - copy


@given(offsets, offsets)
def test_positions_of_unrelated_histories_cannot_be_compared(copy: int, other: int):
    assert bytes_behind(Position("a", copy), Position("b", other)) is None


def test_a_copy_that_stopped_before_the_fork_lacks_what_came_after_it():
    after_promotion = Position("b", 900, past=(("a", 500),))
    assert bytes_behind(Position("a", 400), after_promotion) == 500
    assert bytes_behind(Position("a", 500), after_promotion) == 400


def test_a_copy_that_went_on_past_the_fork_cannot_be_compared():
    after_promotion = Position("b", 900, past=(("a", 500),))
    assert bytes_behind(Position("a", 501), after_promotion) is None
    assert bytes_behind(after_promotion, Position("a", 501)) is None


def test_a_copy_is_ahead_of_what_it_grew_out_of():
    after_promotion = Position("b", 900, past=(("a", 500),))
    assert bytes_behind(after_promotion, Position("a", 450)) == -450


def test_only_the_shared_part_of_each_older_history_counts():
    twice = Position("c", 900, past=(("a", 100), ("b", 500)))
    assert bytes_behind(Position("b", 500), twice) == 400
    assert bytes_behind(Position("a", 500), twice) is None
    assert bytes_behind(Position("a", 100), twice) == 800


positions = st.builds(
    Position,
    st.sampled_from("abc"),
    offsets,
    st.lists(st.tuples(st.sampled_from("abc"), offsets), max_size=2).map(tuple),
)


@given(positions, positions)
def test_what_one_lacks_the_other_is_ahead_by(one: Position, other: Position):
    there, back = bytes_behind(one, other), bytes_behind(other, one)
    assert (there is None) == (back is None)
    assert there is None or there == -back


@given(positions)
def test_nothing_is_behind_itself(one: Position):
    assert bytes_behind(one, one) == 0
