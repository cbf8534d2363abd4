"""What is measured: each tool with each set of settings, by the name that the command line knows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.domain.spans import Span
from tests.bench.autofailover import AutoFailover
from tests.bench.faults import AWAY
from tests.bench.keepalived import Keepalived
from tests.bench.patroni import Patroni
from tests.bench.repmgr import Repmgr
from tests.bench.sentinel import Sentinel
from tests.bench.system import System
from tests.bench.tanist import TanistPostgresql, TanistRedis
from tests.bench.trial import BACK_WITHIN
from tests.system.hosts import Host

Make = Callable[..., System]


@dataclass(frozen=True)
class Variant:
    says: str
    service: str
    make: Make

    def made(self, on: Mapping[str, Host], directory: Path) -> System:
        return self.make(on, directory)

    def takes(self, fault: str) -> Span:
        """About how long a run takes, before one of this cell was seen."""
        times: Any = self.make.keywords if isinstance(self.make, partial) else {}
        lasts = {**dict.fromkeys(("F3", "F7", "F8", "F9-frozen", "F10"), times["hold"]), "F6": AWAY}.get(
            fault, times["limit"] / 4
        )
        return float(lasts) + (12.0 if self.system.rejoins else BACK_WITHIN)

    @property
    def system(self) -> type[System]:
        found: Any = self.make.func if isinstance(self.make, partial) else self.make
        return found


QUICK_MONITOR = {
    "health_check_period": "1000",
    "health_check_timeout": "1000",
    "health_check_max_retries": "1",
    "health_check_retry_delay": "500",
    "node_considered_unhealthy_timeout": "3000",
    "primary_demote_timeout": "2000",
    "startup_grace_period": "5000",
}
"""Milliseconds."""

QUICK_REPMGR = {"monitor_interval_secs": 1, "reconnect_attempts": 1, "reconnect_interval": 1}


def tanist_redis(lease: Span) -> Make:
    return partial(TanistRedis, lease=lease, hold=5.0, limit=30.0)


def tanist_postgresql(lease: Span, replication: str, hosts: bool = False) -> Make:
    return partial(TanistPostgresql, lease=lease, replication=replication, hosts=hosts, hold=5.0, limit=30.0)


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
    "keepalived-1s": Variant("keepalived, advert_int 1 s (default)", "redis", partial(Keepalived, hold=15.0, limit=40.0)),
    "keepalived-10ms": Variant(
        "keepalived, advert_int 10 ms (fastest)",
        "redis",
        partial(Keepalived, advert="0.01", interval=1, fall=1, fast=True, hold=8.0, limit=40.0),
    ),
    "tanist-postgresql-1s": Variant("Tanist, lease 1 s, synchronous", "postgresql", tanist_postgresql(1.0, "synchronous")),
    "tanist-postgresql-300ms": Variant("Tanist, lease 300 ms, synchronous", "postgresql", tanist_postgresql(0.3, "synchronous")),
    "tanist-postgresql-async-1s": Variant(
        "Tanist, lease 1 s, asynchronous", "postgresql", tanist_postgresql(1.0, "asynchronous")
    ),
    "tanist-postgresql-hosts-1s": Variant(
        "Tanist, lease 1 s, synchronous, no virtual address", "postgresql", tanist_postgresql(1.0, "synchronous", hosts=True)
    ),
    "patroni-default": Variant(
        "Patroni, default (ttl 30)",
        "postgresql",
        partial(Patroni, ttl=30, loop_wait=10, retry_timeout=10, hold=60.0, limit=100.0),
    ),
    "patroni-fastest": Variant(
        "Patroni, fastest permitted (ttl 20)",
        "postgresql",
        partial(Patroni, ttl=20, loop_wait=1, retry_timeout=3, more={"primary_start_timeout": 0}, hold=45.0, limit=70.0),
    ),
    "patroni-fastest-synchronous": Variant(
        "Patroni, fastest permitted, synchronous",
        "postgresql",
        partial(
            Patroni,
            ttl=20,
            loop_wait=1,
            retry_timeout=3,
            more={"primary_start_timeout": 0, "synchronous_mode": True},
            hold=45.0,
            limit=70.0,
        ),
    ),
    "autofailover-default": Variant("pg_auto_failover, default", "postgresql", partial(AutoFailover, hold=60.0, limit=120.0)),
    "autofailover-fastest": Variant(
        "pg_auto_failover, fast health checks", "postgresql", partial(AutoFailover, more=QUICK_MONITOR, hold=20.0, limit=60.0)
    ),
    "repmgr-default": Variant("repmgr, default", "postgresql", partial(Repmgr, hold=80.0, limit=120.0)),
    "repmgr-fastest": Variant(
        "repmgr, one attempt a second", "postgresql", partial(Repmgr, more=QUICK_REPMGR, hold=20.0, limit=60.0)
    ),
}
