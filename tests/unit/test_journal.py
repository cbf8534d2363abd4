"""Journal and history: every event and effect in rotating files, and the sentences that people read after a crash."""

import json
from pathlib import Path

import pytest

from orchestrator.daemon import journal as journal_module
from orchestrator.daemon.journal import Journal, read_lines
from orchestrator.domain import effects, events
from orchestrator.domain.effects import Notice, NoticeKind
from orchestrator.domain.plain import from_plain


def sentence(text: str, kind: NoticeKind = NoticeKind.DECISION) -> Notice:
    return Notice(kind=kind, code="test", text=text, epoch=3, evidence=("seen", "heard"))


def tell(journal: Journal, text: str) -> None:
    journal.keep(journal.entry(sentence(text), 1_700_000_000.25, "db1"))


def told(directory: Path) -> list[str]:
    return [entry["text"] for entry in read_lines(directory / "history.jsonl")]


def journalled(directory: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (directory / "journal.jsonl").read_text().splitlines()]


def test_a_sentence_is_kept_with_moment_node_epoch_and_evidence(tmp_path: Path):
    tell(Journal(tmp_path), "db1 serves")
    (entry,) = read_lines(tmp_path / "history.jsonl")
    assert entry == {
        "wall": 1_700_000_000.25,
        "node": "db1",
        "kind": "decision",
        "code": "test",
        "text": "db1 serves",
        "epoch": 3,
        "evidence": ["seen", "heard"],
    }


def test_a_sentence_can_be_read_from_the_file_at_once(tmp_path: Path):
    journal = Journal(tmp_path)
    tell(journal, "first")
    assert told(tmp_path) == ["first"]
    tell(journal, "second")
    assert told(tmp_path) == ["first", "second"]


def test_a_new_run_knows_what_was_told_before_in_order(tmp_path: Path):
    journal = Journal(tmp_path)
    for number in range(5):
        tell(journal, f"number {number}")
    journal.close()
    assert [each["text"] for each in Journal(tmp_path).recent] == [f"number {number}" for number in range(5)]


def test_a_sentence_is_among_the_recent_ones_before_it_is_on_disk(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.entry(sentence("not yet written"), 1.0, "db1")
    assert [each["text"] for each in journal.recent] == ["not yet written"]
    assert told(tmp_path) == []


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_last_line_that_a_crash_cut_off_is_skipped_and_the_next_sentence_is_whole(cut: int, tmp_path: Path):
    journal = Journal(tmp_path)
    tell(journal, "whole")
    tell(journal, "cut off")
    journal.close()
    path = tmp_path / "history.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    after = Journal(tmp_path)
    tell(after, "after the crash")
    texts = told(tmp_path)
    assert texts[0] == "whole"
    assert texts[-1] == "after the crash"
    assert len(texts) == (3 if cut == 1 else 2)


def test_a_damaged_line_in_the_middle_costs_only_itself(tmp_path: Path):
    journal = Journal(tmp_path)
    for text in ("one", "two", "three"):
        tell(journal, text)
    path = tmp_path / "history.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = b'\xff\xfe{"wall": 1, "tex\n'
    path.write_bytes(b"".join(lines))
    assert told(tmp_path) == ["one", "three"]


def test_events_and_effects_can_be_read_back_as_what_they_were(tmp_path: Path):
    journal = Journal(tmp_path)
    event = events.Ticked(at=12.5, wall=1.7e9)
    effect = effects.EnsureClients(primary="db2", epoch=4)
    journal.event(event)
    journal.effect(effect, 12.5)
    journal.flush()
    first, second = journalled(tmp_path)
    assert from_plain(events.Event, first["event"]) == event
    assert from_plain(effects.Effect, second["effect"]) == effect
    assert second["at"] == 12.5


def test_a_full_segment_becomes_number_one_and_old_ones_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 400)
    journal = Journal(tmp_path)
    for number in range(200):
        journal.event(events.Ticked(at=float(number), wall=0.0))
    journal.close()
    files = sorted(each.name for each in tmp_path.glob("journal*"))
    assert files == ["journal.1.jsonl", "journal.2.jsonl", "journal.3.jsonl", "journal.jsonl"]
    assert all((tmp_path / each).stat().st_size <= 400 for each in files)
    moments = [
        json.loads(line)["event"]["at"]
        for name in ("journal.3.jsonl", "journal.2.jsonl", "journal.1.jsonl", "journal.jsonl")
        for line in (tmp_path / name).read_text().splitlines()
    ]
    assert moments == [float(number) for number in range(200 - len(moments), 200)]
    assert len(moments) > 10


def test_the_history_reaches_back_over_its_own_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(journal_module, "HISTORY_BYTES", 600)
    journal = Journal(tmp_path)
    for number in range(20):
        tell(journal, f"number {number}")
    texts = told(tmp_path)
    assert texts == [f"number {number}" for number in range(20 - len(texts), 20)]
    assert len(texts) >= 4
    assert sorted(each.name for each in tmp_path.glob("history*")) == ["history.1.jsonl", "history.jsonl"]


def test_a_restart_goes_on_in_the_same_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 400)
    for number in range(3):
        journal = Journal(tmp_path)
        journal.event(events.Ticked(at=float(number), wall=0.0))
        journal.close()
    assert [entry["event"]["at"] for entry in journalled(tmp_path)] == [0.0, 1.0, 2.0]


def test_only_the_newest_sentences_are_kept_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(journal_module, "RECENT_KEPT", 3)
    journal = Journal(tmp_path)
    for number in range(5):
        tell(journal, f"number {number}")
    assert [each["text"] for each in journal.recent] == ["number 2", "number 3", "number 4"]
