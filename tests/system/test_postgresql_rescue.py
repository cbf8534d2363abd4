"""Writes that a failed primary had and its successor has not: found on real servers, saved before anything is overwritten."""

import asyncio
import hashlib
import json
import os
import random
import shutil
import signal
import stat
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from postgresql_servers import Servers, copies, primary, standby, start_by_hand, template, until_view, why_not

from orchestrator.ports import RefusedByPeer
from orchestrator.services.divergence import Kept
from orchestrator.services.postgresql.postmaster import parent_of
from orchestrator.services.postgresql.service import PostgresqlService

pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(why_not()), reason=f"PostgreSQL: {why_not()}"),
]

Rows = dict[str, Counter[str]]


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with template() as made:
        yield made


@pytest.fixture
def pair(root: Path) -> Iterator[Servers]:
    with copies(root) as servers:
        yield servers


def kept(servers: Servers) -> Kept:
    return Kept(servers.directory / "state" / "divergence")


def rescued(servers: Servers) -> PostgresqlService:
    return servers.service("a", divergence_directory=kept(servers).directory)


def lines(servers: Servers) -> list[dict[str, Any]]:
    (manifest,) = kept(servers).manifests()
    return [json.loads(line) for line in Path(manifest["file"]).read_text().splitlines()]


def tables(servers: Servers, name: str, database: str = "postgres") -> Rows:
    """Every row of every table, as the extraction would write it."""
    query = """
        SELECT quote_ident(nspname) || '.' || quote_ident(relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
        WHERE relkind = 'r' AND relpersistence = 'p' AND nspname NOT IN ('pg_catalog', 'information_schema')
    """
    found: Rows = {}
    with servers.connection(name, dbname=database) as connection:
        connection.execute("SET TimeZone = UTC")
        for (table,) in connection.execute(query).fetchall():
            rows: Counter[str] = Counter()
            names = [each.name for each in connection.execute(f"SELECT * FROM {table} LIMIT 0").description or ()]  # type: ignore[call-overload]
            with connection.cursor() as cursor, cursor.copy(f"COPY {table} TO STDOUT") as copy:  # type: ignore[call-overload]
                for values in copy.rows():
                    rows[said(dict(zip(names, values, strict=True)))] += 1
            found[table] = rows
    return found


def said(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True)


def replayed(there: Rows, found: list[dict[str, Any]], database: str = "postgres") -> Rows:
    """The new primary's tables as they were when it began, and over them what was saved."""
    result = {table: Counter(rows) for table, rows in there.items()}
    for line in found:
        if line["kind"] != "row" or line["db"] != database or line["table"][0] == "pg_catalog":
            continue
        schema, name = line["table"]
        quoted = name if name.islower() and name.isidentifier() else '"' + name.replace('"', '""') + '"'
        table = f"{schema}.{quoted}"
        rows = result.setdefault(table, Counter())
        if line["old"] is not None:
            assert rows[said(line["old"])] > 0, f"was never there: {line}"
            rows[said(line["old"])] -= 1
        if line["new"] is not None:
            rows[said(line["new"])] += 1
    return {table: +rows for table, rows in result.items()}


async def diverge(servers: Servers) -> PostgresqlService:
    """b stops following; from now on only a knows what is written."""
    b = servers.service("b")
    await until_view(b, lambda view: view.link_up)
    ((end,),) = servers.sql("a", "SELECT pg_current_wal_flush_lsn()")
    while servers.sql("b", f"SELECT coalesce(pg_last_wal_replay_lsn() >= '{end}', false)") != [(True,)]:
        await asyncio.sleep(0.005)
    await b.control.stop()
    return b


async def take_over(servers: Servers, b: PostgresqlService) -> None:
    servers.kill("a")
    await b.ensure(standby(2))
    await b.ensure(primary(2))


def log_of(servers: Servers) -> dict[str, str]:
    found = {}
    for path in sorted((servers.directory / "a" / "pg_wal").iterdir()):
        if path.is_file():
            found[path.name] = hashlib.md5(path.read_bytes()).hexdigest()
    return found


BEFORE = """
CREATE TABLE items (id int PRIMARY KEY, name text, price numeric(10,2), tags text[], more jsonb, raw bytea, at timestamptz);
INSERT INTO items
SELECT n, 'item ' || n, n * 1.50, ARRAY['a', 'b,"c'], '{"a": 1.50}', '\\x00ff', '2026-01-01' FROM generate_series(1, 300) n;
CREATE TABLE "Odd ""Name" (id int PRIMARY KEY, "a b" text);
INSERT INTO "Odd ""Name" VALUES (1, E'tab\tnew\nline\\\\'), (2, NULL), (3, '');
CREATE TABLE keyless (a int, b text);
INSERT INTO keyless SELECT n % 5, 'k' FROM generate_series(1, 20) n;
CREATE TABLE parts (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE parts_eu PARTITION OF parts FOR VALUES IN ('eu');
CREATE TABLE parts_us PARTITION OF parts FOR VALUES IN ('us');
INSERT INTO parts SELECT n, CASE WHEN n % 2 = 0 THEN 'eu' ELSE 'us' END FROM generate_series(1, 20) n;
CREATE TABLE big (id int PRIMARY KEY, small int, body text);
ALTER TABLE big ALTER body SET STORAGE EXTERNAL;
INSERT INTO big SELECT n, n, repeat(n::text, 5000) FROM generate_series(1, 10) n;
CREATE TABLE stock (id int PRIMARY KEY, n int);
INSERT INTO stock SELECT n, 100 FROM generate_series(1, 10) n;
CREATE TABLE emptied (id int PRIMARY KEY);
INSERT INTO emptied SELECT generate_series(1, 5);
CREATE UNLOGGED TABLE volatile (id int);
CREATE TABLE retyped (id int PRIMARY KEY, n int);
INSERT INTO retyped SELECT n, n FROM generate_series(1, 50) n;
CREATE TABLE dropped (id int PRIMARY KEY);
"""

LOST = """
INSERT INTO items SELECT n, 'new', 1.50, NULL, NULL, NULL, now() FROM generate_series(1001, 1050) n;
UPDATE items SET price = price + 0.10 WHERE id <= 20;
UPDATE items SET price = price + 0.10 WHERE id <= 5;
DELETE FROM items WHERE id BETWEEN 100 AND 110;
UPDATE items SET id = 2000 WHERE id = 150;
INSERT INTO items (id) VALUES (3000);
DELETE FROM items WHERE id = 3000;
UPDATE "Odd ""Name" SET "a b" = E'"quoted" \\\\ and\nmore' WHERE id = 1;
DELETE FROM "Odd ""Name" WHERE id = 3;
UPDATE keyless SET b = 'changed' WHERE a = 1;
DELETE FROM keyless WHERE a = 2;
INSERT INTO keyless VALUES (99, 'new'), (99, 'new');
UPDATE parts SET region = 'us' WHERE id = 2;
UPDATE big SET small = 100 WHERE id = 1;
UPDATE big SET body = repeat('y', 9000) WHERE id = 2;
DELETE FROM big WHERE id = 3;
INSERT INTO kept (what) VALUES ('lost');
CREATE TABLE fresh (id int PRIMARY KEY, what text);
INSERT INTO fresh VALUES (1, 'made here');
SELECT lo_from_bytea(4711, '\\x0102');
INSERT INTO volatile VALUES (1);
VACUUM items;
CHECKPOINT;
TRUNCATE emptied;
UPDATE retyped SET n = n + 100 WHERE id = 1;
ALTER TABLE retyped ALTER n TYPE bigint;
UPDATE retyped SET n = n + 100 WHERE id = 2;
DELETE FROM retyped WHERE id = 3;
INSERT INTO retyped VALUES (51, 51);
DROP TABLE dropped;
UPDATE stock SET n = n - 1 WHERE id = 7;
"""


def test_what_only_the_old_primary_had_is_saved_row_for_row(pair: Servers):
    async def scenario() -> None:
        pair.sql("a", "ALTER SYSTEM SET max_prepared_transactions = 5")
        pair.sql("b", "ALTER SYSTEM SET max_prepared_transactions = 5")
        for name in ("a", "b"):
            await pair.service(name).control.stop()
            if name == "a":
                (pair.directory / "a" / "standby.signal").unlink()
        start_by_hand(pair, "a")
        start_by_hand(pair, "b")
        pair.sql("a", BEFORE)
        pair.sql("a", "CREATE DATABASE second")
        pair.sql(
            "a", "CREATE TABLE elsewhere (id int PRIMARY KEY, what text); INSERT INTO elsewhere VALUES (1, 'x')", dbname="second"
        )
        straddling, prepared, open_ = (pair.connection("a") for _ in range(3))
        straddling.execute("BEGIN; INSERT INTO stock VALUES (50, 50); UPDATE stock SET n = 1 WHERE id = 1; SAVEPOINT one")
        straddling.execute("UPDATE stock SET n = 2 WHERE id = 2; ROLLBACK TO one; UPDATE stock SET n = 3 WHERE id = 3")
        prepared.execute("BEGIN; UPDATE stock SET n = 4 WHERE id = 4; PREPARE TRANSACTION 'before'")
        open_.execute("BEGIN; UPDATE stock SET n = 5 WHERE id = 5")
        b = await diverge(pair)
        for statement in LOST.split(";\n"):
            if statement.strip():
                pair.sql("a", statement)
        pair.sql("a", "UPDATE elsewhere SET what = 'y'", dbname="second")
        pair.sql("a", "COMMIT PREPARED 'before'")
        straddling.execute("RELEASE one; COMMIT")
        pair.sql("a", "BEGIN; INSERT INTO stock VALUES (60, 60); PREPARE TRANSACTION 'after'")
        with pair.connection("a") as aborted:
            aborted.execute("BEGIN; UPDATE stock SET n = 6 WHERE id = 6; ROLLBACK")
        expected, second = tables(pair, "a"), tables(pair, "a", "second")
        await take_over(pair, b)
        there, there_second = tables(pair, "b"), tables(pair, "b", "second")
        pair.sql("b", "UPDATE items SET name = 'of b' WHERE id = 200; INSERT INTO items (id) VALUES (1001)")
        pair.sql("b", "VACUUM FULL parts_us")
        pair.sql("b", "VACUUM FULL big")
        made_in_advance = pair.directory / "a" / "pg_wal" / "000000010000000000000099"
        made_in_advance.write_bytes(bytes(16 << 20))
        if os.geteuid() == 0:
            shutil.chown(made_in_advance, "postgres", "postgres")
        before, seen = log_of(pair), {}

        def heard(words: str) -> None:
            if words.startswith("rewinding") and not seen:
                seen.update(log_of(pair))

        a = rescued(pair)
        a.progress = heard
        alarms: list[tuple[str, str]] = []
        a.alarmed = lambda code, words: alarms.append((code, words))
        for connection in (straddling, prepared, open_):
            connection.close()
        await a.ensure(standby(2, "b"))
        (manifest,) = kept(pair).manifests()
        found = lines(pair)
        after = replayed(there, found)
        assert expected.pop("public.emptied") == Counter() and after.pop("public.emptied"), "what was there is there"
        for table in expected:
            assert after.get(table, Counter()) == expected[table], table
        assert {table for table in after if after[table]} == {table for table in expected if expected[table]}
        assert replayed(there_second, found, "second") == second
        assert {name: seen[name] for name in before} == before, "the log was changed before the rewind"
        assert manifest["complete"] and manifest["writes"]
        assert [code for code, _ in alarms] == ["diverged"]
        ops = Counter((line["kind"], line.get("op")) for line in found)
        keys = {(line["table"][1], *line["key"].values()): line for line in found if line["kind"] == "row" and line["key"]}
        assert keys["stock", "1"]["op"] == "update" and keys["stock", "1"]["old"]["n"] == "100"
        assert ("stock", "2") not in keys and ("stock", "5") not in keys and ("stock", "6") not in keys
        assert keys["stock", "4"]["new"]["n"] == "4"
        assert keys["items", "1001"]["op"] == "insert" and keys["items", "100"]["op"] == "delete"
        assert keys["items", "2000"]["op"] == "insert" and keys["items", "150"]["op"] == "delete"
        assert ("items", "3000") not in keys
        assert keys["items", "1"]["new"]["price"] == "1.70", "values are text"
        prepared_ones = {line["gid"]: line["committed"] for line in found if line["kind"] == "prepared"}
        assert prepared_ones == {"before": True, "after": False}
        assert {line["table"][1] for line in found if line["kind"] == "rewrite"} == {"emptied", "retyped"}
        assert {key[1] for key in keys if key[0] == "retyped"} == {"1", "2", "3", "51"}, "what was only written anew is not lost"
        assert [line["relations"] for line in found if line.get("what") == "dropped"] == [["public.dropped"]]
        assert any("public.fresh" in line["relations"] for line in found if line["kind"] == "ddl"), ops
        assert not any(line["relations"] == [] and "pg_statistic" in line["what"] for line in found if line["kind"] == "ddl")
        sequences = [line["sequence"] for line in found if line["kind"] == "sequence"]
        assert sequences == [["public", "kept_id_seq"]]
        assert any(line["kind"] == "row" and line["table"][1] == "pg_largeobject" for line in found)
        assert stat.S_IMODE(os.stat(manifest["file"]).st_mode) == 0o600
        await until_view(a, lambda view: view.link_up)
        await pair.close()

    asyncio.run(scenario())


# --- under load ------------------------------------------------------------------------------------------------------


class Writer(threading.Thread):
    """Writes one number after the other, and knows which were acknowledged."""

    def __init__(self, servers: Servers, number: int) -> None:
        super().__init__(daemon=True)
        self._servers = servers
        self.number = number
        self.tried: list[int] = []
        self.acknowledged: list[int] = []

    def run(self) -> None:
        with suppress(psycopg.Error), self._servers.connection("a") as connection:
            while True:
                at = self.number + WRITERS * len(self.tried)
                self.tried.append(at)
                with connection.transaction():
                    connection.execute("INSERT INTO written VALUES (%s)", (at,))
                    connection.execute("UPDATE counted SET n = n + 1, last = %s WHERE id = %s", (at, self.number))
                self.acknowledged.append(at)


WRITERS = 4


@pytest.mark.parametrize("seed", [1, 2])
def test_four_writers_lose_exactly_what_is_saved(pair: Servers, seed: int):
    draw = random.Random(seed)

    async def scenario() -> None:
        pair.sql("a", "CREATE TABLE written (id int PRIMARY KEY); CREATE TABLE counted (id int PRIMARY KEY, n int, last int)")
        pair.sql("a", "INSERT INTO counted SELECT n, 0 FROM generate_series(0, 3) n")
        b = pair.service("b")
        await until_view(b, lambda view: view.link_up)
        writers = [Writer(pair, number) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        await asyncio.sleep(draw.uniform(0.2, 0.5))  # the moment is what is drawn
        pair.kill("b")
        await asyncio.sleep(draw.uniform(0.2, 0.5))
        pair.kill("a")
        for writer in writers:
            writer.join()
        await b.ensure(standby(2))
        await b.ensure(primary(2))
        there = {each for (each,) in pair.sql("b", "SELECT id FROM written")}
        tried = {each for writer in writers for each in writer.tried}
        acknowledged = {each for writer in writers for each in writer.acknowledged}
        pair.sql("b", "UPDATE counted SET n = 0 WHERE id = 3")
        a = rescued(pair)
        await a.ensure(standby(2, "b"))
        found = [line for line in lines(pair) if line["kind"] == "row"]
        saved = [int(line["new"]["id"]) for line in found if line["table"][1] == "written"]
        lost = acknowledged - there
        print(f"\n{len(acknowledged)} acknowledged, {len(lost)} of them lost, {len(saved)} saved")
        assert lost, "nothing was lost: this shows nothing"
        assert len(saved) == len(set(saved))
        assert lost - set(saved) == set(), "missed"
        assert set(saved) - (tried - there) == set(), "surplus"
        counted = {int(line["new"]["id"]): line for line in found if line["table"][1] == "counted"}
        assert set(counted) == set(range(WRITERS))
        for number, line in counted.items():
            last = max(each for each in saved if each % WRITERS == number)
            assert line["op"] == "update" and line["new"]["last"] == str(last)
            # the new primary has changed that row itself: what it was before is known no more
            assert (line["old"] is None) == (number == 3)
        await until_view(a, lambda view: view.link_up)
        await pair.close()

    asyncio.run(scenario())


# --- a rejoin waits for it -------------------------------------------------------------------------------------------


async def lose_one(servers: Servers) -> PostgresqlService:
    servers.sql("a", "CREATE DATABASE second")
    servers.sql("a", "CREATE TABLE elsewhere (id int PRIMARY KEY)", dbname="second")
    b = await diverge(servers)
    servers.sql("a", "INSERT INTO elsewhere VALUES (1)", dbname="second")
    await take_over(servers, b)
    return b


def test_nothing_is_overwritten_that_could_not_be_saved_until_a_person_says_so(pair: Servers):
    async def scenario() -> None:
        await lose_one(pair)
        pair.sql("b", "UPDATE pg_database SET datallowconn = false WHERE datname = 'second'")
        a = rescued(pair)
        alarms: list[str] = []
        a.alarmed = lambda code, words: alarms.append(code)
        before = log_of(pair)
        for _ in range(3):
            with pytest.raises(RefusedByPeer, match=r"cannot be saved, so nothing is overwritten: .*not currently accepting"):
                await a.ensure(standby(2, "b"))
        after = log_of(pair)
        assert {name: after[name] for name in before} == before
        assert alarms == ["rescue-failed"], "told once"
        kept(pair).give_up({"by": "ann", "reason": "a test table", "at": "now"})
        await a.ensure(standby(2, "b"))
        (manifest,) = kept(pair).manifests()
        assert manifest["given_up"]["by"] == "ann" and not manifest["complete"]
        assert kept(pair).given_up() is None, "the word is good for one rejoin"
        await until_view(a, lambda view: view.link_up)
        await pair.close()

    asyncio.run(scenario())


def helper() -> int:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if b"postgresql.extracting" in path.read_bytes() and parent_of(int(path.parent.name)) == os.getpid():
                return int(path.parent.name)
    raise AssertionError("nobody saves anything")


def test_an_interrupted_rescue_is_begun_again(pair: Servers):
    async def scenario() -> None:
        await lose_one(pair)
        a = rescued(pair)
        killed = []

        def heard(words: str) -> None:
            if "opening the old data" in words and not killed:
                killed.append(words)
                os.kill(helper(), signal.SIGKILL)

        a.progress = heard
        with pytest.raises(RefusedByPeer, match="cannot be saved"):
            await a.ensure(standby(2, "b"))
        assert kept(pair).manifests() == []
        while not kept(pair).manifests():
            with suppress(RefusedByPeer):
                await a.ensure(standby(2, "b"))
            await asyncio.sleep(0.1)
        assert [line["new"] for line in lines(pair) if line["kind"] == "row"] == [{"id": "1"}]
        assert sorted(path.suffix for path in kept(pair).directory.iterdir()) == [".json", ".jsonl"]
        await until_view(a, lambda view: view.link_up)
        await pair.close()

    asyncio.run(scenario())


def test_a_log_that_goes_on_without_a_lost_write_leaves_nothing_behind(pair: Servers):
    async def scenario() -> None:
        b = await diverge(pair)
        pair.sql("a", "SELECT pg_logical_emit_message(true, 'tanist', ''); CHECKPOINT")
        await take_over(pair, b)
        a = rescued(pair)
        alarms: list[str] = []
        a.alarmed = lambda code, words: alarms.append(code)
        await a.ensure(standby(2, "b"))
        assert list(kept(pair).directory.iterdir()) == [] and alarms == []
        await until_view(a, lambda view: view.link_up)
        await pair.close()

    asyncio.run(scenario())
