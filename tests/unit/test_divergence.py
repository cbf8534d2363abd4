"""Diverged writes: their files, what people say of them, and the command that shows them."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from orchestrator.services.divergence import Kept, Unknown
from tests.unit.test_cli import Cli, failed, succeeded

NAME = "7711489761851291055-tl1-1-0-3018800"
WORD = {"by": "ann", "reason": "test data", "at": "2026-11-23T22:00:00Z"}


def manifest(**more: Any) -> dict[str, Any]:
    return {
        "writes": 2,
        "transactions": 1,
        "complete": True,
        "why": "",
        "old_tli": 1,
        "divergence_lsn": "0/3018800",
        "from": "db2",
        "saved_at": "2026-11-23T21:59:00Z",
        "tables": {"app: public.stock": {"update": 1, "delete": 1}},
        **more,
    }


ROW = {
    "v": 1,
    "kind": "row",
    "db": "app",
    "xid": 771,
    "commit_lsn": "0/301CAB8",
    "commit_ts": "2026-11-23 21:58:00+00",
    "op": "update",
    "table": ["public", "stock"],
    "key": {"id": "7"},
    "old": {"id": "7", "n": "100", "what": None},
    "new": {"id": "7", "n": "99", "what": "x" * 100},
    "types": {"id": "integer", "n": "integer", "what": "text"},
    "ctid": "(0,4)",
}
GONE = {**ROW, "op": "delete", "key": None, "old": None, "new": None}


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    made = Kept(tmp_path / "state" / "db1" / "orders" / "divergence")
    made.make()
    with made.writing(NAME) as stream:
        for line in ({"v": 1, "kind": "header"}, ROW, GONE):
            stream.write(json.dumps(line) + "\n")
    made.note(NAME, manifest(file=str(made.rows(NAME))))
    return made


@pytest.fixture
def tanist(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def test_files_are_their_owners_only(kept: Kept):
    assert stat.S_IMODE(kept.directory.stat().st_mode) == 0o700
    for path in kept.directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_rows_that_were_not_finished_have_no_name(kept: Kept):
    with pytest.raises(ZeroDivisionError), kept.writing("other") as stream:
        stream.write("half")
        raise ZeroDivisionError
    assert not kept.rows("other").exists()


def test_whoever_should_look_is_told_until_somebody_has(kept: Kept):
    assert [each["name"] for each in kept.waiting()] == [NAME]
    kept.discard(NAME, WORD, delete=False)
    assert kept.waiting() == [] and kept.rows(NAME).exists()
    kept.discard(NAME, WORD, delete=True)
    assert not kept.rows(NAME).exists() and kept.manifest(NAME)["discarded"]["by"] == "ann"


def test_an_empty_divergence_needs_nobody(kept: Kept):
    kept.note(NAME, manifest(writes=0))
    assert kept.waiting() == []


def test_a_manifest_that_cannot_be_read_is_not_left_out(kept: Kept):
    (kept.directory / "broken.manifest.json").write_text("{")
    (found,) = (each for each in kept.waiting() if each["name"] == "broken")
    assert not found["complete"] and "broken.manifest.json" in found["why"]


def test_an_unknown_name(kept: Kept):
    with pytest.raises(Unknown):
        kept.discard("other", WORD, delete=True)


def test_a_word_is_used_up(kept: Kept):
    assert kept.given_up() is None
    kept.give_up(WORD)
    assert kept.given_up() == WORD
    kept.used_up()
    assert kept.given_up() is None


# --- the command -----------------------------------------------------------------------------------------------------


def test_nothing_has_diverged(tanist: Cli):
    assert succeeded(tanist("divergence", "list")) == "nothing has diverged here\n"
    assert "there is none" in failed(tanist("divergence", "show"), 2)


def test_list_and_show(tanist: Cli, kept: Kept):
    told = succeeded(tanist("divergence", "list"))
    assert told.startswith(f"{NAME}: 2 writes in 1 transactions, past 0/3018800 on timeline 1, not on db2")
    (as_json,) = json.loads(succeeded(tanist("divergence", "list", "--json")))
    assert as_json["name"] == NAME and as_json["writes"] == 2
    shown = succeeded(tanist("divergence", "show"))
    assert "app: public.stock: 1 update, 1 delete" in shown
    assert "update app: public.stock (id = 7) n: 100 -> 99; what: NULL -> " + "x" * 57 + "..." in shown
    assert "delete app: public.stock (no key) nothing known of it" in shown
    assert "divergence export" in succeeded(tanist("divergence", "show", "3018800", "--rows", "1"))
    assert "there is no 'other'" in failed(tanist("divergence", "show", "other"), 2)


def test_export(tanist: Cli, kept: Kept, tmp_path: Path):
    lines = [json.loads(line) for line in succeeded(tanist("divergence", "export")).splitlines()]
    assert lines[1:] == [ROW, GONE]
    target = tmp_path / "copy.jsonl"
    succeeded(tanist("divergence", "export", "--to", str(target)))
    assert target.read_bytes() == kept.rows(NAME).read_bytes()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert "exists" in failed(tanist("divergence", "export", "--to", str(target)), 1)


def test_discard_keeps_who_said_so(tanist: Cli, kept: Kept):
    assert "--reason" in tanist("divergence", "discard").stderr
    succeeded(tanist("divergence", "discard", "--reason", "test data"))
    said = kept.manifest(NAME)["discarded"]
    assert (said["by"], said["reason"], said["deleted"]) == ("ann", "test data", False)
    assert "discarded by ann: test data" in succeeded(tanist("divergence", "list"))
    succeeded(tanist("divergence", "discard", "--reason", "test data", "--delete"))
    assert "is not there" in failed(tanist("divergence", "export"), 1)


def test_give_up_asks_back(tanist: Cli, kept: Kept):
    assert tanist("divergence", "give-up", "--reason", "old", given="n\n").exit_code == 1
    assert kept.given_up() is None
    succeeded(tanist("divergence", "give-up", "--reason", "old", "--yes"))
    word = kept.given_up()
    assert word is not None and (word["by"], word["reason"]) == ("ann", "old")


def test_several_groups_have_to_be_told_apart(tanist: Cli, kept: Kept):
    more = "  stock:\n    service: redis\n    redis: {port: 7000}\n    members: {db1: {}, db2: {address: 127.0.0.2}}\n"
    tanist.write(groups=more)
    assert "say which group" in failed(tanist("divergence", "give-up", "--reason", "old", "--yes"), 2)
    assert "no group 'other'" in failed(tanist("divergence", "list", "--group", "other"), 2)
    succeeded(tanist("divergence", "give-up", "--reason", "old", "--yes", "--group", "stock"))
    assert kept.given_up() is None
    assert Kept(kept.directory.parent.parent / "stock" / "divergence").given_up() is not None
