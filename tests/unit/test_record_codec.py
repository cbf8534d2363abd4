"""Record and control as the mediator keeps them: read back as written, or refused in words that help."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.coordination.codec import FORMAT, decode_control, decode_record, encode
from orchestrator.domain.record import Answer, Cause, Control, Pause, Proposal, Record, Request, RequestKind
from orchestrator.domain.topology import Pair
from orchestrator.ports import RefusedByPeer

WHERE = "the record of orders"

names = st.from_regex(r"[a-z][a-z0-9_-]{0,30}", fullmatch=True)
lives = st.integers(0, 2**62)
moments = st.floats(0, 4e9, allow_nan=False)
texts = st.text(max_size=60)
pairs = st.builds(Pair, names, lives)
records = st.builds(
    Record,
    version=st.integers(0, 2**31 - 1),
    incarnation=lives,
    epoch=st.integers(1, 2**40),
    primary=pairs,
    succession=st.lists(pairs, max_size=4).map(tuple),
    lease=st.floats(0.2, 60.0),
    nonce=lives,
    cause=st.sampled_from(Cause),
    reason=texts,
    since=moments,
)
requests = st.builds(
    Request,
    id=texts,
    kind=st.sampled_from(RequestKind),
    epoch=st.integers(1, 99),
    target=st.none() | names,
    by=texts,
    at_wall=moments,
    expires_wall=moments,
    proposal=st.none() | texts,
)
proposals = st.builds(
    Proposal,
    id=texts,
    epoch=st.integers(1, 99),
    diagnosis=texts,
    subject=names,
    candidate=names,
    situation=texts,
    evidence=st.lists(texts, max_size=3).map(tuple),
    expected_loss_bytes=st.none() | st.integers(0, 2**50),
    author=names,
    at_wall=moments,
    expires_wall=moments,
)
controls = st.builds(
    Control,
    version=st.integers(0, 2**31 - 1),
    paused=st.none() | st.builds(Pause, by=texts, at_wall=moments, reason=texts),
    proposal=st.none() | proposals,
    request=st.none() | requests,
    answer=st.none() | st.builds(Answer, request=texts, text=texts, by=names, at_wall=moments),
    rejected=st.none() | texts,
    rejected_wall=moments,
)

RECORD = Record(
    version=7,
    incarnation=9,
    epoch=3,
    primary=Pair("db1", 11),
    succession=(Pair("db2", 22),),
    lease=1.0,
    nonce=5,
    cause=Cause.FAILOVER,
    reason="größer als zuvor",
    since=1.7e9,
)


def changed(**changes: object) -> bytes:
    plain = json.loads(encode(RECORD))
    for name, value in changes.items():
        if value is ...:
            del plain[name]
        else:
            plain[name] = value
    return json.dumps(plain).encode()


def refusal(data: bytes, version: int = 7) -> str:
    with pytest.raises(RefusedByPeer) as caught:
        decode_record(data, version, WHERE)
    assert WHERE in str(caught.value)
    return str(caught.value)


@given(records)
def test_a_record_is_read_as_it_was_written(record: Record):
    assert decode_record(encode(record), record.version, WHERE) == record


@given(controls, st.integers(0, 99))
def test_a_control_is_read_as_it_was_written_at_the_version_that_the_mediator_counts(control: Control, version: int):
    read = decode_control(encode(control), version, WHERE)
    assert read.version == version
    for name in ("paused", "proposal", "request", "answer", "rejected", "rejected_wall"):
        assert getattr(read, name) == getattr(control, name)


def test_what_is_written_says_its_format():
    assert json.loads(encode(RECORD))["format"] == 1
    assert json.loads(encode(Control(version=1)))["format"] == 1
    assert json.loads(encode(replace(RECORD, quorum=1)))["format"] == FORMAT == 2, "an older one would claim without asking"


def test_a_record_of_a_newer_format_is_refused_with_the_word_to_upgrade():
    words = refusal(changed(format=FORMAT + 1))
    assert "newer" in words
    assert "upgrade" in words
    assert str(FORMAT + 1) in words


def test_a_newer_format_is_named_even_when_the_record_cannot_be_understood_at_all():
    words = refusal(json.dumps({"format": FORMAT + 1, "shape": "unheard of"}).encode())
    assert "upgrade" in words


def test_a_control_of_a_newer_format_is_refused_too():
    data = json.dumps({"format": FORMAT + 1, "version": 1}).encode()
    with pytest.raises(RefusedByPeer, match="upgrade"):
        decode_control(data, 1, "the control of orders")


@pytest.mark.parametrize(
    "data", [b"", b"garbage", b"\xff\xfe\x00", b"{", b'{"format": 1', b"[]", b"5", b"null", b'"text"', b"{}"]
)
def test_garbage_is_refused_and_shown(data: bytes):
    assert repr(data) in refusal(data)


@pytest.mark.parametrize("number", ["1", None, 1.5, [1], {}, True])
def test_a_format_that_is_no_number_is_refused(number: object):
    assert "format" in refusal(changed(format=number))


@pytest.mark.parametrize("number", [0, -1])
def test_a_format_that_never_was_is_refused(number: int):
    assert "format" in refusal(changed(format=number))


def test_a_record_whose_version_is_not_the_mediators_was_written_by_somebody_else():
    words = refusal(encode(RECORD), version=8)
    assert "version 7" in words
    assert "version 8" in words
    assert "adopt" in words


def test_fields_that_a_newer_tanist_added_within_the_format_are_ignored():
    assert decode_record(changed(mood="good", primary={"name": "db1", "life": 11, "shoe": 43}), 7, WHERE) == RECORD


@pytest.mark.parametrize("field", ["epoch", "primary", "succession", "lease", "version", "incarnation", "nonce"])
def test_a_record_that_lacks_a_field_is_refused_by_the_fields_name(field: str):
    assert field in refusal(changed(**{field: ...}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epoch", "3"),
        ("epoch", 3.5),
        ("epoch", True),
        ("primary", None),
        ("primary", "db1"),
        ("primary", {"name": "db1"}),
        ("succession", {}),
        ("succession", ["db2"]),
        ("lease", "1s"),
        ("lease", None),
        ("cause", "mutiny"),
    ],
)
def test_a_record_with_a_field_of_another_kind_is_refused_by_the_fields_name(field: str, value: object):
    assert field in refusal(changed(**{field: value}))


@pytest.mark.parametrize("lease", ["NaN", "Infinity", "-1.0", "0"])
def test_a_record_with_a_lease_that_is_no_span_of_time_is_refused(lease: str):
    assert "lease" in refusal(encode(RECORD).replace(b'"lease":1.0', b'"lease":' + lease.encode()))


@given(st.binary(max_size=80))
def test_whatever_stands_there_raises_nothing_but_a_refusal(data: bytes):
    with pytest.raises(RefusedByPeer):
        decode_record(data, 7, WHERE)


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=3))
def test_damage_in_the_middle_raises_nothing_but_a_refusal_or_gives_a_whole_record(place: int, damage: bytes):
    data = bytearray(encode(RECORD))
    place %= len(data)
    data[place : place + len(damage)] = damage
    try:
        assert isinstance(decode_record(bytes(data), 7, WHERE), Record)
    except RefusedByPeer:
        pass
