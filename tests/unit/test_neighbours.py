"""Frames about who has an address: byte by byte as other implementations expect them, and read from whoever sends them."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.actuators import neighbours
from orchestrator.actuators.neighbours import ETH_ARP, ETH_IPV6, announcements, holder, probe

MAC = bytes.fromhex("02a1b2c3d4e5")
V4 = IPv4Address("10.0.0.100")
V6 = IPv6Address("fd00::1234:5678")


def hexed(*parts: str) -> bytes:
    return bytes.fromhex("".join(parts))


def test_an_arp_probe_asks_everybody_and_says_nothing_of_the_sender():
    ethernet = "ffffffffffff02a1b2c3d4e50806"
    assert probe(V4, MAC) == hexed(ethernet, "0001080006040001", "02a1b2c3d4e5", "00000000", "000000000000", "0a000064")


def test_an_arp_announcement_comes_as_request_and_as_reply():
    ethernet = "ffffffffffff02a1b2c3d4e50806"
    assert announcements(V4, MAC) == (
        hexed(ethernet, "0001080006040001", "02a1b2c3d4e5", "0a000064", "000000000000", "0a000064"),
        hexed(ethernet, "0001080006040002", "02a1b2c3d4e5", "0a000064", "02a1b2c3d4e5", "0a000064"),
    )


def test_an_ipv6_probe_goes_to_the_solicited_node_from_no_address():
    frame = probe(V6, MAC)
    assert frame[:14] == hexed("3333ff345678", "02a1b2c3d4e5", "86dd")
    assert frame[14:22] == hexed("60000000", "0018", "3a", "ff")
    assert frame[22:38] == bytes(16)
    assert IPv6Address(frame[38:54]) == IPv6Address("ff02::1:ff34:5678")
    assert frame[54:56] + frame[58:] == hexed("8700", "00000000") + V6.packed, "no option: the sender has no address yet"
    assert checksum_is_right(frame)


def test_an_ipv6_announcement_overrides_what_all_nodes_know():
    (frame,) = announcements(V6, MAC)
    assert frame[:14] == hexed("333300000001", "02a1b2c3d4e5", "86dd")
    assert frame[14:22] == hexed("60000000", "0020", "3a", "ff")
    assert frame[22:38] == V6.packed
    assert IPv6Address(frame[38:54]) == IPv6Address("ff02::1")
    assert frame[54:56] + frame[58:] == hexed("8800", "20000000") + V6.packed + hexed("0201", "02a1b2c3d4e5")
    assert checksum_is_right(frame)


def checksum_is_right(frame: bytes) -> bool:
    """RFC 4443: over the addresses, the length, the number 58 and the message all words add up to nothing."""
    data = frame[22:54] + (len(frame) - 54).to_bytes(4, "big") + (58).to_bytes(4, "big") + frame[54:]
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    return total % 0xFFFF == 0


@pytest.mark.parametrize("address", [V4, V6], ids=str)
def test_announcements_say_who_has_it_and_probes_do_not(address: neighbours.Address):
    assert {holder(frame, address) for frame in announcements(address, MAC)} == {MAC}
    assert holder(probe(address, MAC), address) is None


def test_another_address_is_nobodys_business():
    assert holder(announcements(V4, MAC)[0], IPv4Address("10.0.0.101")) is None
    assert holder(announcements(V6, MAC)[0], IPv6Address("fd00::1")) is None
    assert holder(announcements(V4, MAC)[0], V6) is None
    assert holder(announcements(V6, MAC)[0], V4) is None


def test_an_arp_reply_to_somebody_else_counts_too():
    frame = announcements(V4, MAC)[1]
    assert holder(frame[:38] + IPv4Address("10.0.0.7").packed, V4) == MAC


def test_an_advertisement_from_beyond_a_router_is_not_believed():
    frame = announcements(V6, MAC)[0]
    assert holder(frame[:21] + b"\xfe" + frame[22:], V6) is None


@given(st.binary(max_size=100), st.sampled_from([ETH_ARP, ETH_IPV6]))
def test_no_frame_is_too_broken_to_be_read(data: bytes, kind: int):
    for frame in (data, data[:12] + kind.to_bytes(2, "big") + data[12:]):
        for address in (V4, V6):
            holder(frame, address)


def test_a_frame_that_is_cut_off_says_nothing():
    for address in (V4, V6):
        (frame, *_) = announcements(address, MAC)
        whole = 42 if address is V4 else 78
        assert [holder(frame[:size], address) for size in range(whole)] == [None] * whole
        assert holder(frame[:whole], address) == MAC


def passes(program: neighbours.Filter, frame: bytes) -> bool:
    """Classic BPF, as far as it is used here; a load beyond the end drops the frame, as the kernel does."""
    at = loaded = 0
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        if code == neighbours.RETURN:
            return value > 0
        if code == neighbours.JUMP_IF_EQUAL:
            at += if_true if loaded == value else if_false
        else:
            size = {neighbours.LOAD_BYTE: 1, neighbours.LOAD_WORD: 4}[code]
            if value + size > len(frame):
                return False
            loaded = int.from_bytes(frame[value : value + size], "big")


@pytest.mark.parametrize(("address", "neighbour"), [(V4, V4 + 1), (V6, V6 + 1), (V6, V6 + (1 << 64))], ids=str)
def test_a_socket_wakes_for_this_address_only(address: neighbours.Address, neighbour: neighbours.Address):
    program = neighbours.socket_filter(address)
    assert all(passes(program, frame) for frame in announcements(address, MAC))
    assert not any(passes(program, frame) for frame in announcements(neighbour, MAC))
    assert not passes(program, probe(address, MAC))
    assert not passes(program, b"")
