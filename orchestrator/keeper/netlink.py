"""Netlink, as far as Tanist needs it: an nftables set's elements, interfaces' addresses, TCP connections. Standard library only.

Message layouts: Linux `uapi/linux/netlink.h`, `nfnetlink.h`, `nf_tables.h`, `rtnetlink.h`, `if_addr.h`, `inet_diag.h`.
"""

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

NETLINK_ROUTE: Final = 0
NETLINK_SOCK_DIAG: Final = 4
NETLINK_NETFILTER: Final = 12
NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP = 0x1, 0x4, 0x400, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NFNL_BATCH_BEGIN, NFNL_BATCH_END = 0x10, 0x11
NFNL_SUBSYS_NFTABLES: Final = 10
NFT_NEWSETELEM, NFT_DELSETELEM = 12, 14
NFT_GETRULE: Final = 7
NFPROTO_INET: Final = 1
NLA_F_NESTED: Final = 0x8000
NLM_F_REPLACE: Final = 0x100
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
IFA_ADDRESS, IFA_LOCAL, IFA_CACHEINFO = 1, 2, 6
IFA_F_NODAD: Final = 0x02
WITHOUT_END: Final = 0xFFFFFFFF
SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 20, 21
CONNECTED: Final = sum(1 << state for state in (1, 3, 4, 5, 8, 9, 11))
"""TCP states (net/tcp_states.h) with another end that may wait: all but listening, our own connecting, and what is over."""

_HEADER = struct.Struct("=IHHII")
_GENMSG = struct.Struct("!BBH")
_ERROR = struct.Struct("=i")
_IFADDRMSG = struct.Struct("=BBBBi")
_DIAG_REQUEST = struct.Struct("=BBBxI48s")
_DIAG_ANSWER = struct.Struct("=4x48s")
_DIAG_ID = struct.Struct("!HH16s16s")


def _attribute(kind: int, payload: bytes) -> bytes:
    size = 4 + len(payload)
    return struct.pack("=HH", size, kind) + payload + b"\0" * (-size % 4)


def _message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags | NLM_F_REQUEST, sequence, 0) + body


def _messages(answer: bytes) -> Iterator[tuple[int, int, int]]:
    """Kind, sequence and, of an error, its code."""
    at = 0
    while at < len(answer):
        size, kind, _, answered, _ = _HEADER.unpack_from(answer, at)
        code = _ERROR.unpack_from(answer, at + _HEADER.size)[0] if kind == NLMSG_ERROR else 0
        yield kind, answered, code
        at += (size + 3) & ~3


class Netlink:
    """One netlink socket; every request is acknowledged by the kernel before the call returns."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.bind((0, 0))
        self._socket.settimeout(0.1)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence

    def ask(self, request: bytes, first: int, sequence: int) -> None:
        """Send and wait for the answer to `sequence`. Raises OSError with the kernel's reason.

        Of a refused batch the kernel answers every message, so answers to what was sent before `first` may still wait.
        """
        self._socket.send(request)
        while True:
            for kind, answered, code in _messages(self._socket.recv(8192)):
                if kind == NLMSG_ERROR and answered >= first:
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    if answered == sequence:
                        return

    def count(self, request: bytes) -> int:
        """How many things a dump shows. Raises OSError with the kernel's reason."""
        self._socket.send(request)
        found = 0
        while True:
            for kind, _, code in _messages(self._socket.recv(65536)):
                if code:
                    raise OSError(-code, os.strerror(-code))
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    return found
                found += 1

    def dump(self, request: bytes) -> Iterator[bytes]:
        """The body of each thing that a dump shows. Raises OSError with the kernel's reason."""
        self._socket.send(request)
        while True:
            answer, at = self._socket.recv(65536), 0
            while at < len(answer):
                size, kind, _, _, _ = _HEADER.unpack_from(answer, at)
                if kind == NLMSG_DONE:
                    return
                body = answer[at + _HEADER.size : at + size]
                if kind == NLMSG_ERROR:
                    code = _ERROR.unpack_from(body)[0]
                    raise OSError(-code, os.strerror(-code))
                yield body
                at += (size + 3) & ~3


def count_rules(table: str) -> int:
    """Rules that stand in an nftables table of the family inet. Raises OSError with the kernel's reason."""
    netlink = Netlink(NETLINK_NETFILTER)
    try:
        body = _GENMSG.pack(NFPROTO_INET, 0, 0) + _attribute(1, table.encode() + b"\0")
        kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_GETRULE
        return netlink.count(_message(kind, NLM_F_DUMP, netlink.next_sequence(), body))
    finally:
        netlink.close()


class TimedElement:
    """The one element of an nftables set that lets clients through, and leaves by itself when its time is up."""

    def __init__(self, table: str, set_name: str, key: bytes) -> None:
        self._netlink = Netlink(NETLINK_NETFILTER)
        self._table = _attribute(1, table.encode() + b"\0")
        self._set = _attribute(2, set_name.encode() + b"\0")
        self._key = _attribute(NLA_F_NESTED | 1, _attribute(1, key))

    def stand(self, milliseconds: int | None) -> None:
        """Let it stand for this long from now; None: without end.

        Added, deleted and added again in one batch: a kernel older than 6.12 does not renew the time of an element that
        stands, and deleting one that does not stand would fail. The batch is atomic: no packet meets a gap.
        """
        timed = self._element(milliseconds)
        plain = self._element(None)
        self._batch((NFT_NEWSETELEM, NLM_F_CREATE, timed), (NFT_DELSETELEM, 0, plain), (NFT_NEWSETELEM, NLM_F_CREATE, timed))

    def fall(self) -> None:
        """Take it away now."""
        plain = self._element(None)
        self._batch((NFT_NEWSETELEM, NLM_F_CREATE, plain), (NFT_DELSETELEM, 0, plain))

    def close(self) -> None:
        self._netlink.close()

    def _element(self, milliseconds: int | None) -> bytes:
        element = self._key
        if milliseconds is not None:
            element += _attribute(4, struct.pack("!Q", max(1, milliseconds)))
        return (
            _GENMSG.pack(NFPROTO_INET, 0, 0)
            + self._table
            + self._set
            + _attribute(NLA_F_NESTED | 3, _attribute(NLA_F_NESTED | 1, element))
        )

    def _batch(self, *parts: tuple[int, int, bytes]) -> None:
        netlink = self._netlink
        edge = _GENMSG.pack(0, 0, NFNL_SUBSYS_NFTABLES)
        first = netlink.next_sequence()
        request = _message(NFNL_BATCH_BEGIN, 0, first, edge)
        for number, (kind, flags, body) in enumerate(parts, start=1):
            acknowledged = NLM_F_ACK if number == len(parts) else 0
            sequence = netlink.next_sequence()
            request += _message(NFNL_SUBSYS_NFTABLES << 8 | kind, flags | acknowledged, sequence, body)
        request += _message(NFNL_BATCH_END, 0, netlink.next_sequence(), edge)
        netlink.ask(request, first, sequence)


def _address_body(address: str, prefix: int, interface: str, flags: int = 0) -> bytes:
    """Raises OSError when there is no such interface."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    body = _IFADDRMSG.pack(family, prefix, flags, 0, socket.if_nametoindex(interface))
    return body + _attribute(IFA_LOCAL, packed) + _attribute(IFA_ADDRESS, packed)


def _change_address(kind: int, flags: int, body: bytes) -> None:
    netlink = Netlink(NETLINK_ROUTE)
    try:
        sequence = netlink.next_sequence()
        netlink.ask(_message(kind, flags | NLM_F_ACK, sequence, body), sequence, sequence)
    finally:
        netlink.close()


def take_address(address: str, prefix: int, interface: str, lasts: int | None) -> None:
    """Add an address, or set its time anew: the kernel takes it away after `lasts` seconds; None: never. Raises OSError.

    IPv6: the kernel does not look for another holder, which takes a second, during which the address could not be used; and it
    never chooses the address as the source of a connection from here, which would break when it moves.
    """
    valid = WITHOUT_END if lasts is None else lasts
    preferred, flags = (0, IFA_F_NODAD) if ":" in address else (valid, 0)
    body = _address_body(address, prefix, interface, flags) + _attribute(
        IFA_CACHEINFO, struct.pack("=4I", preferred, valid, 0, 0)
    )
    _change_address(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body)


def drop_address(address: str, prefix: int, interface: str) -> bool:
    """Remove an address from an interface; False when it was not there. Raises OSError otherwise."""
    try:
        _change_address(RTM_DELADDR, 0, _address_body(address, prefix, interface))
    except OSError as error:
        if error.errno in (99, 19):  # EADDRNOTAVAIL, ENODEV: not there, which is what was wanted
            return False
        raise
    return True


def prefixes(address: str, interface: str) -> set[int]:
    """With which prefixes an interface has an address; empty: it has not. Raises OSError, also when there is no such interface.

    A host may have hundreds of addresses, and this is asked often: others are passed over without being taken apart.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed, index = socket.inet_pton(family, address), socket.if_nametoindex(interface)
    netlink = Netlink(NETLINK_ROUTE)
    try:
        request = _message(RTM_GETADDR, NLM_F_DUMP, netlink.next_sequence(), _IFADDRMSG.pack(family, 0, 0, 0, 0))
        bodies = [body for body in netlink.dump(request) if packed in body]
    finally:
        netlink.close()
    return {body[1] for body in bodies if _IFADDRMSG.unpack_from(body)[4] == index and _own_address(body) == packed}


def _own_address(body: bytes) -> bytes:
    """On a point-to-point link IFA_ADDRESS is the other end's."""
    found, at = {}, _IFADDRMSG.size
    while at + 4 <= len(body):
        size, kind = struct.unpack_from("=HH", body, at)
        found[kind] = body[at + 4 : at + size]
        at += max(4, (size + 3) & ~3)
    return found.get(IFA_LOCAL, found.get(IFA_ADDRESS, b""))


def end_connections(port: int, addresses: tuple[str, ...], spared: set[str]) -> int:
    """Reset every TCP connection to this port here (at these addresses; empty: at all), but for those from `spared`.

    Both ends learn it at once, and nothing that waits in a buffer is delivered. Raises OSError where the kernel cannot.
    """
    netlink = Netlink(NETLINK_SOCK_DIAG)
    ended = 0
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            wanted = _DIAG_REQUEST.pack(family, socket.IPPROTO_TCP, 0, CONNECTED, struct.pack("!H46x", port))
            found = list(netlink.dump(_message(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, netlink.next_sequence(), wanted)))
            for (identity,) in (_DIAG_ANSWER.unpack_from(body) for body in found):
                here, there = _ends(family, identity)
                if there not in spared and (here in addresses or not addresses):
                    ended += _end_connection(netlink, _DIAG_REQUEST.pack(family, socket.IPPROTO_TCP, 0, CONNECTED, identity))
    finally:
        netlink.close()
    return ended


def _end_connection(netlink: Netlink, wanted: bytes) -> bool:
    """False when it has ended by itself."""
    sequence = netlink.next_sequence()
    try:
        netlink.ask(_message(SOCK_DESTROY, NLM_F_ACK, sequence, wanted), sequence, sequence)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def _ends(family: int, identity: bytes) -> tuple[str, str]:
    """The addresses of both ends; a socket of IPv6 may have been reached by IPv4."""
    _, _, here, there = _DIAG_ID.unpack_from(identity)
    return _in_words(family, here), _in_words(family, there)


def _in_words(family: int, packed: bytes) -> str:
    if family == socket.AF_INET:
        return str(ipaddress.IPv4Address(packed[:4]))
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)
