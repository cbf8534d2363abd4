"""Answers for load balancers: 200 only when what the name promises really works now, and otherwise the reason."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.config.units import parse_size
from orchestrator.daemon.clock import now
from orchestrator.daemon.runner import GroupRunner
from orchestrator.domain.observations import Hold
from orchestrator.domain.policy import Replication
from orchestrator.domain.verdicts import Diagnosis
from orchestrator.engine.state import Phase


@dataclass(frozen=True, slots=True)
class Verdict:
    status: int
    reason: str
    told: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Look:
    runner: GroupRunner
    warm: bool = False
    """Standbys of this group serve nobody."""
    lag: int | None = None
    """Bytes that a standby may lack."""


Judge = Callable[[Look], str]
"""Why not; empty when it is so."""


def judge(runner: GroupRunner, role: str, query: Mapping[str, str], warm: bool = False) -> Verdict:
    known = {**ROLES, **BY_NAME}.get(role)
    if known is None:
        return Verdict(404, f"role {role!r}: expected primary or standby, or one of {', '.join(BY_NAME)}", {})
    try:
        lag = _bytes(query["lag"]) if "lag" in query else None
    except ValueError as error:
        return Verdict(404, f"lag: read {query['lag'][:40]!r}, {error}", {})
    reason = known(Look(runner, warm, lag))
    state = runner.state
    told = {"phase": state.phase, "epoch": state.epoch, **({"reason": reason} if reason else {})}
    return Verdict(503 if reason else 200, reason, told)


def _bytes(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else parse_size(text)


def _primary(look: Look) -> str:
    """Writes are accepted here: the role, the right, and a service that answers."""
    state, keeper = look.runner.state, look.runner.state.keeper
    if state.phase is not Phase.SERVING:
        return f"not serving: {state.phase}"
    if keeper is None or keeper.hold is Hold.NONE:
        return "the keeper holds no right"
    if keeper.frozen_since is not None:
        return "frozen: the right has run out"
    if look.runner.right_until <= now():
        return "the right has run out"
    return _service(look)


def _service(look: Look) -> str:
    local = look.runner.state.local
    if not look.runner.state.is_member:
        return "a witness runs no service"
    if local.gone_since is not None:
        return "the service has ended"
    if local.silent_since is not None:
        return "the service does not answer"
    finding = local.finding
    if finding is not None and (finding.cannot_work or finding.code is Diagnosis.READ_ONLY):
        return finding.words or finding.code
    if local.view is None:
        return "the service has not answered yet"
    return ""


def _standby(look: Look) -> str:
    state = look.runner.state
    if state.phase is not Phase.STANDBY:
        return f"not a standby: {state.phase}"
    if reason := _service(look):
        return reason
    if look.lag is None:
        return ""
    behind = look.runner.lag_bytes()
    if behind is None:
        return "how much it lacks of the primary's data is not known"
    return f"it lacks {behind} bytes of the primary's data" if behind > look.lag else ""


def _replica(look: Look) -> str:
    """Reads are served here."""
    return "standbys of this group serve nobody (standbys: warm)" if look.warm else _standby(look)


def _either(look: Look) -> str:
    return "" if not _primary(look) else _replica(look)


def _synchronous(look: Look) -> str:
    if reason := _replica(look):
        return reason
    return "" if _is_synchronous(look.runner) else "commits do not wait for this standby"


def _asynchronous(look: Look) -> str:
    if reason := _replica(look):
        return reason
    return "commits wait for this standby" if _is_synchronous(look.runner) else ""


def _is_synchronous(runner: GroupRunner) -> bool:
    """In the succession of a group whose commits wait for all of it, or for a quorum of it."""
    state = runner.state
    listed = state.record is not None and state.record.life_in_succession(state.me) is not None
    return listed and state.policy.replication is not Replication.ASYNCHRONOUS


def _alive(look: Look) -> str:
    """The daemon: its answer is the proof."""
    return ""


ROLES: Final[dict[str, Judge]] = {"primary": _primary, "standby": _standby}
BY_NAME: Final[dict[str, Judge]] = {
    "primary": _primary,
    "master": _primary,
    "leader": _primary,
    "read-write": _primary,
    "replica": _replica,
    "read-only": _either,
    "synchronous": _synchronous,
    "sync": _synchronous,
    "asynchronous": _asynchronous,
    "async": _asynchronous,
    "health": _service,
    "readiness": _either,
    "liveness": _alive,
}
"""Patroni's names (its REST API, section "Health check endpoints"), so that a load balancer's configuration can stay."""
