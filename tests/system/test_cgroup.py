"""A service in a control group of its own, as systemd gives it: real groups of cgroup v2, made and removed by the tests."""

import os
import secrets
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.keeper import cgroup
from orchestrator.keeper.tree import Tree, started
from tests.system.redis_servers import is_alive, wait_for

ESCAPING = """
import os, sys, time
if os.fork() == 0:
    while True:
        if os.fork() != 0:
            os._exit(0)  # its child has another number and no parent in the tree: no walk catches up with it
        with open(f"{sys.argv[1]}/works", "w") as file:
            file.write(str(time.monotonic()))
        time.sleep(0.001)
with open(f"{sys.argv[1]}/main", "w") as file:
    file.write(str(os.getpid()))
while True:
    time.sleep(600)
"""


def why_not() -> str:
    """Why no group can be made here; empty when one can."""
    place = cgroup.mount()
    if place is None:
        return "no cgroup v2 is mounted"
    probe = place / f"tanist-test-{secrets.token_hex(4)}.service"
    try:
        probe.mkdir()
    except OSError as error:
        return f"no group can be made in {place}: {error.strerror}"
    usable = (probe / "cgroup.kill").exists()
    probe.rmdir()
    return "" if usable else "the kernel has no cgroup.kill (Linux 5.14)"


pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(bool(why_not()), reason=f"cgroup v2: {why_not()}")]


class Unit:
    """A program in a group of its own."""

    def __init__(self, directory: Path, name: str) -> None:
        root = cgroup.mount()
        assert root is not None
        self.place = root / name
        self.place.mkdir()
        self.directory = directory
        self._all: list[subprocess.Popen[bytes]] = []
        self.main = self.run(ESCAPING)
        wait_for(lambda: (directory / "main").exists() and (directory / "works").exists())

    def run(self, program: str) -> subprocess.Popen[bytes]:
        """Enters the group before it does anything."""
        enter = f"echo $$ >{self.place}/cgroup.procs; exec {sys.executable} -c '{textwrap.dedent(program)}' {self.directory}"
        self._all.append(subprocess.Popen(["sh", "-c", enter], start_new_session=True))
        return self._all[-1]

    def tree(self) -> Tree:
        made = Tree(self.main.pid, started(self.main.pid) or 0)
        wait_for(lambda: self._is_noticed_alone(made))
        return made

    def _is_noticed_alone(self, tree: Tree) -> bool:
        tree.notice()
        return tree._group is not None

    def only_main(self) -> None:
        """The escaping one is ended: a service whose processes all belong to its tree."""
        while len(pids := self.pids()) > 1:
            for pid in pids - {self.main.pid}:
                with_signal(pid, signal.SIGKILL)

    def pids(self) -> set[int]:
        return {int(word) for word in (self.place / "cgroup.procs").read_text().split()}

    def works(self, within: float = 0.3) -> bool:
        path = self.directory / "works"
        before = path.read_text()
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            if path.read_text() != before:
                return True
            time.sleep(0.002)
        return False

    @property
    def is_frozen(self) -> bool:
        return (self.place / "cgroup.freeze").read_text().strip() == "1"

    def remove(self) -> None:
        (self.place / "cgroup.kill").write_text("1")
        for each in self._all:
            each.wait(10)
        wait_for(lambda: not self.pids())
        self.place.rmdir()


def with_signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[Unit]:
    made = Unit(tmp_path, f"tanist-test-{secrets.token_hex(4)}.service")
    yield made
    made.remove()


HELPER = "import time; time.sleep(600)"


def begin(unit: Unit) -> Tree:
    """The service alone when it was watched; later it bears one that escapes every walk."""
    unit.only_main()
    tree = unit.tree()
    unit.run(ESCAPING.replace("main", "second"))
    wait_for(unit.works)
    tree.notice()
    return tree


def test_what_escapes_every_walk_is_frozen_goes_on_and_is_killed(unit: Unit):
    tree = begin(unit)
    began = time.monotonic()
    tree.stop()
    wait_for(tree.is_stopped)
    wait_for(lambda: not unit.works(0.05))
    print(f"\nfrozen after {(time.monotonic() - began) * 1000:.0f} ms at most")
    assert unit.is_frozen and not unit.works()
    tree.go_on()
    assert unit.works() and not tree.is_stopped()
    tree.stop()
    tree.kill()
    wait_for(tree.is_empty)
    assert unit.pids() == set() and not unit.works()
    assert not unit.is_frozen, "what is started in it next must run"


def test_it_is_not_empty_while_one_is_left_that_was_never_seen(unit: Unit):
    tree = begin(unit)
    with_signal(unit.main.pid, signal.SIGKILL)
    unit.main.wait(10)
    wait_for(lambda: not is_alive(unit.main.pid))
    assert not tree.is_empty(), "children may still commit"
    tree.kill()
    wait_for(tree.is_empty)
    assert unit.pids() == set()


def test_somebodys_sigcont_does_not_let_it_go_on(unit: Unit):
    tree = begin(unit)
    tree.stop()
    wait_for(tree.is_stopped)
    for pid in unit.pids():
        with_signal(pid, signal.SIGCONT)
    assert not unit.works() and tree.is_stopped()


def test_somebodys_thaw_is_noticed_while_the_signals_hold(unit: Unit):
    tree = begin(unit)
    tree.stop()
    wait_for(tree.is_stopped)
    (unit.place / "cgroup.freeze").write_text("0")
    wait_for(lambda: Path(f"/proc/{unit.main.pid}/stat").read_text().rpartition(") ")[2][0] == "T")
    assert unit.works() and not tree.is_stopped(), "what no walk has seen runs"
    tree.stop()
    wait_for(tree.is_stopped)
    assert not unit.works()


def test_a_successor_lets_go_on_what_its_predecessor_has_frozen(unit: Unit):
    first = begin(unit)
    first.stop()
    wait_for(first.is_stopped)
    second = Tree(unit.main.pid, started(unit.main.pid) or 0)
    assert second.is_stopped(), "seen without having frozen it, as by the daemon's guard"
    second.notice()
    assert second._group is None, "by now there is one in it that does not belong to the tree"
    second.go_on()
    assert unit.works()


def test_a_group_with_strangers_in_it_is_left_alone(unit: Unit):
    unit.only_main()
    stranger = unit.run(HELPER)
    wait_for(lambda: stranger.pid in unit.pids())
    tree = Tree(unit.main.pid, started(unit.main.pid) or 0)
    tree.notice()
    tree.stop()
    wait_for(tree.is_stopped)
    assert not unit.is_frozen
    tree.kill()
    wait_for(tree.is_empty)
    assert is_alive(stranger.pid)


@pytest.mark.parametrize("name", ["tanist-test-{}.scope", "tanist-test-{}"])
def test_a_group_that_is_no_services_is_left_alone(tmp_path: Path, name: str):
    unit = Unit(tmp_path, name.format(secrets.token_hex(4)))
    try:
        unit.only_main()
        assert cgroup.of_service(unit.main.pid) is None
        tree = Tree(unit.main.pid, started(unit.main.pid) or 0)
        tree.notice()
        tree.stop()
        wait_for(tree.is_stopped)
        assert not unit.is_frozen
    finally:
        unit.remove()


def test_our_own_group_is_never_taken_for_the_services(unit: Unit):
    """A server that the daemon itself has started shares the daemon's unit: freezing that would freeze the keeper."""
    unit.only_main()
    code = f"from orchestrator.keeper import cgroup; print(cgroup.of_service({unit.main.pid}))"
    enter = f"echo $$ >{unit.place}/cgroup.procs; exec {sys.executable} -c '{code}'"
    said = subprocess.run(["sh", "-c", enter], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "None"
    assert cgroup.of_service(unit.main.pid) is not None, "seen from elsewhere it is the service's"
