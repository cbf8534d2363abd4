"""Beats on the wire: what was packed is opened again, and nothing else is ever believed."""

import hmac
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.observations import Health, Release, Role, Statement
from orchestrator.domain.positions import Position
from probes.interconnected import wire, words
from probes.interconnected.wire import BadBeat, Beat, Codec, Section, digest, pack_section

KEY = b"k" * 32
OTHER_KEY = b"o" * 32

u64 = st.integers(0, 2**64 - 1)
names = st.from_regex(r"[a-z][a-z0-9_-]{0,30}", fullmatch=True)
positions = st.builds(Position, st.text("0123456789abcdef", max_size=40), st.integers(0, 2**63 - 1))
releases = st.builds(
    Release,
    epoch=u64,
    version=st.integers(-1, 2**63 - 1),
    position=st.none() | positions,
    target=st.none() | names,
)
sections = st.builds(
    Section,
    group=u64,
    life=u64,
    number=u64,
    echo_life=u64,
    echo_number=u64,
    epoch=u64,
    version=st.integers(-1, 2**63 - 1),
    incarnation=u64,
    lease_us=st.integers(0, 2**32 - 1),
    asking=st.booleans(),
    granted=st.booleans(),
    urgent=st.booleans(),
    exited=st.booleans(),
    answer=st.booleans(),
    slow=st.booleans(),
    release=st.none() | releases,
    words=st.binary(max_size=wire.MAX_WORDS_BYTES),
)


def codec(me: str = "db1", *, cluster: str = "shop", keys: tuple[bytes, ...] = (KEY,)) -> Codec:
    return Codec(cluster, me, keys)


def sealed(*packed: Section, by: Codec | None = None, path: int = 0, count: int = 1) -> bytes:
    return (by or codec()).seal(b"".join(pack_section(each) for each in packed), path, count)


def a_section(**changes: object) -> Section:
    section = Section(
        group=digest("orders"), life=11, number=1_000_000, epoch=3, version=7, asking=True, words=b'{"health":"well"}'
    )
    for name, value in changes.items():
        setattr(section, name, value)
    return section


def kind_of(datagram: bytes, by: Codec | None = None) -> str:
    with pytest.raises(BadBeat) as caught:
        (by or codec("db2")).open(datagram)
    return caught.value.kind


@given(st.lists(sections, max_size=5), names, st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_what_was_packed_is_opened_again(packed: list[Section], me: str, path: int, count: int):
    datagram = sealed(*packed, by=codec(me), path=path, count=count)
    assert codec("db2").open(datagram) == Beat(me, path, count, packed)


def test_a_count_that_has_run_over_goes_on_from_zero():
    assert codec("db2").open(sealed(a_section(), count=2**32 + 5)).count == 5


def test_a_beat_signed_with_another_key_is_refused():
    assert kind_of(sealed(a_section(), by=codec(keys=(OTHER_KEY,)))) == "key"


def test_a_beat_signed_with_any_of_the_known_keys_is_believed():
    datagram = sealed(a_section(), by=codec(keys=(OTHER_KEY,)))
    assert codec("db2", keys=(KEY, OTHER_KEY)).open(datagram).sender == "db1"


def test_only_the_first_key_signs():
    datagram = sealed(a_section(), by=codec(keys=(KEY, OTHER_KEY)))
    assert codec("db2", keys=(KEY,)).open(datagram).sender == "db1"
    assert kind_of(datagram, codec("db2", keys=(OTHER_KEY,))) == "key"


def test_without_a_key_there_is_no_codec():
    with pytest.raises(ValueError, match="no key"):
        codec(keys=())


def test_a_beat_of_another_cluster_with_the_same_key_is_refused():
    assert kind_of(sealed(a_section(), by=codec(cluster="bank"))) == "cluster"


def test_a_beat_of_a_future_version_is_refused_and_says_both_versions(monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as later:
        later.setattr(wire, "VERSION", wire.VERSION + 1)
        datagram = sealed(a_section())
    with pytest.raises(BadBeat, match=f"version {wire.VERSION + 1}.*version {wire.VERSION}") as caught:
        codec("db2").open(datagram)
    assert caught.value.kind == "version"


def test_a_beat_cut_off_at_any_length_is_refused():
    datagram = sealed(a_section(release=Release(epoch=3, version=7, position=Position("a1", 9), target="db2")), a_section())
    receiver = codec("db2")
    for size in range(len(datagram)):
        with pytest.raises(BadBeat):
            receiver.open(datagram[:size])


def test_a_beat_with_any_single_bit_flipped_is_refused():
    datagram = sealed(a_section(release=Release(epoch=3, version=7)), path=1, count=77)
    receiver = codec("db2")
    for bit in range(8 * len(datagram)):
        changed = bytearray(datagram)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadBeat):
            receiver.open(bytes(changed))


def test_a_beat_with_anything_behind_it_is_refused():
    assert kind_of(sealed(a_section()) + b"\0") == "key"


@given(st.binary(max_size=200))
def test_whatever_is_received_raises_nothing_but_a_bad_beat(junk: bytes):
    for datagram in (junk, wire.MAGIC + junk, wire.MAGIC + bytes([wire.VERSION]) + junk):
        with pytest.raises(BadBeat):
            codec().open(datagram)


@given(st.binary(max_size=200))
def test_authentic_nonsense_raises_nothing_but_a_bad_beat(junk: bytes):
    try:
        opened = codec("db2").open(codec().seal(junk, 0, 1))
    except BadBeat:
        return
    assert opened.sender == "db1"


@given(st.binary(max_size=120), st.sampled_from([b"\x00\x08", b"\x00\xff", b"\x00\x2d\x00\x2d"]))
def test_an_authentic_section_with_a_broken_release_raises_nothing_but_a_bad_beat(tail: bytes, sizes: bytes):
    fixed = pack_section(a_section(release=Release(epoch=1, version=1), words=b""))[2:]
    body = fixed[: -len(sizes)] + sizes + tail
    try:
        codec("db2").open(codec().seal(struct.pack("!H", len(body)) + body, 0, 1))
    except BadBeat:
        pass


def test_a_sender_whose_name_runs_past_the_end_is_refused():
    signer = codec()
    body = bytearray(signer.seal(b"", 0, 1)[: -wire.MAC_BYTES])
    body[3] = 200
    mac = hmac.digest(signer._keys[0], bytes(body), "sha256")[: wire.MAC_BYTES]
    assert kind_of(bytes(body) + mac) == "truncated"


@given(st.lists(sections, min_size=1, max_size=40))
def test_many_groups_are_split_over_datagrams_that_fit_a_frame_and_none_is_lost(packed: list[Section]):
    sender, receiver = codec(), codec("db2")
    batches = sender.batches([pack_section(each) for each in packed])
    datagrams = [sender.seal(batch, 0, number) for number, batch in enumerate(batches)]
    assert all(len(datagram) <= wire.MAX_DATAGRAM_BYTES for datagram in datagrams)
    assert [section for datagram in datagrams for section in receiver.open(datagram).sections] == packed


def test_groups_share_a_datagram_as_long_as_they_fit():
    small = [pack_section(a_section(words=b"")) for _ in range(10)]
    assert len(codec().batches(small)) == 1
    assert codec().batches([]) == []


def test_names_become_numbers_that_differ():
    assert len({digest(f"group{number}") for number in range(1000)}) == 1000
    assert all(0 <= digest(name) < 2**64 for name in ("", "orders", "größe"))


# --- the words in a beat ---------------------------------------------------------------------------------------------

statements = st.builds(
    Statement,
    health=st.sampled_from(Health),
    role=st.none() | st.sampled_from(Role),
    position=st.none() | positions,
    serving_epoch=st.integers(0, 99),
    electable=st.booleans(),
    why_not=st.text(max_size=40),
    following=st.none() | names,
    settled=st.integers(0, 99),
    phase=st.text(max_size=20),
    handover=st.none() | names,
    held_position=st.none() | positions,
    restarts=st.integers(0, 9),
    empty=st.booleans(),
    wants_role=st.booleans(),
)


@given(statements)
def test_what_a_daemon_says_is_understood_as_it_was_said(statement: Statement):
    assert words.decode(words.encode(statement)) == statement


def test_no_words_are_no_statement():
    assert words.decode(b"") is None


@pytest.mark.parametrize("junk", [b"not json", b"[1]", b"5", b'{"health":"splendid"}', b"\xff\xfe", b'{"role":3}'])
def test_words_of_a_much_newer_daemon_are_no_statement_rather_than_an_error(junk: bytes):
    assert words.decode(junk) is None


def test_words_with_a_field_that_is_not_known_yet_keep_the_others():
    assert words.decode(b'{"health":"dead","mood":"blue"}') == Statement(health=Health.DEAD)


@pytest.mark.parametrize("length", [10, 1_000, 10_000])
def test_a_long_reason_never_makes_the_words_too_long_for_a_beat(length: int):
    """A longer datagram would be cut off by its receiver, and the member would seem silent."""
    said = words.encode(Statement(health=Health.STARTING, why_not="é" * length))
    assert len(said) <= wire.MAX_WORDS_BYTES
    understood = words.decode(said)
    assert understood is not None
    assert understood.health is Health.STARTING
    assert understood.why_not.startswith("ééé")
