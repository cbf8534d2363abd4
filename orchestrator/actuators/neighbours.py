"""Who has an address on an Ethernet link: asking, telling, and hearing it from others. Pure: frames in and out.

IPv4: ARP (RFC 826), probes and announcements of RFC 5227. IPv6: neighbour discovery (RFC 4861, 4862).
"""

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address

ETH_ARP, ETH_IPV6 = 0x0806, 0x86DD
ARP_REQUEST, ARP_REPLY = 1, 2
ICMPV6: Final = 58
NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT = 135, 136
TARGET_LINK_ADDRESS: Final = 2
OVERRIDE: Final = 0x20000000
EVERYBODY: Final = b"\xff" * 6
ALL_NODES: Final = IPv6Address("ff02::1")

_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_NEIGHBOUR = struct.Struct("!BBHI16s")

Filter: TypeAlias = tuple[tuple[int, int, int, int], ...]
"""Classic BPF, as setsockopt takes it."""
LOAD_BYTE, LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x30, 0x20, 0x15, 0x06


def ether_type(address: Address) -> int:
    return ETH_ARP if address.version == 4 else ETH_IPV6


def socket_filter(address: Address) -> Filter:
    """Lets only frames through in which somebody may say that he has this address: a busy network wakes nobody."""
    if isinstance(address, IPv4Address):
        wanted = [(LOAD_WORD, 28, int(address))]
    else:
        words = [int.from_bytes(address.packed[at : at + 4], "big") for at in range(0, 16, 4)]
        wanted = [(LOAD_BYTE, 20, ICMPV6), (LOAD_BYTE, 54, NEIGHBOUR_ADVERTISEMENT)]
        wanted += [(LOAD_WORD, 62 + 4 * number, word) for number, word in enumerate(words)]
    program: list[tuple[int, int, int, int]] = []
    for number, (load, offset, value) in enumerate(wanted):
        to_the_end = 2 * (len(wanted) - number - 1) + 1
        program += [(load, 0, 0, offset), (JUMP_IF_EQUAL, 0, to_the_end, value)]
    return (*program, (RETURN, 0, 0, 0xFFFF), (RETURN, 0, 0, 0))


def probe(address: Address, mac: bytes) -> bytes:
    """Has anybody this address? Asked from no address, so that nobody's neighbour table changes."""
    if isinstance(address, IPv4Address):
        return _arp(ARP_REQUEST, mac, b"\0" * 4, b"\0" * 6, address.packed)
    body = _NEIGHBOUR.pack(NEIGHBOUR_SOLICITATION, 0, 0, 0, address.packed)
    return _icmp(mac, IPv6Address("::"), IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | int(address) & 0xFFFFFF), body)


def announcements(address: Address, mac: bytes) -> tuple[bytes, ...]:
    """This address is here now. ARP in both of its forms: some devices learn from requests only, some from replies only."""
    if isinstance(address, IPv4Address):
        own = address.packed
        return _arp(ARP_REQUEST, mac, own, b"\0" * 6, own), _arp(ARP_REPLY, mac, own, mac, own)
    option = struct.pack("!BB6s", TARGET_LINK_ADDRESS, 1, mac)
    body = _NEIGHBOUR.pack(NEIGHBOUR_ADVERTISEMENT, 0, 0, OVERRIDE, address.packed) + option
    return (_icmp(mac, address, ALL_NODES, body),)


def holder(frame: bytes, address: Address) -> bytes | None:
    """The link address of whoever says in this frame that it has `address`; None when nobody does."""
    if len(frame) < _ETHERNET.size:
        return None
    _, source, kind = _ETHERNET.unpack_from(frame)
    if isinstance(address, IPv4Address):
        return _arp_holder(frame, address) if kind == ETH_ARP else None
    if kind != ETH_IPV6 or len(frame) < _ETHERNET.size + _IPV6.size + _NEIGHBOUR.size:
        return None
    _, _, next_header, hops, _, _ = _IPV6.unpack_from(frame, _ETHERNET.size)
    what, _, _, _, target = _NEIGHBOUR.unpack_from(frame, _ETHERNET.size + _IPV6.size)
    told = next_header == ICMPV6 and hops == 255 and what == NEIGHBOUR_ADVERTISEMENT and target == address.packed
    return source if told else None


def _arp_holder(frame: bytes, address: IPv4Address) -> bytes | None:
    if len(frame) < _ETHERNET.size + _ARP.size:
        return None
    hardware, protocol, _, _, _, mac, own, _, _ = _ARP.unpack_from(frame, _ETHERNET.size)
    found: bytes = mac
    return found if (hardware, protocol) == (1, 0x0800) and own == address.packed else None


def _arp(what: int, mac: bytes, own: bytes, other_mac: bytes, other: bytes) -> bytes:
    return _ETHERNET.pack(EVERYBODY, mac, ETH_ARP) + _ARP.pack(1, 0x0800, 6, 4, what, mac, own, other_mac, other)


def _icmp(mac: bytes, source: IPv6Address, to: IPv6Address, body: bytes) -> bytes:
    pseudo = source.packed + to.packed + struct.pack("!II", len(body), ICMPV6)
    body = body[:2] + struct.pack("!H", _checksum(pseudo + body)) + body[4:]
    everybody = b"\x33\x33" + to.packed[-4:]
    head = _IPV6.pack(6 << 28, len(body), ICMPV6, 255, source.packed, to.packed)
    return _ETHERNET.pack(everybody, mac, ETH_IPV6) + head + body


def _checksum(data: bytes) -> int:
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))  # the length is always even here
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def in_words(mac: bytes) -> str:
    return ":".join(f"{each:02x}" for each in mac)
