"""From what is known to a case, and through the strategies to a verdict about the primary and about ourselves."""

from orchestrator.domain.observations import Health, Release, Role
from orchestrator.domain.record import Record
from orchestrator.domain.spans import Instant, in_words
from orchestrator.domain.topology import NodeName
from orchestrator.domain.verdicts import Diagnosis, Finding, Verdict
from orchestrator.engine.state import State, Told
from strategies.fusion import Case, judge


def verdict_on_primary(state: State) -> Verdict | None:
    """What all channels say about the record's primary; None while nobody knows who that is."""
    record = state.record
    if record is None:
        return None
    case = _own_case(state) if record.primary.name == state.me else _peer_case(state, record)
    return judge(case, state.policy, state.now)


def _own_case(state: State) -> Case:
    local = state.local
    return Case(
        subject=state.me,
        dead_since=local.gone_since,
        finding=local.finding,
        found_since=local.found_since,
        restarts_left=max(0, state.policy.timing.restarts_first - local.restarts),
        evidence=tuple(_local_evidence(state)),
    )


def _local_evidence(state: State) -> list[str]:
    local = state.local
    lines = []
    if local.gone_since is not None:
        lines.append(f"local: the process has been gone for {in_words(state.now - local.gone_since)}")
        if local.finding is not None:
            lines.append(f"local: found before that: {local.finding}")
    elif local.silent_since is not None:
        lines.append(f"local: no answer for {in_words(state.now - local.silent_since)}, the process is there")
    elif local.view is not None:
        lines.append(f"local: answers, {local.view.role}, at {local.view.position.offset}")
    if local.gone_since is None and local.silent_since is None and local.finding is not None:
        lines.append(f"local: {local.finding}, for {in_words(state.now - local.found_since)}")
    if local.refused:
        lines.append(f"local: refuses: {local.refused}")
    return lines


def _peer_case(state: State, record: Record) -> Case:
    name = record.primary.name
    peer = state.peer(name)
    silent_since = silence_of(state, name)
    told = state.told.get(name) if silent_since is None else None
    finding, found_at = _told_finding(told)
    statement = peer.statement if peer else None
    restarts = statement.restarts if statement else 0
    return Case(
        subject=name,
        silent_since=silent_since,
        released_since=_given_up_since(state, record, told),
        dead_since=told.since if told and told.health is Health.DEAD else None,
        finding=finding,
        found_since=found_at,
        restarts_left=max(0, state.policy.timing.restarts_first - restarts),
        evidence=tuple(_peer_evidence(state, record, name, silent_since)),
    )


def _told_finding(told: Told | None) -> tuple[Finding | None, Instant | None]:
    """Since we were first told: the time that policy asks for runs here beside the one that runs there, not after it."""
    if told is None:
        return None, None
    if told.finding is not None:
        return told.finding, told.found_since
    if told.health is Health.UNRESPONSIVE or told.health is Health.STARTING:
        return Finding(Diagnosis.UNRESPONSIVE), told.since
    return None, None


def _given_up_since(state: State, record: Record, told: Told | None) -> Instant | None:
    if released(state, record) is not None:
        return state.now
    return told.since if told is not None and told.health is Health.YIELDING else None


def silence_of(state: State, name: NodeName) -> Instant | None:
    """Since when the peer is silent; one never heard counts as silent since this run, or this keeper, began."""
    peer = state.peer(name)
    if peer is None:
        return state.began_at
    return None if peer.silent_since is None else max(peer.silent_since, state.began_at)


def _peer_evidence(state: State, record: Record, name: NodeName, silent_since: Instant | None) -> list[str]:
    lines = []
    if silent_since is None:
        told = state.told.get(name)
        found = f"; it finds {told.finding}" if told is not None and told.finding is not None else ""
        lines.append(f"interconnected: {name} is heard" + (f", and says {told.health}{found}" if told else ""))
    else:
        lines.append(f"interconnected: no beat of {name} on any path for {in_words(state.now - silent_since)}")
    seen = state.mediated.first_seen_at
    if state.mediated.lost_since is not None:
        lines.append(f"mediated: the mediator has not answered for {in_words(state.now - state.mediated.lost_since)}")
    else:
        lines.append(f"mediated: version {record.version} of the record has stood for {in_words(state.now - seen)}")
    view = state.local.view
    if view is not None and view.role is Role.STANDBY:
        heard = f", its last word {in_words(view.link_heard_ago)} ago" if view.link_heard_ago is not None else ""
        lines.append(f"local: data from the primary is {'arriving' if view.link_up else 'not arriving'}{heard}")
    return lines


def released(state: State, record: Record) -> Release | None:
    """The primary's release of exactly this record, whoever it is meant for (rule 20)."""
    peer = state.peer(record.primary.name)
    if peer is None or peer.release is None or peer.life != record.primary.life:
        return None
    if peer.release.version != record.version or peer.release.epoch != record.epoch:
        return None
    return peer.release


def usable_release(state: State, record: Record) -> Release | None:
    """A release on which this member may claim: meant for anybody, or for us."""
    release = released(state, record)
    return release if release is not None and release.target in (None, state.me) else None


def effective_diagnosis(state: State, verdict: Verdict) -> Diagnosis:
    """The condition whose rule decides the level of automation: behind a release stands the reason for it."""
    if verdict.diagnosis is not Diagnosis.RELEASED:
        return verdict.diagnosis
    told = state.told.get(verdict.subject)
    if told is not None and told.finding is not None and told.finding.cannot_work:
        return told.finding.code
    if told is not None and told.health is Health.DEAD:
        return Diagnosis.PROCESS_DOWN
    if told is not None and told.health is Health.UNRESPONSIVE:
        return Diagnosis.UNRESPONSIVE
    return Diagnosis.HOST_DOWN
