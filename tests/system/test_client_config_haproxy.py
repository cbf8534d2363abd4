"""Clients led by a real HAProxy: its configuration rewritten, checked, reloaded; or left as it was, with the reason."""

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.actuators.client_config import ClientFile, ClientFileActuator
from orchestrator.domain.effects import EnsureClients
from orchestrator.domain.topology import Group
from orchestrator.ports import NotConfirmed, RefusedByPeer
from tests.system.redis_servers import Servers, ask, free_port, is_alive, wait_for

pytestmark = [
    pytest.mark.haproxy,
    pytest.mark.redis,
    pytest.mark.timeout(60),
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed (Debian: apt-get install haproxy)"),
]

TEMPLATE = """\
global
    maxconn 100
defaults
    mode tcp
    timeout connect 1s
    timeout client 5s
    timeout server 5s
# {{ group }}, epoch {{ epoch }}
frontend clients
    bind 127.0.0.1:%(port)s
    default_backend %(backend)s
backend primary
    server {{ primary.name }} {{ primary.address }}:{{ primary.port }}
"""


class Proxy:
    """One HAProxy in front of two Redis servers that know their own names."""

    def __init__(self, directory: Path, group: Group) -> None:
        self.directory = directory
        self.group = group
        self.port = free_port()
        self.path = directory / "haproxy.cfg"
        self.pid_file = directory / "haproxy.pid"
        self.check = "haproxy -c -q -f {}"
        self.reload = f"haproxy -D -f {self.path} -p {self.pid_file} -sf $(cat {self.pid_file} 2>/dev/null)"

    def actuator(self, backend: str = "primary", **settings: Any) -> ClientFileActuator:
        template = self.directory / "haproxy.cfg.j2"
        template.write_text(TEMPLATE % {"port": self.port, "backend": backend})
        chosen = {"check": self.check, "reload": self.reload, "reload_within": 5.0, **settings}
        return ClientFileActuator(ClientFile(template=template, path=self.path, **chosen), self.group)

    def leads_to(self) -> str:
        try:
            return ask(("127.0.0.1", self.port), "GET", "name", source="127.0.0.1")
        except OSError as error:
            return str(error)

    def processes(self) -> list[int]:
        """Of ours, by the directory that they name."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(self.directory).encode() in (entry / "cmdline").read_bytes() and is_alive(int(entry.name)):
                    found.append(int(entry.name))
        return found

    def end(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self.processes())


@pytest.fixture
def proxy(redis_servers: Servers, tmp_path: Path) -> Iterator[Proxy]:
    names = ("db1", "db2")
    members = []
    for name in names:
        server = redis_servers.start(name)
        server.ask("SET", "name", name)
        members.append(server.member(name))
    directory = tmp_path / "proxy"
    directory.mkdir()
    made = Proxy(directory, Group(name="orders", members=tuple(members)))
    try:
        yield made
    finally:
        made.end()


def ensure(actuator: ClientFileActuator, primary: str, epoch: int) -> bool:
    return asyncio.run(asyncio.wait_for(actuator.ensure(EnsureClients(primary=primary, epoch=epoch)), 20))


def test_the_first_configuration_starts_it_and_the_next_moves_the_clients(proxy: Proxy):
    actuator = proxy.actuator()
    assert ensure(actuator, "db1", 1)
    wait_for(lambda: proxy.leads_to() == "db1", why=proxy.leads_to)
    assert ensure(actuator, "db2", 2)
    wait_for(lambda: proxy.leads_to() == "db2", why=proxy.leads_to)
    assert "# orders, epoch 2\n" in proxy.path.read_text()


def test_what_is_led_right_already_is_not_reloaded(proxy: Proxy):
    actuator = proxy.actuator()
    assert ensure(actuator, "db1", 1)
    wait_for(lambda: proxy.leads_to() == "db1")
    pid = proxy.pid_file.read_text()
    assert not ensure(actuator, "db1", 1)
    assert proxy.pid_file.read_text() == pid


def test_an_older_epoch_never_moves_the_clients_back(proxy: Proxy):
    actuator = proxy.actuator()
    ensure(actuator, "db2", 5)
    wait_for(lambda: proxy.leads_to() == "db2")
    with pytest.raises(RefusedByPeer, match="epoch 4 is older"):
        ensure(actuator, "db1", 4)
    assert proxy.leads_to() == "db2"


def test_a_configuration_that_haproxy_refuses_is_never_put_in_place(proxy: Proxy):
    ensure(proxy.actuator(), "db1", 1)
    wait_for(lambda: proxy.leads_to() == "db1")
    before, pid = proxy.path.read_bytes(), proxy.pid_file.read_text()
    with pytest.raises(NotConfirmed, match=r"(?s)did not pass its check.*no-such-backend"):
        ensure(proxy.actuator(backend="no-such-backend", check="haproxy -c -f {}"), "db2", 2)
    assert proxy.path.read_bytes() == before
    assert proxy.pid_file.read_text() == pid
    assert proxy.leads_to() == "db1"
    assert sorted(each.name for each in proxy.directory.iterdir()) == ["haproxy.cfg", "haproxy.cfg.j2", "haproxy.pid"]


def test_a_reload_that_fails_rolls_back_and_says_why(proxy: Proxy):
    """Without a check beforehand HAProxy itself refuses; the clients stay where they were."""
    ensure(proxy.actuator(check=None), "db1", 1)
    wait_for(lambda: proxy.leads_to() == "db1")
    before = proxy.path.read_bytes()
    with pytest.raises(NotConfirmed, match=r"(?s)its reload failed.*no-such-backend"):
        ensure(proxy.actuator(backend="no-such-backend", check=None), "db2", 2)
    assert proxy.path.read_bytes() == before
    wait_for(lambda: proxy.leads_to() == "db1", why=proxy.leads_to)


def test_after_a_failed_reload_the_same_wish_is_carried_out_once_it_can_be(proxy: Proxy):
    ensure(proxy.actuator(), "db1", 1)
    wait_for(lambda: proxy.leads_to() == "db1")
    allowed = proxy.directory / "allowed"
    actuator = proxy.actuator(reload=f"test -e {allowed} && {proxy.reload}")
    with pytest.raises(NotConfirmed):
        ensure(actuator, "db2", 2)
    assert proxy.leads_to() == "db1"
    allowed.touch()
    assert ensure(actuator, "db2", 2)
    wait_for(lambda: proxy.leads_to() == "db2", why=proxy.leads_to)


def test_a_broken_template_changes_nothing_and_names_its_line(proxy: Proxy):
    actuator = proxy.actuator()
    ensure(actuator, "db1", 1)
    wait_for(lambda: proxy.leads_to() == "db1")
    template = proxy.directory / "broken.j2"
    template.write_text("global\n{{ primary.nonsense }}\n")
    broken = ClientFileActuator(ClientFile(template=template, path=proxy.path, reload=proxy.reload), proxy.group)
    before = proxy.path.read_bytes()
    with pytest.raises(RefusedByPeer, match=r"line 2: .*nonsense"):
        ensure(broken, "db2", 2)
    template.write_text("global\n{% if %}\n")
    with pytest.raises(RefusedByPeer, match="line 2"):
        ClientFileActuator(ClientFile(template=template, path=proxy.path), proxy.group)
    assert proxy.path.read_bytes() == before
    assert proxy.leads_to() == "db1"


def test_a_dry_run_shows_the_difference_and_changes_nothing(proxy: Proxy):
    actuator = proxy.actuator()
    ensure(actuator, "db1", 1)
    before, pid = proxy.path.read_bytes(), proxy.pid_file.read_text()
    wanted = EnsureClients(primary="db2", epoch=2)
    told = asyncio.run(actuator.would_change(wanted))
    one, two = proxy.group.members
    assert f"-    server db1 127.0.0.1:{one.port}\n" in told
    assert f"+    server db2 127.0.0.1:{two.port}\n" in told
    assert (proxy.path.read_bytes(), proxy.pid_file.read_text()) == (before, pid)
    ensure(actuator, "db2", 2)
    assert asyncio.run(actuator.would_change(wanted)) == ""


def test_a_reload_that_hangs_ends_at_its_deadline_with_all_that_it_started(proxy: Proxy):
    ensure(proxy.actuator(), "db1", 1)
    wait_for(lambda: proxy.leads_to() == "db1")
    before = set(proxy.processes())
    late = proxy.directory / "late"
    hanging = proxy.actuator(reload=f"sh -c 'sleep 2; touch {late}' reload; true", reload_within=0.5)
    began = time.monotonic()
    with pytest.raises(NotConfirmed, match="not finished within"):
        ensure(hanging, "db2", 2)
    assert time.monotonic() - began < 1.9, "once for the reload, and once for the reload of what stood before"
    assert proxy.leads_to() == "db1"
    wait_for(lambda: set(proxy.processes()) <= before, within=1.0, why=lambda: "a hung command was left running")


def test_a_check_that_hangs_ends_at_its_deadline(proxy: Proxy):
    ensure(proxy.actuator(), "db1", 1)
    before = proxy.path.read_bytes()
    began = time.monotonic()
    with pytest.raises(NotConfirmed, match="did not pass its check: not finished"):
        ensure(proxy.actuator(check="sh -c 'sleep 5; true' {}; true", reload_within=0.4), "db2", 2)
    assert time.monotonic() - began < 2.0
    assert proxy.path.read_bytes() == before


def test_a_reload_that_leaves_something_running_behind_itself_is_not_waited_for(proxy: Proxy):
    """As a wrapper around a server that stays in the foreground does: its words' pipe stays open."""
    marker = proxy.directory / "behind"
    actuator = proxy.actuator(reload=f"sh -c 'sleep 3; echo {marker}' & exit 0", reload_within=1.0)
    began = time.monotonic()
    assert ensure(actuator, "db1", 1)
    assert time.monotonic() - began < 0.9
