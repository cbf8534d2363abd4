"""What the log tells of lost transactions: pg_waldump's lines, and how far back must be looked."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.services.postgresql import waldump
from orchestrator.services.postgresql.lsn import parse
from orchestrator.services.postgresql.timelines import ENDLESS, Timelines
from orchestrator.services.postgresql.waldump import OFFSETS, File, Kind, Record
from orchestrator.services.postgresql.walscan import Lost, Scan, before, past

TABLE = File(1663, 5, 16421)
SEGMENT = 16 << 20


def line(rmgr: str, desc: str, xid: int = 729) -> str:
    head = f"rmgr: {rmgr:<11} len (rec/tot):     54/   150, tx: {xid:>10}, lsn: 0/0301A2C8, prev 0/0301A290"
    return f"{head}, desc: {desc}\n"


def read(rmgr: str, desc: str, xid: int = 729) -> Record:
    found = waldump.read(line(rmgr, desc, xid))
    assert found is not None and found.lsn == parse("0/301A2C8")
    return found


def test_rows_of_15():
    added = read("Heap", "INSERT+INIT off 3 flags 0x08, blkref #0: rel 1663/5/16421 blk 7 FPW")
    assert (added.kind, added.files, added.place) == (Kind.ADD, ((TABLE, 7),), 7 * OFFSETS + 3)
    removed = read("Heap", "DELETE off 4 flags 0x00 KEYS_UPDATED , blkref #0: rel 1663/5/16421 blk 7")
    assert (removed.kind, removed.old_file, removed.files) == (Kind.REMOVE, (TABLE, 7 * OFFSETS + 4), ())
    near = read("Heap", "HOT_UPDATE off 5 xmax 734 flags 0x10 ; new off 9 xmax 0, blkref #0: rel 1663/5/16421 blk 7")
    assert (near.kind, near.place, near.old_file) == (Kind.CHANGE, 7 * OFFSETS + 9, (TABLE, 7 * OFFSETS + 5))
    blocks = "blkref #0: rel 1663/5/16421 blk 8, blkref #1: rel 1663/5/16421 blk 7"
    far = read("Heap", f"UPDATE off 5 xmax 734 flags 0x10 ; new off 1 xmax 0, {blocks}")
    assert (far.place, far.old_file) == (8 * OFFSETS + 1, (TABLE, 7 * OFFSETS + 5))
    many = read("Heap2", "MULTI_INSERT 5 tuples flags 0x02, blkref #0: rel 1663/5/16421 blk 7")
    assert (many.kind, many.files, many.place) == (Kind.ADD, ((TABLE, 7),), None)
    assert read("Heap", "LOCK off 1: xid 730: flags 0x00 LOCK_ONLY EXCL_LOCK , blkref #0: rel 1663/5/16421 blk 0").files == ()
    assert read("Heap", "INPLACE off 1, blkref #0: rel 1663/5/1259 blk 0").files == ()


def test_rows_of_16_and_later():
    removed = read("Heap", "DELETE xmax: 733, off: 4, infobits: [KEYS_UPDATED], flags: 0x00, blkref #0: rel 1663/5/16421 blk 7")
    assert removed.old_file == (TABLE, 7 * OFFSETS + 4)
    desc = "HOT_UPDATE old_xmax: 739, old_off: 5, old_infobits: [], flags: 0x10, new_xmax: 0, new_off: 9"
    changed = read("Heap", f"{desc}, blkref #0: rel 1663/5/16421 blk 7")
    assert (changed.place, changed.old_file) == (7 * OFFSETS + 9, (TABLE, 7 * OFFSETS + 5))


def test_transactions():
    moment = "2026-11-23 21:42:00.123456 UTC"
    commit = read("Transaction", f"COMMIT {moment}; rels: base/5/16430; subxacts: 731 732; inval msgs: catcache 50")
    assert (commit.kind, commit.xid, commit.subxacts, commit.time) == (
        Kind.COMMIT,
        729,
        (731, 732),
        "2026-11-23 21:42:00.123456+00",
    )
    prepared = read("Transaction", f"COMMIT_PREPARED 750: {moment}", xid=0)
    assert (prepared.kind, prepared.xid) == (Kind.COMMIT, 750)
    assert read("Transaction", f"ABORT_PREPARED 750: {moment}", xid=0).xid == 750
    assert read("Transaction", f"PREPARE gid it's 9: {moment}").gid == "it's 9"
    assert read("Transaction", "ASSIGNMENT xtop 729: subxacts: 730").kind is Kind.OTHER


def test_what_tells_the_next_number():
    running = read("Standby", "RUNNING_XACTS nextXid 735 latestCompletedXid 734 oldestRunningXid 735", xid=0)
    assert (running.kind, running.next_xid) == (Kind.MARK, 735)
    ended = read("XLOG", "CHECKPOINT_SHUTDOWN redo 0/3018768; tli 1; prev tli 1; fpw true; xid 0:736; oid 24576", xid=0)
    assert (ended.kind, ended.next_xid) == (Kind.MARK, 736)
    online = read("XLOG", "CHECKPOINT_ONLINE redo 0/3018768; tli 1; prev tli 1; fpw true; xid 0:736; oid 24576", xid=0)
    assert online.kind is Kind.OTHER, "it was begun before it was written: its number may be too low"


def test_pages_sequences_and_other_words():
    assert read("XLOG", "FPI , blkref #0: rel 1663/5/16421 blk 3 FPW").kind is Kind.PAGE
    assert read("XLOG", "FPI_FOR_HINT , blkref #0: rel 1663/5/16421 blk 3 FPW").kind is Kind.OTHER
    assert read("Sequence", "LOG rel 1663/5/16430, blkref #0: rel 1663/5/16430 blk 0").files == ((File(1663, 5, 16430), 0),)
    truncated = read("Heap", "TRUNCATE  nrelids 2 relids 16421 16422")
    assert truncated.relids == (16421, 16422)
    assert waldump.read("pg_waldump: first record is after 0/3000000\n") is None


# --- which pieces of the log -----------------------------------------------------------------------------------------


def test_the_log_past_the_fork_may_run_over_own_promotions():
    assert past(Timelines(1), 1, 500) == [(1, 500, ENDLESS)]
    own = Timelines(4, ((1, 100), (2, 200), (3, 300)))
    assert past(own, 2, 150) == [(2, 150, 200), (3, 200, 300), (4, 300, ENDLESS)]
    assert past(own, 4, 350) == [(4, 350, ENDLESS)]


def test_before_the_fork_a_timeline_holds_the_segment_in_which_it_began():
    own = Timelines(3, ((1, 2 * SEGMENT + 5), (2, 4 * SEGMENT + 5)))
    found = [(timeline, begin // SEGMENT) for timeline, begin, _ in before(own, 5 * SEGMENT + 5, SEGMENT)]
    assert found == [(3, 5), (3, 4), (2, 3), (2, 2), (1, 1), (1, 0)]
    (first, *_) = before(own, 2 * SEGMENT + 3, SEGMENT)
    assert first == (1, 2 * SEGMENT, 2 * SEGMENT + 3)
    (first, *_) = before(own, 4 * SEGMENT + 3, SEGMENT)
    assert first == (2, 4 * SEGMENT, 4 * SEGMENT + 3)
    (first, *_) = before(own, 4 * SEGMENT, SEGMENT)
    assert first == (2, 3 * SEGMENT, 4 * SEGMENT)


@pytest.fixture
def scan(tmp_path: Path) -> Iterator[Scan]:
    made = Scan(tmp_path / "work")
    yield made
    made.close()


def added(xid: int, place: int = 1) -> Record:
    return Record(kind=Kind.ADD, lsn=1, xid=xid, files=((TABLE, 0),), place=place)


def committed(xid: int, *subxacts: int) -> Record:
    return Record(kind=Kind.COMMIT, lsn=9, xid=xid, subxacts=subxacts)


def mark(next_xid: int) -> Record:
    return Record(kind=Kind.MARK, lsn=1, xid=0, next_xid=next_xid)


def touched(scan: Scan) -> set[int]:
    return {xid for (xid,) in scan.base.execute("SELECT xid FROM touched")}


def test_what_was_rolled_back_or_is_open_is_not_lost(scan: Scan):
    scan.take([added(10), added(11), added(12), added(13), committed(10, 11), Record(kind=Kind.ABORT, lsn=9, xid=12)])
    scan.look_back([[mark(10)]])
    scan.keep_lost()
    assert touched(scan) == {10, 11}
    assert [xid for xid in range(9, 14) if Lost(scan).has(xid)] == [10, 11]


def test_the_next_number_is_that_of_the_last_mark_and_what_came_after_it(scan: Scan):
    scan.take([added(20), committed(20)])
    read_: list[int] = []

    def pieces() -> Iterator[list[Record]]:
        for number, piece in enumerate(([added(18), added(17)], [added(16), mark(15), added(15)], [mark(3)])):
            read_.append(number)
            yield piece

    scan.look_back(pieces())
    assert scan.next_xid == 19 and not scan.straddles
    assert read_ == [0, 1], "older pieces tell nothing more"


def test_a_transaction_that_began_before_the_fork_is_followed_to_its_beginning(scan: Scan):
    scan.take([committed(8)])
    scan.look_back([[mark(20)], [added(8, 2), mark(10)], [added(8, 1), mark(8)], [added(8, 0), mark(5)]])
    scan.keep_lost()
    assert scan.next_xid == 20 and not scan.straddles
    assert {place for (place,) in scan.base.execute("SELECT place FROM made")} == {1, 2}


def test_a_log_that_ends_too_early_leaves_a_doubt(scan: Scan):
    scan.take([committed(8)])
    scan.look_back([[mark(20)], [added(8), mark(10)]])
    assert scan.next_xid == 20 and scan.straddles


def test_numbers_run_in_a_circle(scan: Scan):
    scan.take([committed(3)])
    scan.look_back([[mark(4_294_967_290), added(4_294_967_294)]])
    assert scan.next_xid == 4_294_967_295 and not scan.straddles
