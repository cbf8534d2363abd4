"""A client's configuration file says who is primary: whole, checked, reloaded; or what stood before stands again."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.actuators.client_config import ClientFile, ClientFileActuator
from orchestrator.domain.effects import EnsureClients
from orchestrator.domain.topology import Group, Member
from orchestrator.ports import NotConfirmed, RefusedByPeer

GROUP = Group(
    name="orders",
    members=(
        Member(name="db1", address="10.0.0.1", port=6379),
        Member(name="db2", address="10.0.0.2", port=6380),
        Member(name="db3", address="10.0.0.3", port=6379),
    ),
)
TEMPLATE = """\
# {{ group }}, epoch {{ epoch }}
primary {{ primary.name }} {{ primary.address }}:{{ primary.port }}
{% for each in standbys %}
standby {{ each.name }}
{% endfor %}
members {{ members | length }}
"""
DB1 = "# orders, epoch 3\nprimary db1 10.0.0.1:6379\nstandby db2\nstandby db3\nmembers 3\n"
DB2 = "# orders, epoch 4\nprimary db2 10.0.0.2:6380\nstandby db1\nstandby db3\nmembers 3\n"


class Client:
    """One file in a directory of its own, and commands that leave traces there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "haproxy.cfg"
        self.trace = directory / "trace"
        self.template = TEMPLATE

    def actuator(self, **settings: Any) -> ClientFileActuator:
        template = self.directory / "haproxy.cfg.j2"
        template.write_text(self.template)
        return ClientFileActuator(ClientFile(template=template, path=settings.pop("path", self.path), **settings), GROUP)

    def leave(self, word: str) -> str:
        """A shell command that leaves a trace of what the file said at that moment."""
        return f"(echo {word}; cat {self.path} 2>/dev/null) >> {self.trace}"

    def traces(self) -> list[str]:
        return self.trace.read_text().splitlines() if self.trace.exists() else []


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path)


def ensure(actuator: ClientFileActuator, primary: str = "db1", epoch: int = 3) -> bool:
    return asyncio.run(actuator.ensure(EnsureClients(primary=primary, epoch=epoch)))


def refused(actuator: ClientFileActuator, primary: str = "db1", epoch: int = 3) -> str:
    with pytest.raises(RefusedByPeer) as caught:
        ensure(actuator, primary, epoch)
    return str(caught.value)


def not_confirmed(actuator: ClientFileActuator, primary: str = "db1", epoch: int = 3) -> str:
    with pytest.raises(NotConfirmed) as caught:
        ensure(actuator, primary, epoch)
    return str(caught.value)


# --- the text --------------------------------------------------------------------------------------------------------


def test_the_template_knows_primary_standbys_members_group_and_epoch(client: Client):
    assert ensure(client.actuator()) is True
    assert client.path.read_text() == DB1


def test_a_variable_that_does_not_exist_is_an_error_and_not_an_empty_string(client: Client):
    client.template = "server {{ primary.adress }}\n"
    assert "adress" in refused(client.actuator())
    assert not client.path.exists()


def test_a_mistake_in_the_template_is_told_with_its_line_before_anything_runs(client: Client):
    client.template = "first\nsecond {% if %}\n"
    with pytest.raises(RefusedByPeer, match=r"haproxy\.cfg\.j2, line 2"):
        client.actuator()


@pytest.mark.parametrize("template", ["{{ 1 // 0 }}", "{{ primary.port + 'x' }}", "{% include 'other' %}", "{{ primary() }}"])
def test_a_template_that_fails_in_any_way_is_refused_by_name(template: str, client: Client):
    client.template = template
    assert "haproxy.cfg.j2" in refused(client.actuator())
    assert not client.path.exists()


def test_a_template_that_is_not_there_is_refused_by_name(client: Client):
    missing = client.directory / "none.j2"
    with pytest.raises(RefusedByPeer, match=r"none\.j2.*No such file"):
        ClientFileActuator(ClientFile(template=missing, path=client.path), GROUP)


def test_a_primary_that_is_no_member_is_refused(client: Client):
    assert "db9" in refused(client.actuator(), primary="db9")


# --- the file --------------------------------------------------------------------------------------------------------


def test_a_file_that_says_so_already_is_left_alone(client: Client):
    actuator = client.actuator(check="true", reload=client.leave("reloaded"))
    assert ensure(actuator) is True
    before = client.path.stat()
    assert ensure(actuator) is False
    after = client.path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert client.traces().count("reloaded") == 1


def test_a_daemon_that_begins_anew_leaves_a_right_file_alone(client: Client):
    ensure(client.actuator())
    assert ensure(client.actuator(reload=client.leave("reloaded"))) is False
    assert client.traces() == []


def test_a_file_that_somebody_else_changed_is_put_right_again(client: Client):
    actuator = client.actuator(reload=client.leave("reloaded"))
    ensure(actuator)
    client.path.write_text("somebody else was here\n")
    assert ensure(actuator) is True
    assert client.path.read_text() == DB1
    assert client.traces().count("reloaded") == 2


def test_the_file_is_replaced_whole_and_never_written_in_place(client: Client):
    client.path.write_text("before\n")
    inode = client.path.stat().st_ino
    with open(client.path) as reader:
        ensure(client.actuator())
        assert client.path.stat().st_ino != inode
        assert reader.read() == "before\n"


def test_a_crash_before_the_new_file_takes_its_place_leaves_the_old_one(client: Client, monkeypatch: pytest.MonkeyPatch):
    client.path.write_text("before\n")

    def crash(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(SystemExit):
        client.actuator()._replace(b"after\n")
    assert client.path.read_text() == "before\n"


def test_the_new_text_is_on_disk_before_it_takes_its_place(client: Client, monkeypatch: pytest.MonkeyPatch):
    order: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append("fsync"), fsync(descriptor))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("replace"), replace(*paths))[1])
    ensure(client.actuator())
    assert order[:2] == ["fsync", "replace"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_the_file_gets_the_mode_that_the_operator_wants_whatever_the_umask(mode: int, client: Client):
    before = os.umask(0o077)
    try:
        ensure(client.actuator(mode=mode))
    finally:
        os.umask(before)
    assert client.path.stat().st_mode & 0o777 == mode


def test_nothing_is_left_beside_the_file(client: Client):
    actuator = client.actuator(check="true", reload="true")
    ensure(actuator)
    ensure(actuator, "db2", 4)
    not_confirmed(client.actuator(check="false"), "db3", 5)
    assert {each.name for each in client.directory.iterdir()} == {"haproxy.cfg", "haproxy.cfg.j2"}


@pytest.mark.parametrize("commands", [{}, {"check": "true"}, {"reload": "true"}], ids=["bare", "check", "reload"])
def test_a_directory_that_does_not_exist_is_told_as_such(commands: dict[str, str], client: Client):
    actuator = client.actuator(path=client.directory / "none" / "haproxy.cfg", **commands)
    assert "No such file or directory" in not_confirmed(actuator)


@pytest.mark.parametrize("commands", [{}, {"reload": "true"}], ids=["bare", "reload"])
def test_a_directory_in_the_place_of_the_file_is_told_as_such(commands: dict[str, str], client: Client):
    client.path.mkdir()
    assert "irectory" in not_confirmed(client.actuator(**commands))
    assert {each.name for each in client.directory.iterdir()} == {"haproxy.cfg", "haproxy.cfg.j2"}


def test_a_file_that_cannot_take_its_place_is_not_left_beside_it(client: Client, monkeypatch: pytest.MonkeyPatch):
    client.path.write_text("before\n")

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as now:
        now.setattr(os, "replace", refuse)
        assert "haproxy.cfg could not be written: Read-only file system" in not_confirmed(client.actuator())
    assert client.path.read_text() == "before\n"
    assert {each.name for each in client.directory.iterdir()} == {"haproxy.cfg", "haproxy.cfg.j2"}


@pytest.mark.parametrize("commands", [{}, {"reload": "true"}], ids=["bare", "reload"])
def test_a_file_in_another_encoding_is_replaced_like_any_other(commands: dict[str, str], client: Client):
    client.path.write_bytes(b"caf\xe9\n")
    assert ensure(client.actuator(**commands)) is True
    assert client.path.read_text() == DB1


# --- check and reload ------------------------------------------------------------------------------------------------


def test_the_check_sees_the_new_text_before_it_is_put_in_place(client: Client):
    client.path.write_text("before\n")
    check = f"cp {{}} {client.directory}/checked && {client.leave('checked')}"
    ensure(client.actuator(check=check))
    assert (client.directory / "checked").read_text() == DB1
    assert client.traces() == ["checked", "before"]


def test_a_text_that_does_not_pass_its_check_is_never_put_in_place(client: Client):
    client.path.write_text("before\n")
    actuator = client.actuator(check="echo line 2 is bad; exit 3", reload=client.leave("reloaded"))
    told = not_confirmed(actuator)
    assert "check" in told
    assert "status 3" in told
    assert "line 2 is bad" in told
    assert client.path.read_text() == "before\n"
    assert client.traces() == []


def test_a_check_copes_with_a_path_that_has_a_blank_in_it(client: Client):
    directory = client.directory / "two words; touch oops"
    directory.mkdir()
    assert ensure(client.actuator(path=directory / "a cfg", check="grep -q primary {}")) is True
    assert not (client.directory / "oops").exists()


def test_the_reload_sees_the_new_file(client: Client):
    client.path.write_text("before\n")
    ensure(client.actuator(reload=client.leave("reloaded")))
    assert client.traces() == ["reloaded", *DB1.splitlines()]


def test_when_the_reload_fails_what_stood_before_stands_again_and_is_reloaded(client: Client):
    client.path.write_text("before\n")
    told = not_confirmed(client.actuator(reload=f"{client.leave('reloaded')}; echo no such service; exit 4"))
    assert "status 4" in told
    assert "no such service" in told
    assert client.path.read_text() == "before\n"
    assert client.traces() == ["reloaded", *DB1.splitlines(), "reloaded", "before"]


def test_when_the_reload_fails_and_there_was_no_file_there_is_none_again(client: Client):
    not_confirmed(client.actuator(reload="false"))
    assert not client.path.exists()


def test_after_a_failed_reload_the_next_try_writes_and_reloads_again(client: Client):
    client.path.write_text("before\n")
    actuator = client.actuator(reload=f"{client.leave('reloaded')}; test -e {client.directory}/cured")
    not_confirmed(actuator)
    (client.directory / "cured").touch()
    client.trace.unlink()
    assert ensure(actuator) is True
    assert client.path.read_text() == DB1
    assert client.traces() == ["reloaded", *DB1.splitlines()]
    assert ensure(actuator) is False


@pytest.mark.parametrize("command", ["sleep 1.3; true", "trap '' TERM; sleep 1.3"])
def test_a_reload_that_hangs_is_ended_at_its_deadline(command: str, client: Client):
    client.path.write_text("before\n")
    began = time.monotonic()
    told = not_confirmed(client.actuator(reload=command, reload_within=0.1))
    assert time.monotonic() - began < 1
    assert "not finished within" in told
    assert client.path.read_text() == "before\n"


def test_a_check_that_hangs_is_ended_at_its_deadline(client: Client):
    began = time.monotonic()
    not_confirmed(client.actuator(check="sleep 1.3; true", reload_within=0.1))
    assert time.monotonic() - began < 1
    assert not client.path.exists()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_whatever_a_hanging_reload_has_started_ends_with_it(client: Client):
    pids = client.directory / "pids"
    began = time.monotonic()
    not_confirmed(client.actuator(reload=f"sleep 1.3 & echo $! >> {pids}; wait", reload_within=0.1))
    started = [int(word) for word in pids.read_text().split()]
    assert started
    while time.monotonic() < began + 1 and not all(gone(pid) for pid in started):
        time.sleep(0.01)
    assert time.monotonic() < began + 1
    assert all(gone(pid) for pid in started)


# --- epochs ----------------------------------------------------------------------------------------------------------


def test_a_newer_epoch_leads_elsewhere(client: Client):
    actuator = client.actuator()
    ensure(actuator)
    assert ensure(actuator, "db2", 4) is True
    assert client.path.read_text() == DB2


def test_an_older_epoch_than_the_last_one_obeyed_is_refused_and_changes_nothing(client: Client):
    actuator = client.actuator(reload=client.leave("reloaded"))
    ensure(actuator, "db2", 4)
    told = refused(actuator, "db1", 3)
    assert "epoch 4" in told
    assert "epoch 3" in told
    assert client.path.read_text() == DB2
    assert client.traces().count("reloaded") == 1


# --- dry run ---------------------------------------------------------------------------------------------------------


def would_change(actuator: ClientFileActuator, primary: str, epoch: int) -> str:
    return asyncio.run(actuator.would_change(EnsureClients(primary=primary, epoch=epoch)))


def test_a_dry_run_shows_the_difference_and_changes_nothing(client: Client):
    actuator = client.actuator(check=client.leave("checked"), reload=client.leave("reloaded"))
    client.path.write_text(DB1)
    difference = would_change(actuator, "db2", 4)
    assert "-primary db1 10.0.0.1:6379" in difference
    assert "+primary db2 10.0.0.2:6380" in difference
    assert client.path.read_text() == DB1
    assert client.traces() == []


def test_a_dry_run_shows_nothing_when_nothing_would_change(client: Client):
    client.path.write_text(DB1)
    assert would_change(client.actuator(), "db1", 3) == ""


def test_a_dry_run_without_a_file_shows_all_of_it(client: Client):
    assert "+primary db1 10.0.0.1:6379" in would_change(client.actuator(), "db1", 3)
    assert not client.path.exists()
