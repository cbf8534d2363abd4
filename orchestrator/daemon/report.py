"""What a daemon can tell about its groups, as plain data: for the API, the CLI, the page and the metrics."""

from typing import Any

from orchestrator.daemon.clock import now
from orchestrator.daemon.node import Node
from orchestrator.daemon.runner import GroupRunner
from orchestrator.domain.effects import EnsureClients
from orchestrator.domain.observations import Hold, Statement
from orchestrator.domain.plain import to_plain
from orchestrator.domain.positions import bytes_behind
from orchestrator.domain.spans import FOREVER, NEVER, Instant
from orchestrator.domain.verdicts import Refusal, Verdict
from orchestrator.engine.electing import last_known_position
from orchestrator.engine.informing import compose, serving_member
from orchestrator.engine.state import State


def node_report(node: Node) -> dict[str, Any]:
    tally = node.keeper.tally
    return {
        "cluster": node.cluster,
        "node": node.name,
        "up_seconds": round(now() - node.started_at, 3),
        "mediator": node.mediator.words if node.mediator is not None else "none",
        "keeper": {
            "connected": node.keeper.connected,
            "started_by_this_daemon": node.keeper.starts,
            "remarks": list(tally.remarks) if tally is not None else [],
        },
        "groups": {name: group_report(runner) for name, runner in node.groups.items()},
    }


def group_report(runner: GroupRunner) -> dict[str, Any]:
    state, moment = runner.state, now()
    record, keeper = state.record, state.keeper
    serving = serving_member(state)
    return {
        "group": state.group.name,
        "node": state.me,
        "phase": state.phase,
        "in_phase_seconds": round(moment - state.phase_since, 3),
        "epoch": state.epoch,
        "primary": record.primary.name if record is not None else None,
        "serving": serving[0] if serving is not None else None,
        "since_wall": record.since if record is not None else None,
        "cause": record.cause if record is not None else None,
        "reason": record.reason if record is not None else None,
        "version": record.version if record is not None else None,
        "succession": [pair.name for pair in record.succession] if record is not None else [],
        "quorum": record.quorum if record is not None else 0,
        "lease_seconds": record.lease if record is not None else state.policy.lease,
        "right": _right(runner, moment),
        "watched_pid": keeper.pid if keeper is not None else 0,
        "gate": keeper.gate if keeper is not None else "no keeper",
        "automation": state.policy.automation,
        "paused": to_plain(state.control.paused) if state.control.paused is not None else None,
        "proposal": to_plain(state.control.proposal) if state.control.proposal is not None else None,
        "request": to_plain(state.control.request) if state.control.request is not None else None,
        "answer": to_plain(state.control.answer) if state.control.answer is not None else None,
        "mediator": _mediator(state, moment),
        "verdict": _verdict(state.verdict, moment) if state.verdict is not None else None,
        "refusals": [_refusal(refusal, moment) for refusal in state.refusals.values()],
        "members": [_member(state, name, moment) for name in (*state.group.member_names, *state.group.witnesses)],
        "clients": _clients(state),
        "divergence": list(runner.diverged),
        "failures": [f"{type(effect).__name__}: {reason}" for effect, reason in state.failures.items()],
    }


def _right(runner: GroupRunner, moment: Instant) -> dict[str, Any]:
    """The right as the keeper's page shows it; no end while nobody is in the succession."""
    keeper = runner.state.keeper
    if keeper is None or keeper.hold is Hold.NONE:
        return {"held": False, "left_seconds": None, "frozen": keeper is not None and keeper.frozen_since is not None}
    until = runner.right_until
    endless = until == FOREVER
    return {
        "held": keeper.frozen_since is None and until > moment,
        "left_seconds": None if endless or until == NEVER else round(max(0.0, until - moment), 4),
        "endless": endless,
        "frozen": keeper.frozen_since is not None,
        "counted": [pair.name for pair in keeper.counted],
        "budget_seconds": keeper.budget,
    }


def _mediator(state: State, moment: Instant) -> dict[str, Any]:
    mediated = state.mediated
    return {
        "record": mediated.status,
        "lost_seconds": round(moment - mediated.lost_since, 3) if mediated.lost_since is not None else None,
        "because": mediated.lost_because,
    }


def _verdict(verdict: Verdict, moment: Instant) -> dict[str, Any]:
    return {
        "diagnosis": verdict.diagnosis,
        "subject": verdict.subject,
        "sentence": verdict.sentence,
        "certain": verdict.is_certain(moment),
        "evidence": list(verdict.evidence),
    }


def _refusal(refusal: Refusal, moment: Instant) -> dict[str, Any]:
    return {
        "act": refusal.act,
        "gate": refusal.gate,
        "reason": refusal.reason,
        "for_seconds": round(moment - refusal.since, 3),
        "opens_in_seconds": round(max(0.0, refusal.until - moment), 3) if refusal.until is not None else None,
    }


def _member(state: State, name: str, moment: Instant) -> dict[str, Any]:
    statement, told = _statement(state, name)
    member = state.group.member(name)
    return {
        "name": name,
        "witness": member is None,
        "address": f"{member.address}:{member.port}" if member is not None else None,
        "health": statement.health if statement is not None else "unknown",
        "finding": _finding(state, name, moment),
        "role": statement.role if statement is not None else None,
        "phase": statement.phase if statement is not None else None,
        "serving_epoch": statement.serving_epoch if statement is not None else 0,
        "electable": statement.electable if statement is not None else False,
        "why_not": statement.why_not if statement is not None else "nothing was heard of it",
        "hears": list(statement.hears) if statement is not None else [],
        "following": statement.following if statement is not None else None,
        "offset": statement.position.offset if statement is not None and statement.position is not None else None,
        "lag_bytes": _lag(state, statement),
        "in_succession": state.record is not None and state.record.life_in_succession(name) is not None,
        **told,
    }


def _finding(state: State, name: str, moment: Instant) -> dict[str, Any] | None:
    """What is wrong with the member's service, and for how long it has been so, as far as we know."""
    known = state.told.get(name)
    finding, since = (state.local.finding, state.local.found_since) if name == state.me else (None, NEVER)
    if known is not None and name != state.me and state.heard(name) is not None:
        finding, since = known.finding, known.found_since
    if finding is None:
        return None
    return {"code": finding.code, "words": finding.words, "for_seconds": round(moment - since, 3)}


def _statement(state: State, name: str) -> tuple[Statement | None, dict[str, Any]]:
    if name == state.me:
        return compose(state), {"heard_ago_seconds": 0.0, "silent": False, "paths": [], "self": True}
    peer = state.peer(name)
    if peer is None or not peer.life:
        return None, {"heard_ago_seconds": None, "silent": True, "paths": [], "self": False}
    now_at = now()
    paths = [
        {
            "path": path.path,
            "heard_ago_seconds": round(now_at - path.heard_at, 4) if path.heard_at != NEVER else None,
            "lost": round(path.lost, 4),
            "round_trip_seconds": path.round_trip,
        }
        for path in peer.paths
    ]
    heard = [path["heard_ago_seconds"] for path in paths if path["heard_ago_seconds"] is not None]
    silent = peer.silent_since is not None
    return peer.statement, {
        "heard_ago_seconds": min(heard, default=None),
        "silent": silent,
        "paths": paths,
        "self": False,
    }


def _lag(state: State, statement: Statement | None) -> int | None:
    """Bytes that the member lacks of what the primary is known to have."""
    if statement is None or statement.position is None or state.primary is None:
        return None
    primary = (
        state.local.view.position if state.primary == state.me and state.local.view else last_known_position(state, state.primary)
    )
    if primary is None:
        return None
    behind = bytes_behind(statement.position, primary)
    return None if behind is None else max(0, behind)


def _clients(state: State) -> str:
    """Whether the clients on this host are led where they should go."""
    asked = [effect for effect in state.asked if isinstance(effect, EnsureClients)]
    if not asked:
        return "not led yet"
    effect = asked[-1]
    if effect in state.failures:
        return f"NOT led to {effect.primary}: {state.failures[effect]}"
    return f"led to {effect.primary}" if effect in state.done else f"being led to {effect.primary}"


def explanation(runner: GroupRunner, recent: list[dict[str, Any]]) -> dict[str, Any]:
    """Why it is as it is, why nothing is done now, and what was decided before, each with its evidence (P7)."""
    report = group_report(runner)
    return {
        "group": report["group"],
        "epoch": report["epoch"],
        "primary": report["primary"],
        "phase": report["phase"],
        "reason": report["reason"],
        "verdict": report["verdict"],
        "refusals": report["refusals"],
        "failures": report["failures"],
        "divergence": report["divergence"],
        "history": recent,
    }
