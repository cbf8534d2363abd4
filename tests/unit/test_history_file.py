"""What a member has lived through, on disk: whole, or loudly not there; never half."""

import json
import os
from pathlib import Path

import pytest

from orchestrator.daemon.remembering import BadHistory, recall, remember
from orchestrator.domain.effects import History
from orchestrator.domain.record import Cause, Record
from orchestrator.domain.topology import Pair

RECORD = Record(
    version=7,
    incarnation=9,
    epoch=3,
    primary=Pair("db1", 11),
    succession=(Pair("db2", 22),),
    lease=1.0,
    nonce=5,
    cause=Cause.FAILOVER,
    reason="failover to db1: db3 has not been heard for 1.2 s",
    since=1.7e9,
)
HISTORY = History(record=RECORD, served_epoch=3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders" / "history.json"


def test_what_was_remembered_is_recalled(path: Path):
    remember(path, HISTORY)
    assert recall(path) == HISTORY


def test_who_has_no_file_has_lived_through_nothing(path: Path):
    assert recall(path) == History()
    assert recall(path).epoch == 0


def test_the_newest_memory_replaces_the_one_before(path: Path):
    remember(path, History(record=RECORD, served_epoch=1))
    remember(path, HISTORY)
    assert recall(path).served_epoch == 3


def test_the_epoch_of_a_history_is_the_highest_it_knows():
    assert History(record=RECORD, served_epoch=1).epoch == 3
    assert History(record=RECORD, served_epoch=5).epoch == 5
    assert History(served_epoch=2).epoch == 2


@pytest.mark.parametrize("text", ["", "{", "garbage", "[]", "5", '{"served_epoch": "three"}', '{"record": {"epoch": 1}}'])
def test_a_file_that_cannot_be_read_is_refused_by_name_rather_than_taken_for_no_history(text: str, path: Path):
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(BadHistory, match=r"history\.json.*move it away"):
        recall(path)


def test_a_file_of_bytes_that_are_no_text_is_refused_by_name(path: Path):
    path.parent.mkdir()
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(BadHistory, match=r"history\.json.*move it away"):
        recall(path)


def test_a_file_cut_off_anywhere_is_refused(path: Path):
    remember(path, HISTORY)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(BadHistory):
            recall(path)


def test_a_history_of_a_newer_tanist_with_unknown_fields_is_recalled(path: Path):
    path.parent.mkdir()
    remember(path, HISTORY)
    path.write_text(json.dumps({**json.loads(path.read_text()), "mood": "good"}))
    assert recall(path) == HISTORY


def test_a_kill_before_the_new_file_takes_its_place_leaves_the_old_one(path: Path, monkeypatch: pytest.MonkeyPatch):
    remember(path, HISTORY)

    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as now, pytest.raises(SystemExit):
        now.setattr(os, "replace", killed)
        remember(path, History(record=RECORD, served_epoch=9))
    assert recall(path) == HISTORY
    remember(path, History(record=RECORD, served_epoch=9))
    assert recall(path).served_epoch == 9


def test_a_full_disk_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch):
    remember(path, HISTORY)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as now, pytest.raises(OSError, match="No space left"):
        now.setattr(os, "fsync", full)
        remember(path, History(record=RECORD, served_epoch=9))
    assert recall(path) == HISTORY


def test_the_data_is_on_disk_before_the_file_takes_its_place(path: Path, monkeypatch: pytest.MonkeyPatch):
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (done.append("fsync"), fsync(descriptor))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("replace"), replace(*paths))[1])
    remember(path, HISTORY)
    assert done[:2] == ["fsync", "replace"]


def test_nothing_else_is_left_beside_the_file(path: Path):
    remember(path, HISTORY)
    remember(path, HISTORY)
    assert [each.name for each in path.parent.iterdir()] == ["history.json"]
