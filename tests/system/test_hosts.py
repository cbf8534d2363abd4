"""The hosts that other tests stand on: apart, joined, and cut exactly as the verb says."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.hosts import Host, hosts, udp_socket, why_no_hosts
from tests.system.redis_servers import is_alive

pytestmark = [pytest.mark.root, pytest.mark.timeout(60), pytest.mark.skipif(bool(why_no_hosts()), reason=why_no_hosts())]


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    with hosts("a", "b") as made:
        yield made["a"], made["b"]


def arrives(sender: Host, to: Host, family: int = 4, tries: int = 1) -> int:
    """How many of so many datagrams arrive."""
    address = to.address if family == 4 else to.address6
    with contextlib.closing(udp_socket(to, address)) as end, contextlib.closing(udp_socket(sender)) as link:
        end.settimeout(0.3)
        came = 0
        for number in range(tries):
            link.sendto(str(number).encode(), (f"::ffff:{address}" if family == 4 else address, end.getsockname()[1]))
        with contextlib.suppress(TimeoutError):
            while came < tries:
                end.recv(100)
                came += 1
    return came


@pytest.mark.parametrize("family", [4, 6])
def test_they_reach_each_other_and_each_is_alone_on_its_loopback(pair: tuple[Host, Host], family: int):
    a, b = pair
    assert arrives(a, b, family)
    assert arrives(b, a, family)
    assert a.mac != b.mac


def test_one_way_is_cut_and_the_other_is_not(pair: tuple[Host, Host]):
    a, b = pair
    assert arrives(a, b), "both know each other's link address from now on"
    b.cut_from()
    assert (arrives(a, b), arrives(b, a)) == (1, 0)
    b.heal()
    b.cut_to()
    assert (arrives(a, b), arrives(b, a)) == (0, 1)
    b.heal()
    b.isolate()
    assert (arrives(a, b), arrives(b, a)) == (0, 0)
    b.heal()
    assert (arrives(a, b), arrives(b, a)) == (1, 1)


def test_a_lossy_link_loses_about_what_was_asked_for(pair: tuple[Host, Host]):
    a, b = pair
    assert arrives(a, b, tries=100) == 100
    a.lose(50)
    assert 20 < arrives(a, b, tries=100) < 80
    a.heal()
    assert arrives(a, b, tries=100) == 100


def test_nothing_is_left_when_a_test_fails():
    process = None
    with contextlib.suppress(ZeroDivisionError), hosts("a") as made:
        host = made["a"]
        process = host.start("sleep", "600")
        left_behind = host.run("sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!")
        assert set(host.pids()) >= {process.pid, int(left_behind)}
        raise ZeroDivisionError
    assert process is not None
    assert process.returncode is not None
    assert not is_alive(int(left_behind))
    assert host.namespace not in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert not Path(f"/run/netns/{host.switch.name}").exists()
