"""What Redis's INFO says, in the domain's words."""

from collections.abc import Mapping
from typing import Any, Final

from orchestrator.domain.observations import Role, ServiceView
from orchestrator.domain.positions import Position

NOBODY: Final = ("127.0.0.1", 1)
"""A standby that follows nobody is told to follow this: nothing listens there, and no write is accepted meanwhile."""

NO_HISTORY: Final = "0" * 40


def service_view(info: Mapping[str, Any], *, pid: int, process_started: int, held: bool, software: str) -> ServiceView:
    """INFO's replication and keyspace sections as one view."""
    standby = info["role"] == "slave"
    upstream = (str(info["master_host"]), int(info["master_port"])) if standby else None
    link_up = standby and info.get("master_link_status") == "up" and not info.get("master_sync_in_progress")
    keys = sum(database["keys"] for name, database in info.items() if name.startswith("db") and isinstance(database, dict))
    return ServiceView(
        role=Role.STANDBY if standby else Role.PRIMARY,
        position=_position(info),
        pid=pid,
        process_started=process_started,
        upstream=None if upstream == NOBODY else upstream,
        link_up=bool(link_up),
        empty=keys == 0,
        writes_held=held,
        replicas=int(info.get("connected_slaves", 0)),
        software=software,
    )


def _position(info: Mapping[str, Any]) -> Position:
    """The replication id names the history; the second id is the history that it grew out of, up to an offset."""
    older = str(info.get("master_replid2", NO_HISTORY))
    shared = int(info.get("second_repl_offset", -1))
    past = ((older, shared - 1),) if older != NO_HISTORY and shared > 0 else ()
    return Position(str(info["master_replid"]), int(info["master_repl_offset"]), past)
