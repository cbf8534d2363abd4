"""First half of a step: an event changes what is known. Nothing is decided here."""

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from orchestrator.domain import events
from orchestrator.domain.effects import EnsureReplicas, EnsureService, WantedRole, WriteControl
from orchestrator.domain.observations import Abstained, Answered, Health, KeeperView, Refused, Role, ServiceView, Silent
from orchestrator.domain.record import Cause, Record
from orchestrator.domain.spans import NEVER, Instant, Span
from orchestrator.domain.topology import NodeName
from orchestrator.domain.verdicts import Diagnosis, Finding
from orchestrator.engine import succession
from orchestrator.engine.state import Covered, Local, Mediation, PendingWrite, State, Told, frozen_mapping

FAILURES_KEPT = 32
OLDER_FOR: Span = 2.0
"""A read from a lagging server is older than what is known; a restored mediator stays older. Every write is conditional on
the newest version known, so nothing is risked by waiting to tell the two apart."""


def absorb(state: State, event: events.Event) -> State:
    state = replace(state, now=max(state.now, event.at), wall=event.wall)
    match event:
        case events.Ticked():
            return state
        case events.Looked():
            return _with_lag(_absorb_look(state, event))
        case events.KeeperSeen(view=view):
            return _with_lag(_absorb_keeper(state, view))
        case events.MediatorRead():
            return _absorb_read(state, event)
        case events.MediatorLost(reason=reason):
            since = state.mediated.lost_since
            lost = replace(state.mediated, lost_since=state.now if since is None else since, lost_because=reason)
            return replace(state, mediated=lost)
        case events.RecordWritten():
            return _absorb_write(state, event)
        case events.EffectDone():
            return _absorb_done(state, event)
        case events.EffectFailed(effect=effect, reason=reason):
            failures = dict(list(state.failures.items())[-FAILURES_KEPT:])
            failures[effect] = reason
            covered = None if isinstance(effect, EnsureReplicas) else state.covered
            return replace(state, failures=frozen_mapping(failures), covered=covered)
        case events.PolicyChanged(policy=policy):
            return replace(state, policy=policy)
        case _:
            assert_never(event)


def _with_lag(state: State) -> State:
    found = succession.lagging(state)
    return state if found == state.lagging else replace(state, lagging=found)


# --- the local service -----------------------------------------------------------------------------------------------


def _absorb_look(state: State, event: events.Looked) -> State:
    local = state.local
    if event.began_at < local.changed_at:
        return state
    match event.outcome:
        case Answered(view=view, finding=finding):
            local = replace(local, view=view, viewed_at=event.began_at, silent_since=None, gone_since=None, refused="")
            local = _found(local, finding, event.began_at)
            state = _with_floor(state, event.began_at, view)
        case Silent(reason=reason):
            since = event.began_at if local.silent_since is None else local.silent_since
            local = _found(replace(local, silent_since=since), Finding(Diagnosis.UNRESPONSIVE, reason), event.began_at)
        case Refused(reason=reason, gone=True):
            local = _gone(replace(local, refused=reason), state.now)
        case Refused(reason=reason, finding=finding):
            local = replace(local, view=None, silent_since=None, gone_since=None, refused=reason)
            local = _found(local, finding, event.began_at)
        case Abstained(finding=finding):
            local = _found(replace(local, silent_since=None), finding, event.began_at)
    return replace(state, local=local)


def _found(local: Local, finding: Finding | None, began_at: Instant) -> Local:
    since = found_since(local.finding, local.found_since, finding, began_at)
    if local.finding is not None and local.finding.explains(finding):
        finding = local.finding
    return replace(local, finding=finding, found_since=since)


def found_since(before: Finding | None, since: Instant, finding: Finding | None, now: Instant) -> Instant:
    if finding is None:
        return NEVER
    return since if finding.continues(before) else now


def _with_floor(state: State, began_at: Instant, view: ServiceView) -> State:
    covered = state.covered
    if covered is None or covered.floor is not None or began_at < covered.since:
        return state
    return replace(state, covered=replace(covered, floor=view.position))


def _gone(local: Local, now: float) -> Local:
    """What it could not do before is remembered: that may be what it died of, or why it was killed."""
    if local.finding is not None and not local.finding.cannot_work:
        local = _found(local, None, now)
    since = now if local.gone_since is None else local.gone_since
    return replace(local, view=None, silent_since=None, gone_since=since)


# --- the keeper and, through it, the peers ---------------------------------------------------------------------------


def _absorb_keeper(state: State, view: KeeperView | None) -> State:
    before = state.keeper
    epoch_before = state.epoch
    state = replace(state, keeper=view)
    if view is None:
        return state
    if before is None or before.life != view.life:
        state = replace(state, said=None)
    if view.main_exited and not (before and before.main_exited):
        state = replace(state, local=_gone(state.local, state.now))
    state = replace(state, told=_told(state, view), questions=_questions(state, view))
    return _note_epoch(state, epoch_before)


def _told(state: State, view: KeeperView) -> Mapping[NodeName, Told]:
    told = dict(state.told)
    for peer in view.peers:
        if peer.statement is None:
            continue
        health = Health.DEAD if peer.exited else peer.statement.health
        known = told.get(peer.name, Told(health=health, since=state.now))
        if known.health is not health:
            known = replace(known, health=health, since=state.now)
        finding = peer.statement.finding
        since = found_since(known.finding, known.found_since, finding, state.now)
        position = peer.statement.position or known.position
        told[peer.name] = replace(known, finding=finding, found_since=since, position=position)
    return frozen_mapping(told)


def _questions(state: State, view: KeeperView) -> Mapping[int, Instant]:
    asked = {peer.statement.asks for peer in view.peers if peer.statement is not None and peer.statement.asks}
    if not asked and not state.questions:
        return state.questions
    return frozen_mapping({token: state.questions.get(token, state.now) for token in sorted(asked)})


def _note_epoch(state: State, before: int) -> State:
    return replace(state, epoch_seen_at=state.now) if state.epoch != before else state


# --- the mediator ----------------------------------------------------------------------------------------------------


def _absorb_read(state: State, event: events.MediatorRead) -> State:
    epoch_before = state.epoch
    mediated = replace(state.mediated, lost_since=None, lost_because="")
    control = event.snapshot.control
    if control.version >= mediated.control.version or event.snapshot.record is None:
        mediated = replace(mediated, control=control)
    record = event.snapshot.record
    if record is None:
        return replace(state, mediated=replace(mediated, status=Mediation.ABSENT, first_seen_at=NEVER))
    if _is_older(state, record):
        since = state.now if mediated.older_since is None else mediated.older_since
        lasting = state.now > since + OLDER_FOR or state.record is None
        status = Mediation.OLDER if lasting else mediated.status
        return replace(state, mediated=replace(mediated, status=status, older_since=since))
    state = replace(state, mediated=replace(mediated, older_since=None))
    return _note_epoch(_know_record(state, record), epoch_before)


def _is_older(state: State, record: Record) -> bool:
    """Rule 23: older than one seen or heard, or of another incarnation without an epoch above all known."""
    known = state.record
    if known is None:
        return record.epoch < state.epoch
    if known.incarnation != record.incarnation:
        same = record.cause is Cause.ADOPTION and record.epoch == state.epoch and record.primary == known.primary
        return record.epoch <= state.epoch and not same
    return record.version < known.version


def _know_record(state: State, record: Record) -> State:
    """Take over a record that is not older; a newer version decides every own write that is pending (rule 10)."""
    mediated = state.mediated
    known = mediated.record
    is_new = known is None or known.version != record.version or known.incarnation != record.incarnation
    first_seen_at = mediated.first_seen_at
    if is_new or first_seen_at == NEVER:
        first_seen_at = state.now
    applied = state.applied
    for pending in state.pending:
        if pending.write.record.nonce == record.nonce and is_new:
            applied = (record, pending.began_at)
    undecided = tuple(each for each in state.pending if _is_undecided(each, record))
    mediated = replace(mediated, status=Mediation.PRESENT, record=record, first_seen_at=first_seen_at)
    return replace(state, mediated=mediated, applied=applied, pending=undecided)


def _is_undecided(pending: PendingWrite, record: Record) -> bool:
    """Neither a newer version nor another line of records has decided it yet."""
    write = pending.write
    return write.record.incarnation == record.incarnation and _expected(write.expected) >= record.version


def _expected(version: int | None) -> int:
    return -1 if version is None else version


def _absorb_write(state: State, event: events.RecordWritten) -> State:
    write, outcome = event.write, event.outcome
    pending = next((each for each in state.pending if each.write == write), None)
    if pending is None:
        return state  # a newer version has been seen meanwhile: that decided it
    others = tuple(each for each in state.pending if each is not pending)
    if outcome is events.WriteOutcome.NOT_SENT:
        return replace(state, pending=others)
    if outcome is not events.WriteOutcome.APPLIED:
        refused = outcome is events.WriteOutcome.CONFLICT
        known = replace(pending, in_flight=False, began_at=event.began_at, refused=refused)
        return replace(state, pending=(*others, known))
    known = replace(pending, began_at=event.began_at)
    epoch_before = state.epoch
    state = replace(state, pending=(*others, known))
    if write.control is not None:
        state = replace(state, mediated=replace(state.mediated, control=write.control))
    return _note_epoch(_know_record(state, write.record), epoch_before)


# --- effects ---------------------------------------------------------------------------------------------------------


def _absorb_done(state: State, event: events.EffectDone) -> State:
    effect = event.effect
    failures = {each: reason for each, reason in state.failures.items() if each != effect}
    state = replace(state, failures=frozen_mapping(failures))
    if effect in state.asked:
        state = replace(state, done=frozenset(each for each in state.done if each in state.asked) | {effect})
    if isinstance(effect, WriteControl):
        return replace(state, mediated=replace(state.mediated, control=effect.control))
    if isinstance(effect, EnsureReplicas):
        return replace(state, covered=Covered(names=effect.names, since=state.now))
    if isinstance(effect, EnsureService):
        return replace(state, local=_after_role_change(state.local, effect, event.view, state.now))
    return state


def _after_role_change(local: Local, effect: EnsureService, read_back: ServiceView | None, now: float) -> Local:
    """The service was read back in its new role: looks begun before that are out of date."""
    if read_back is not None:
        gone_since = None if read_back.pid else local.gone_since
        local = _found(local, None, now) if read_back.pid else local
        return replace(local, view=read_back, viewed_at=now, changed_at=now, silent_since=None, gone_since=gone_since, refused="")
    role = Role.STANDBY if effect.role is WantedRole.STANDBY else Role.PRIMARY
    view = replace(local.view, role=role) if local.view else None
    return replace(local, view=view, changed_at=now, silent_since=None)
