"""Places in the log, and timelines: who may follow whom is decided by arithmetic alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.positions import bytes_behind
from orchestrator.services.postgresql import lsn
from orchestrator.services.postgresql.timelines import (
    ENDLESS,
    PAST_KEPT,
    BadHistory,
    Relation,
    Shared,
    Timelines,
    history_file,
    position,
    read_history,
    relate,
    shared,
)

offsets = st.integers(0, (1 << 64) - 1)


@given(offsets)
def test_a_place_is_read_as_it_was_written(offset: int):
    assert lsn.parse(lsn.written(offset)) == offset


@pytest.mark.parametrize(
    ("timeline", "place", "segment_bytes", "name"),
    [
        (1, "0/0", 16 << 20, "000000010000000000000000"),
        (2, "0/1000000", 16 << 20, "000000020000000000000001"),
        (0x1A, "2/FF000000", 16 << 20, "0000001A00000002000000FF"),
        (1, "1/0", 16 << 20, "000000010000000100000000"),
        (1, "1/40000000", 1 << 30, "000000010000000100000001"),
        (1, "0/FFFFFFFF", 1 << 20, "000000010000000000000FFF"),
    ],
)
def test_the_segment_of_a_place_has_the_servers_name(timeline: int, place: str, segment_bytes: int, name: str):
    assert lsn.segment_name(timeline, lsn.parse(place), segment_bytes) == name
    assert lsn.timeline_of(name) == timeline


@pytest.mark.parametrize(
    ("start", "length", "end"),
    [
        ("0/2000028", 114, "0/20000A0"),  # a checkpoint at the beginning of a segment
        ("0/2000028", 120, "0/20000A0"),
        ("0/2000028", 121, "0/20000A8"),
        ("0/2001FD8", 40, "0/2002000"),  # ends with its page
        ("0/2001FD8", 41, "0/2002020"),  # one byte on the next page, behind its short header
        ("0/2FFFFD8", 114, "0/3000078"),  # on the next segment, behind its long header
        ("0/2001FD8", 40 + 8168 + 8, "0/2004020"),  # a whole page between
    ],
)
def test_a_record_ends_behind_the_headers_that_it_runs_over(start: str, length: int, end: str):
    assert lsn.written(lsn.end_of_record(lsn.parse(start), length)) == end


HISTORY = """\
1\t0/5000100\tno recovery target specified

# by hand
2\t0/7000200\tbefore 2000-01-01 01:00:00+01
"""


def test_a_history_file_is_read_as_the_server_wrote_it():
    assert read_history(3, HISTORY) == Timelines(3, ((1, 0x5000100), (2, 0x7000200)))
    assert read_history(3, HISTORY).fork == 0x7000200
    assert Timelines(1).fork == 0
    assert history_file(26) == "0000001A.history"


@pytest.mark.parametrize("text", ["x\t0/1\t", "1", "1\tnowhere\t", "2\t0/1\t\n1\t0/2\t", "3\t0/1\t"])
def test_what_is_no_history_is_refused(text: str):
    with pytest.raises(BadHistory):
        read_history(3, text)


FIRST = Timelines(1)
SECOND = Timelines(2, ((1, 500),))
OTHER_SECOND = Timelines(2, ((1, 400),))
THIRD = Timelines(3, ((1, 500), (2, 900)))
BESIDE = Timelines(4, ((1, 500), (2, 800)))


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        (FIRST, FIRST, Shared(1, ENDLESS)),
        (FIRST, SECOND, Shared(1, 500)),
        (SECOND, FIRST, Shared(1, 500)),
        (SECOND, OTHER_SECOND, Shared(1, 400)),
        (SECOND, THIRD, Shared(2, 900)),
        (THIRD, BESIDE, Shared(2, 800)),
        (Timelines(7), FIRST, None),
    ],
)
def test_two_histories_share_what_lies_before_they_part(own: Timelines, other: Timelines, expected: Shared | None):
    assert shared(own, other) == expected


@pytest.mark.parametrize(
    ("own", "end", "other", "other_end", "expected"),
    [
        (FIRST, 300, FIRST, 300, Relation.FOLLOWS),
        (FIRST, 301, FIRST, 300, Relation.AHEAD),
        (FIRST, 500, SECOND, 700, Relation.FOLLOWS),
        (FIRST, 501, SECOND, 700, Relation.DIVERGED),
        (SECOND, 501, OTHER_SECOND, 700, Relation.DIVERGED),
        (SECOND, 400, OTHER_SECOND, 700, Relation.FOLLOWS),
        (THIRD, 950, BESIDE, 990, Relation.DIVERGED),
        (SECOND, 600, FIRST, 700, Relation.DIVERGED),
        (Timelines(7), 1, FIRST, 2, Relation.FOREIGN),
    ],
)
def test_who_may_simply_follow(own: Timelines, end: int, other: Timelines, other_end: int, expected: Relation):
    assert relate(own, end, other, other_end) is expected


def test_positions_are_told_so_that_older_timelines_compare_with_newer_ones():
    old = position("77", FIRST, 450)
    new = position("77", THIRD, 1000)
    assert (old.history, new.history) == ("77/1", "77/3@0/384")
    assert bytes_behind(old, new) == 550
    assert bytes_behind(position("77", FIRST, 501), new) is None, "it went on past the fork"
    assert bytes_behind(position("78", FIRST, 450), new) is None, "another database"


def test_two_promotions_that_chose_one_number_do_not_compare():
    assert bytes_behind(position("77", SECOND, 600), position("77", OTHER_SECOND, 700)) is None


def test_only_the_newest_ancestors_are_told():
    many = Timelines(300, tuple((number, number * 100) for number in range(1, 300)))
    told = position("7" * 19, many, 1 << 40)
    assert len(told.past) == PAST_KEPT
    assert told.past[-1][0].startswith("7" * 19 + "/299@")


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=6), st.integers(0, 7000))
def test_whoever_stopped_before_every_fork_may_follow(steps: list[int], end: int):
    """Walk along a line of promotions: an ancestor's copy follows exactly when it ends before it was left."""
    at, past = 0, []
    for number, step in enumerate(steps, 1):
        at += step
        past.append((number, at))
    newest = Timelines(len(steps) + 1, tuple(past))
    for number, left_at in past:
        own = Timelines(number, tuple(past[: number - 1]))
        expected = Relation.FOLLOWS if end <= left_at else Relation.DIVERGED
        assert relate(own, end, newest, at + 1) is expected
