"""A server that does not come up, and one that has ended without being collected: what people are told, on real servers."""

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from postgresql_servers import HOST, Servers, copies, standby, start_by_hand, start_command, template, until, why_not

from orchestrator.keeper.tree import Tree
from orchestrator.ports import RefusedByPeer, Unreachable
from orchestrator.services.postgresql import postmaster

pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.timeout(120),
    pytest.mark.skipif(bool(why_not()), reason=f"PostgreSQL: {why_not()}"),
]


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with template() as made:
        yield made


@pytest.fixture
def stopped(root: Path) -> Iterator[Servers]:
    with copies(root, running=()) as servers:
        yield servers


def refused(servers: Servers, kind: type[Exception] = RefusedByPeer, **changes: object) -> str:
    """What a start of member a ends with."""

    async def scenario() -> str:
        with pytest.raises(kind) as caught:
            await servers.service("a", **changes).ensure(standby(1))
        await servers.close()
        return str(caught.value)

    words = asyncio.run(scenario())
    print("\n-", words)
    return words


def test_a_taken_port_is_named(stopped: Servers):
    with socket.create_server((HOST, stopped.ports["a"])):
        words = refused(stopped)
    assert words.startswith(f'it ended while starting: could not bind IPv4 address "{HOST}": Address already in use')
    assert f"HINT: Is another postmaster already running on port {stopped.ports['a']}?" in words
    assert "FATAL: could not create any TCP/IP sockets" in words


def test_a_data_directory_that_others_may_read_is_named(stopped: Servers):
    (stopped.directory / "a").chmod(0o755)
    words = refused(stopped)
    assert f'FATAL: data directory "{stopped.directory}/a" has invalid permissions; DETAIL: Permissions should be u=rwx' in words


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("what is this", "syntax error in file"),
        ("max_wal_senders = many", 'invalid value for parameter "max_wal_senders": "many"'),
        ("no_such_setting = 1", 'unrecognized configuration parameter "no_such_setting"'),
    ],
)
def test_a_broken_line_of_the_configuration_is_named(stopped: Servers, line: str, cause: str):
    path = stopped.directory / "a" / "postgresql.conf"
    path.write_text(path.read_text() + line + "\n")
    words = refused(stopped)
    assert (
        words.startswith(f"it ended while starting: {cause}") and f'FATAL: configuration file "{path}" contains errors' in words
    )


def test_damaged_data_are_named(stopped: Servers):
    (stopped.directory / "a" / "global" / "pg_control").write_bytes(b"")
    assert 'PANIC: could not read file "global/pg_control"' in refused(stopped)


def test_a_standby_that_waits_for_log_is_left_to_and_what_it_waits_for_is_named(stopped: Servers):
    for each in (stopped.directory / "a" / "pg_wal").glob("0*[0-9A-F]"):
        each.unlink()
    words = refused(stopped, Unreachable, start_within=1.5)
    assert "is left to go on: it replays until its data is consistent" in words and "waiting for WAL to become available" in words


def test_an_older_reason_is_not_told_again(stopped: Servers):
    """Only what was written since this start counts: an older reason in the same file has been dealt with."""
    (stopped.directory / "a").chmod(0o755)
    assert "invalid permissions" in refused(stopped)
    (stopped.directory / "a").chmod(0o700)
    with socket.create_server((HOST, stopped.ports["a"])):
        assert "invalid permissions" not in refused(stopped)


def test_the_servers_own_log_files_are_read_too(stopped: Servers):
    path = stopped.directory / "a" / "postgresql.conf"
    path.write_text(path.read_text() + "logging_collector = on\nshared_preload_libraries = 'tanist_none'\n")
    assert 'FATAL: could not access file "tanist_none": No such file or directory' in refused(stopped)
    text = path.read_text().replace(
        "shared_preload_libraries = 'tanist_none'", "recovery_target = 'immediate'\nrecovery_target_xid = '9'"
    )
    path.write_text(text)
    assert "FATAL: multiple recovery targets specified" in refused(stopped)


# --- a main process that has ended, and is not collected -------------------------------------------------------------

PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def adopts_orphans() -> Iterator[None]:
    """As the first process of a container does: what loses its parent becomes ours, and nobody collects it for us."""
    library = ctypes.CDLL(None)
    library.prctl(PR_SET_CHILD_SUBREAPER, 1)
    yield
    library.prctl(PR_SET_CHILD_SUBREAPER, 0)


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return "gone"


def test_the_daemons_own_server_leaves_no_zombie(stopped: Servers):
    async def scenario() -> None:
        a = stopped.service("a")
        view = await a.ensure(standby(1))
        stopped.kill("a")
        deadline = time.monotonic() + 2
        while state_of(view.pid) != "gone":
            assert time.monotonic() < deadline, state_of(view.pid)
            await asyncio.sleep(0.005)
        await stopped.close()

    asyncio.run(scenario())


def test_an_uncollected_main_process_runs_for_nobody_and_is_collected_by_whoever_inherited_it(
    stopped: Servers, adopts_orphans: None
):
    """PostgreSQL itself would refuse to start beside it: it asks with a signal only whether the number exists."""
    start_by_hand(stopped, "a")
    running = postmaster.find(stopped.directory / "a")
    assert running is not None
    tree = Tree(running.pid, running.started, str(stopped.directory / "a"), "postgres")
    tree.notice()
    stopped.kill("a")
    until(lambda: state_of(running.pid) == "Z")
    assert postmaster.find(stopped.directory / "a") is None
    assert tree.is_empty() and tree.is_stopped()
    assert not postmaster.tell(running, signal.SIGINT)
    assert postmaster.uncollected(stopped.directory / "a") == (running.pid, os.getpid())

    async def scenario() -> None:
        a = stopped.service("a")
        assert await postmaster.wait_for_end(running, 1.0)
        view = await a.ensure(standby(1))
        assert view.pid != running.pid and state_of(running.pid) == "gone"
        await stopped.close()

    asyncio.run(scenario())


def test_a_parent_that_does_not_collect_is_named(stopped: Servers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("orchestrator.services.postgresql.control.ZOMBIE_WITHIN", 0.3)
    code = "import ctypes, subprocess, sys, time; ctypes.CDLL(None).prctl(36, 1); subprocess.run(sys.argv[1:]); time.sleep(600)"
    careless = subprocess.Popen([sys.executable, "-c", code, *start_command(stopped, "a")], cwd="/")
    try:
        running = until(lambda: postmaster.find(stopped.directory / "a"))
        until(lambda: (postmaster.find(stopped.directory / "a") or running).status == "ready")
        stopped.kill("a")
        until(lambda: state_of(running.pid) == "Z")
        words = refused(stopped)
        assert (
            f"main process {running.pid} has ended, but its parent {careless.pid} (" in words and "does not collect it" in words
        )
    finally:
        careless.kill()
        careless.wait()
