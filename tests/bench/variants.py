"""What is measured: each tool with each set of settings, by the name that the command line knows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.domain.spans import Span
from tests.bench.sentinel import Sentinel
from tests.bench.system import System
from tests.bench.tanist import TanistPostgresql, TanistRedis
from tests.system.hosts import Host

Make = Callable[..., System]


@dataclass(frozen=True)
class Variant:
    says: str
    service: str
    make: Make
    takes: Span = 30.0
    """Seconds that a run took when this was written, for telling how long the rest will take."""

    def made(self, on: Mapping[str, Host], directory: Path) -> System:
        return self.make(on, directory)

    @property
    def system(self) -> type[System]:
        found: Any = self.make.func if isinstance(self.make, partial) else self.make
        return found


def tanist_redis(lease: Span) -> Make:
    return partial(TanistRedis, lease=lease, hold=5.0, limit=30.0)


def tanist_postgresql(lease: Span, replication: str) -> Make:
    return partial(TanistPostgresql, lease=lease, replication=replication, hold=5.0, limit=30.0)


VARIANTS: dict[str, Variant] = {
    "tanist-redis-1s": Variant("Tanist, lease 1 s", "redis", tanist_redis(1.0)),
    "tanist-redis-300ms": Variant("Tanist, lease 300 ms", "redis", tanist_redis(0.3)),
    "sentinel-30s": Variant("Sentinel, default (30 s)", "redis", partial(Sentinel, down_after=30_000, hold=70.0, limit=90.0)),
    "sentinel-5s": Variant("Sentinel, 5 s", "redis", partial(Sentinel, down_after=5_000, hold=20.0, limit=40.0)),
    "sentinel-500ms": Variant(
        "Sentinel, 500 ms", "redis", partial(Sentinel, down_after=500, failover_timeout=10_000, hold=8.0, limit=40.0)
    ),
    "sentinel-100ms": Variant(
        "Sentinel, 100 ms (fastest)", "redis", partial(Sentinel, down_after=100, failover_timeout=10_000, hold=8.0, limit=40.0)
    ),
    "tanist-postgresql-1s": Variant("Tanist, lease 1 s, synchronous", "postgresql", tanist_postgresql(1.0, "synchronous")),
    "tanist-postgresql-300ms": Variant("Tanist, lease 300 ms, synchronous", "postgresql", tanist_postgresql(0.3, "synchronous")),
    "tanist-postgresql-async-1s": Variant(
        "Tanist, lease 1 s, asynchronous", "postgresql", tanist_postgresql(1.0, "asynchronous")
    ),
}
