"""`tanist check` on real servers: each gap is named with where and what was read, and with what closes it; and that does."""

import asyncio
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from postgresql_servers import HOST, PASSWORD, PROGRAMS, Servers, copies, standby, start_by_hand, template, until, why_not

from orchestrator.ports import RefusedByPeer
from orchestrator.services.postgresql import postmaster

pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.timeout(120),
    pytest.mark.skipif(bool(why_not()), reason=f"PostgreSQL: {why_not()}"),
]

CONFIG = """\
cluster: shop
mediator: sqlite:///{directory}/tanist.db
key_file: {directory}/tanist.key
directories: {{run: {directory}/run, state: {directory}/state}}
nodes:
  a: {{address: 127.9.8.1}}
  b: {{address: 127.9.8.2}}
  c: {{address: 127.9.8.3}}
groups:
  orders:
    service: postgresql
    replication: {replication}
    postgresql:
      socket_directory: {directory}
      bin_directory: {programs}
      {who}
      {run_as}
      replication_user: follower
      replication_password_file: {directory}/replication-password
    members:
      a: {{address: {host}, postgresql: {{port: {ports[a]}, data_directory: {directory}/a{more}}}}}
      b: {{address: {host}, postgresql: {{port: {ports[b]}, data_directory: {directory}/b}}}}
      c: {{address: {host}, postgresql: {{port: {ports[c]}, data_directory: {directory}/c}}}}
"""


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with template() as made:
        yield made


@pytest.fixture
def stopped(root: Path) -> Iterator[Servers]:
    with copies(root, running=()) as servers:
        yield servers


def check(servers: Servers, *, node: str = "a", replication: str = "asynchronous", who: str = "", more: str = "") -> list[str]:
    """What is printed about the group, a line each."""
    directory = servers.directory
    key = directory / "tanist.key"
    if not key.exists():
        key.write_text(secrets.token_hex(32))
        key.chmod(0o600)
    config = directory / "tanist.yaml"
    config.write_text(
        CONFIG.format(
            directory=directory,
            programs=PROGRAMS,
            ports=servers.ports,
            host=HOST,
            replication=replication,
            who=who or f"password_file: {directory}/password",
            run_as="run_as: postgres" if os.geteuid() == 0 else "",
            more=more,
        )
    )
    command = [sys.executable, "-m", "orchestrator.cli", "--config", str(config), "--node", node, "check"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return [line for line in said.splitlines() if "groups.orders: " in line]


def one(lines: list[str], begins: str) -> str:
    found = [line for line in lines if re.match(rf"(note |wrong)  groups\.orders: {re.escape(begins)}", line)]
    assert len(found) == 1, (begins, lines)
    print("-", found[0])
    return found[0]


def configure(servers: Servers, *lines: str, name: str = "a") -> int:
    """At the end of postgresql.conf; the number of the first one's line."""
    path = servers.directory / name / "postgresql.conf"
    before = path.read_text()
    path.write_text(before + "\n".join(lines) + "\n")
    return len(before.splitlines()) + 1


def restart(servers: Servers) -> None:
    running = postmaster.find(servers.directory / "a")
    if running is not None:
        servers.end()
    start_by_hand(servers, "a")


GAPS = (
    ("hot_standby", "off", "a standby cannot be asked", "'on'; then restart"),
    ("max_wal_senders", "3", "2 standbys and a base backup need 4", "'10'; then restart"),
    ("max_replication_slots", "2", "a slot for every other member needs 3", "'10'; then restart"),
    ("wal_keep_size", "0", "less than max_wal_size (1024 MB)", "'1024MB'; SELECT pg_reload_conf()"),
    ("max_slot_wal_keep_size", "-1", "fills the disk", "'4096MB'; SELECT pg_reload_conf()"),
    ("wal_retrieve_retry_interval", "5s", "may wait as long", "'100ms'; SELECT pg_reload_conf()"),
    ("superuser_reserved_connections", "1", "Tanist gets none", "'8'; then restart"),
    ("full_page_writes", "off", "no rewind", "'on'; SELECT pg_reload_conf()"),
    ("fsync", "off", "may be lost", "'on'; SELECT pg_reload_conf()"),
    ("restart_after_crash", "off", "the role moves", "'on'; SELECT pg_reload_conf()"),
    ("recovery_target_timeline", "current", "does not go over", "'latest'; then restart"),
    ("listen_addresses", "127.7.7.7", f"leaves out {HOST}", f"'127.7.7.7,{HOST}'; then restart"),
    ("default_transaction_read_only", "on", "cannot write", "'off'; SELECT pg_reload_conf()"),
    ("synchronous_commit", "local", "a takeover may lose it", "'on'; SELECT pg_reload_conf()"),
)


def test_each_gap_is_named_with_place_and_value_and_its_statement_closes_it(stopped: Servers):
    """Every statement is taken from what was printed, and carried out as it stands there; then nothing is left to say."""
    data = stopped.directory / "a"
    for slot in (data / "pg_replslot").iterdir():
        shutil.rmtree(slot)  # with more slots than allowed it would not start
    (data / "postgresql.auto.conf").unlink()
    first = configure(stopped, *(f"{name} = '{value}'" for name, value, *_ in GAPS))
    start_by_hand(stopped, "a")
    lines = check(stopped, replication="synchronous")
    statements = []
    for number, (name, value, why, cure) in enumerate(GAPS, first):
        line = one(lines, f"{name} is ")
        shown = {"wal_keep_size": "0 MB", "wal_retrieve_retry_interval": "5000 ms"}.get(name, value)
        assert f"{name} is {shown}" in line and f" ({data}/postgresql.conf:{number})" in line, line
        assert why in line and line.endswith(f"ALTER SYSTEM SET {name} = {cure}"), line
        statements.append(re.search(r"ALTER SYSTEM SET [^;]*", line)[0])  # type: ignore[index]
    assert len([line for line in lines if "could not follow" not in line]) == len(GAPS), lines
    for statement in statements:
        stopped.sql("a", statement, host=str(stopped.directory))
    restart(stopped)
    assert [line for line in check(stopped, replication="synchronous") if "could not follow" not in line] == []


def test_commits_that_a_role_or_a_database_lets_go_early_are_named_in_a_synchronous_group(stopped: Servers):
    start_by_hand(stopped, "a")
    stopped.sql("a", "ALTER ROLE follower SET synchronous_commit = off")
    stopped.sql("a", "ALTER DATABASE template1 SET synchronous_commit = remote_write")
    lines = check(stopped, replication="synchronous")
    assert one(lines, 'ROLE "follower" has synchronous_commit=off').endswith('ALTER ROLE "follower" RESET synchronous_commit')
    assert 'ALTER DATABASE "template1" RESET' in one(lines, 'DATABASE "template1" has synchronous_commit=remote_write')
    assert not [line for line in check(stopped) if "synchronous_commit" in line], "nothing is promised in an asynchronous one"


def test_hints_without_checksums_are_missed(root: Path):
    """A database without checksums of its own: the template has them."""
    with copies(root, running=()) as servers:
        shutil.rmtree(servers.directory / "a")
        words = [PROGRAMS / "initdb", "-D", servers.directory / "a", "-U", "postgres", "-A", "trust", "-N"]
        if "--no-data-checksums" in subprocess.run([words[0], "--help"], capture_output=True, text=True, check=True).stdout:
            words.append("--no-data-checksums")
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []
        subprocess.run([*user, *map(str, words)], check=True, capture_output=True, cwd="/")
        start_by_hand(servers, "a")
        lines = check(servers)
        assert one(lines, "wal_log_hints is off, and there are no data checksums").endswith("wal_log_hints = 'on'; then restart")
        assert 'CREATE ROLE "follower" LOGIN REPLICATION PASSWORD' in one(lines, 'there is no role "follower" to follow as')


def test_an_entrance_that_is_missing_or_refused_is_named_with_its_file_and_line(stopped: Servers):
    hba = stopped.directory / "a" / "pg_hba.conf"
    kept = [line for line in hba.read_text().splitlines() if line.startswith("local")]
    hba.write_text("\n".join([*kept, f"host postgres postgres {HOST}/32 reject", ""]))
    start_by_hand(stopped, "a")
    lines = check(stopped)
    missing, refused = one(lines, "c may not follow"), one(lines, "c may not rewind from")
    add = f"add: host replication follower {HOST}/32 scram-sha-256; then SELECT pg_reload_conf()"
    assert f"{hba} has no line for follower from there; {add}" in missing
    assert f"{hba} has in line {len(kept) + 1} a refusal" in refused and f"above line {len(kept) + 1} add: host" in refused


def test_what_waits_for_a_restart_and_what_would_hinder_the_next_start_are_named(stopped: Servers):
    start_by_hand(stopped, "a")
    first = configure(stopped, "max_connections = 77", "work_mem = plenty")
    hba = stopped.directory / "a" / "pg_hba.conf"
    hba.write_text(hba.read_text() + "host everything\n")
    stopped.sql("a", "SELECT pg_reload_conf()")
    place = stopped.directory / "a" / "postgresql.conf"
    query = "SELECT pending_restart FROM pg_settings WHERE name = 'max_connections'"
    until(lambda: check(stopped) and True)
    lines = check(stopped)
    assert f"{place}:{first + 1}: work_mem: " in one(lines, f"{place}:{first + 1}")
    assert f"{hba}:{len(hba.read_text().splitlines())}" in one(lines, str(hba))
    configure_without(place, "work_mem = plenty")
    stopped.sql("a", "SELECT pg_reload_conf()")
    until(lambda: stopped.sql("a", query) == [(True,)])
    assert f"({place}:{first})" in one(check(stopped), "max_connections was changed")


def configure_without(path: Path, line: str) -> None:
    path.write_text(path.read_text().replace(line + "\n", ""))


def test_a_setting_on_the_command_line_is_to_be_changed_there(stopped: Servers):
    service = stopped.service("a", parameters={"max_slot_wal_keep_size": "-1"})

    async def scenario() -> None:
        await service.ensure(standby(1))
        await stopped.close()

    asyncio.run(scenario())
    line = one(check(stopped), "max_slot_wal_keep_size is -1 (no limit) (on its command line)")
    assert "ALTER SYSTEM" not in line and "max_slot_wal_keep_size = 4096MB; then restart" in line


def test_archiving_to_nowhere_is_named(stopped: Servers):
    first = configure(stopped, "archive_mode = on")
    start_by_hand(stopped, "a")
    line = one(check(stopped), f"archive_mode is on ({stopped.directory}/a/postgresql.conf:{first}) without archive_command")
    assert "ALTER SYSTEM SET archive_command" in line


@pytest.mark.parametrize(
    ("sql", "who", "reason", "cure"),
    [
        ("", "user: nobody_here", 'role "nobody_here" does not exist', 'CREATE ROLE "nobody_here" LOGIN SUPERUSER'),
        ("", "user: postgres", "no password supplied", "set postgresql.password_file"),
        ("", "database: none", 'database "none" does not exist', 'CREATE DATABASE "none"'),
    ],
)
def test_whoever_is_not_let_in_is_told_what_would(stopped: Servers, sql: str, who: str, reason: str, cure: str):
    hba = stopped.directory / "a" / "pg_hba.conf"
    if "postgres" not in who:
        hba.write_text("local all all trust\n" + hba.read_text())
    start_by_hand(stopped, "a")
    (line,) = check(stopped, who=who)
    print("-", line)
    assert line.startswith("wrong  groups.orders: the service refuses: ") and reason in line and cure in line


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a system user other than PostgreSQL's own")
def test_roots_daemon_is_told_how_debians_first_line_lets_it_in(stopped: Servers):
    """And what is told does let it in."""
    data = stopped.directory / "a"
    hba, ident = data / "pg_hba.conf", data / "pg_ident.conf"
    hba.write_text("local all postgres peer\n" + hba.read_text())
    start_by_hand(stopped, "a")
    (line,) = check(stopped, who="user: postgres")
    print("-", line)
    assert 'Peer authentication failed for user "postgres"' in line
    entrance = re.search(r"lines add: (.*?); to pg_ident", line)
    maps = re.search(r"to pg_ident.conf add: (.*?) and: (.*?);", line)
    assert entrance and maps, line
    hba.write_text(entrance[1] + "\n" + hba.read_text())
    ident.write_text(f"{maps[1]}\n{maps[2]}\n")
    stopped.sql("a", "SELECT pg_reload_conf()")
    until(lambda: not any("refuses" in each for each in check(stopped, who="user: postgres")))


def test_a_standby_that_lets_nobody_in_is_told_why(root: Path):
    with copies(root) as servers:
        servers.kill("b")
        configure(servers, "hot_standby = off", name="b")

        async def scenario() -> None:
            with pytest.raises(RefusedByPeer, match="hot_standby is off: a standby lets nobody in"):
                await servers.service("b").ensure(standby(1, "a"))
            await servers.close()

        asyncio.run(scenario())
        (line,) = check(servers, node="b")
        print("-", line)
        assert "not accepting connections" in line
        assert "write hot_standby = on where the server reads its settings; then restart" in line


# --- a server that does not run --------------------------------------------------------------------------------------


def test_a_stopped_server_is_tried_before_it_is_needed(stopped: Servers):
    (line,) = check(stopped)
    assert line.startswith("note ") and line.endswith("; Tanist will start it") and "redis" not in line
    first = configure(stopped, "max_wal_senders = many")
    (line,) = check(stopped)
    print("-", line)
    assert line.startswith("wrong") and "its configuration is refused: " in line
    assert 'invalid value for parameter "max_wal_senders": "many"' in line
    place = stopped.directory / "a" / "postgresql.conf"
    configure_without(place, "max_wal_senders = many")
    place.write_text(place.read_text() + "what is this\n")
    (line,) = check(stopped)
    print("-", line)
    assert f'syntax error in file "{place}" line {first}' in line


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (", bin_directory: /nowhere", "there is no /nowhere/postgres: install it, or set postgresql.bin_directory"),
        (", control: pg_ctlcluster, cluster: 15/tanist-none", "there is no /etc/postgresql/15/tanist-none/postgresql.conf"),
        (", run_as: nobody_here", "there is no user nobody_here on this host"),
    ],
)
def test_what_would_keep_it_from_being_started_is_named(stopped: Servers, more: str, words: str):
    if "pg_ctlcluster" in more and shutil.which("pg_ctlcluster") is None:
        pytest.skip("no pg_ctlcluster: Debian's postgresql-common")
    (line,) = check(stopped, more=more)
    print("-", line)
    assert line.startswith("wrong") and words in line


def test_a_member_without_data_is_no_mistake(stopped: Servers):
    shutil.rmtree(stopped.directory / "a")
    (line,) = check(stopped)
    assert "holds no database" in line and line.startswith("note ")


def test_a_well_made_member_is_in_order(root: Path):
    with copies(root, running=("a", "b", "c")) as servers:
        assert check(servers, replication="synchronous") == []
        assert PASSWORD not in "".join(check(servers))
