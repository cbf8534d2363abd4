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
from orchestrator.services.postgresql.settings import PostgresqlSettings
from orchestrator.services.postgresql.slots import Slot
from orchestrator.services.postgresql.versions import NEWEST, Version, of_number

RESTART: Final = "then restart"
RELOAD: Final = "SELECT pg_reload_conf()"
SLOWEST_RETRY_MS: Final = 1000
LIMIT_OF_SLOTS_MB: Final = 4096
DEBIAN_CONFIGURATION: Final = Path("/etc/postgresql")

SETTINGS: Final = "SELECT name, setting, coalesce(unit, ''), source FROM pg_settings WHERE name = ANY (%s)"
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
    "wal_keep_size",
    "wal_level",
    "wal_log_hints",
    "wal_retrieve_retry_interval",
)
ROLES: Final = "SELECT rolname, rolsuper, rolreplication, rolcanlogin, rolpassword IS NOT NULL FROM pg_authid"
HBA: Final = "SELECT type, database, user_name, address, netmask, auth_method FROM pg_hba_file_rules WHERE error IS NULL"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was read; the findings are made of these alone."""

    version: Version
    standby: bool
    values: Mapping[str, str]
    sources: Mapping[str, str] = field(default_factory=dict)
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


async def gather(line: Line) -> Facts:
    """Raises psycopg's errors."""
    rows = await line.ask(SETTINGS, (list(NAMES),))
    ((standby,),) = await line.ask("SELECT pg_is_in_recovery()")
    rules = [
        Rule(str(kind), tuple(databases or ()), tuple(users or ()), str(address or ""), str(mask or ""), str(method))
        for kind, databases, users, address, mask, method in await line.ask(HBA)
    ]
    found = await line.ask(ROLES)
    failed = await line.ask(ARCHIVER)
    return Facts(
        version=of_number(line.version),
        standby=bool(standby),
        values={str(name): in_base_units(str(value), str(unit)) for name, value, unit, _ in rows},
        sources={str(name): str(source) for name, _, _, source in rows},
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
        *_log(facts),
        *_numbers(facts, others),
        *_standby(facts, settings),
        *_archive(facts),
        *_roles(facts, settings),
        *_entrances(facts, settings, others),
        *_slots(facts, settings, members),
        *_reach(facts),
        *_starts(facts, settings),
    ]


def _set(name: str, value: str, then: str) -> str:
    return f"ALTER SYSTEM SET {name} = '{value}'; {then}"


def _version(facts: Facts) -> Iterator[str]:
    if facts.version.major > NEWEST:
        yield f"{facts.version.words} is newer than what Tanist was made for (up to {NEWEST}): try it in a laboratory first"


def _log(facts: Facts) -> Iterator[str]:
    """What keeps a rewind, and a standby's return, possible."""
    if facts.values.get("wal_level") == "minimal":
        yield f"wal_level is minimal: nobody can follow; {_set('wal_level', 'replica', RESTART)}"
    if not facts.is_on("wal_log_hints") and not facts.is_on("data_checksums"):
        yield (
            "neither wal_log_hints nor data checksums: an old primary cannot be rewound and is copied as a whole; "
            f"{_set('wal_log_hints', 'on', RESTART)}"
        )
    if not facts.is_on("full_page_writes"):
        yield f"full_page_writes is off: no rewind, and a torn page after a crash; {_set('full_page_writes', 'on', RELOAD)}"
    if not facts.is_on("fsync"):
        yield f"fsync is off: an acknowledged commit may be lost when the host loses power; {_set('fsync', 'on', RELOAD)}"
    kept, largest = facts.number("wal_keep_size"), facts.number("max_wal_size")
    if kept < largest:
        yield (
            f"wal_keep_size ({kept} MB) is less than max_wal_size ({largest} MB): the log back to the last common checkpoint "
            f"may be gone when an old primary is to be rewound; {_set('wal_keep_size', f'{largest}MB', RELOAD)}"
        )


def _numbers(facts: Facts, others: tuple[Member, ...]) -> Iterator[str]:
    senders, slots = len(others) + 2, len(others) + 1
    if facts.number("max_wal_senders") < senders:
        yield (
            f"max_wal_senders is {facts.number('max_wal_senders')}, and {len(others)} standbys and a base backup need {senders}; "
            f"{_set('max_wal_senders', str(max(10, senders)), RESTART)}"
        )
    if facts.number("max_replication_slots") < slots:
        yield (
            f"max_replication_slots is {facts.number('max_replication_slots')}, and a slot for every other member needs {slots}; "
            f"{_set('max_replication_slots', str(max(10, slots)), RESTART)}"
        )
    if facts.number("superuser_reserved_connections") < 3:
        yield (
            f"superuser_reserved_connections is {facts.number('superuser_reserved_connections')}: when the clients have taken "
            f"all connections Tanist gets none; {_set('superuser_reserved_connections', '8', RESTART)}"
        )


def _standby(facts: Facts, settings: PostgresqlSettings) -> Iterator[str]:
    if not facts.is_on("hot_standby"):
        yield f"hot_standby is off: a standby cannot be asked for its position; {_set('hot_standby', 'on', RESTART)}"
    retry = facts.number("wal_retrieve_retry_interval")
    if retry > SLOWEST_RETRY_MS:
        yield (
            f"wal_retrieve_retry_interval is {retry} ms: a promotion right after the primary's death may wait as long; "
            f"{_set('wal_retrieve_retry_interval', '100ms', RELOAD)}"
        )
    if facts.values.get("recovery_target_timeline", "latest") != "latest":
        yield (
            "recovery_target_timeline is not latest: a standby does not go over to a new primary; "
            f"{_set('recovery_target_timeline', 'latest', RESTART)}"
        )
    for name in ("recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_time", "recovery_target_xid"):
        if facts.values.get(name):
            yield f"{name} is set: a standby stops there instead of following; ALTER SYSTEM RESET {name}; {RESTART}"
    for name in ("primary_conninfo", "primary_slot_name", "synchronous_standby_names"):
        if facts.sources.get(name) == "command line":
            yield f"{name} is given on the server's command line, where it cannot be changed: take it out of what starts it"
    if facts.is_on("default_transaction_read_only"):
        yield (
            "default_transaction_read_only is on: clients of a primary cannot write; "
            f"{_set('default_transaction_read_only', 'off', RELOAD)}"
        )
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
            "archive_mode is on without archive_command: the log is kept until the disk is full; "
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


def _roles(facts: Facts, settings: PostgresqlSettings) -> Iterator[str]:
    superuser, _, _, _ = facts.roles.get(settings.user, (False, False, False, False))
    if not superuser:
        yield f'"{settings.user}" is no superuser: it can neither promote nor rewind; ALTER ROLE "{settings.user}" SUPERUSER'
    name = settings.follows_as
    if name not in facts.roles:
        yield f'there is no role "{name}" to follow as; CREATE ROLE "{name}" LOGIN REPLICATION PASSWORD \'...\''
        return
    is_superuser, replicates, logs_in, has_password = facts.roles[name]
    if not (replicates or is_superuser) or not logs_in:
        yield f'the role "{name}" may not follow; ALTER ROLE "{name}" LOGIN REPLICATION'
    if settings.replication_password() is not None and not has_password:
        yield f'the role "{name}" has no password, and one is configured; ALTER ROLE "{name}" PASSWORD \'...\''


def _entrances(facts: Facts, settings: PostgresqlSettings, others: tuple[Member, ...]) -> Iterator[str]:
    listens = [each.strip() for each in facts.values.get("listen_addresses", "").split(",")]
    if not {"*", "0.0.0.0", "::", settings.host} & set(listens):
        yield (
            f"listen_addresses ({', '.join(listens)}) leaves out {settings.host}, where the others reach it; "
            f"{_set('listen_addresses', ','.join(filter(None, [*listens, settings.host])), RESTART)}"
        )
    wanted = ((("replication",), settings.follows_as, "follow"), ((settings.database, "all"), settings.user, "rewind from"))
    lines = {}
    for member in others:
        for line, (databases, user, act) in zip(hba_lines(settings, (member,)), wanted, strict=True):
            if not _is_let_in(facts.rules, databases, user, member.address):
                lines[line.strip()] = f"{member.name} may not {act} this member: pg_hba.conf has no line for {user} from there"
    for line, words in lines.items():
        yield f"{words}; add: {line}; then {RELOAD}"


def _is_let_in(rules: tuple[Rule, ...], databases: tuple[str, ...], user: str, address: str) -> bool:
    host = ipaddress.ip_address(address)
    for rule in rules:
        if rule.kind == "local" or not set(databases) & set(rule.databases):
            continue
        if not {user, "all"} & set(rule.users) and not any(each.startswith("+") for each in rule.users):
            continue
        if rule.address in ("all", "samehost", "samenet") or _covers(rule, host):
            return rule.method != "reject"
    return False


def _covers(rule: Rule, host: Any) -> bool:
    try:
        return host in ipaddress.ip_network(f"{rule.address}/{rule.mask}" if rule.mask else rule.address, strict=False)
    except ValueError:
        return True  # a host name: the connection itself will show


def _slots(facts: Facts, settings: PostgresqlSettings, members: tuple[Member, ...]) -> Iterator[str]:
    if settings.slots and facts.number("max_slot_wal_keep_size") < 0:
        yield (
            "max_slot_wal_keep_size is without limit: the slot of a member that stays away fills the disk; "
            f"{_set('max_slot_wal_keep_size', f'{LIMIT_OF_SLOTS_MB}MB', RELOAD)}"
        )
    if facts.version.has_idle_slot_timeout and facts.number("idle_replication_slot_timeout") > 0:
        yield (
            "idle_replication_slot_timeout may take away the slot of a member that is away; "
            f"{_set('idle_replication_slot_timeout', '0', RELOAD)}"
        )
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
        yield (
            "restart_after_crash is off: the crash of one server process ends the whole server, and the role moves; "
            f"{_set('restart_after_crash', 'on', RELOAD)}"
        )


# --- who else might start it -----------------------------------------------------------------------------------------


def debian_start(settings: PostgresqlSettings, show: Mapping[str, str]) -> list[str]:
    """Debian and systemd start a server as the primary that it was, before anybody can ask whether it still is.

    `show` is what `systemctl show` says of the unit (UnitFileState, Restart); empty where there is no systemd.
    """
    found = []
    place = _debian_cluster(settings)
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


def _debian_cluster(settings: PostgresqlSettings) -> Path | None:
    if settings.cluster is not None:
        return DEBIAN_CONFIGURATION / settings.cluster
    if settings.config_file is not None and DEBIAN_CONFIGURATION in settings.config_file.parents:
        return settings.config_file.parent
    return None


def _start_conf(place: Path) -> list[str]:
    try:
        lines = (place / "start.conf").read_text().splitlines()
    except OSError:
        return []
    words = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if words == ["auto"]:
        return [f"{place}/start.conf says auto: at boot it starts as the primary that it may have been; write there: manual"]
    return []
