"""The page: the keeper's memory outlives the keeper, but neither a reboot nor a write that was cut off."""

import json
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.domain.observations import Hold, Release
from orchestrator.domain.positions import Position
from orchestrator.domain.spans import FOREVER, NEVER
from orchestrator.domain.topology import Pair
from orchestrator.keeper import page as page_module
from orchestrator.keeper.memory import Counted, Memory
from orchestrator.keeper.page import SIZE, SLOT_BYTES, Page

MEMORY = Memory(
    life=11,
    began_at=100.0,
    lease=1.0,
    wait_lease=3.0,
    epoch=4,
    version=9,
    seen_version=8,
    incarnation=77,
    primary=Pair("db1", 11),
    hold=Hold.SERVING,
    right_epoch=4,
    writable_epoch=4,
    written=True,
    write_until=200.5,
    counted=[Counted(Pair("db2", 22), 201.25), Counted(Pair("db3", 33), NEVER, prepared_at=9)],
    promised_to="*",
    promised_life=5,
    promised_until=101.01,
    claim=8,
    release=Release(epoch=4, version=9, position=Position("abc", 12), target="db2"),
    released_at=150.0,
    right_until=FOREVER,
    frozen_since=149.0,
    superseded=True,
    pid=4711,
    process_started=99,
    exited=True,
    readable=True,
)


def remembered(**changes: object) -> Memory:
    return replace(MEMORY, **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.page"


@pytest.fixture
def page(path: Path) -> Page:
    made = Page(path, create=True)
    made.begin()
    return made


def again(path: Path) -> Page:
    return Page(path, create=False)


def slots(path: Path) -> tuple[int, int]:
    """Where the two slots begin."""
    return SIZE - 2 * SLOT_BYTES, SIZE - SLOT_BYTES


def damage(path: Path, at: int, data: bytes) -> None:
    with open(path, "r+b") as stream:
        stream.seek(at)
        stream.write(data)


def slot_with(path: Path, text: bytes) -> int:
    whole = path.read_bytes()
    (found,) = [at for at in slots(path) if text in whole[at : at + SLOT_BYTES]]
    return found


def test_a_new_page_holds_no_memory(page: Page, path: Path):
    assert page.read() is None
    assert again(path).read() is None


def test_every_part_of_a_memory_is_read_as_it_was_written(page: Page, path: Path):
    page.write(MEMORY)
    assert again(path).read() == MEMORY


def test_what_was_heard_of_each_peer_is_read_as_it_was_written(page: Page, path: Path):
    heard = {"db2": (22, 1_000_000), "db3": (33, 2_000_000)}
    page.write(remembered(heard=heard))
    assert again(path).read().heard == heard


def test_the_newest_memory_counts(page: Page, path: Path):
    for epoch in range(1, 8):
        page.write(remembered(epoch=epoch))
        assert again(path).read().epoch == epoch


def test_a_successor_goes_on_where_its_predecessor_ended(page: Page, path: Path):
    page.write(remembered(epoch=1))
    page.write(remembered(epoch=2))
    successor = Page(path, create=True)
    assert successor.read().epoch == 2
    successor.begin()
    successor.write(remembered(epoch=3))
    assert again(path).read().epoch == 3
    damage(path, slot_with(path, b'"epoch":3') + 100, b"\0\0\0\0")
    assert again(path).read().epoch == 2


def test_after_a_kill_in_the_middle_of_a_write_the_memory_before_it_counts(page: Page, path: Path):
    page.write(remembered(epoch=1))
    page.write(remembered(epoch=2))
    page.write(remembered(epoch=3))
    damage(path, slot_with(path, b'"epoch":3') + 200, b"half a memory")
    assert again(path).read() == remembered(epoch=2)


@pytest.mark.parametrize("byte", [0, 7, 8, 11, 12, 15, 16, 40, 300])
def test_one_flipped_byte_anywhere_in_a_slot_leaves_the_other_slot(byte: int, page: Page, path: Path):
    page.write(remembered(epoch=1))
    page.write(remembered(epoch=2))
    at = slot_with(path, b'"epoch":2') + byte
    damage(path, at, bytes([path.read_bytes()[at] ^ 0xFF]))
    found = again(path).read()
    assert found is not None
    assert found.epoch in (1, 2)
    if byte > 7:
        assert found.epoch == 1


def test_with_both_slots_damaged_a_new_life_begins(page: Page, path: Path):
    page.write(remembered(epoch=1))
    page.write(remembered(epoch=2))
    for at in slots(path):
        damage(path, at + 30, b"\xff\xff\xff")
    assert again(path).read() is None


def test_the_memory_of_another_boot_is_void(page: Page, path: Path, monkeypatch: pytest.MonkeyPatch):
    page.write(MEMORY)
    page.write_hot(500.0, 400.0, guarded=True)
    monkeypatch.setattr(page_module, "boot_id", lambda: b"0" * 36)
    assert again(path).read() is None
    after = Page(path, create=True)
    after.begin()
    assert after.read() is None
    assert after.read_hot() == (NEVER, NEVER, False)


def test_the_memory_of_this_boot_survives_a_new_beginning(page: Page, path: Path):
    page.write(MEMORY)
    page.write_hot(500.0, 400.0, guarded=True)
    successor = Page(path, create=True)
    successor.begin()
    assert successor.read() == MEMORY
    assert successor.read_hot() == (500.0, 400.0, True)


def test_a_file_that_is_no_page_holds_no_memory(path: Path):
    path.write_bytes(b"something else" * 2000)
    page = Page(path, create=True)
    assert page.read() is None
    page.begin()
    page.write(MEMORY)
    assert again(path).read() == MEMORY


def test_a_file_that_was_cut_short_is_made_whole_by_the_keeper_and_refused_to_the_daemon(path: Path):
    path.write_bytes(b"TanistP1")
    with pytest.raises((OSError, ValueError)):
        again(path)
    assert Page(path, create=True).read() is None


def test_the_daemon_makes_no_page(path: Path):
    with pytest.raises(FileNotFoundError):
        again(path)
    assert not path.exists()


def test_a_page_is_for_its_owner_only(page: Page, path: Path):
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_memory_of_a_newer_keeper_with_unknown_fields_is_read(page: Page, path: Path):
    """An upgrade that is taken back must not end the right."""
    page.write(MEMORY)
    old = path.read_bytes()
    assert b'"readable":true' in old
    at = slot_with(path, b'"life":11')
    data = json.dumps({**json.loads(page._read_slot((at - slots(path)[0]) // SLOT_BYTES)[1]), "mood": "good"}).encode()
    damage(path, at, page_module._SLOT.pack(1, len(data), zlib.crc32(data)) + data)
    assert again(path).read() == MEMORY


def test_a_memory_too_large_for_its_slot_is_refused_before_anything_is_overwritten(page: Page, path: Path):
    page.write(remembered(epoch=1))
    page.write(remembered(epoch=2))
    crowd = {f"db{number}": (2**62, 2**53) for number in range(1600)}
    with pytest.raises(ValueError, match="does not fit"):
        page.write(remembered(heard=crowd))
    assert again(path).read().epoch == 2


def test_a_group_of_thirty_members_fits_the_page(page: Page, path: Path):
    names = [f"{'n' * 28}{number:03}" for number in range(30)]
    full = remembered(
        counted=[Counted(Pair(name, 2**62), 1234567.123456, prepared_at=10**9) for name in names],
        heard=dict.fromkeys(names, (2**62, 2**53)),
    )
    page.write(full)
    assert again(path).read().counted == full.counted


@pytest.mark.parametrize("until", [NEVER, 12345.678901, FOREVER])
def test_the_guard_reads_the_rights_end_without_the_memory(until: float, page: Page, path: Path):
    page.write_hot(until, 99.5, guarded=True)
    for at in slots(path):
        damage(path, at, b"\xff" * 100)
    assert again(path).read_hot() == (until, 99.5, True)


def test_a_page_that_nobody_wrote_gives_no_right(path: Path):
    page = Page(path, create=True)
    page.begin()
    assert again(path).read_hot() == (NEVER, NEVER, False)
