"""Finds the writes that are here and not on the new primary, and saves them: a program of its own, which the daemon runs.

The log past the fork point tells which transactions committed and which pages they touched. Their rows are read here, where the
old data is opened for reading. What the rows were before is still on the new primary: physical copies share the places of their
rows, so that a row which the new primary has not touched since lies where it lay when the histories parted.
"""

import json
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import psycopg
from psycopg import sql

from orchestrator.services.divergence import Kept
from orchestrator.services.postgresql import isolated, lsn
from orchestrator.services.postgresql.timelines import Timelines
from orchestrator.services.postgresql.waldump import OFFSETS, File
from orchestrator.services.postgresql.walscan import Lost, NoLog, Reader, Scan, before, past
from orchestrator.services.starting import CannotStart

FORMAT: Final = 1
CATALOGS: Final = ("pg_catalog", "information_schema")
"""The server's own, by their schema: what was made by a single-user server has low numbers, too."""
LARGE_OBJECTS: Final = {2613: ("loid", "pageno"), 2995: ("oid",)}
STATISTICS: Final = (2619, 3429)
"""Catalogs that ANALYZE writes: no change of definitions."""
NEAR_BLOCKS: Final = 8
"""Touched pages that lie closer together are read in one go."""
PLACES_AT_ONCE: Final = 500
TELL_EVERY: Final = 2.0
WRITES_TOLD: Final = 10_000

RELATIONS: Final = """
SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text, pg_relation_filenode(c.oid)::bigint,
       coalesce(nullif(c.reltablespace, 0), d.dattablespace)::bigint
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pg_database d
WHERE d.datname = current_database() AND pg_relation_filenode(c.oid) IS NOT NULL AND c.relpersistence = 'p'
"""
COLUMNS: Final = """
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
KEY: Final = """
SELECT array_agg(a.attname ORDER BY k.n)
FROM pg_index i, unnest(i.indkey) WITH ORDINALITY k (att, n), pg_attribute a
WHERE i.indrelid = %s AND a.attrelid = i.indrelid AND a.attnum = k.att AND k.n <= i.indnkeyatts
  AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY i.indexrelid, i.indisprimary HAVING bool_and(a.attnotnull) ORDER BY i.indisprimary DESC, i.indexrelid LIMIT 1
"""
TOUCHED_DATABASES: Final = """
SELECT DISTINCT base FROM files
WHERE id IN (SELECT file FROM touched UNION SELECT file FROM gone UNION SELECT file FROM sequences) ORDER BY base
"""
NEXT_XID: Final = "SELECT (txid_snapshot_xmax(txid_current_snapshot()) & 4294967295)::bigint"

Session = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be saved, and where to."""

    name: str
    directory: str
    data: str
    programs: str
    options: tuple[str, ...]
    parameters: dict[str, str]
    run_as: str | None
    user: str
    database: str
    source: str
    source_words: dict[str, str]
    system: str
    number: int
    past: tuple[tuple[int, int], ...]
    new_timeline: int
    timeline: int
    """The last one that both sides have, left by one of them at the fork point."""
    fork: int
    reached: int = 0
    """The log here is known to have come so far."""
    segment_bytes: int
    node: str
    epoch: int
    reason: str

    @property
    def own(self) -> Timelines:
        return Timelines(self.number, tuple((each[0], each[1]) for each in self.past))


@dataclass(frozen=True, slots=True)
class Relation:
    oid: int
    schema: str
    name: str
    kind: str
    file: File


@dataclass(slots=True)
class Found:
    """What the manifest tells."""

    counts: dict[str, int] = field(default_factory=dict)
    tables: dict[str, dict[str, int]] = field(default_factory=dict)
    not_covered: list[str] = field(default_factory=list)

    def count(self, kind: str, table: str = "") -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if table:
            each = self.tables.setdefault(table, {})
            each[kind] = each.get(kind, 0) + 1


class Extraction:
    def __init__(self, job: Job, tell: Callable[[str], None]) -> None:
        self._job = job
        self._said = tell
        self._said_at = 0.0
        self._kept = Kept(Path(job.directory))
        self._found = Found()
        self._others: list[dict[str, Any]] = []
        self._databases_there: set[str] | None = None

    def _tell(self, words: str) -> None:
        if time.monotonic() > self._said_at + TELL_EVERY:
            self._said_at = time.monotonic()
            self._said(words)

    def run(self) -> None:
        """Raises CannotStart, psycopg.Error, OSError."""
        self._kept.make()
        scan = Scan(self._kept.directory / f"{self._job.name}.work")
        try:
            self._scan(scan)
            (transactions,) = scan.base.execute("SELECT count(*) FROM lost WHERE xid = top").fetchone()
            prepared = scan.base.execute("SELECT count(*) FROM prepared").fetchone()[0]
            if transactions or prepared:
                self._read(scan)
            with self._kept.writing(self._job.name) as stream:
                for line in self._lines(scan):
                    stream.write(json.dumps(line, ensure_ascii=False) + "\n")
            if self._found.counts or self._found.not_covered:
                self._manifest(scan, transactions)
            else:
                self._kept.rows(self._job.name).unlink()
        finally:
            scan.close()
            (self._kept.directory / f"{self._job.name}.work").unlink(missing_ok=True)

    # --- the log -----------------------------------------------------------------------------------------------------

    def _scan(self, scan: Scan) -> None:
        job = self._job
        reader = Reader(Path(job.programs), Path(job.data) / "pg_wal", job.segment_bytes, job.run_as, self._tell)
        for timeline, begin, end in past(job.own, job.timeline, job.fork):
            try:
                scan.take(reader.records(timeline, begin, end))
            except NoLog:
                if scan.records or job.reached > job.fork:
                    raise
        if not scan.records and job.reached <= job.fork:
            return  # the log ends where the histories part
        if not scan.records:
            raise CannotStart(f"nothing can be read in the log here from {lsn.written(job.fork)} on, where the histories part")
        try:
            scan.look_back(reader.records(*piece) for piece in before(job.own, job.fork, job.segment_bytes))
        except NoLog as error:
            if not scan.next_xid:
                raise
            self._found.not_covered.append(f"transactions that had begun long before the fork point: {error}")
        if not scan.next_xid:
            raise CannotStart("the log before the fork point does not tell which transactions both sides have in common")
        scan.keep_lost()

    # --- rows --------------------------------------------------------------------------------------------------------

    def _read(self, scan: Scan) -> None:
        job = self._job
        self._said("opening the old data for reading")
        with isolated.opened(
            Path(job.programs),
            job.options,
            job.parameters,
            run_as=job.run_as,
            user=job.user,
            database=job.database,
            upto=scan.end,
            tell=self._said,
        ) as server:
            with closing(server.connect(job.database)) as line:
                rows = line.execute("SELECT oid::bigint, datname, datallowconn FROM pg_database").fetchall()
            databases = {oid: (name, open_) for oid, name, open_ in rows}
            for (base,) in scan.base.execute(TOUCHED_DATABASES).fetchall():
                if base == 0:
                    self._shared(scan)
                elif base not in databases:
                    self.note({"kind": "ddl", "db": None, "relations": [], "what": f"database {base} was dropped"}, "ddl")
                elif not databases[base][1]:
                    self._found.not_covered.append(f"database {databases[base][0]} lets nobody in")
                else:
                    with closing(server.connect(databases[base][0])) as here:
                        Database(scan, base, databases[base][0], here, self).read()
        self._prepared(scan)

    def there(self, database: str) -> Session | None:
        """The same database on the new primary; None where it has none of that name."""
        if self._databases_there is None:
            with closing(isolated.reading({**self._job.source_words, "dbname": self._job.database})) as line:
                self._databases_there = {name for (name,) in line.execute("SELECT datname FROM pg_database").fetchall()}
        if database not in self._databases_there:
            return None
        return isolated.reading({**self._job.source_words, "dbname": database})

    def note(self, line: dict[str, Any], kind: str) -> None:
        self._others.append(line)
        self._found.count(kind)

    def not_covered(self, words: str) -> None:
        self._found.not_covered.append(words)

    def progress(self, words: str) -> None:
        self._tell(words)

    def _shared(self, scan: Scan) -> None:
        """Roles, databases, tablespaces: told of, not taken apart."""
        query = "SELECT DISTINCT t.xid FROM touched t JOIN files f ON f.id = t.file WHERE f.base = 0"
        for (xid,) in scan.base.execute(query).fetchall():
            self.note({"kind": "ddl", "db": None, "xid": xid, "relations": [], "what": "roles, databases or tablespaces"}, "ddl")

    def _prepared(self, scan: Scan) -> None:
        query = "SELECT p.xid, p.gid, l.xid IS NOT NULL FROM prepared p LEFT JOIN lost l USING (xid)"
        for xid, gid, committed in scan.base.execute(query).fetchall():
            self.note({"kind": "prepared", "xid": xid, "gid": gid, "committed": bool(committed)}, "prepared")

    # --- the file ----------------------------------------------------------------------------------------------------

    def _lines(self, scan: Scan) -> Iterator[dict[str, Any]]:
        job = self._job
        yield {
            "v": FORMAT,
            "kind": "header",
            "engine": "postgresql",
            "system_id": job.system,
            "node": job.node,
            "old_tli": job.number,
            "new_tli": job.new_timeline,
            "divergence_lsn": lsn.written(job.fork),
            "end_lsn": lsn.written(scan.end),
            "first_new_xid": scan.next_xid,
            "method": "net",
        }
        yield from ({"v": FORMAT, **each} for each in self._others)
        told = {rel: json.loads(said) for rel, said in scan.base.execute("SELECT rel, said FROM relations")}
        for number, (xid, at, moment, rel, op, key, old, new, place) in enumerate(self._changes(scan)):
            if number % WRITES_TOLD == 0:
                self._tell(f"{number} writes saved")
            relation = told[rel]
            self._found.count(op, f"{relation['db']}: {'.'.join(relation['table'])}")
            yield {
                "v": FORMAT,
                "kind": "row",
                "db": relation["db"],
                "xid": xid,
                "commit_lsn": lsn.written(at),
                "commit_ts": moment,
                "op": op,
                "table": relation["table"],
                "key": dict(zip(relation["key"], json.loads(key), strict=True)) if key is not None else None,
                "old": json.loads(old) if old is not None else None,
                "new": json.loads(new) if new is not None else None,
                "types": relation["types"],
                "ctid": f"({place // OFFSETS},{place % OFFSETS})",
            }

    def _changes(self, scan: Scan) -> Iterator[tuple[Any, ...]]:
        """Old and new versions of one key belong together. In the order in which their transactions committed."""
        scan.base.execute("ANALYZE images")
        yield from scan.base.execute("""
            SELECT l.top, l.lsn, l.time, i.rel,
                   CASE WHEN i.op <> '' THEN i.op WHEN i.old_row IS NULL THEN 'insert' ELSE 'update' END,
                   i.key, i.old_row, i.new_row, i.place
            FROM (SELECT n.id, n.rel, n.key, n.xid, n.place, n.row AS new_row,
                         (SELECT o.row FROM images o WHERE o.rel = n.rel AND o.old = 1 AND o.key = n.key) AS old_row,
                         CASE WHEN n.old = 2 AND NOT EXISTS (SELECT 1 FROM images o WHERE o.rel = n.rel AND o.old = 1
                                                             AND o.key = n.key) THEN 'update' ELSE '' END AS op
                  FROM images n WHERE n.old IN (0, 2)
                  UNION ALL
                  SELECT o.id, o.rel, o.key, o.xid, o.place, NULL, o.row, 'delete'
                  FROM images o WHERE o.old = 1 AND NOT EXISTS
                      (SELECT 1 FROM images n WHERE n.rel = o.rel AND n.old IN (0, 2) AND n.key = o.key)
                  UNION ALL
                  SELECT id, rel, NULL, xid, place, NULL, NULL, 'delete' FROM images WHERE old = 3) i
            JOIN lost l ON l.xid = i.xid ORDER BY l.lsn, i.id
            """)

    def _manifest(self, scan: Scan, transactions: int) -> None:
        job, counts = self._job, self._found.counts
        writes = sum(counts.values())
        manifest = {
            "v": FORMAT,
            "engine": "postgresql",
            "node": job.node,
            "from": job.source,
            "epoch": job.epoch,
            "system_id": job.system,
            "reason": job.reason,
            "old_tli": job.number,
            "new_tli": job.new_timeline,
            "divergence_lsn": lsn.written(job.fork),
            "end_lsn": lsn.written(scan.end),
            "transactions": transactions,
            "writes": writes,
            "counts": counts,
            "tables": self._found.tables,
            "not_covered": self._found.not_covered,
            "complete": not self._found.not_covered,
            "why": "; ".join(self._found.not_covered),
            "file": str(self._kept.rows(job.name)),
            "saved_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        self._kept.note(job.name, manifest)


class Database:
    """The lost rows of one database."""

    def __init__(self, scan: Scan, base: int, name: str, here: Session, whole: Extraction) -> None:
        self._scan = scan
        self._base = base
        self._name = name
        self._here = here
        self._whole = whole
        self._lost = Lost(scan)
        self._numbers = {file: number for number, file in scan.files.items() if file.database == base}
        self._there_until = 0
        self._redefined: set[int] = set()

    def read(self) -> None:
        here = self._relations(self._here)
        there_session = self._whole.there(self._name)
        try:
            there = self._relations(there_session) if there_session is not None else {}
            if there_session is not None:
                ((self._there_until,),) = there_session.execute(NEXT_XID).fetchall()
            self._definitions(here, there, there_session)
            for relation in here.values():
                if relation.oid in LARGE_OBJECTS or (relation.kind == "r" and relation.schema not in CATALOGS):
                    self._table(relation, there_session, there.get(relation.oid))
                elif relation.kind == "S" and self._numbers.get(relation.file) is not None:
                    self._sequence(relation, there_session, there.get(relation.oid))
            for oid, relation in there.items():
                if (
                    oid not in here
                    and relation.kind == "r"
                    and relation.schema not in CATALOGS
                    and relation.file in self._numbers
                ):
                    assert there_session is not None
                    self._table(relation, there_session, relation, is_here=False)
        finally:
            if there_session is not None:
                there_session.close()

    def _relations(self, session: Session) -> dict[int, Relation]:
        found = session.execute(RELATIONS).fetchall()
        return {
            oid: Relation(oid, schema, name, kind, File(space, self._base, node))
            for oid, schema, name, kind, node, space in found
        }

    # --- what is no row ----------------------------------------------------------------------------------------------

    def _definitions(self, here: dict[int, Relation], there: dict[int, Relation], there_session: Session | None) -> None:
        catalogs: dict[int, list[str]] = {}
        for relation in here.values():
            number = self._numbers.get(relation.file)
            if number is None or relation.kind != "r" or relation.schema not in CATALOGS:
                continue
            if relation.oid in LARGE_OBJECTS or relation.oid in STATISTICS:
                continue
            for (xid,) in self._scan.base.execute("SELECT DISTINCT xid FROM touched WHERE file = ?", (number,)).fetchall():
                catalogs.setdefault(xid, []).append(relation.name)
        changed: dict[int, list[str]] = {}
        if catalogs:
            query = "SELECT xmin::text::bigint, oid::bigint, oid::regclass::text FROM pg_class"
            for xid, oid, name in self._here.execute(query).fetchall():
                if xid in catalogs:
                    self._redefined.add(oid)
                    changed.setdefault(xid, []).append(name)
        for xid, names in catalogs.items():
            line = {"kind": "ddl", "db": self._name, "xid": xid, "relations": changed.get(xid, []), "what": ", ".join(names)}
            self._whole.note(line, "ddl")
        dropped = [oid for oid in there if oid not in here and there[oid].kind in "rmS"] if catalogs else []
        if dropped and there_session is not None:
            query = "SELECT xmin::text::bigint, oid::regclass::text FROM pg_class WHERE oid = ANY (%s) ORDER BY 2"
            names = [name for xid, name in there_session.execute(query, (dropped,)).fetchall() if not self._is_theirs(xid)]
            if names:
                self._whole.note({"kind": "ddl", "db": self._name, "relations": names, "what": "dropped"}, "ddl")
        for relid, xid in self._scan.base.execute("SELECT relid, xid FROM truncated").fetchall():
            if relid in here:
                names = [here[relid].schema, here[relid].name]
                self._whole.note({"kind": "truncate", "db": self._name, "xid": xid, "table": names}, "truncate")

    def _sequence(self, relation: Relation, there: Session | None, other: Relation | None) -> None:
        if not self._scan.base.execute("SELECT 1 FROM sequences WHERE file = ?", (self._numbers[relation.file],)).fetchall():
            return
        query = sql.SQL("SELECT last_value, is_called FROM {}").format(sql.Identifier(relation.schema, relation.name))
        ((value, called),) = self._here.execute(query).fetchall()
        now = there.execute(query).fetchone() if there is not None and other is not None else None
        line = {
            "kind": "sequence",
            "db": self._name,
            "sequence": [relation.schema, relation.name],
            "last_value": str(value),
            "is_called": called,
            "on_new_primary": str(now[0]) if now is not None else None,
        }
        self._whole.note(line, "sequence")

    # --- tables ------------------------------------------------------------------------------------------------------

    def _table(self, relation: Relation, there: Session | None, other: Relation | None, *, is_here: bool = True) -> None:
        number = self._numbers.get(relation.file)
        old_number = self._numbers.get(other.file) if other is not None else None
        moved = is_here and other is not None and other.file != relation.file
        if moved and relation.oid in self._redefined:
            line = {"kind": "rewrite", "db": self._name, "table": [relation.schema, relation.name]}
            self._whole.note({**line, "what": "emptied by TRUNCATE, or written anew by a change of its definition"}, "rewrite")
        if number is None and old_number is None:
            return
        session = self._here if is_here else cast("Session", there)
        columns = dict(session.execute(COLUMNS, (relation.oid,)).fetchall())
        found = session.execute(KEY, (relation.oid,)).fetchone()
        key = list(LARGE_OBJECTS.get(relation.oid, ())) or (list(found[0]) if found is not None else [])
        rel = f"{self._base}/{relation.oid}"
        said = {"db": self._name, "table": [relation.schema, relation.name], "key": key, "types": columns}
        self._scan.base.execute("INSERT OR REPLACE INTO relations VALUES (?, ?)", (rel, json.dumps(said)))
        if number is not None and is_here:
            self._new_images(relation, rel, number, list(columns), key)
        if old_number is not None and there is not None and other is not None:
            theirs = list(dict(there.execute(COLUMNS, (other.oid,)).fetchall()))
            self._old_images(there, other, rel, old_number, theirs, key)
            self._settle_origins(rel)
        if moved and other is not None:
            self._rewritten(relation, rel, there, other, list(columns), key)
        if number is not None and is_here and other is not None and not (moved and key):
            self._unnamed(rel, number)

    def _new_images(self, relation: Relation, rel: str, number: int, columns: list[str], key: list[str]) -> None:
        blocks = self._scan.base.execute("SELECT DISTINCT block FROM touched WHERE file = ? ORDER BY block", (number,)).fetchall()
        for begin, end in _runs(block for (block,) in blocks):
            ends = sql.Literal(f"({begin},0)"), sql.Literal(f"({end},0)")
            where = sql.SQL("t.ctid >= {}::tid AND t.ctid < {}::tid").format(*ends)
            for place, xid, row in self._rows(self._here, relation, columns, where):
                if self._lost.has(xid):
                    self._keep(rel, 0 if self._scan.origin(number, place) is None else 2, key, number, place, xid, row)

    def _old_images(self, there: Session, other: Relation, rel: str, number: int, columns: list[str], key: list[str]) -> None:
        query = """
            SELECT place, (SELECT g.xid FROM gone g JOIN lost l USING (xid) WHERE g.file = a.file AND g.place = a.place
                           ORDER BY g.at LIMIT 1)
            FROM (SELECT DISTINCT file, place FROM gone WHERE file = ?) a ORDER BY place
        """
        cursor = self._scan.base.cursor().execute(query, (number,))
        while batch := cursor.fetchmany(PLACES_AT_ONCE):
            xids = dict(batch)
            places = ",".join(f'"({place // OFFSETS},{place % OFFSETS})"' for place in xids)
            where = sql.SQL("t.ctid = ANY ({}::tid[])").format(sql.Literal(f"{{{places}}}"))
            for place, xid, row in self._rows(there, other, columns, where):
                if not self._is_theirs(xid):
                    self._keep(rel, 1, key, number, place, xids[place], row)

    def _settle_origins(self, rel: str) -> None:
        """A version whose origin lies there under another key, or in a table without one, is told as a new row beside it."""
        base, beside = self._scan.base, array("q")
        for number, file, place in base.execute("SELECT id, file, place FROM images WHERE rel = ? AND old = 2", (rel,)):
            if self._is_known(rel, self._scan.origin(file, place)):
                beside.append(number)
        base.executemany("UPDATE images SET old = 0 WHERE id = ?", ((number,) for number in beside))

    def _is_theirs(self, xid: int) -> bool:
        """Written by the new primary itself: not given out before the fork point, and given out there by now."""
        first = self._scan.next_xid
        return ((xid - first) & 0xFFFFFFFF) < ((self._there_until - first) & 0xFFFFFFFF)

    def _unnamed(self, rel: str, number: int) -> None:
        """Rows that were deleted here and have been changed there since: nobody can tell which they were."""
        query = "SELECT place, at, xid FROM gone WHERE file = ? AND deleted = 1 ORDER BY place, at"
        for place, at, xid in self._scan.base.execute(query, (number,)):
            origin = self._scan.origin(number, place, at)
            if origin is not None and not self._is_known(rel, origin):
                self._scan.base.execute(
                    "INSERT INTO images (rel, old, file, place, xid) VALUES (?, 3, ?, ?, ?)", (rel, number, origin, xid)
                )

    def _is_known(self, rel: str, origin: int | None) -> bool:
        """What the row was before lies on the new primary, so it is told already."""
        query = "SELECT 1 FROM images WHERE rel = ? AND old = 1 AND place = ?"
        return origin is not None and self._scan.base.execute(query, (rel, origin)).fetchone() is not None

    def _rewritten(
        self, relation: Relation, rel: str, there: Session | None, other: Relation, columns: list[str], key: list[str]
    ) -> None:
        """A rewrite gives every row the number of its transaction: rows that say the same as there were not changed."""
        if not key or there is None:
            return
        theirs = [name for name in dict(there.execute(COLUMNS, (other.oid,)).fetchall()) if name in columns]
        if any(name not in theirs for name in key):
            return
        cursor = self._scan.base.cursor().execute(
            "SELECT id, key, row, xid FROM images n WHERE rel = ? AND old IN (0, 2) AND NOT EXISTS "
            "(SELECT 1 FROM images o WHERE o.rel = n.rel AND o.old = 1 AND o.key = n.key)",
            (rel,),
        )
        gone = array("q")
        while batch := cursor.fetchmany(PLACES_AT_ONCE):
            by_key = {each[1]: each for each in batch}
            for place, xid, row in self._rows(there, other, theirs, _with_keys(key, by_key)):
                mine = by_key.get(_key_of(row, key))
                if mine is None or self._is_theirs(xid):
                    continue
                new = json.loads(mine[2])
                if all(new[name] == row[name] for name in theirs):
                    gone.append(mine[0])
                else:
                    self._keep(rel, 1, key, 0, place, mine[3], row)
        self._scan.base.executemany("DELETE FROM images WHERE id = ?", ((each,) for each in gone))
        self._removed(relation, rel, there, other, theirs, key)

    def _removed(self, relation: Relation, rel: str, there: Session, other: Relation, columns: list[str], key: list[str]) -> None:
        """Where rows have moved only their keys tell which are gone. All of them, from an emptied table: that is told already."""
        table = sql.Identifier(relation.schema, relation.name)
        ((empty,),) = self._here.execute(sql.SQL("SELECT NOT EXISTS (SELECT FROM ONLY {})").format(table)).fetchall()
        query = "SELECT xid FROM touched WHERE file = :file UNION ALL SELECT xid FROM gone WHERE file = :file LIMIT 1"
        writer = self._scan.base.execute(query, {"file": self._numbers.get(relation.file)}).fetchone()
        if empty or writer is None:
            return
        known = "SELECT 1 FROM images WHERE rel = ? AND old = 1 AND key = ?"
        rows = (each for each in self._rows(there, other, columns, sql.SQL("true")) if not self._is_theirs(each[1]))
        while batch := {_key_of(row, key): (place, row) for place, _, row in islice(rows, PLACES_AT_ONCE)}:
            for _, _, row in self._rows(self._here, relation, key, _with_keys(key, batch)):
                batch.pop(_key_of(row, key), None)
            for words, (place, row) in batch.items():
                if self._scan.base.execute(known, (rel, words)).fetchone() is None:
                    self._keep(rel, 1, key, 0, place, writer[0], row)

    # --- rows as text ------------------------------------------------------------------------------------------------

    def _rows(
        self, session: Session, relation: Relation, columns: list[str], where: sql.Composable
    ) -> Iterator[tuple[int, int, dict[str, str | None]]]:
        """Place, transaction and values: COPY gives every type's own text, where a cast may give another."""
        names = sql.SQL("").join(sql.SQL(", {}").format(sql.Identifier("t", name)) for name in columns)
        query = sql.SQL("COPY (SELECT t.ctid, t.xmin{} FROM ONLY {} t WHERE {}) TO STDOUT").format(
            names, sql.Identifier(relation.schema, relation.name), where
        )
        with session.cursor() as cursor, cursor.copy(query) as copy:
            for number, (ctid, xmin, *values) in enumerate(copy.rows()):
                if number % WRITES_TOLD == 0:
                    self._whole.progress(f"reading {relation.schema}.{relation.name}: {number} rows")
                block, _, offset = ctid[1:-1].partition(",")
                yield int(block) * OFFSETS + int(offset), int(xmin), dict(zip(columns, values, strict=True))

    def _keep(self, rel: str, old: int, key: Sequence[str], number: int, place: int, xid: int, row: dict[str, Any]) -> None:
        self._scan.base.execute(
            "INSERT INTO images (rel, old, key, file, place, xid, row) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (rel, old, _key_of(row, key), number, place, xid, json.dumps(row, ensure_ascii=False)),
        )


def _key_of(row: dict[str, Any], key: Sequence[str]) -> str | None:
    if not key or any(row.get(name) is None for name in key):
        return None
    return json.dumps([row[name] for name in key], ensure_ascii=False)


def _with_keys(key: Sequence[str], wanted: Iterable[str | None]) -> sql.Composable:
    """Values without a type take that of their column, so that the key's index serves."""
    rows = (sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Literal, json.loads(each)))) for each in wanted if each)
    names = sql.SQL(", ").join(sql.Identifier("t", name) for name in key)
    return sql.SQL("({}) IN ({})").format(names, sql.SQL(", ").join(rows))


def _runs(blocks: Iterator[int]) -> Iterator[tuple[int, int]]:
    """From ordered page numbers, ranges with what lies between two near ones: fewer questions."""
    begin = end = -1
    for block in blocks:
        if begin < 0:
            begin, end = block, block + 1
        elif block < end + NEAR_BLOCKS:
            end = block + 1
        else:
            yield begin, end
            begin, end = block, block + 1
    if begin >= 0:
        yield begin, end


def job_as_text(job: Job) -> str:
    return json.dumps(asdict(job))


def main() -> int:
    """The job comes on standard input; what is under way, and in the end why it failed, goes to standard output."""

    def tell(words: str) -> None:
        print(words, flush=True)

    said = json.loads(sys.stdin.read())
    job = Job(**{**said, "options": tuple(said["options"]), "past": tuple(tuple(each) for each in said["past"])})
    try:
        Extraction(job, tell).run()
    except (CannotStart, psycopg.Error, OSError, ValueError) as error:
        tell("failed: " + (" ".join(str(error).split()) or type(error).__name__))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
