"""How to reach and run one PostgreSQL instance: values, already checked."""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from orchestrator.domain.spans import Span
from orchestrator.domain.topology import NodeName

if TYPE_CHECKING:
    from collections.abc import Mapping

DEBIAN_PROGRAMS: Final = Path("/usr/lib/postgresql")
DEBIAN_CONFIGURATION: Final = Path("/etc/postgresql")
DEBIAN_LOGS: Final = Path("/var/log/postgresql")
_DEBIAN_UNIT: Final = re.compile(r"postgresql@(\d+)-(.+?)(\.service)?")


class ControlKind(StrEnum):
    """Who starts the server; stopping is always a signal to the main process, which every kind of control understands."""

    DIRECT = "direct"
    CLUSTER = "pg_ctlcluster"
    SYSTEMD = "systemd"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresqlSettings:
    name: NodeName
    """This member: the `application_name` under which it follows, and the name in its slot."""
    host: str
    """Where other members and clients reach it."""
    port: int
    data_directory: Path
    config_file: Path | None = None
    """Where it is not `postgresql.conf` in the data directory (Debian: below /etc/postgresql)."""
    socket_directory: Path | None = Path("/var/run/postgresql")
    """By its socket the daemon on the same host reaches it: the gate does not close that."""
    user: str = "postgres"
    """A superuser: asks and changes this instance, and reads other members' files for pg_rewind."""
    database: str = "postgres"
    password_file: Path | None = None
    replication_user: str | None = None
    """User as which standbys follow; by default the same as `user`."""
    replication_password_file: Path | None = None
    connection: "Mapping[str, str]" = field(default_factory=lambda: MappingProxyType({}))
    """More of libpq's keywords for connections between members, such as sslmode and sslrootcert."""
    bin_directory: Path | None = None
    """By default Debian's directory of the data's major version."""
    control: ControlKind = ControlKind.DIRECT
    cluster: str | None = None
    """Debian's name of the cluster for pg_ctlcluster, such as `15/main`."""
    unit: str | None = None
    """The systemd unit that runs it."""
    run_as: str | None = None
    parameters: "Mapping[str, str]" = field(default_factory=lambda: MappingProxyType({}))
    """Server parameters given on the command line at a direct start."""
    log_file: Path | None = None
    """Where a directly started server writes until its own logging begins; by default beside the data directory."""
    divergence_directory: Path | None = None
    """Where writes that the new primary has not are saved before a rewind or a copy; without it nothing is saved."""
    slots: bool = True
    synchronous: bool = False
    """Whether the group promises that no acknowledged commit is lost: then the settings must not acknowledge early."""
    max_rate: int | None = None
    """Bytes per second that a base backup may take."""
    start_within: Span = 60.0
    stop_within: Span = 10.0
    """After this a fast shutdown is followed by an immediate one (never while holding writes for a switchover)."""
    rewinds: int = 2
    copies: int = 2
    """How often a rewind, and then a base backup, is tried in a row before a person is asked."""

    def password(self) -> str | None:
        return _first_line(self.password_file)

    def replication_password(self) -> str | None:
        if self.replication_user in (None, self.user) and self.replication_password_file is None:
            return self.password()
        return _first_line(self.replication_password_file)

    @property
    def configuration(self) -> Path:
        """Where the server reads its settings first."""
        if self.config_file is not None:
            return self.config_file
        place = debian_place(self)
        return (place or self.data_directory) / "postgresql.conf"

    @property
    def options(self) -> tuple[str, ...]:
        """For PostgreSQL's own programs: where the data are, and the configuration if it is not with them."""
        elsewhere = self.configuration.parent != self.data_directory
        return ("-D", str(self.data_directory), *(("-c", f"config_file={self.configuration}") if elsewhere else ()))

    @property
    def follows_as(self) -> str:
        return self.replication_user or self.user

    @property
    def log(self) -> Path:
        return self.log_file or self.data_directory.with_name(f"{self.data_directory.name}.log")


def debian_place(settings: PostgresqlSettings) -> Path | None:
    """The directory of a Debian cluster's configuration, such as /etc/postgresql/15/main; None for any other server."""
    if settings.cluster is not None:
        return DEBIAN_CONFIGURATION / settings.cluster
    if settings.unit is not None and (found := _DEBIAN_UNIT.fullmatch(settings.unit)):
        return DEBIAN_CONFIGURATION / found[1] / found[2]
    if settings.config_file is not None and DEBIAN_CONFIGURATION in settings.config_file.parents:
        return settings.config_file.parent
    return None


def _first_line(path: Path | None) -> str | None:
    return path.read_text().strip() if path is not None else None


def programs(settings: PostgresqlSettings) -> Path:
    """The directory of PostgreSQL's programs. Raises FileNotFoundError with what to set."""
    if settings.bin_directory is not None:
        return settings.bin_directory
    found = settings.data_directory / "PG_VERSION"
    if found.is_file():
        return DEBIAN_PROGRAMS / found.read_text().strip() / "bin"
    known = sorted((int(each.name) for each in DEBIAN_PROGRAMS.glob("[1-9][0-9]")), reverse=True)
    if not known:
        raise FileNotFoundError(f"no PostgreSQL below {DEBIAN_PROGRAMS}: set postgresql.bin_directory")
    return DEBIAN_PROGRAMS / str(known[0]) / "bin"
