"""What PostgreSQL writes and reads as text: connection strings, configuration files, control data, error messages, versions."""

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from orchestrator.domain.topology import Member
from orchestrator.services.postgresql import conninfo, findings, slots, synchronous, versions
from orchestrator.services.postgresql.files import NoData, read_control
from orchestrator.services.postgresql.findings import Facts, Rule
from orchestrator.services.postgresql.knock import Door, error_fields
from orchestrator.services.postgresql.lastwords import last_line, last_words
from orchestrator.services.postgresql.postmaster import find
from orchestrator.services.postgresql.settings import PostgresqlSettings
from orchestrator.services.postgresql.slots import Slot
from orchestrator.services.postgresql.synchronous import Synchronous, SynchronousMode

SETTINGS = PostgresqlSettings(name="db1", host="10.0.0.1", port=5432, data_directory=Path("/nowhere/main"))


# --- connection strings ----------------------------------------------------------------------------------------------


def test_a_standby_follows_under_its_own_name_and_notices_a_dead_primary(tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("it's \\ secret\n")
    settings = replace(SETTINGS, replication_user="repl", replication_password_file=secret, connection={"sslmode": "verify-full"})
    words = conninfo_to_dict(conninfo.primary_conninfo(settings, "10.0.0.2", 5433))
    assert words["application_name"] == "db1"
    assert (words["host"], words["port"], words["user"]) == ("10.0.0.2", "5433", "repl")
    assert words["password"] == "it's \\ secret"
    assert words["sslmode"] == "verify-full"
    assert "tcp_user_timeout" in words


def test_the_password_of_the_one_user_serves_for_both():
    assert SETTINGS.follows_as == "postgres"
    assert SETTINGS.replication_password() is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("user=x", None),
        ("host=db2", ("db2", 5432)),
        ("host=10.0.0.2 port=5433 user='a b'", ("10.0.0.2", 5433)),
        ("hostaddr=10.0.0.2", ("10.0.0.2", 5432)),
        ("postgresql://repl@10.0.0.2:5433/postgres", ("10.0.0.2", 5433)),
        ("host=a,b port=1,2", ("a", 1)),
        ("host='unfinished", None),
    ],
)
def test_whom_a_standby_follows_is_read_from_its_setting(text: str, expected: tuple[str, int] | None):
    assert conninfo.upstream(text) == expected


# --- postgresql.auto.conf --------------------------------------------------------------------------------------------

values = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=40)


@given(values)
def test_every_value_is_read_as_it_was_written(value: str):
    text = conninfo.change_settings("# kept\nport = 5432\n", {"primary_conninfo": value})
    assert conninfo.read_settings(text) == {"port": "5432", "primary_conninfo": value}
    assert text.startswith("# kept\n")


def test_a_changed_setting_stands_once_and_one_taken_away_not_at_all():
    text = "primary_conninfo = 'old'\nPrimary_Conninfo 'older'\nwork_mem = 4MB\nprimary_slot_name='x'\n"
    changed = conninfo.change_settings(text, {"primary_conninfo": "new", "primary_slot_name": None})
    assert changed == "work_mem = 4MB\nprimary_conninfo = 'new'\n"
    assert conninfo.change_settings("", {"x": None}) == ""


# --- control data, lock file -----------------------------------------------------------------------------------------

CONTROL = """\
pg_control version number:            1300
Database system identifier:           7711298366622854833
Database cluster state:               shut down in recovery
Latest checkpoint location:           0/4000028
Latest checkpoint's TimeLineID:       1
Minimum recovery ending location:     0/40000A0
Min recovery ending loc's timeline:   2
wal_log_hints setting:                off
WAL block size:                       8192
Bytes per WAL segment:                16777216
Data page checksum version:           1
"""


def test_control_data_are_read_and_the_newer_timeline_counts():
    control = read_control(CONTROL)
    assert (control.system, control.timeline, control.checkpoint) == ("7711298366622854833", 2, 0x4000028)
    assert control.is_clean and control.was_standby and control.checksums and not control.wal_log_hints


def test_control_data_that_lack_a_line_are_refused():
    with pytest.raises(NoData, match="Bytes per WAL segment"):
        read_control(CONTROL.replace("Bytes per WAL segment", "Something else"))


@pytest.mark.parametrize("text", ["", "words\n", "999999999\n/x\n"])
def test_a_lock_file_without_a_living_server_names_nobody(tmp_path: Path, text: str):
    (tmp_path / "postmaster.pid").write_text(text)
    assert find(tmp_path) is None


def test_a_lock_file_that_names_another_program_is_not_believed(tmp_path: Path):
    (tmp_path / "postmaster.pid").write_text(f"{os.getpid()}\n{tmp_path}\n")
    assert find(tmp_path) is None


# --- last words ------------------------------------------------------------------------------------------------------

PORT_TAKEN = """\
2026-07-01 12:00:01.154 UTC [57] LOG:  starting PostgreSQL 15.20 on x86_64-pc-linux-gnu
2026-07-01 12:00:01.155 UTC [57] LOG:  could not bind IPv4 address "127.0.0.1": Address already in use
2026-07-01 12:00:01.155 UTC [57] HINT:  Is another postmaster already running on port 5432?
2026-07-01 12:00:01.155 UTC [57] WARNING:  could not create listen socket for "localhost"
2026-07-01 12:00:01.155 UTC [57] FATAL:  could not create any TCP/IP sockets
2026-07-01 12:00:01.156 UTC [57] LOG:  database system is shut down
"""
NO_CHECKPOINT = """\
LOG:  invalid primary checkpoint record
PANIC:  could not locate a valid checkpoint record
db1 postgres FATAL:  the database system is starting up
db1 postgres FATAL:  password authentication failed for user "app"
LOG:  startup process (PID 5780) was terminated by signal 6: Aborted
"""


def test_the_last_words_are_the_fatal_line_with_what_led_to_it_and_its_hints():
    assert last_words(PORT_TAKEN) == (
        'could not bind IPv4 address "127.0.0.1": Address already in use; HINT: Is another postmaster already running on port '
        "5432?; FATAL: could not create any TCP/IP sockets"
    )


def test_what_was_fatal_for_a_client_alone_is_not_the_servers_reason():
    assert last_words(NO_CHECKPOINT) == "invalid primary checkpoint record; PANIC: could not locate a valid checkpoint record"
    assert last_words("LOG:  x\nFATAL:  sorry, too many clients already\n") == ""


def test_without_a_fatal_line_there_is_the_last_one():
    assert last_line("LOG:  entering standby mode\nLOG:  waiting for WAL\n") == "waiting for WAL"
    assert last_line("postgres: could not access\n") == "postgres: could not access"
    assert last_line("") == ""


# --- what is said at the door ----------------------------------------------------------------------------------------


def test_an_error_is_read_by_its_code_in_every_language():
    body = b"SSCHWERWIEGEND\0VFATAL\0C57P03\0Mdas Datenbanksystem startet\0Fpostmaster.c\0\0"
    said = error_fields(body)
    assert (said["C"], said["M"]) == ("57P03", "das Datenbanksystem startet")
    assert not Door(said["C"], said["M"]).lets_in
    assert Door("28P01", "password authentication failed").lets_in, "who asks for a password runs"


# --- versions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "major"), [("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", 15), ("13", 13), ("18rc1", 18), ("17.2", 17)]
)
def test_a_version_is_read_from_what_the_programs_say(text: str, major: int):
    assert versions.of_text(text).major == major
    assert versions.of_number(major * 10000 + 4).major == major


@pytest.mark.parametrize("text", ["12.4", "words"])
def test_too_old_or_no_version_is_refused(text: str):
    with pytest.raises(versions.UnknownVersion):
        versions.of_text(text)


def test_every_difference_begins_with_one_version():
    names = [name for name, value in vars(versions.Version).items() if isinstance(value, property) and name != "words"]
    told = {name: [bool(getattr(versions.Version(major), name)) for major in range(13, 19)] for name in names}
    for name, found in told.items():
        assert sum(one != other for one, other in pairwise(found)) == 1, (name, found)


# --- slots -----------------------------------------------------------------------------------------------------------


def test_a_slot_that_belongs_to_no_member_is_named():
    found = [Slot(name, False, 1, "reserved") for name in ("tanist_db1", "tanist_db_2", "tanist_gone", "backup")]
    assert [slot.name for slot in slots.unknown(found, ("db1", "db-2"))] == ["tanist_gone"]


# --- the synchronous list --------------------------------------------------------------------------------------------


def test_the_list_is_written_as_the_server_reads_it():
    both = Synchronous(names=("db-1", 'q"uote'), at_least=2)
    assert synchronous.listed(both).text == 'FIRST 2 ("db-1", "q""uote")'
    quorum = Synchronous(names=("a", "b", "c"), at_least=2, mode=SynchronousMode.ANY)
    assert synchronous.listed(quorum).text == 'ANY 2 ("a", "b", "c")'
    assert synchronous.listed(Synchronous(names=("a",), at_least=5)).text == 'FIRST 1 ("a")', "more than there are is nobody"
    assert synchronous.listed(Synchronous(names=())).text == ""
    waiting = ("a", *synchronous.absent(1))
    assert synchronous.listed(Synchronous(names=waiting, at_least=2)).text == 'FIRST 2 ("a", "tanist-nobody-absent-1")'
    assert synchronous.absent(-1) == synchronous.absent(0) == ()


@given(
    st.sampled_from(SynchronousMode),
    st.sampled_from(SynchronousMode),
    st.permutations(("a", "b", "c")),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_every_change_of_the_list_shows_in_every_walsenders_priority(
    mode: SynchronousMode, next_mode: SynchronousMode, names: list[str], count: int, next_count: int, least: int, next_least: int
):
    """Otherwise a walsender with the older list could still release a commit, and nobody would know."""
    before = synchronous.listed(Synchronous(names=tuple("abc"[:count]), at_least=least, mode=mode))
    wanted = Synchronous(names=tuple(names[:next_count]), at_least=next_least, mode=next_mode)
    connected = ("a", "b", "c")
    shown = {name: before.of(name) for name in connected}
    for step in synchronous.steps(before.text, wanted, shown):
        if step.text == before.text:
            continue
        assert all(shown[name] != step.of(name) for name in connected if shown[name]), (before, step)
        shown = {name: step.of(name) for name in connected}
    assert shown == {name: synchronous.listed(wanted).of(name) for name in connected}


# --- findings --------------------------------------------------------------------------------------------------------

GOOD = {
    "wal_level": "replica",
    "wal_log_hints": "on",
    "data_checksums": "off",
    "full_page_writes": "on",
    "fsync": "on",
    "wal_keep_size": "1024",
    "max_wal_size": "1024",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "superuser_reserved_connections": "8",
    "hot_standby": "on",
    "wal_retrieve_retry_interval": "100",
    "recovery_target_timeline": "latest",
    "archive_mode": "off",
    "max_slot_wal_keep_size": "4096",
    "listen_addresses": "*",
    "restart_after_crash": "on",
}
MEMBERS = (Member(name="db1", address="10.0.0.1", port=5432), Member(name="db2", address="10.0.0.2", port=5432))
FACTS = Facts(
    version=versions.Version(15),
    standby=False,
    values=GOOD,
    roles={"postgres": (True, True, True, True)},
    rules=(
        Rule("host", ("replication",), ("all",), "10.0.0.0", "255.255.255.0", "scram-sha-256"),
        Rule("host", ("all",), ("postgres",), "10.0.0.2", "255.255.255.255", "scram-sha-256"),
    ),
)


def told(facts: Facts, settings: PostgresqlSettings = SETTINGS) -> str:
    return "\n".join(findings.findings(facts, settings, MEMBERS))


def test_nothing_is_said_of_good_settings():
    assert told(FACTS) == ""


@pytest.mark.parametrize(
    ("name", "value", "cure"),
    [
        ("wal_level", "minimal", "ALTER SYSTEM SET wal_level = 'replica'; then restart"),
        ("wal_log_hints", "off", "ALTER SYSTEM SET wal_log_hints = 'on'; then restart"),
        ("wal_keep_size", "64", "ALTER SYSTEM SET wal_keep_size = '1024MB'; SELECT pg_reload_conf()"),
        ("max_wal_senders", "2", "ALTER SYSTEM SET max_wal_senders = '10'; then restart"),
        ("max_replication_slots", "0", "ALTER SYSTEM SET max_replication_slots = '10'; then restart"),
        ("max_slot_wal_keep_size", "-1", "ALTER SYSTEM SET max_slot_wal_keep_size = '4096MB'"),
        ("hot_standby", "off", "ALTER SYSTEM SET hot_standby = 'on'"),
        ("recovery_target_lsn", "0/1", "ALTER SYSTEM RESET recovery_target_lsn"),
        ("listen_addresses", "localhost", "ALTER SYSTEM SET listen_addresses = 'localhost,10.0.0.1'; then restart"),
        ("default_transaction_read_only", "on", "ALTER SYSTEM SET default_transaction_read_only = 'off'"),
        ("archive_mode", "on", "archive_command"),
        ("fsync", "off", "ALTER SYSTEM SET fsync = 'on'"),
    ],
)
def test_each_gap_comes_with_what_closes_it(name: str, value: str, cure: str):
    assert cure in told(replace(FACTS, values={**GOOD, name: value}))


def test_checksums_do_instead_of_hints():
    assert told(replace(FACTS, values={**GOOD, "wal_log_hints": "off", "data_checksums": "on"})) == ""


def test_a_missing_entrance_is_told_with_its_line():
    text = told(replace(FACTS, rules=FACTS.rules[:1]))
    assert "db2 may not rewind from this member" in text
    assert "add: host postgres postgres 10.0.0.2/32 trust; then SELECT pg_reload_conf()" in text
    rejecting = replace(FACTS.rules[0], method="reject")
    text = told(replace(FACTS, rules=(replace(rejecting, line=7), *FACTS.rules)))
    assert "db2 may not follow this member: pg_hba.conf has in line 7 a refusal" in text and "above line 7 add: host" in text


def test_a_missing_role_and_a_weak_one_are_told_apart():
    settings = replace(SETTINGS, replication_user="repl")
    assert 'CREATE ROLE "repl" LOGIN REPLICATION' in told(FACTS, settings)
    weak = {**FACTS.roles, "repl": (False, False, True, True)}
    assert 'ALTER ROLE "repl" LOGIN REPLICATION' in told(replace(FACTS, roles=weak), settings)


def test_slots_of_nobody_and_lost_ones_are_told():
    found = (Slot("tanist_gone", False, 1, "reserved"), Slot("tanist_db2", False, None, "lost"))
    text = told(replace(FACTS, slots=found))
    assert "slot tanist_gone belongs to no member" in text
    assert "slot tanist_db2 has lost" in text


def test_newer_versions_have_their_own_traps():
    values = {**GOOD, "idle_replication_slot_timeout": "60"}
    assert "idle_replication_slot_timeout" not in told(replace(FACTS, values=values))
    assert "idle_replication_slot_timeout" in told(replace(FACTS, version=versions.Version(18), values=values))
    assert "is newer than what Tanist was made for" in told(replace(FACTS, version=versions.Version(19)))


def test_commits_acknowledged_early_are_told_in_a_synchronous_group_only():
    facts = replace(
        FACTS,
        values={**GOOD, "synchronous_commit": "off"},
        overrides=(("app", "", "synchronous_commit=local"), ("", "shop", "synchronous_commit=on"), ("app", "shop", "jit=off")),
    )
    assert told(facts) == ""
    first, second = told(facts, replace(SETTINGS, synchronous=True)).splitlines()
    assert "synchronous_commit is off in a synchronous group" in first
    assert second.endswith('ALTER ROLE "app" RESET synchronous_commit')


def test_a_setting_of_the_command_line_is_not_cured_by_a_statement():
    facts = replace(FACTS, values={**GOOD, "hot_standby": "off"}, sources={"hot_standby": "command line"})
    assert "hot_standby is off (on its command line)" in told(facts) and "ALTER SYSTEM" not in told(facts)


def test_who_else_would_start_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("orchestrator.services.postgresql.settings.DEBIAN_CONFIGURATION", tmp_path)
    place = tmp_path / "15" / "main"
    place.mkdir(parents=True)
    (place / "start.conf").write_text("# Automatic startup configuration\n\nauto\n")
    settings = replace(SETTINGS, config_file=place / "postgresql.conf")
    text = "\n".join(findings.debian_start(settings, {"UnitFileState": "enabled", "Restart": "on-failure"}))
    assert "start.conf says auto" in text and "write there: manual" in text
    assert "systemctl disable postgresql@15-main.service" in text
    assert "add: Restart=no" in text
    (place / "start.conf").write_text("manual\n")
    assert findings.debian_start(settings, {"UnitFileState": "disabled", "Restart": "no"}) == []


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        ("64", "16MB", "1024"),
        ("1024", "MB", "1024"),
        ("5000", "ms", "5000"),
        ("5", "s", "5000"),
        ("-1", "MB", "-1"),
        ("on", "", "on"),
    ],
)
def test_sizes_and_spans_are_compared_in_one_unit(value: str, unit: str, expected: str):
    assert findings.in_base_units(value, unit) == expected
