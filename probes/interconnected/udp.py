"""Beats over UDP: one path between this node's address and its peers' addresses."""

import socket

from probes.interconnected.wire import BadBeat

LARGEST_BYTES = 2048


class CannotBind(OSError):
    """The path's own address cannot be used; says which and why."""


class UdpPath:
    """A socket bound exclusively to the node's configured address (rule 3); strangers' datagrams are dropped unread."""

    def __init__(self, own: tuple[str, int], peers: dict[str, tuple[str, int]]) -> None:
        self.own = own
        self.peers = peers
        self._known = {address: name for name, address in peers.items()}
        family = socket.AF_INET6 if ":" in own[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind(own)
        except OSError as error:
            self._socket.close()
            raise CannotBind(
                f"cannot bind the beat socket to {own[0]}:{own[1]}: {error.strerror}; "
                "is this the right node, and does no other keeper run for it?"
            ) from error

    def __str__(self) -> str:
        return f"udp://{self.own[0]}:{self.own[1]}"

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, peer: str, datagram: bytes) -> bool:
        """False when our own side could not send: no route, no buffer. The beat counts as lost."""
        address = self.peers.get(peer)
        if address is None:
            return False
        try:
            self._socket.sendto(datagram, address)
        except OSError:
            return False
        return True

    def receive(self) -> tuple[str, bytes] | None:
        """The next datagram and whose address it came from; None when there is none. Raises BadBeat for a stranger's."""
        try:
            datagram, source = self._socket.recvfrom(LARGEST_BYTES)
        except BlockingIOError:
            return None
        except OSError:  # an ICMP error of an earlier send: says nothing that silence does not say
            return self.receive()
        sender = self._known.get((source[0], source[1]))
        if sender is None:
            raise BadBeat("stranger", f"from {source[0]}:{source[1]}, which is no configured path")
        return sender, datagram
