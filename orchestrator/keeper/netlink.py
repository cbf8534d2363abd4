"""Netlink, as far as the keeper needs it: elements of an nftables set, and removing an address. Standard library only.

Message layouts: Linux `uapi/linux/netlink.h`, `nfnetlink.h`, `nf_tables.h`, `rtnetlink.h`, `if_addr.h`.
"""

import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

NETLINK_ROUTE: Final = 0
NETLINK_NETFILTER: Final = 12
NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP = 0x1, 0x4, 0x400, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NFNL_BATCH_BEGIN, NFNL_BATCH_END = 0x10, 0x11
NFNL_SUBSYS_NFTABLES: Final = 10
NFT_NEWSETELEM, NFT_DELSETELEM = 12, 14
NFT_GETRULE: Final = 7
NFPROTO_INET: Final = 1
NLA_F_NESTED: Final = 0x8000
RTM_DELADDR: Final = 21
IFA_LOCAL, IFA_ADDRESS = 2, 1

_HEADER = struct.Struct("=IHHII")
_GENMSG = struct.Struct("!BBH")
_ERROR = struct.Struct("=i")


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


def drop_address(address: str, prefix: int, interface: str) -> bool:
    """Remove an address from an interface; False when it was not there. Raises OSError otherwise."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    body = struct.pack("=BBBBi", family, prefix, 0, 0, socket.if_nametoindex(interface))
    body += _attribute(IFA_LOCAL, packed) + _attribute(IFA_ADDRESS, packed)
    netlink = Netlink(NETLINK_ROUTE)
    try:
        sequence = netlink.next_sequence()
        netlink.ask(_message(RTM_DELADDR, NLM_F_ACK, sequence, body), sequence, sequence)
    except OSError as error:
        if error.errno in (99, 19):  # EADDRNOTAVAIL, ENODEV: not there, which is what was wanted
            return False
        raise
    finally:
        netlink.close()
    return True
