"""How to reach and run one Redis instance: values, already checked."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisTls:
    ca: str
    certificate: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSettings:
    host: str
    """Where other members and clients reach it."""
    port: int
    socket: str | None = None
    """Unix socket by which the daemon on the same host reaches it: the gate does not close that."""
    user: str | None = None
    password_file: Path | None = None
    tls: RedisTls | None = None
    replication_user: str | None = None
    """User as which standbys log in to the primary; by default the same as `user`."""
    program: str = "redis-server"
    config: Path | None = None
    """With a configuration file the daemon starts the server itself."""
    run_as: str | None = None
    start: tuple[str, ...] = ()
    """Command that starts it (for example systemctl), where the daemon does not start the server itself."""
    max_replica_lag: int = 10
    """`min-replicas-max-lag`, seconds."""

    def password(self) -> str | None:
        return self.password_file.read_text().strip() if self.password_file is not None else None

    @property
    def can_start(self) -> bool:
        return self.config is not None or bool(self.start)
