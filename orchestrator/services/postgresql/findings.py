"""What in a server's settings would hurt in a failover, each with the statement or the line that closes the gap."""

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from orchestrator.domain.topology import Member, NodeName
from orchestrator.services.postgresql import slots as slotting
from orchestrator.services.postgresql.copying import hba_lines
from orchestrator.services.postgresql.line import Line
from orchestrator.services.postgresql.settings import PostgresqlSettings, debian_place
from orchestrator.services.postgresql.slots import Slot
from orchestrator.services.postgresql.versions import NEWEST, Version, of_number

RESTART: Final = "then restart"
RELOAD: Final = "SELECT pg_reload_conf()"
COMMAND_LINE: Final = "command line"
LOOSE: Final = ("off", "local", "remote_write")
"""Values of synchronous_commit under which a commit is acknowledged before it is on a standby's disk."""
SLOWEST_RETRY_MS: Final = 1000
LIMIT_OF_SLOTS_MB: Final = 4096

SETTINGS: Final = """
SELECT name, reset_val, coalesce(unit, ''), source, coalesce(sourcefile, ''), coalesce(sourceline, 0), pending_restart
FROM pg_settings WHERE name = ANY (%s) OR pending_restart
"""
"""Not `setting`: our own session has changed some of them for itself."""
FILES: Final = """
SELECT f.name, f.sourcefile, f.sourceline, CASE WHEN s.pending_restart THEN NULL ELSE f.error END
FROM pg_file_settings f LEFT JOIN pg_settings s USING (name)
WHERE s.name IS NULL OR s.source <> 'command line' AND (f.name = ANY (%s) OR s.pending_restart OR f.error IS NOT NULL)
ORDER BY f.seqno
"""
"""What only waits for a restart, and what the command line has overruled, is told there as an error too."""
NAMES: Final = (
    "archive_command",
    "archive_library",
    "archive_mode",
    "data_checksums",
    "default_transaction_read_only",
    "fsync",
    "full_page_writes",
    "hot_standby",
    "idle_replication_slot_timeout",
    "listen_addresses",
    "max_connections",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "max_wal_size",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restart_after_crash",
    "restore_command",
    "superuser_reserved_connections",
    "synchronous_commit",
    "synchronous_standby_names",
    "wal_keep_size",
    "wal_level",
    "wal_log_hints",
    "wal_retrieve_retry_interval",
)
ROLES: Final = "SELECT rolname, rolsuper, rolreplication, rolcanlogin, rolpassword IS NOT NULL FROM pg_authid"
HBA: Final = "SELECT type, database, user_name, address, netmask, auth_method, line_number, error FROM pg_hba_file_rules"
PLACES: Final = "SELECT current_setting('hba_file'), current_setting('data_directory'), current_setting('config_file')"
OVERRIDES: Final = """
SELECT coalesce(r.rolname, ''), coalesce(d.datname, ''), setting
FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) setting
LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
"""
ARCHIVER: Final = """
SELECT last_failed_wal FROM pg_stat_archiver WHERE last_failed_time > coalesce(last_archived_time, '-infinity')
"""
TABLESPACES: Final = "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE pg_tablespace_location(oid) <> ''"


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of pg_hba.conf, as the server understood it."""

    kind: str
    databases: tuple[str, ...]
    users: tuple[str, ...]
    address: str
    mask: str
    method: str
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was read; the findings are made of these alone."""

    version: Version
    standby: bool
    values: Mapping[str, str]
    sources: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    """File and line where a setting was read; none for a default."""
    mistakes: tuple[str, ...] = ()
    """What in the files as they are now the server does not understand: it would not start with them."""
    pending: tuple[str, ...] = ()
    """Settings that were changed in the files, and wait for a restart."""
    overrides: tuple[tuple[str, str, str], ...] = ()
    """Role, database and `name=value` of settings that hold for them alone."""
    hba_file: str = "pg_hba.conf"
    data_directory: Path | None = None
    config_file: Path | None = None
    roles: Mapping[str, tuple[bool, bool, bool, bool]] = field(default_factory=dict)
    """superuser, replication, login, has a password"""
    rules: tuple[Rule, ...] = ()
    slots: tuple[Slot, ...] = ()
    archive_failed: str = ""
    tablespaces: tuple[str, ...] = ()
    reached: Mapping[NodeName, str] = field(default_factory=dict)
    """Why a member does not let us follow it; empty when it does."""
    starts_behind_our_back: tuple[str, ...] = ()

    def number(self, name: str) -> int:
        try:
            return int(self.values.get(name, "0"))
        except ValueError:
            return 0

    def is_on(self, name: str) -> bool:
        return self.values.get(name) == "on"

    def at(self, name: str) -> str:
        """Where the server has it from, to follow the value that was read."""
        if self.sources.get(name) == COMMAND_LINE:
            return f" (on its {COMMAND_LINE})"
        return f" ({self.places[name]})" if name in self.places else ""


async def gather(line: Line) -> Facts:
    """Raises psycopg's errors."""
    rows = await line.ask(SETTINGS, (list(NAMES),))
    ((standby,),) = await line.ask("SELECT pg_is_in_recovery()")
    ((hba_file, data_directory, config_file),) = await line.ask(PLACES)
    pending = tuple(str(name) for name, *_, waits in rows if waits)
    places, mistakes = {}, []
    for name, file, number, error in await line.ask(FILES, (list(NAMES),)):
        if error is None:
            places[str(name)] = f"{file}:{number}"
        else:
            mistakes.append(f"{file}:{number}: {f'{name}: ' if name else ''}{error}")
    rules = []
    for kind, databases, users, address, mask, method, number, error in await line.ask(HBA):
        if error is not None:
            mistakes.append(f"{hba_file}:{number}: {error}")
            continue
        ends = (str(address or ""), str(mask or ""))
        rules.append(Rule(str(kind), tuple(databases or ()), tuple(users or ()), *ends, str(method), int(number)))
    found = await line.ask(ROLES)
    failed = await line.ask(ARCHIVER)
    return Facts(
        version=of_number(line.version),
        standby=bool(standby),
        values={str(name): in_base_units(str(value), str(unit)) for name, value, unit, *_ in rows},
        sources={str(name): str(source) for name, _, _, source, *_ in rows},
        places={str(name): f"{file}:{number}" for name, _, _, _, file, number, _ in rows if file} | places,
        mistakes=tuple(mistakes),
        pending=pending,
        overrides=tuple((str(role), str(database), str(words)) for role, database, words in await line.ask(OVERRIDES)),
        hba_file=str(hba_file),
        data_directory=Path(data_directory),
        config_file=Path(config_file),
        roles={str(name): (bool(a), bool(b), bool(c), bool(d)) for name, a, b, c, d in found},
        rules=tuple(rules),
        slots=tuple(await slotting.read(line)),
        archive_failed=str(failed[0][0]) if failed else "",
        tablespaces=tuple(str(place) for (place,) in await line.ask(TABLESPACES)),
    )


def in_base_units(value: str, unit: str) -> str:
    """pg_settings counts some values in blocks of several kB: all sizes in MB, all spans in ms."""
    sizes = {"kB": 1 / 1024, "8kB": 8 / 1024, "MB": 1, "16MB": 16, "GB": 1024}
    spans = {"ms": 1, "s": 1000, "min": 60_000}
    factor = sizes.get(unit) or spans.get(unit)
    if factor is None or not value.lstrip("-").isdigit() or int(value) < 0:
        return value
    return str(int(int(value) * factor))


def findings(facts: Facts, settings: PostgresqlSettings, members: tuple[Member, ...]) -> list[str]:
    others = tuple(member for member in members if member.name != settings.name)
    return [
        *_version(facts),
        *_files(facts, settings),
        *_log(facts),
        *_numbers(facts, others),
        *_standby(facts, settings),
        *_archive(facts),
        *_synchronous(facts, settings),
        *_roles(facts, settings),
        *_entrances(facts, settings, others),
        *_slots(facts, settings, members),
        *_reach(facts),
        *_starts(facts, settings),
    ]


def _gap(facts: Facts, name: str, why: str, value: str, then: str, read: str | None = None) -> str:
    """What was read and where, what it would do, and the statement that closes it."""
    return f"{name} is {facts.values.get(name) if read is None else read}{facts.at(name)}{why}; {_set(facts, name, value, then)}"


def _set(facts: Facts, name: str, value: str, then: str) -> str:
    if facts.sources.get(name) == COMMAND_LINE:
        return f"what starts the server gives it on the {COMMAND_LINE}: write there {name} = {value}; {RESTART}"
    return f"ALTER SYSTEM SET {name} = '{value}'; {then}"


def _version(facts: Facts) -> Iterator[str]:
    if facts.version.major > NEWEST:
        yield f"{facts.version.words} is newer than what Tanist was made for (up to {NEWEST}): try it in a laboratory first"


def _files(facts: Facts, settings: PostgresqlSettings) -> Iterator[str]:
    for name, theirs, ours in (
        ("data_directory", facts.data_directory, settings.data_directory),
        ("config_file", facts.config_file, settings.configuration),
    ):
        if theirs is not None and theirs.resolve() != ours.resolve():
            yield f"the server on this port has its {name} at {theirs}, and Tanist would use {ours}: set postgresql.{name}"
    for words in facts.mistakes:
        yield f"{words}: at its next start the server refuses the file; correct the line; {RELOAD}"
    for name in facts.pending:
        yield f"{name} was changed{facts.at(name)}, which holds from the next start on only; restart when that is convenient"


def _log(facts: Facts) -> Iterator[str]:
    """What keeps a rewind, and a standby's return, possible."""
    if facts.values.get("wal_level") == "minimal":
        yield _gap(facts, "wal_level", ": nobody can follow", "replica", RESTART)
    if not facts.is_on("wal_log_hints") and not facts.is_on("data_checksums"):
        why = ", and there are no data checksums: an old primary cannot be rewound and is copied as a whole"
        yield _gap(facts, "wal_log_hints", why, "on", RESTART)
    if not facts.is_on("full_page_writes"):
        yield _gap(facts, "full_page_writes", ": no rewind, and a torn page after a crash", "on", RELOAD)
    if not facts.is_on("fsync"):
        yield _gap(facts, "fsync", ": an acknowledged commit may be lost when the host loses power", "on", RELOAD)
    kept, largest = facts.number("wal_keep_size"), facts.number("max_wal_size")
    if kept < largest:
        why = (
            f", less than max_wal_size ({largest} MB): the log back to the last common checkpoint may be gone when an old "
            "primary is to be rewound"
        )
        yield _gap(facts, "wal_keep_size", why, f"{largest}MB", RELOAD, f"{kept} MB")


def _numbers(facts: Facts, others: tuple[Member, ...]) -> Iterator[str]:
    senders, slots = len(others) + 2, len(others) + 1
    if facts.number("max_wal_senders") < senders:
        why = f", and {len(others)} standbys and a base backup need {senders}"
        yield _gap(facts, "max_wal_senders", why, str(max(10, senders)), RESTART)
    if facts.number("max_replication_slots") < slots:
        why = f", and a slot for every other member needs {slots}"
        yield _gap(facts, "max_replication_slots", why, str(max(10, slots)), RESTART)
    if facts.number("superuser_reserved_connections") < 3:
        why = ": when the clients have taken all connections Tanist gets none"
        yield _gap(facts, "superuser_reserved_connections", why, "8", RESTART)


def _standby(facts: Facts, settings: PostgresqlSettings) -> Iterator[str]:
    if not facts.is_on("hot_standby"):
        yield _gap(facts, "hot_standby", ": a standby cannot be asked for its position", "on", RESTART)
    retry = facts.number("wal_retrieve_retry_interval")
    if retry > SLOWEST_RETRY_MS:
        why = ": a promotion right after the primary's death may wait as long"
        yield _gap(facts, "wal_retrieve_retry_interval", why, "100ms", RELOAD, f"{retry} ms")
    if facts.values.get("recovery_target_timeline", "latest") != "latest":
        why = ": a standby does not go over to a new primary"
        yield _gap(facts, "recovery_target_timeline", why, "latest", RESTART)
    for name in ("recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_time", "recovery_target_xid"):
        if facts.values.get(name):
            read = f"{name} is {facts.values[name]}{facts.at(name)}"
            yield f"{read}: a standby stops there instead of following; ALTER SYSTEM RESET {name}; {RESTART}"
    for name in ("primary_conninfo", "primary_slot_name", "synchronous_standby_names"):
        if facts.sources.get(name) == COMMAND_LINE:
            yield f"{name} is given on the server's command line, where it cannot be changed: take it out of what starts it"
    if facts.is_on("default_transaction_read_only"):
        yield _gap(facts, "default_transaction_read_only", ": clients of a primary cannot write", "off", RELOAD)
    if facts.tablespaces:
        yield (
            f"tablespaces lie outside of the data directory ({', '.join(facts.tablespaces)}): a member that needs a new copy "
            "has to be copied by hand; move them with ALTER TABLE ... SET TABLESPACE pg_default"
        )
    if settings.socket_directory is None:
        yield "no unix socket is configured: a closed gate shuts the daemon out as well; set postgresql.socket_directory"


def _archive(facts: Facts) -> Iterator[str]:
    if facts.values.get("archive_mode", "off") == "off":
        return
    if not facts.values.get("archive_command") and not facts.values.get("archive_library"):
        yield (
            f"archive_mode is on{facts.at('archive_mode')} without archive_command: the log is kept until the disk is full; "
            "ALTER SYSTEM SET archive_command = 'COMMAND %p %f'; " + RELOAD
        )
    if facts.archive_failed:
        yield (
            f"archiving fails (last {facts.archive_failed}): the log is kept until the disk is full; "
            "SELECT * FROM pg_stat_archiver tells since when"
        )
    if not facts.values.get("restore_command"):
        yield (
            "the log is archived, but restore_command is empty: a standby that fell behind cannot fetch it; "
            "ALTER SYSTEM SET restore_command = 'COMMAND %f %p'; " + RELOAD
        )


def _synchronous(facts: Facts, settings: PostgresqlSettings) -> Iterator[str]:
    if not settings.synchronous:
        return
    value = facts.values.get("synchronous_commit", "on")
    if value in LOOSE:
        why = " in a synchronous group: a commit is acknowledged before a standby has it on disk, and a takeover may lose it"
        yield _gap(facts, "synchronous_commit", why, "on", RELOAD)
    for role, database, words in facts.overrides:
        name, _, value = words.partition("=")
        if name == "synchronous_commit" and value in LOOSE:
            whose = f'ROLE "{role}"' + (f' IN DATABASE "{database}"' if database else "") if role else f'DATABASE "{database}"'
            yield f"{whose} has {words} in a synchronous group: a takeover may lose its commits; ALTER {whose} RESET {name}"


def _roles(facts: Facts, settings: PostgresqlSettings) -> Iterator[str]:
    superuser, _, _, _ = facts.roles.get(settings.user, (False, False, False, False))
    where = " (on the primary)" if facts.standby else ""
    if not superuser:
        text = f'"{settings.user}" is no superuser: it can neither promote nor rewind; ALTER ROLE "{settings.user}" SUPERUSER'
        yield text + where
    name = settings.follows_as
    if name not in facts.roles:
        yield f'there is no role "{name}" to follow as; CREATE ROLE "{name}" LOGIN REPLICATION PASSWORD \'...\'{where}'
        return
    is_superuser, replicates, logs_in, has_password = facts.roles[name]
    if not (replicates or is_superuser) or not logs_in:
        yield f'the role "{name}" may not follow; ALTER ROLE "{name}" LOGIN REPLICATION{where}'
    if settings.replication_password() is not None and not has_password:
        yield f'the role "{name}" has no password, and one is configured; ALTER ROLE "{name}" PASSWORD \'...\'{where}'


def _entrances(facts: Facts, settings: PostgresqlSettings, others: tuple[Member, ...]) -> Iterator[str]:
    listens = [each.strip() for each in facts.values.get("listen_addresses", "").split(",")]
    if ipaddress.ip_address(settings.host).is_loopback and "localhost" in listens:
        listens.append(settings.host)
    if not {"*", "0.0.0.0", "::", settings.host} & set(listens):
        why = f", which leaves out {settings.host}, where the others reach it"
        wanted_list = ",".join(filter(None, [*listens, settings.host]))
        yield _gap(facts, "listen_addresses", why, wanted_list, RESTART, ", ".join(listens) or "empty")
    wanted = ((("replication",), settings.follows_as, "follow"), ((settings.database, "all"), settings.user, "rewind from"))
    lines = {}
    for member in others:
        for line, (databases, user, act) in zip(hba_lines(settings, (member,)), wanted, strict=True):
            rule = _first_for(facts.rules, databases, user, member.address)
            if rule is None or rule.method == "reject":
                why = "has no line" if rule is None else f"has in line {rule.line} a refusal"
                where = "add" if rule is None else f"above line {rule.line} add"
                words = f"{member.name} may not {act} this member: {facts.hba_file} {why} for {user} from there"
                lines[line.strip()] = f"{words}; {where}: {line.strip()}; then {RELOAD}"
    yield from lines.values()


def _first_for(rules: tuple[Rule, ...], databases: tuple[str, ...], user: str, address: str) -> Rule | None:
    """The first line that fits decides, for the server too."""
    host = ipaddress.ip_address(address)
    for rule in rules:
        if rule.kind == "local" or not set(databases) & set(rule.databases):
            continue
        if not {user, "all"} & set(rule.users) and not any(each.startswith("+") for each in rule.users):
            continue
        if rule.address in ("all", "samehost", "samenet") or _covers(rule, host):
            return rule
    return None


def _covers(rule: Rule, host: Any) -> bool:
    try:
        return host in ipaddress.ip_network(f"{rule.address}/{rule.mask}" if rule.mask else rule.address, strict=False)
    except ValueError:
        return True  # a host name: the connection itself will show


def _slots(facts: Facts, settings: PostgresqlSettings, members: tuple[Member, ...]) -> Iterator[str]:
    if settings.slots and facts.number("max_slot_wal_keep_size") < 0:
        why = ": the slot of a member that stays away fills the disk"
        yield _gap(facts, "max_slot_wal_keep_size", why, f"{LIMIT_OF_SLOTS_MB}MB", RELOAD, "-1 (no limit)")
    if facts.version.has_idle_slot_timeout and facts.number("idle_replication_slot_timeout") > 0:
        why = ": it may take away the slot of a member that is away"
        read = f"{facts.number('idle_replication_slot_timeout') // 1000} s"
        yield _gap(facts, "idle_replication_slot_timeout", why, "0", RELOAD, read)
    for slot in slotting.unknown(facts.slots, (member.name for member in members)):
        yield f"slot {slot.name} belongs to no member and keeps the log; SELECT pg_drop_replication_slot('{slot.name}')"
    for slot in facts.slots:
        if slot.status == "lost":
            yield (
                f"slot {slot.name} has lost what it should keep: its follower needs a new copy; "
                f"SELECT pg_drop_replication_slot('{slot.name}')"
            )


def _reach(facts: Facts) -> Iterator[str]:
    for name, words in facts.reached.items():
        if words:
            yield f"this member could not follow {name}: {words}"


def _starts(facts: Facts, settings: PostgresqlSettings) -> Iterator[str]:
    yield from facts.starts_behind_our_back
    if not facts.is_on("restart_after_crash"):
        why = ": the crash of one server process ends the whole server, and the role moves"
        yield _gap(facts, "restart_after_crash", why, "on", RELOAD)


# --- who else might start it -----------------------------------------------------------------------------------------


def debian_start(settings: PostgresqlSettings, show: Mapping[str, str]) -> list[str]:
    """Debian and systemd start a server as the primary that it was, before anybody can ask whether it still is.

    `show` is what `systemctl show` says of the unit (UnitFileState, Restart); empty where there is no systemd.
    """
    found = []
    place = debian_place(settings)
    unit = settings.unit or (f"postgresql@{place.parent.name}-{place.name}.service" if place is not None else "")
    if place is not None:
        found += _start_conf(place)
    if show.get("UnitFileState") == "enabled":
        found.append(f"{unit} is enabled: at boot it starts as the primary that it may have been; systemctl disable {unit}")
    if show.get("Restart", "no") not in ("no", ""):
        found.append(
            f"{unit} has Restart={show['Restart']}: systemd starts it behind Tanist's back; systemctl edit {unit}, and "
            "below [Service] add: Restart=no"
        )
    return found


def _start_conf(place: Path) -> list[str]:
    try:
        lines = (place / "start.conf").read_text().splitlines()
    except OSError:
        return []
    words = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if words == ["auto"]:
        return [f"{place}/start.conf says auto: at boot it starts as the primary that it may have been; write there: manual"]
    return []
