"""Process trees: every descendant is stopped, let go on and killed; strangers never are."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.keeper.tree import Tree, children, started
from tests.system.redis_servers import is_alive, state_of, wait_for

pytestmark = pytest.mark.timeout(60)

FAMILY = """
import os, sys, time
def work(name):
    with open(f"{sys.argv[1]}/{name}", "w") as file:
        file.write(str(os.getpid()))
    while True:
        with open(f"{sys.argv[1]}/{name}.works", "w") as file:
            file.write(str(time.monotonic()))
        time.sleep(0.01)
def child(name, *then):
    if os.fork() == 0:
        os.setsid()  # as a daemon would: another group, another session
        for each in then:
            each()
        work(name)
child("child", lambda: child("grandchild"))
child("second")
work("main")
"""

ORPHAN = """
import os, sys, time
def note(name):
    with open(f"{sys.argv[1]}/{name}.new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{sys.argv[1]}/{name}.new", f"{sys.argv[1]}/{name}")
if os.fork() == 0:
    if os.fork() == 0:
        note("orphan")
        time.sleep(600)
    note("between")
    while not os.path.exists(f"{sys.argv[1]}/go"):
        time.sleep(0.005)
    os._exit(0)
note("main")
os.wait()
time.sleep(600)
"""

FORKER = """
import os, time
def bear():
    while True:
        if os.fork() != 0:
            time.sleep(0.002)
            continue
        time.sleep(600)
bear()
"""


class Family:
    """A program's processes, by the names that they write into a directory; all of them end with the test."""

    def __init__(self, program: str, directory: Path) -> None:
        self.directory = directory
        self.popen = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program), str(directory)], start_new_session=True)
        self.tree = Tree(self.popen.pid, started(self.popen.pid) or 0)

    def pid(self, name: str) -> int:
        path = self.directory / name
        wait_for(lambda: path.exists() and path.read_text())
        return int(path.read_text())

    def works(self, name: str, within: float = 0.5) -> bool:
        """It has done something since now."""
        path = self.directory / f"{name}.works"
        before = path.read_text()
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            if path.read_text() != before:
                return True
            time.sleep(0.005)
        return False

    def end(self) -> None:
        for path in self.directory.iterdir():
            if path.suffix == "" and path.name != "go" and path.read_text().isdigit():
                with_signal(int(path.read_text()), signal.SIGKILL)
        self.tree.kill()
        self.popen.kill()
        self.popen.wait(10)


def with_signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


@pytest.fixture
def raise_family(tmp_path: Path) -> Iterator[Callable[[str], Family]]:
    made: list[Family] = []

    def make(program: str) -> Family:
        directory = tmp_path / f"family{len(made)}"
        directory.mkdir()
        made.append(Family(program, directory))
        return made[-1]

    yield make
    for family in made:
        family.end()


NAMES = ("main", "child", "grandchild", "second")


def test_a_whole_family_is_stopped_goes_on_and_is_killed(raise_family: Callable[[str], Family]):
    family = raise_family(FAMILY)
    pids = [family.pid(name) for name in NAMES]
    tree = family.tree
    assert not tree.is_stopped()
    assert all(family.works(name) for name in NAMES)
    tree.stop()
    wait_for(tree.is_stopped)
    assert [state_of(pid) for pid in pids] == ["T"] * 4
    assert not any(family.works(name, 0.1) for name in NAMES)
    tree.go_on()
    assert all(family.works(name) for name in NAMES)
    tree.kill()
    wait_for(lambda: family.popen.poll() is not None)
    wait_for(tree.is_empty)
    assert not any(is_alive(pid) for pid in pids)


def test_a_process_that_was_killed_while_stopped_does_nothing_in_between(raise_family: Callable[[str], Family]):
    """Rule 22: queued commits would run in the moment between."""
    family = raise_family(FAMILY)
    for name in NAMES:
        family.pid(name)
    family.tree.stop()
    wait_for(family.tree.is_stopped)
    before = {name: (family.directory / f"{name}.works").read_text() for name in NAMES}
    family.tree.kill()
    family.popen.wait(10)
    wait_for(family.tree.is_empty)
    assert {name: (family.directory / f"{name}.works").read_text() for name in NAMES} == before


def test_one_child_that_goes_on_is_seen(raise_family: Callable[[str], Family]):
    family = raise_family(FAMILY)
    grandchild = family.pid("grandchild")
    family.tree.stop()
    wait_for(family.tree.is_stopped)
    os.kill(grandchild, signal.SIGCONT)
    wait_for(lambda: state_of(grandchild) != "T")
    assert not family.tree.is_stopped()
    family.tree.stop()
    wait_for(family.tree.is_stopped)


THREADS = """
import threading, time
def count():
    while True:
        pass
threading.Thread(target=count, daemon=True).start()
open(__import__("sys").argv[1] + "/main", "w").write(str(__import__("os").getpid()))
time.sleep(600)
"""


def test_one_thread_that_goes_on_is_seen(raise_family: Callable[[str], Family]):
    """A debugger may let one thread of a stopped process go on: the process's own letter says nothing of it."""
    family = raise_family(THREADS)
    pid = family.pid("main")
    wait_for(lambda: len(os.listdir(f"/proc/{pid}/task")) == 2)
    thread = next(int(each) for each in os.listdir(f"/proc/{pid}/task") if int(each) != pid)
    family.tree.stop()
    wait_for(family.tree.is_stopped)
    with Debugger(thread) as debugger:
        assert family.tree.is_stopped(), "traced and standing still"
        wait_for(lambda: debugger.lets_go_on() == "R")
        assert state_of(pid) in "Tt"
        assert not family.tree.is_stopped()


class Debugger:
    """Traces one thread (ptrace(2)), and can let it go on while its process is stopped."""

    ATTACH, GO_ON, DETACH, EVERY_KIND = 16, 7, 17, 0x40000000

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self._trace = ctypes.CDLL(None, use_errno=True).ptrace
        self._trace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

    def __enter__(self) -> "Debugger":
        if self._trace(self.ATTACH, self.thread, None, None) != 0:
            pytest.skip(f"ptrace: {os.strerror(ctypes.get_errno())}")
        os.waitpid(self.thread, self.EVERY_KIND)
        return self

    def __exit__(self, *_: object) -> None:
        """A thread must stand still to be let off the leash, and is stopped together with its process then."""
        if state_of(self.thread) == "R":
            os.kill(self.thread, signal.SIGSTOP)
            os.waitpid(self.thread, self.EVERY_KIND)
        self._trace(self.DETACH, self.thread, None, None)

    def lets_go_on(self) -> str:
        """Stops that were due already end it again: so this is to be repeated."""
        self._trace(self.GO_ON, self.thread, None, None)
        time.sleep(0.02)
        os.waitpid(self.thread, self.EVERY_KIND | os.WNOHANG)
        return state_of(self.thread)


def test_an_orphan_that_was_noticed_stays_in_the_tree(raise_family: Callable[[str], Family]):
    """A double fork: the parent between ends, and init takes the orphan in."""
    family = raise_family(ORPHAN)
    orphan, between = family.pid("orphan"), family.pid("between")
    family.tree.notice()
    (family.directory / "go").touch()
    wait_for(lambda: not is_alive(between))
    assert orphan not in children(family.popen.pid)
    family.tree.stop()
    wait_for(family.tree.is_stopped)
    assert state_of(orphan) == "T"
    family.tree.kill()
    family.popen.wait(10)
    wait_for(family.tree.is_empty)
    assert not is_alive(orphan)


def test_the_children_of_a_main_process_that_died_first_are_found(raise_family: Callable[[str], Family]):
    """Rule 17: a database's children can still commit."""
    family = raise_family(FAMILY)
    rest = [family.pid(name) for name in NAMES[1:]]
    family.tree.notice()
    family.popen.kill()
    family.popen.wait(10)
    assert not family.tree.is_empty()
    assert not family.tree.is_stopped()
    family.tree.kill()
    wait_for(family.tree.is_empty)
    assert not any(is_alive(pid) for pid in rest)


def test_what_forks_while_it_is_being_stopped_is_stopped_too(raise_family: Callable[[str], Family]):
    family = raise_family(FORKER)
    wait_for(lambda: len(children(family.popen.pid)) > 20)
    family.tree.stop()
    wait_for(family.tree.is_stopped)
    count = len(children(family.popen.pid))
    time.sleep(0.05)
    assert len(children(family.popen.pid)) == count
    assert family.tree.is_stopped()


def test_a_process_of_another_start_is_a_stranger(raise_family: Callable[[str], Family]):
    family = raise_family(FAMILY)
    pids = [family.pid(name) for name in NAMES]
    stranger = Tree(family.popen.pid, family.tree.process_started - 1)
    assert stranger.is_empty()
    stranger.stop()
    stranger.kill()
    assert all(is_alive(pid) and state_of(pid) != "T" for pid in pids)


REUSED = """
import os, signal, sys, time
from orchestrator.keeper.tree import Tree, children, started

def sleeper(count):
    pid = os.fork()
    if pid == 0:
        for _ in range(count):
            sleeper(0)
        time.sleep(600)
        os._exit(0)
    return pid

first = sleeper(0)
tree = Tree(first, started(first))
tree.notice()
os.kill(first, signal.SIGKILL)
os.waitpid(first, 0)
time.sleep(0.05)  # a start is counted in ticks of a hundredth of a second
with open("/proc/sys/kernel/ns_last_pid", "w") as file:
    file.write(str(first - 1))
second = sleeper(2)
if second != first:
    print("the number was not given again")
    sys.exit(77)
while len(children(second)) < 2:
    time.sleep(0.01)
family = [second, *children(second)]
tree.stop()
time.sleep(0.05)
letters = [open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] for pid in family]
print(tree.is_empty(), letters)
tree.kill()
time.sleep(0.05)
print([started(pid) is not None for pid in family])
"""


@pytest.mark.root
def test_a_number_that_was_given_again_leads_to_nobody_new():
    """Neither the process that got the number nor its children: in a process namespace of its own, the number is forced."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a process namespace takes root and the program unshare")
    command = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child", sys.executable, "-c", REUSED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode == 77 or "Operation not permitted" in done.stderr:
        pytest.skip(done.stdout + done.stderr)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["True ['S', 'S', 'S']", "[True, True, True]"]
