"""A virtual IP address: taken by the primary, announced to the network, and left when another one serves.

Only this file takes the address, and only while the keeper's page shows the right. Deleting it at the end of the right is
the keeper's (`keeper/addresshand.py`), which does it without us.
"""

import asyncio
import contextlib
import ctypes
import socket
import struct
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

from orchestrator.actuators import neighbours
from orchestrator.domain.effects import EnsureClients
from orchestrator.domain.spans import NEVER, Instant, Span
from orchestrator.domain.topology import NodeName
from orchestrator.keeper import netlink
from orchestrator.keeper.addresshand import lasts
from orchestrator.keeper.setup import AddressSetup
from orchestrator.ports import NotConfirmed, RefusedByPeer

PROBES: Final = 3
PROBE_EVERY: Span = 0.01
"""Another holder on the same network answers within a millisecond. RFC 5227 would wait for seconds: clients wait for us."""

ANNOUNCED_AFTER: Final = (0.0, 0.05, 0.15, 0.4, 1.0, 2.0, 4.0)
"""A neighbour may have missed the first, or not believe two within a second."""
ANNOUNCE_EVERY: Span = 10.0

RIGHT_AGAIN: Span = 0.02
"""How soon a right that comes back after a freeze is noticed."""
TAKE_AGAIN: Span = 0.25
"""How soon an address that somebody else has, or that the kernel refused, is tried for again."""
TELL_AGAIN: Span = 60.0
"""How often the same other holder is told of."""

ARPHRD_ETHER: Final = 1
SO_ATTACH_FILTER: Final = 26

REMOVALS: Final = (
    (0x28, 0, 0, 4),  # load the kind of a netlink message, as if it stood in network order
    (0x15, 0, 1, socket.htons(netlink.RTM_DELADDR)),
    (0x06, 0, 0, 0xFFFF),
    (0x06, 0, 0, 0),
)
"""A socket filter (classic BPF): the keepers' setting times anew, every second for every address, wakes nobody."""


class VipActuator:
    """One address on one interface of this host. A newer epoch is never undone by an older one."""

    def __init__(self, vip: AddressSetup, me: NodeName, lease: Span, may_hold: Callable[[int], bool]) -> None:
        """`may_hold` asks the keeper's page, at this very moment, for the right in an epoch."""
        self.vip = vip
        self.alarmed: Callable[[str, str], None] = lambda code, text: None
        self.happened: Callable[[str, str], None] = lambda code, text: None
        self._me = me
        self._lasts = lasts(lease)
        self._may_hold = may_hold
        self._obeyed_epoch = 0
        self._wished = False
        self._held = False
        self._acting = asyncio.Lock()
        self._disturbed = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._link: Link | None = None
        self._announced = 0
        self._announce_at: Instant = NEVER
        self._seen: dict[bytes, Instant] = {}

    def __str__(self) -> str:
        return f"{self.vip.address}/{self.vip.prefix} on {self.vip.interface}"

    # --- the port's calls --------------------------------------------------------------------------------------------

    async def ensure(self, wanted: EnsureClients) -> bool:
        """What stands in the way is tried again in the background until another wish comes."""
        if wanted.epoch < self._obeyed_epoch:
            raise RefusedByPeer(f"{self} serves epoch {self._obeyed_epoch}; epoch {wanted.epoch} is older")
        self._obeyed_epoch = wanted.epoch
        self._wished = wanted.primary == self._me
        if not self._wished:
            self._disturbed.set()
            return await self._leave()
        try:
            return await self._hold()
        except NotConfirmed as error:
            raise RefusedByPeer(str(error)) from error
        finally:
            if self._keeping is None or self._keeping.done():
                self._keeping = asyncio.create_task(self._keep())

    async def would_change(self, wanted: EnsureClients) -> str:
        there = await self._is_there()
        if there is (wanted.primary == self._me):
            return ""
        return f"{self} would be {'dropped' if there else 'taken'}\n"

    # --- holding -----------------------------------------------------------------------------------------------------

    async def _hold(self) -> bool:
        """Present and announced, or NotConfirmed with the reason. True when it had to be taken."""
        async with self._acting:
            if not self._wished:
                return False
            self._check_right()
            there = await self._is_there()
            if there and self._held:
                return False
            self._held = False
            link = self._open()
            if not there:
                await self._check_free(link)
                await self._take()
            self._held = True
            self._announced, self._announce_at = 0, time.monotonic()
            self._announce()
            return not there

    def _check_right(self) -> None:
        if not self._may_hold(self._obeyed_epoch):
            raise NotConfirmed(f"{self}: no right to serve in epoch {self._obeyed_epoch} at this moment")

    async def _is_there(self) -> bool:
        try:
            found = await asyncio.to_thread(netlink.prefixes, self.vip.address, self.vip.interface)
        except OSError as error:
            raise NotConfirmed(f"{self}: the interface cannot be asked: {error.strerror}") from error
        return self.vip.prefix in found

    async def _check_free(self, link: "Link") -> None:
        """Ask the network; whoever has the address answers."""
        link.others.clear()
        for _ in range(PROBES):
            link.probe()
            await asyncio.sleep(PROBE_EVERY)
            if link.others:
                raise NotConfirmed(f"{self} is not taken: {_listed(link.others)} has it")

    async def _take(self) -> None:
        """The right is looked at again afterwards: this process may have stood still in between."""
        vip = self.vip
        self._check_right()
        try:
            for wrong in await asyncio.to_thread(netlink.prefixes, vip.address, vip.interface) - {vip.prefix}:
                await asyncio.to_thread(netlink.drop_address, vip.address, wrong, vip.interface)
            await asyncio.to_thread(netlink.take_address, vip.address, vip.prefix, vip.interface, self._lasts)
            if not self._may_hold(self._obeyed_epoch):
                await asyncio.to_thread(netlink.drop_address, vip.address, vip.prefix, vip.interface)
                self._check_right()
        except OSError as error:
            raise NotConfirmed(f"{self}: the kernel refuses: {error.strerror}") from error
        if not await self._is_there():
            raise NotConfirmed(f"{self} was taken, and is not there: somebody else removes it")

    async def _leave(self) -> bool:
        async with self._acting:
            self._close()
            try:
                vip = self.vip
                return await asyncio.to_thread(netlink.drop_address, vip.address, vip.prefix, vip.interface)
            except OSError as error:
                raise NotConfirmed(f"{self} cannot be dropped: {error.strerror}") from error

    # --- meanwhile ---------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Announce it now and then; take it again when somebody removed it, or when the right is back after a freeze."""
        news = _AddressNews(self._disturbed.set)
        try:
            while self._wished:
                self._disturbed.clear()
                await self._keep_once()
        finally:
            news.close()
            self._close()

    async def _keep_once(self) -> None:
        if not self._may_hold(self._obeyed_epoch):
            self._held = False
            await asyncio.sleep(RIGHT_AGAIN)
            return
        had = self._held
        try:
            if await self._hold():
                self.happened("vip", f"{self} was {'missing: it was ' if had else ''}taken and announced again")
        except NotConfirmed:
            self._held = False
            await asyncio.sleep(TAKE_AGAIN)
            return
        self._announce()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._announce_at - time.monotonic())):
                await self._disturbed.wait()

    def _announce(self) -> None:
        """If it is time to."""
        moment = time.monotonic()
        if self._link is None or not self._held or moment < self._announce_at:
            return
        self._link.announce()
        self._announced += 1
        later, number = ANNOUNCED_AFTER, self._announced
        self._announce_at = moment + (later[number] - later[number - 1] if number < len(later) else ANNOUNCE_EVERY)

    # --- other holders -----------------------------------------------------------------------------------------------

    def _open(self) -> "Link":
        self._close()
        try:
            self._link = Link(self.vip, self._heard)
        except OSError as error:
            raise NotConfirmed(f"{self}: the interface cannot be listened to: {error.strerror}") from error
        return self._link

    def _close(self) -> None:
        self._held = False
        if self._link is not None:
            self._link.close()
            self._link = None

    def _heard(self, mac: bytes) -> None:
        """Somebody else says that the address is his: people must know, and neighbours must not believe it for long."""
        moment = time.monotonic()
        if moment < self._seen.get(mac, NEVER) + TELL_AGAIN:
            return
        self._seen[mac] = moment
        self.alarmed("vip: other holder", f"{self}: {neighbours.in_words(mac)} says that it has this address")
        self._announce_at = moment
        self._disturbed.set()


class Link:
    """A socket on the interface, beside the kernel's own handling of its addresses. Links without ARP are silent."""

    def __init__(self, vip: AddressSetup, heard: Callable[[bytes], None]) -> None:
        self.others: set[bytes] = set()
        self._address = ip_address(vip.address)
        self._heard = heard
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
        try:
            _attach(self._socket, neighbours.socket_filter(self._address))
            self._socket.bind((vip.interface, neighbours.ether_type(self._address)))
            self._silent = self._socket.getsockname()[3] != ARPHRD_ETHER
        except OSError:
            self._socket.close()
            raise
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)

    @property
    def _mac(self) -> bytes:
        mac: bytes = self._socket.getsockname()[4]
        return mac

    def probe(self) -> None:
        self._send(neighbours.probe(self._address, self._mac))

    def announce(self) -> None:
        for frame in neighbours.announcements(self._address, self._mac):
            self._send(frame)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()

    def _send(self, frame: bytes) -> None:
        if not self._silent:
            with contextlib.suppress(OSError):  # the link is down: it is announced again soon
                self._socket.send(frame)

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                mac = neighbours.holder(self._socket.recv(256), self._address)
                if mac is not None and mac != self._mac:
                    self.others.add(mac)
                    self._heard(mac)


class _AddressNews:
    """Calls `removed` whenever an address of this host was removed."""

    def __init__(self, removed: Callable[[], None]) -> None:
        self._removed = removed
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, netlink.NETLINK_ROUTE)
        _attach(self._socket, REMOVALS)
        self._socket.bind((0, netlink.RTMGRP_IPV4_IFADDR | netlink.RTMGRP_IPV6_IFADDR))
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)

    def _read(self) -> None:
        try:
            while True:
                self._socket.recv(8192)
                self._removed()
        except BlockingIOError:
            pass
        except OSError:  # more news than fitted: one of them may have been ours
            self._removed()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()


def _attach(to: socket.socket, program: tuple[tuple[int, int, int, int], ...]) -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    to.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))


def _listed(macs: set[bytes]) -> str:
    return ", ".join(sorted(map(neighbours.in_words, macs)))
