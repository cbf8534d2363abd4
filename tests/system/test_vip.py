"""A virtual address on real network stacks: who takes it, who announces it, what a client in the same network sees."""

import itertools
import json
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from orchestrator.actuators import neighbours
from orchestrator.actuators.vip import ANNOUNCED_AFTER
from orchestrator.keeper import netlink
from orchestrator.keeper.setup import AddressSetup, write_setup
from tests.system.conftest import Keeper, now
from tests.system.holder import ME
from tests.system.hosts import INTERFACE, Capture, Host, hosts, why_no_hosts
from tests.system.redis_servers import state_of, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(60), pytest.mark.skipif(bool(why_no_hosts()), reason=why_no_hosts())]

VIP, VIP6 = "10.77.0.200", "fd77::200"
PREFIX = {VIP: 24, VIP6: 64}
AT_ONCE = 0.5
"""Seconds, on a machine that is busy with other things too."""


class Holder:
    """The actuator, in a process on that host."""

    def __init__(self, host: Host, address: str, lease: float = 60.0) -> None:
        """No keeper sets the address's time anew: it runs out after the lease."""
        self.host = host
        self.address = address
        self.told: list[list[object]] = []
        words = [sys.executable, "-m", "tests.system.holder", address, str(PREFIX[address]), INTERFACE, str(lease)]
        self.process = host.start(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.answer()

    def ask(self, *words: object) -> object:
        assert self.process.stdin is not None
        self.process.stdin.write((" ".join(map(str, words)) + "\n").encode())
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> object:
        while True:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            assert line, "the holder has ended"
            what, *rest = json.loads(line)
            if what == "answer":
                return rest[0]
            self.told.append([what, *rest])

    def tells(self, what: str) -> list[str]:
        """All that it has told of its own accord."""
        assert self.process.stdout is not None
        while select.select([self.process.stdout], [], [], 0)[0]:
            self.told.append(json.loads(self.process.stdout.readline()))
        return [str(words[0]) for kind, *words in self.told if kind == what]

    def holds(self) -> bool:
        return self.host.has(self.address)


@dataclass(frozen=True)
class Heard:
    """One announcement, taken apart here and not by the code under test."""

    at: float
    mac: str
    kind: str
    to: str


def announced(capture: Capture, address: str) -> list[Heard]:
    return [heard for at, frame in capture.read() if (heard := _announcement(at, frame, address)) is not None]


def _announcement(at: float, frame: bytes, address: str) -> Heard | None:
    to, source, kind = frame[:6].hex(":"), frame[6:12].hex(":"), struct.unpack("!H", frame[12:14])[0]
    if kind == 0x0806 and ":" not in address:
        own, other = frame[28:32], frame[38:42]
        if own == other == socket.inet_aton(address) and frame[22:28] == frame[6:12]:
            return Heard(at, source, {1: "request", 2: "reply"}[frame[21]], to)
    if kind == 0x86DD and frame[20] == 58 and frame[54] == 136 and frame[58] & 0x40 == 0 and ":" in address:
        packed = socket.inet_pton(socket.AF_INET6, address)
        if frame[62:78] == packed == frame[22:38] and frame[78:80] == b"\x02\x01" and frame[80:86] == frame[6:12]:
            assert frame[21] == 255, "hop limit"
            assert frame[58] == 0x20, "override"
            return Heard(at, source, "advertisement", to)
    return None


@pytest.fixture
def net() -> Iterator[dict[str, Host]]:
    with hosts("a", "b", "c") as made:
        yield made


@pytest.fixture
def capture(net: dict[str, Host]) -> Iterator[Capture]:
    made = Capture(net["c"])
    yield made
    made.close()


both_families = pytest.mark.parametrize("address", [VIP, VIP6], ids=["IPv4", "IPv6"])


class Client:
    """On a host: asks again and again who answers at the address. Every host under test answers with its own name."""

    PORT = 7777

    def __init__(self, host: Host, address: str, servers: list[Host]) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.end = (address, self.PORT)
        for server in servers:
            code = (
                f"import socket; s = socket.socket(socket.AF_INET{'6' if ':' in address else ''}, socket.SOCK_DGRAM); "
                f"s.bind(('{'::' if ':' in address else ''}', {self.PORT})); print('ready', flush=True)\n"
                # the answer leaves from the address that was asked, as with TCP
                f"s.setsockopt(socket.IPPROTO_IP, 8, 1) if {family == socket.AF_INET} else s.setsockopt(41, 49, 1)\n"
                "while True:\n"
                "    data, notes, _, peer = s.recvmsg(100, 100)\n"
                f"    s.sendmsg([b'{server.name}'], notes, 0, peer)\n"
            )
            process = server.start(sys.executable, "-c", code, stdout=subprocess.PIPE)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        self.socket = host.inside(lambda: socket.socket(family, socket.SOCK_DGRAM))
        self.socket.settimeout(0.02)

    def who(self) -> str:
        try:
            self.socket.sendto(b"?", self.end)
            return self.socket.recv(100).decode()
        except OSError:
            return ""


# --- taking and announcing -------------------------------------------------------------------------------------------


@both_families
def test_it_is_taken_with_its_prefix_and_announced_several_times(net: dict[str, Host], capture: Capture, address: str):
    holder = Holder(net["a"], address)
    began = time.time()
    assert holder.ask("ensure", ME, 1) is True
    assert f" {address}/{PREFIX[address]} " in net["a"].ip("-o", "address", "show", "dev", INTERFACE)
    kinds = {"request", "reply"} if address == VIP else {"advertisement"}
    wait_for(lambda: len(announced(capture, address)) >= 6 * len(kinds))
    heard = announced(capture, address)
    assert {each.mac for each in heard} == {net["a"].mac}
    assert {each.to for each in heard} == ({"ff:ff:ff:ff:ff:ff"} if address == VIP else {"33:33:00:00:00:01"})
    assert {each.kind for each in heard} == kinds
    moments = [each.at for each in heard if each.kind == min(kinds)]
    assert moments[0] - began < AT_ONCE
    assert moments[2] - moments[0] < AT_ONCE, "the first few come quickly"
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert gaps[-1] > 0.8, "and then ever more seldom"
    probes = [at for at, frame in capture.read() if is_probe(frame, address)]
    assert len(probes) == 3
    assert max(probes) < moments[0], "nobody is told before everybody was asked"
    assert holder.ask("ensure", ME, 1) is False, "what is there already is left as it is"
    assert holder.tells("alarm") == []


def is_probe(frame: bytes, address: str) -> bool:
    """Of ours, or of an address that the kernel checks: from nobody, for this address."""
    if ":" in address:
        packed = socket.inet_pton(socket.AF_INET6, address)
        return frame[12:14] == b"\x86\xdd" and frame[54] == 135 and frame[22:38] == b"\0" * 16 and frame[62:78] == packed
    return frame[12:14] == b"\x08\x06" and frame[28:32] == b"\0" * 4 and frame[38:42] == socket.inet_aton(address)


@both_families
def test_a_client_is_led_to_the_new_holder_at_once(net: dict[str, Host], address: str):
    first, second = Holder(net["a"], address), Holder(net["b"], address)
    client = Client(net["c"], address, [net["a"], net["b"]])
    first.ask("ensure", ME, 1)
    wait_for(lambda: client.who() == "a")
    assert first.ask("ensure", "other", 2) is True
    assert not first.holds()
    began = time.monotonic()
    assert second.ask("ensure", ME, 2) is True
    wait_for(lambda: client.who() == "b")
    assert time.monotonic() - began < AT_ONCE
    assert first.tells("alarm") == second.tells("alarm") == []


@both_families
def test_an_address_that_somebody_else_has_is_not_taken_and_told_of_at_once(net: dict[str, Host], address: str):
    net["c"].ip("address", "add", f"{address}/{PREFIX[address]}", "dev", INTERFACE, "nodad")
    holder = Holder(net["a"], address)
    said = holder.ask("ensure", ME, 1)
    assert net["c"].mac in str(said)
    assert not holder.holds()
    assert [net["c"].mac in text for text in holder.tells("alarm")] == [True]
    net["c"].ip("address", "del", f"{address}/{PREFIX[address]}", "dev", INTERFACE)
    wait_for(holder.holds)
    wait_for(lambda: holder.tells("event"))


def test_without_a_right_it_is_not_taken_and_with_one_that_comes_back_it_is(net: dict[str, Host]):
    holder = Holder(net["a"], VIP)
    holder.ask("right", "no")
    assert "no right" in str(holder.ask("ensure", ME, 1))
    assert not holder.holds()
    holder.ask("right", "yes")
    wait_for(holder.holds, within=AT_ONCE)


@both_families
def test_what_somebody_removed_comes_back_and_is_announced_again(net: dict[str, Host], capture: Capture, address: str):
    holder = Holder(net["a"], address)
    holder.ask("ensure", ME, 1)
    burst = len(ANNOUNCED_AFTER) * (2 if address == VIP else 1)
    wait_for(lambda: len(announced(capture, address)) == burst)
    removed_at = time.time()
    net["a"].ip("address", "del", f"{address}/{PREFIX[address]}", "dev", INTERFACE)
    wait_for(holder.holds, within=AT_ONCE)
    wait_for(lambda: any("missing" in text for text in holder.tells("event")))
    wait_for(lambda: [each for each in announced(capture, address) if each.at > removed_at])


@both_families
def test_another_holder_that_shows_up_later_is_told_of_at_once_and_answered(net: dict[str, Host], capture: Capture, address: str):
    holder = Holder(net["a"], address)
    holder.ask("ensure", ME, 1)
    wait_for(lambda: len(announced(capture, address)) >= 6)
    assert holder.tells("alarm") == []
    link = net["b"].inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    link.bind((INTERFACE, 0))
    came_at = time.time()
    link.send(neighbours.announcements(ip_address(address), bytes.fromhex(net["b"].mac.replace(":", "")))[0])
    link.close()
    wait_for(lambda: holder.tells("alarm"), within=AT_ONCE)
    assert net["b"].mac in holder.tells("alarm")[0]
    wait_for(lambda: [each for each in announced(capture, address) if each.at > came_at and each.mac == net["a"].mac])
    assert holder.holds(), "the right decides, not who shouts last"


def test_an_older_epoch_is_refused(net: dict[str, Host]):
    holder = Holder(net["a"], VIP)
    assert holder.ask("ensure", "other", 5) is False
    assert "epoch 4 is older" in str(holder.ask("ensure", ME, 4))
    assert not holder.holds()


def test_a_wrong_prefix_is_put_right(net: dict[str, Host]):
    net["a"].ip("address", "add", f"{VIP}/32", "dev", INTERFACE)
    holder = Holder(net["a"], VIP)
    assert holder.ask("preview", ME) == f"{VIP}/24 on {INTERFACE} would be taken\n"
    assert holder.ask("ensure", ME, 1) is True
    shown = net["a"].ip("-o", "-4", "address", "show", "dev", INTERFACE)
    assert f"{VIP}/24" in shown
    assert f"{VIP}/32" not in shown
    assert holder.ask("preview", ME) == ""


def test_an_interface_that_is_not_there_is_named(net: dict[str, Host]):
    holder = Holder(net["a"], VIP)
    net["a"].ip("link", "set", INTERFACE, "down")
    net["a"].ip("link", "set", INTERFACE, "name", "other0")
    assert f"{VIP}/24 on {INTERFACE}: the interface cannot be asked" in str(holder.ask("ensure", ME, 1))


def test_ours_is_kept_by_a_daemon_that_starts_again(net: dict[str, Host], capture: Capture):
    first = Holder(net["a"], VIP)
    first.ask("ensure", ME, 1)
    first.process.kill()
    first.process.wait(10)
    before = len(capture.read())
    second = Holder(net["a"], VIP)
    assert second.ask("ensure", ME, 1) is False
    assert second.holds()
    assert not [frame for _, frame in capture.read()[before:] if is_probe(frame, VIP)]


def test_an_address_that_nobody_keeps_runs_out(net: dict[str, Host]):
    """Keeper and daemon both stand still: the kernel takes it away, after the lease (0.5 s) in whole seconds and two more."""
    holder = Holder(net["a"], VIP, lease=0.5)
    holder.ask("ensure", ME, 1)
    holder.process.kill()
    began = time.monotonic()
    wait_for(lambda: not holder.holds())
    assert 2.0 < time.monotonic() - began < 5.0


# --- the keeper ------------------------------------------------------------------------------------------------------


class KeeperOn(Keeper):
    """A keeper on that host, told of the addresses."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.host = host
        super().__init__(directory)
        held = tuple(AddressSetup(address=each, prefix=prefix, interface=INTERFACE) for each, prefix in PREFIX.items())
        self.setup = replace(self.setup, groups=(replace(self.setup.groups[0], addresses=held),))

    def spawn(self) -> subprocess.Popen[bytes]:
        write_setup(self.setup, self.setup_path)
        with open(self.log_path, "ab") as log:
            process = self.host.start(sys.executable, "-m", "orchestrator.keeper", str(self.setup_path), stderr=log)
        self.processes.append(process)
        return process

    def add_addresses(self) -> None:
        for each, prefix in PREFIX.items():
            self.host.inside(lambda each=each, prefix=prefix: netlink.take_address(each, prefix, INTERFACE, 3))  # type: ignore[misc]

    def held(self) -> list[str]:
        return [each for each in PREFIX if self.host.has(each)]


@pytest.fixture
def keeper(net: dict[str, Host], tmp_path: Path) -> Iterator[KeeperOn]:
    made = KeeperOn(net["a"], tmp_path)
    yield made
    made.end()


def test_the_keeper_keeps_them_from_running_out_and_drops_them_with_the_right(keeper: KeeperOn, sleeper: subprocess.Popen[bytes]):
    keeper.start()
    keeper.serve(sleeper.pid)
    keeper.add_addresses()
    began = time.monotonic()
    while time.monotonic() < began + 5.0:
        assert keeper.held() == [VIP, VIP6], keeper.log()
        time.sleep(0.1)
    sleeper.kill()
    wait_for(lambda: not keeper.held(), within=AT_ONCE, why=keeper.log)
    assert f"address {VIP6} dropped" in keeper.log()


def test_the_keeper_drops_them_at_the_moment_at_which_the_right_ends(keeper: KeeperOn, sleeper: subprocess.Popen[bytes]):
    keeper.start()
    ends_at = keeper.serve(sleeper.pid, lasts=1.5)
    keeper.add_addresses()
    wait_for(lambda: not keeper.held(), why=keeper.log)
    assert abs(now() - ends_at) < 0.3
    assert state_of(sleeper.pid) == "T"


def test_a_keeper_that_starts_without_a_right_drops_what_it_finds_and_what_is_added_later(
    keeper: KeeperOn, sleeper: subprocess.Popen[bytes]
):
    process = keeper.start()
    keeper.add_addresses()
    time.sleep(1.5)
    assert keeper.held() == [VIP, VIP6], "the group is not known to be Tanist's yet"
    keeper.serve(sleeper.pid, lasts=1.0)
    process.kill()
    process.wait(10)
    keeper.add_addresses()
    wait_for(lambda: now() > keeper.page().right_until)
    assert keeper.held() == [VIP, VIP6]
    keeper.start()
    wait_for(lambda: not keeper.held(), within=1.0, why=keeper.log)
    keeper.add_addresses()
    wait_for(lambda: not keeper.held(), within=1.5, why=keeper.log)
