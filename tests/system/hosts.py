"""Hosts made of network namespaces that share one bridge: stacks, interfaces and addresses of their own, and faults as verbs.

Every host has one interface, eth0, with an IPv4 and an IPv6 address; its cable's other end is in the namespace of the switch,
where nftables cuts and loses what passes. Files and process numbers are shared with this host.
"""

import contextlib
import ctypes
import functools
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.system.redis_servers import is_alive

T = TypeVar("T")

INTERFACE = "eth0"
NET = "10.77.0.0/24"
CLONE_NEWNET = 0x40000000


@functools.cache
def why_no_hosts() -> str:
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"tanist-{secrets.token_hex(3)}"
    for command in (["ip", "netns", "add", name], ["ip", "netns", "delete", name], ["nft", "--version"]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            return f"{command[0]}: {error.strerror} (Debian: apt-get install iproute2 nftables)"
        if done.returncode != 0:
            return f"no network namespaces here: {done.stderr.strip()}"
    return ""


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


@dataclass
class Host:
    name: str
    namespace: str
    number: int
    switch: "Switch"
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"10.77.0.{self.number}"

    @property
    def address6(self) -> str:
        return f"fd77::{self.number:x}"

    @property
    def cable(self) -> str:
        """The name of its end in the switch."""
        return f"to-{self.name}"

    @property
    def mac(self) -> str:
        return self.ip("-o", "link", "show", INTERFACE).split("link/ether ")[1].split()[0]

    # --- inside ------------------------------------------------------------------------------------------------------

    def run(self, *command: str, check: bool = True) -> str:
        return run("ip", "netns", "exec", self.namespace, *command, check=check)

    def ip(self, *words: str, check: bool = True) -> str:
        return run("ip", "-n", self.namespace, *words, check=check)

    def start(self, *command: str, **more: object) -> subprocess.Popen[bytes]:
        """A process on this host; ended with it. `ip netns exec` becomes the command: the number is its own."""
        words = ["ip", "netns", "exec", self.namespace, *command]
        process: subprocess.Popen[bytes] = subprocess.Popen(words, **more)  # type: ignore[call-overload]
        self.processes.append(process)
        return process

    def inside(self, act: Callable[[], T]) -> T:
        """Sockets that `act` makes are this host's, and stay so."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            with open(f"/run/netns/{self.namespace}") as namespace:
                _set_namespace(namespace.fileno())
            try:
                return act()
            finally:
                _set_namespace(own)
        finally:
            os.close(own)

    def has(self, address: str) -> bool:
        return f" {address}/" in self.ip("-o", "address", "show", "dev", INTERFACE)

    # --- faults ------------------------------------------------------------------------------------------------------

    def isolate(self) -> None:
        """Nothing comes to it, and nothing from it."""
        self.cut_from()
        self.cut_to()

    def cut_from(self) -> None:
        """What it sends is lost; it still hears."""
        self.switch.rule(f'iifname "{self.cable}" drop')

    def cut_to(self) -> None:
        """It hears nothing; what it sends still arrives."""
        self.switch.rule(f'oifname "{self.cable}" drop')

    def cut_off(self, other: "Host") -> None:
        """Nothing passes between the two."""
        self.switch.rule(f'iifname "{self.cable}" oifname "{other.cable}" drop')
        self.switch.rule(f'iifname "{other.cable}" oifname "{self.cable}" drop')

    def lose(self, percent: int) -> None:
        """This share of what it sends and of what is sent to it is lost."""
        for end in ("iifname", "oifname"):
            self.switch.rule(f'{end} "{self.cable}" numgen random mod 100 < {percent} drop')

    def heal(self) -> None:
        """All faults of this host's link are over."""
        self.switch.heal(self.cable)

    # --- the end -----------------------------------------------------------------------------------------------------

    def pids(self) -> list[int]:
        return [int(pid) for pid in run("ip", "netns", "pids", self.namespace, check=False).split()]

    def kill_all(self) -> None:
        """Every process of this host, also those that its processes started and left behind."""
        deadline = time.monotonic() + 10
        while pids := [pid for pid in self.pids() if is_alive(pid)]:
            assert time.monotonic() < deadline, f"{self.name}: processes {pids} do not die"
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        for process in self.processes:
            process.wait(10)


class Switch:
    """A namespace of its own with one bridge."""

    def __init__(self) -> None:
        self.name = f"tanist-{secrets.token_hex(3)}"
        self.hosts: dict[str, Host] = {}
        self._rules: list[str] = []

    def make(self) -> None:
        run("ip", "netns", "add", self.name)
        self.run("ip", "link", "add", "bridge", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
        self.run("ip", "link", "set", "bridge", "up")
        self._lay()

    def add(self, name: str) -> Host:
        host = Host(name, f"{self.name}-{name}", len(self.hosts) + 1, self)
        run("ip", "netns", "add", host.namespace)
        self.hosts[name] = host
        cable = ("type", "veth", "peer", "name", INTERFACE, "netns", host.namespace)
        self.run("ip", "link", "add", host.cable, *cable)
        self.run("ip", "link", "set", host.cable, "master", "bridge", "up")
        host.ip("link", "set", "lo", "up")
        host.ip("address", "add", f"{host.address}/24", "dev", INTERFACE)
        host.ip("address", "add", f"{host.address6}/64", "dev", INTERFACE, "nodad")
        host.ip("link", "set", INTERFACE, "up")
        return host

    def run(self, *command: str, check: bool = True) -> str:
        return run("ip", "netns", "exec", self.name, *command, check=check)

    def rule(self, text: str) -> None:
        self._rules.append(text)
        self._lay()

    def heal(self, cable: str) -> None:
        self._rules = [text for text in self._rules if f'"{cable}"' not in text]
        self._lay()

    def _lay(self) -> None:
        rules = "".join(f"add rule bridge faults passing {text}\n" for text in self._rules)
        table = "add table bridge faults\ndelete table bridge faults\nadd table bridge faults\n"
        chain = "add chain bridge faults passing { type filter hook forward priority 0; policy accept; }\n"
        command = ["ip", "netns", "exec", self.name, "nft", "-f", "-"]
        subprocess.run(command, input=table + chain + rules, text=True, check=True, capture_output=True)

    def end(self) -> None:
        for host in self.hosts.values():
            host.kill_all()
        for name in (*(host.namespace for host in self.hosts.values()), self.name):
            run("ip", "netns", "delete", name, check=False)
        left = list(Path("/run/netns").glob(f"{self.name}*"))
        assert not left, f"namespaces are left: {left}"


@contextlib.contextmanager
def hosts(*names: str) -> Iterator[dict[str, Host]]:
    switch = Switch()
    try:
        switch.make()
        for name in names:
            switch.add(name)
        yield switch.hosts
    finally:
        switch.end()


def _set_namespace(descriptor: int) -> None:
    """Of this thread. os.setns is there from Python 3.12."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(descriptor, CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


class Capture:
    """Every frame that passes a host's interface, with the moment when the kernel saw it."""

    def __init__(self, host: Host) -> None:
        def open_() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
            made.bind((INTERFACE, 0x0003))
            return made

        self.frames: list[tuple[float, bytes]] = []
        self._socket = host.inside(open_)
        self._socket.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
        self._socket.setblocking(False)

    def read(self) -> list[tuple[float, bytes]]:
        """All since the beginning; moments are of the wall clock, in seconds."""
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, notes, _, _ = self._socket.recvmsg(2048, 64)
                moment = next(
                    int.from_bytes(data[:8], "little") + int.from_bytes(data[8:16], "little") / 1e9 for _, _, data in notes
                )
                self.frames.append((moment, frame))
        return self.frames

    def close(self) -> None:
        self._socket.close()


def udp_socket(host: Host, address: str = "::") -> socket.socket:
    """On that host; `::` speaks IPv4 too, as ::ffff:a.b.c.d."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address, 0))
        return made

    return host.inside(make)
