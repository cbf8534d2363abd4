"""One daemon per node, on the right node, with keys that only it can read: or a refusal that says the cure."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.daemon.keeper_link import is_hung
from orchestrator.daemon.supervision import CannotStart, HostLock, check_identity, check_key, make_directories

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys
from pathlib import Path
from orchestrator.daemon.supervision import HostLock
lock = HostLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def refusal(act: object, *arguments: object) -> str:
    assert callable(act)
    with pytest.raises(CannotStart) as caught:
        act(*arguments)
    return str(caught.value)


# --- the host's lock -------------------------------------------------------------------------------------------------


def test_a_second_daemon_of_a_node_is_refused_with_the_process_that_runs(tmp_path: Path):
    lock = HostLock(tmp_path)
    said = refusal(HostLock, tmp_path)
    assert f"process {os.getpid()}" in said
    assert str(tmp_path / "daemon.lock") in said
    lock.release()


def test_a_refused_daemon_does_not_take_the_lock_from_the_one_that_runs(tmp_path: Path):
    lock = HostLock(tmp_path)
    for _ in range(3):
        refusal(HostLock, tmp_path)
    assert (tmp_path / "daemon.lock").read_text() == f"{os.getpid()}\n"
    lock.release()


def test_a_lock_that_was_let_go_of_is_free(tmp_path: Path):
    HostLock(tmp_path).release()
    HostLock(tmp_path).release()


def test_other_nodes_of_the_same_host_have_locks_of_their_own(tmp_path: Path):
    for name in ("db1", "db2"):
        (tmp_path / name).mkdir()
    first, second = HostLock(tmp_path / "db1"), HostLock(tmp_path / "db2")
    first.release()
    second.release()


def test_a_daemon_that_was_killed_holds_nothing(tmp_path: Path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert holder.stdin is not None and holder.stdout is not None
    with holder.stdin, holder.stdout:
        assert holder.stdout.readline() == b"held\n"
        assert f"process {holder.pid}" in refusal(HostLock, tmp_path)
        holder.kill()
        holder.wait(10)
    HostLock(tmp_path).release()


def test_the_lock_is_not_inherited_by_what_the_daemon_starts(tmp_path: Path):
    """A service that goes on after its daemon must not keep the next daemon out."""
    lock = HostLock(tmp_path)
    flags = fcntl.fcntl(lock._descriptor, fcntl.F_GETFD)
    assert flags & fcntl.FD_CLOEXEC
    lock.release()


def test_a_holder_that_has_not_said_who_it_is_yet_is_unknown(tmp_path: Path):
    with open(tmp_path / "daemon.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "process unknown" in refusal(HostLock, tmp_path)


# --- directories -----------------------------------------------------------------------------------------------------


def test_directories_are_made_with_all_above_them_and_closed_to_others(tmp_path: Path):
    run, state = tmp_path / "run" / "tanist" / "db1", tmp_path / "state" / "db1"
    make_directories(run, state)
    make_directories(run, state)
    for directory in (run, state):
        assert directory.is_dir()
        assert directory.stat().st_mode & 0o007 == 0


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "run").write_text("a file")
    said = refusal(make_directories, tmp_path / "run" / "db1", tmp_path / "state")
    assert f"{tmp_path / 'run' / 'db1'} cannot be made: Not a directory" in said


def test_a_directory_that_is_not_writable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = tmp_path / "run"
    monkeypatch.setattr(os, "access", lambda path, mode: path != run)  # root may write everywhere
    assert refusal(make_directories, run, tmp_path / "state") == f"{run} is not writable for user {os.geteuid()}"


# --- identity --------------------------------------------------------------------------------------------------------


def test_a_state_directory_keeps_its_number_for_good(tmp_path: Path):
    first = check_identity(tmp_path, "shop", "db1")
    assert check_identity(tmp_path, "shop", "db1") == first
    assert len(first) == 16


def test_two_state_directories_never_have_the_same_number(tmp_path: Path):
    numbers = set()
    for name in "abc":
        (tmp_path / name).mkdir()
        numbers.add(check_identity(tmp_path / name, "shop", "db1"))
    assert len(numbers) == 3


@pytest.mark.parametrize(("cluster", "node"), [("shop", "db2"), ("bank", "db1")])
def test_a_copied_disk_does_not_speak_in_anothers_name(cluster: str, node: str, tmp_path: Path):
    check_identity(tmp_path, "shop", "db1")
    said = refusal(check_identity, tmp_path, cluster, node)
    for word in (str(tmp_path / "identity.json"), "'db1'", "'shop'", repr(node), repr(cluster), "copied disk"):
        assert word in said
    assert json.loads((tmp_path / "identity.json").read_text())["node"] == "db1"


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"5", b"\xff\xfe", b'{"cluster": "shop"}', b'{"cluster": "shop", "node": "db1"}']
)
def test_an_identity_that_cannot_be_read_is_refused_rather_than_made_anew(text: bytes, tmp_path: Path):
    (tmp_path / "identity.json").write_bytes(text)
    said = refusal(check_identity, tmp_path, "shop", "db1")
    assert "identity.json cannot be read" in said
    assert "expected cluster, node and number" in said
    assert (tmp_path / "identity.json").read_bytes() == text


# --- the key ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("0" * 64)
    return path


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640, 0o440])
def test_a_key_for_its_owner_or_group_is_good(mode: int, key: Path):
    key.chmod(mode)
    check_key(key)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o620, 0o660, 0o666])
def test_a_key_that_others_may_read_or_change_is_refused_with_the_cure(mode: int, key: Path):
    key.chmod(mode)
    said = refusal(check_key, key)
    assert f"mode {mode:04o}" in said
    assert said.endswith(f"chmod 0600 {key}")


def test_a_key_that_is_not_there_is_refused_with_the_command_that_makes_one(key: Path):
    key.unlink()
    assert refusal(check_key, key) == f"key_file {key}: No such file or directory; `tanist key {key}` makes one"


@pytest.mark.parametrize(
    ("silent_for", "state", "hung"), [(0.3, "T", False), (0.4, "T", True), (0.4, "D", True), (0.4, None, True)]
)
def test_a_keeper_that_does_not_run_is_hung_after_a_third_of_the_lease(silent_for: float, state: str | None, hung: bool):
    assert is_hung(silent_for, 1.0, state) is hung


@pytest.mark.parametrize(("silent_for", "hung"), [(0.4, False), (0.9, False), (1.1, True)])
def test_a_keeper_that_could_run_and_gets_no_core_is_given_a_whole_lease(silent_for: float, hung: bool):
    assert is_hung(silent_for, 1.0, "R") is hung
