"""What differs between PostgreSQL 13 and 18, as far as Tanist notices: in this file, and nowhere else."""

import re
from dataclasses import dataclass
from typing import Final

OLDEST: Final = 13
NEWEST: Final = 18
TESTED: Final = 15


class UnknownVersion(ValueError):
    """Not a version that Tanist runs."""


@dataclass(frozen=True, slots=True)
class Version:
    """A major version; each property names one difference."""

    major: int

    @property
    def rewind_takes_config_file(self) -> bool:
        """`pg_rewind --config-file` (15): needed to use restore_command where the configuration lies elsewhere."""
        return self.major >= 15

    @property
    def rewind_needs_checkpoint(self) -> bool:
        """Before 16 pg_rewind takes each side's timeline from its last checkpoint, which lags behind a promotion."""
        return self.major < 16

    @property
    def checkpoint_role(self) -> str | None:
        """Who besides superusers may CHECKPOINT (15)."""
        return "pg_checkpoint" if self.major >= 15 else None

    @property
    def has_idle_slot_timeout(self) -> bool:
        """`idle_replication_slot_timeout` (18) may invalidate slots of members that are away."""
        return self.major >= 18

    @property
    def has_reserved_connections(self) -> bool:
        """`reserved_connections` for roles with pg_use_reserved_connections (16)."""
        return self.major >= 16

    @property
    def has_summaries(self) -> bool:
        """`summarize_wal` (17)."""
        return self.major >= 17

    @property
    def checksums_by_default(self) -> bool:
        """initdb makes checksums unless told otherwise (18); before, it must be told to."""
        return self.major >= 18

    @property
    def recovery_may_sync_at_once(self) -> bool:
        """`recovery_init_sync_method = syncfs` (14): recovery does not open every single file first."""
        return self.major >= 14

    @property
    def words(self) -> str:
        return f"PostgreSQL {self.major}"


def of_number(server_version: int) -> Version:
    """From `server_version_num`, such as 150018."""
    return _known(server_version // 10000)


def of_text(text: str) -> Version:
    """From what `postgres -V` or a data directory's PG_VERSION says.

    >>> of_text("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)").major, of_text("18beta1").major
    (15, 18)
    """
    found = re.search(r"(?:PostgreSQL\)\s+)?(\d+)", text)
    if found is None:
        raise UnknownVersion(f"read {text!r} where PostgreSQL's version belongs")
    return _known(int(found[1]))


def _known(major: int) -> Version:
    if major < OLDEST:
        raise UnknownVersion(
            f"PostgreSQL {major} is too old: {OLDEST} to {NEWEST} are supported (whom a standby follows cannot be changed "
            "without a restart before 13)"
        )
    return Version(major)
