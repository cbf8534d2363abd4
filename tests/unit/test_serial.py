"""Beats on a serial line: found again after whatever noise, and never late because of older ones or of words."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from probes.interconnected import serial, wire
from probes.interconnected.serial import END, MAX_FRAME_BYTES, Deframer, Waiting, frame, load, seconds, unframe
from probes.interconnected.wire import MAX_DATAGRAM_BYTES, BadBeat, Codec, Section, pack_section

BAUD = 115200
BEAT = 0.1
CODEC = Codec("shop", "db1", (b"k" * 32,))

datagrams = st.binary(min_size=1, max_size=600) | st.integers(1, MAX_DATAGRAM_BYTES).map(bytes)
noises = st.binary(max_size=80) | st.integers(0, 2 * MAX_FRAME_BYTES).map(lambda size: b"\xff" * size)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % (len(stream) + 1) for cut in cuts} | {0, len(stream)})
    return [stream[begin:end] for begin, end in itertools.pairwise(ends)]


def fed(deframer: Deframer, *data: bytes) -> list[bytes]:
    return [datagram for each in data for datagram in deframer.feed(each)]


# --- framing ---------------------------------------------------------------------------------------------------------


@given(datagrams)
@example(b"\1" * serial.LONGEST_RUN)
@example(b"\1" * serial.LONGEST_RUN + END)
@example(b"\1" * (2 * serial.LONGEST_RUN))
@example(bytes(MAX_DATAGRAM_BYTES))
@example(b"\1" * MAX_DATAGRAM_BYTES)
def test_a_frame_has_zeros_at_its_ends_only_and_brings_its_datagram(datagram: bytes):
    framed = frame(datagram)
    assert (framed[:1], framed[-1:], framed[1:-1].count(END)) == (END, END, 0)
    assert len(framed) <= MAX_FRAME_BYTES + 2
    assert unframe(framed[1:-1]) == datagram


@given(st.lists(datagrams, max_size=5), st.lists(st.integers(0), max_size=12))
def test_frames_are_found_in_whatever_pieces_they_come(sent: list[bytes], cuts: list[int]):
    deframer = Deframer()
    assert fed(deframer, *pieces(b"".join(map(frame, sent)), cuts)) == sent
    assert deframer.garbage == 0


@given(st.lists(st.tuples(noises, datagrams), min_size=1, max_size=4), noises, st.lists(st.integers(0), max_size=12))
def test_noise_between_frames_costs_none_of_them(sent: list[tuple[bytes, bytes]], after: bytes, cuts: list[int]):
    stream = b"".join(noise + frame(datagram) for noise, datagram in sent) + after
    found = iter(fed(Deframer(), *pieces(stream, cuts)))
    assert all(datagram in found for _, datagram in sent), "each, and in this order"


@given(st.lists(datagrams, min_size=1, max_size=4), st.integers(0), noises, st.integers(0, 40), datagrams)
def test_noise_within_frames_costs_those_and_not_the_next(sent: list[bytes], at: int, noise: bytes, lost: int, last: bytes):
    stream = b"".join(map(frame, sent))
    at %= len(stream)
    assert fed(Deframer(), stream[:at] + noise + stream[at + lost :] + frame(last))[-1] == last


@given(st.binary(max_size=4 * MAX_FRAME_BYTES), st.lists(st.integers(0), max_size=12))
def test_noise_alone_is_never_believed_and_never_kept(noise: bytes, cuts: list[int]):
    deframer = Deframer()
    for datagram in fed(deframer, *pieces(noise, cuts)):
        with pytest.raises(BadBeat):
            CODEC.open(datagram)
    assert len(deframer._rest) <= MAX_FRAME_BYTES


def test_what_is_no_frame_is_counted():
    deframer = Deframer()
    assert fed(deframer, b"\xff\xff" + END + END + b"\xff" * 2 * MAX_FRAME_BYTES + END) == []
    assert deframer.garbage == 2


def test_a_frame_cut_short_by_the_next_one_costs_only_itself():
    deframer = Deframer()
    assert fed(deframer, frame(b"first beat")[:5], frame(b"second beat")) == [b"second beat"]
    assert deframer.garbage == 1


# --- what goes first -------------------------------------------------------------------------------------------------


def a_section(group: int = 1, number: int = 1, **more: object) -> Section:
    return Section(**{"group": group, "life": 1, "number": number, "words": b"w" * 200, **more})  # type: ignore[arg-type]


def waiting(*sections: Section, baud: int = BAUD, beat_every: float = BEAT) -> Waiting:
    made = Waiting(baud, beat_every, CODEC.room)
    for each in sections:
        made.put(each)
    return made


def taken(waiting: Waiting, now: float = 0.0) -> list[Section]:
    return CODEC.open(CODEC.seal(waiting.take(now), 0, 1)).sections


def test_a_newer_beat_takes_the_place_of_one_that_still_waits():
    line = waiting()
    assert [line.put(a_section(number=number)) for number in (1, 2)] == [False, True]
    assert [section.number for section in taken(line)] == [2]
    assert not line


def test_an_answer_takes_no_beats_place():
    line = waiting(a_section(number=1), a_section(number=2, answer=True))
    assert [(section.number, section.answer) for section in taken(line)] == [(1, False), (2, True)]


def test_what_was_urgent_stays_so_in_its_successor():
    line = waiting(a_section(number=1, urgent=True), a_section(number=2))
    assert taken(line)[0].urgent


def test_what_waits_is_one_frame_of_a_beats_length_at_the_most_and_the_rest_has_its_turn_next():
    groups = range(30)
    line = waiting(*(a_section(group, words=b"") for group in groups))
    first, second = (CODEC.seal(line.take(0.0), 0, count) for count in (1, 2))
    assert seconds(len(first), BAUD) <= BEAT + 0.01
    told = [section.group for each in (first, second) for section in CODEC.open(each).sections]
    assert told == list(range(len(told)))
    line.put(a_section(0, number=2))
    assert [section.group for section in taken(line)] == [*range(len(told), 30), 0]


def test_words_go_along_where_there_is_time_and_a_beat_without_them_says_so():
    line = waiting(a_section())
    (whole,) = taken(line)
    assert (whole.words, whole.wordless) == (b"w" * 200, False)
    line.put(a_section(number=2))
    (bare,) = taken(line, 0.001)
    assert (bare.words, bare.wordless) == (b"", True)


def test_urgent_words_do_not_wait():
    line = waiting(a_section())
    taken(line)
    line.put(a_section(number=2, urgent=True))
    assert taken(line, 0.001)[0].words


def test_words_that_would_hold_the_line_for_two_beats_are_left_out():
    line = waiting(a_section(words=b"w" * 900, urgent=True), beat_every=0.02)
    assert taken(line)[0].wordless


@pytest.mark.parametrize(
    ("baud", "lease", "groups"),
    [(9600, 3.0, 1), (57600, 2.0, 4), (115200, 1.0, 1), (115200, 1.0, 4), (115200, 0.3, 1), (230400, 0.2, 1), (921600, 0.3, 9)],
)
def test_beats_of_a_line_that_is_not_refused_are_never_late_and_every_groups_words_arrive(baud: int, lease: float, groups: int):
    """Each group sends a beat and an answer every tenth of its lease, at times of its own, through ten leases."""
    beat_every = lease / 10
    assert load([beat_every] * groups, baud, "db1") <= serial.MOST_LOAD
    line = Waiting(baud, beat_every, CODEC.room)
    posted = [
        (round_ * beat_every + (group + answer / 2) * beat_every / groups, group, bool(answer))
        for round_ in range(100)
        for group in range(groups)
        for answer in (0, 1)
    ]
    free_at = 0.0
    arrived: dict[tuple[int, bool], list[tuple[float, float]]] = {}
    words: dict[int, list[float]] = {}
    for at, until in itertools.pairwise([*posted, (100 * beat_every, 0, False)]):
        posted_at, group, answer = at
        line.put(a_section(group, number=int(posted_at * 1e6) + 1, answer=answer))
        free_at = max(free_at, posted_at)
        while line and free_at < until[0]:
            datagram = CODEC.seal(line.take(free_at), 0, 1)
            free_at += seconds(len(frame(datagram)), baud)
            for section in CODEC.open(datagram).sections:
                arrived.setdefault((section.group, section.answer), []).append((section.number / 1e6, free_at))
                if section.words:
                    words.setdefault(section.group, []).append(free_at)
    for came in arrived.values():
        assert max(there - posted_at for posted_at, there in came) < 2 * beat_every
        assert max(later - there for (_, there), (_, later) in itertools.pairwise(came)) < 3.5 * beat_every, "silence"
    assert len(arrived) == 2 * groups
    assert len(words) == groups
    assert all(max(b - a for a, b in itertools.pairwise(each)) < lease for each in words.values())


def test_the_load_is_what_beats_really_take():
    packed = pack_section(a_section(), words=False)
    framed = len(frame(CODEC.seal(packed, 0, 1)))
    assert load([0.1], BAUD, "db1") == pytest.approx(2 * framed * 10 / BAUD / 0.1, rel=0.02)
    assert wire.LEAST_BYTES + len("db1") == len(CODEC.seal(packed, 0, 1))
