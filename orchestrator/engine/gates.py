"""May this member take over? An ordered list of named gates; each is green, or red with its reason.

The gates are asked at every step and by `tanist explain`; the keeper asks the two that safety rests on (promise and
release) once more by itself, and the mediator the last one (the version).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from orchestrator.domain.observations import Health, Hold, Role
from orchestrator.domain.policy import Automation
from orchestrator.domain.positions import bytes_behind
from orchestrator.domain.record import Cause, Record, Request, RequestKind
from orchestrator.domain.spans import Instant, in_words, waited_until
from orchestrator.domain.topology import NodeName
from orchestrator.domain.verdicts import Diagnosis, Permission
from orchestrator.engine import asking, electing, fetching
from orchestrator.engine.diagnosing import effective_diagnosis, released, usable_release
from orchestrator.engine.state import Mediation, State
from strategies.automation import permission
from strategies.cooldown import cool_at
from strategies.timing import automation_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Red:
    """A gate that is closed, and until when if time alone opens it."""

    reason: str
    until: Instant | None = None


Gate = Callable[[State, Record], Red | None]


def standing_request(state: State) -> Request | None:
    """A person's word that holds now: for this epoch, not expired."""
    request, record = state.control.request, state.record
    if request is None or record is None or request.epoch != record.epoch:
        return None
    return request if state.wall < request.expires_wall else None


def situation_id(state: State, record: Record, candidate: NodeName) -> str:
    """Names exactly this situation: any change of epoch, diagnosis or candidate makes another id (P8)."""
    code = effective_diagnosis(state, state.verdict) if state.verdict else "none"
    if unheard(state, record):
        code = f"{code}-unheard"  # who approved a takeover that loses nothing has not approved this one
    return f"{state.group.name}-{record.epoch}-{code}-{candidate}"


def approved(state: State) -> Request | None:
    """The word that allows a change of role now. An approval holds only for the situation that was shown to the person."""
    request, record = standing_request(state), state.record
    if request is None or record is None or request.proposal is None:
        return request
    return request if request.proposal == situation_id(state, record, request.target or state.me) else None


def primary_failed(state: State, record: Record) -> Red | None:
    verdict = state.verdict
    if verdict is None or verdict.diagnosis is Diagnosis.HEALTHY:
        return Red(reason=f"the primary {record.primary.name} is well")
    if not verdict.is_failure:
        return Red(reason=f"{verdict.sentence}; that moves no role")
    if not verdict.is_certain(state.now):
        rest = in_words((verdict.certain_at or state.now) - state.now)
        return Red(reason=f"{verdict.sentence}; it counts as failed in {rest}", until=verdict.certain_at)
    return None


def mediator_answers(state: State, record: Record) -> Red | None:
    mediated = state.mediated
    if mediated.lost_since is not None:
        return Red(reason=f"the mediator does not answer: {mediated.lost_because}")
    if mediated.status is not Mediation.PRESENT:
        return Red(reason=f"the mediator's record is {mediated.status}")
    if state.keeper is None:
        return Red(reason="there is no keeper")
    if state.keeper.knows_newer(record.version, record.incarnation) or state.epoch > record.epoch:
        return Red(reason="a newer record is known than the one that was read")
    return None


def in_the_succession(state: State, record: Record) -> Red | None:
    life = record.life_in_succession(state.me)
    if life is None:
        return Red(reason=f"{state.me} is not in the succession of epoch {record.epoch}")
    if state.keeper is None or life != state.keeper.life:
        return Red(reason="the succession lists an earlier life of this keeper's memory")
    return None


def service_ready(state: State, record: Record) -> Red | None:
    if reason := electing.why_not_electable(state):
        return Red(reason=reason)
    if state.keeper is not None and state.keeper.hold is not Hold.NONE:
        return Red(reason="the service here may still be committing in an older epoch")
    view, holder = state.local.view, electing.who_holds_data(state)
    if view is not None and view.empty and holder is not None and electing.why_not_whole(state, record):
        return Red(reason=f"its service came back empty, and {holder} held data; `tanist adopt` says whose data counts")
    return None


def not_paused(state: State, record: Record) -> Red | None:
    paused = state.control.paused
    if paused is None or approved(state) is not None:
        return None
    return Red(reason=f"paused by {paused.by}" + (f": {paused.reason}" if paused.reason else ""))


def best_of_all(state: State, record: Record) -> Red | None:
    """The one whom a switchover was meant for, else whom a person chose, else whoever has the most data."""
    release = released(state, record)
    target = release.target if release is not None else None
    if target == state.me:
        return None  # `holds everything` asks for the position
    if target is not None and state.heard(target) is not None:
        return Red(reason=f"the right was released to {target}")
    if not electing.all_settled(state, record):
        until = electing.settled_by(state)
        if state.now < until:
            return Red(reason="the final positions of the other standbys are awaited", until=until)
    request = standing_request(state)
    if request is not None and request.target is not None:
        return None if request.target == state.me else Red(reason=f"{request.by} chose {request.target}")
    choice = electing.candidate(state, record)
    if choice.name == state.me:
        return None
    why = next((line for line in choice.passed_over if line.startswith(f"{state.me}: ")), "")
    return Red(reason=f"the candidate is {choice.name or 'nobody'}" + (f"; {why}" if why else ""))


def holds_everything(state: State, record: Record) -> Red | None:
    """A switchover's target must have all that the old primary wrote (rule 20)."""
    release = usable_release(state, record)
    if release is None or release.target != state.me or release.position is None:
        return None
    view = state.local.view
    behind = bytes_behind(view.position, release.position) if view else None
    if behind is None:
        return Red(reason="the data here cannot be compared with the position that was released")
    return Red(reason=f"{behind} bytes of the switchover are missing here") if behind > 0 else None


def right_is_over(state: State, record: Record) -> bool:
    """The primary has failed, and cannot have a right before the record or our promise renews it."""
    before = (primary_failed, mediator_answers, in_the_succession, promise_over, lease_over)
    return not any(gate(state, record) for gate in before)


def fetched(state: State, record: Record) -> Red | None:
    """What a standby that may not be primary has more than us is copied first."""
    found = fetching.better(state, record)
    if found is None or not right_is_over(state, record):
        return None
    until = fetching.over_at(state, record)
    if until is not None and state.now >= until:
        return None
    return Red(reason=f"{found[1]} bytes are fetched from {found[0]} first, which is never primary", until=until)


def quorum_heard(state: State, record: Record) -> Red | None:
    """Under a quorum: so many have said where their data ends that everything acknowledged is known to be here.

    What stays unanswered is a person's to decide, see `doubtful_data`.
    """
    reason = asking.missing(state, record)
    until = asking.waited_until(state, record)
    if not reason or (until is not None and state.now >= until):
        return None
    return Red(reason=reason, until=until)


def unheard(state: State, record: Record) -> str:
    """Why, after having asked for long enough, acknowledged commits may be missing here."""
    until = asking.waited_until(state, record)
    return asking.missing(state, record) if until is not None and state.now >= until else ""


def may_act(state: State) -> Permission:
    """What policy and people's words say about a change of role now."""
    if state.verdict is None:
        return Permission.HOLD
    level = automation_for(effective_diagnosis(state, state.verdict), state.policy)
    request = approved(state)
    answer = permission(level, approved=request is not None)
    if answer is not Permission.GO:
        return answer
    if request is None and not_cooled_down(state) is not None:
        return Permission.ASK
    if (request is None or request.kind is RequestKind.SWITCHOVER) and (doubtful_data(state) or too_much_lost(state)):
        return Permission.ASK  # whoever asks for a switchover expects that nothing is lost
    return answer


def doubtful_data(state: State) -> str:
    """Why a takeover by this member takes a person's word, whatever the policy; empty when it does not.

    A primary that yields has compared its own data with the standbys' and found less; a release may name its position.
    """
    record = state.record
    if record is None:
        return ""
    if reason := unheard(state, record):
        return reason
    told, release = state.told.get(record.primary.name), usable_release(state, record)
    if (told is not None and told.health is Health.YIELDING) or (release is not None and release.position is not None):
        return ""
    return electing.why_not_whole(state, record)


def too_much_lost(state: State) -> str:
    """Why this member lacks more than policy lets a takeover lose without a person; empty when it does not.

    Who lags for longer than a moment is in no succession; this is what piled up in the moment before the failure.
    """
    record, view = state.record, state.local.view
    if record is None or view is None or record.primary.name == state.me:
        return ""
    lost = electing.expected_loss(state, record, view.position)
    if lost is None or lost <= state.policy.max_lag_bytes:
        return ""
    cap = state.policy.max_lag_bytes
    return f"{lost} bytes that {record.primary.name} was known to have are not here, and policy lets go of {cap} at most"


def not_cooled_down(state: State) -> Instant | None:
    """When the cool-down after the last failover ends, if it still runs."""
    record = state.record
    if record is None or record.cause is not Cause.FAILOVER or not state.policy.cooldown:
        return None
    until = cool_at(state.now - max(0.0, state.wall - record.since), state.policy.cooldown)
    return until if state.now < until else None


def permitted(state: State, record: Record) -> Red | None:
    answer = may_act(state)
    if answer is Permission.GO:
        return None
    until = not_cooled_down(state)
    if until is not None:
        return Red(reason=f"cool-down after the last failover for another {in_words(until - state.now)}", until=until)
    if answer is Permission.ASK:
        doubt = doubtful_data(state) or too_much_lost(state)
        return Red(reason=f"{doubt}: a person's confirmation is needed" if doubt else "policy asks for a person's confirmation")
    return Red(reason=left_to_a_person(state, f"{state.me} would have taken over"))


def left_to_a_person(state: State, would: str) -> str:
    """Why nothing is done by itself; where policy only observes, what would have been done."""
    assert state.verdict is not None
    level = automation_for(effective_diagnosis(state, state.verdict), state.policy)
    return f"policy only observes: {would}" if level is Automation.OBSERVE else "policy leaves it to a person"


def promise_over(state: State, record: Record) -> Red | None:
    keeper = state.keeper
    if keeper is None or usable_release(state, record) is not None or keeper.promised_until <= state.now:
        return None
    rest = in_words(keeper.promised_until - state.now)
    return Red(reason=f"the promise to {keeper.promised_to} runs for another {rest}", until=keeper.promised_until)


def lease_over(state: State, record: Record) -> Red | None:
    """Rule 12: a full lease since this run of the daemon first saw the version, or a usable release."""
    if usable_release(state, record) is not None:
        return None
    over = waited_until(state.mediated.first_seen_at, record.lease)
    if over <= state.now:
        return None
    return Red(reason=f"the record may be alive for another {in_words(over - state.now)}", until=over)


TAKEOVER: Final[tuple[tuple[str, Gate], ...]] = (
    ("primary failed", primary_failed),
    ("mediator answers", mediator_answers),
    ("in the succession", in_the_succession),
    ("service ready", service_ready),
    ("not paused", not_paused),
    ("best of all", best_of_all),
    ("holds everything", holds_everything),
    ("permitted", permitted),
    ("promise over", promise_over),
    ("lease over", lease_over),
    ("nothing left elsewhere", fetched),
    ("quorum heard", quorum_heard),
)


def red_gates(state: State, record: Record) -> list[tuple[str, Red]]:
    """Every gate of a takeover that is closed now, in order."""
    answers = ((name, gate(state, record)) for name, gate in TAKEOVER)
    return [(name, red) for name, red in answers if red is not None]


def is_standby(state: State) -> bool:
    view = state.local.view
    return view is not None and view.role is Role.STANDBY
