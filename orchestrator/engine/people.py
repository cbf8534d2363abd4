"""People's words: proposals that wait for them, requests that carry them, and when either becomes void."""

from dataclasses import replace

from orchestrator.domain.effects import NoticeKind, WriteControl
from orchestrator.domain.record import Answer, Control, Proposal, Record, Request
from orchestrator.domain.spans import Span
from orchestrator.domain.verdicts import Permission
from orchestrator.engine import electing, gates
from orchestrator.engine.diagnosing import effective_diagnosis
from orchestrator.engine.turn import Turn

CONTROL_AGAIN: Span = 1.0
DISPROVED_AFTER: Span = 1.0
TIME_GATES = frozenset({"permitted", "promise over", "lease over", "nothing left elsewhere", "quorum heard"})
"""Gates that do not keep a question from being asked: the answer takes longer than they do."""


def consider_proposal(turn: Turn, record: Record, red: list[tuple[str, gates.Red]]) -> None:
    """Ask a person, when policy wants one and nothing else stands against the takeover."""
    state = turn.state
    if any(name not in TIME_GATES for name, _ in red) or gates.may_act(state) is not Permission.ASK:
        return
    if state.control.proposal is not None and _same_situation(turn, state.control.proposal, record):
        turn.wake(_instant(turn, state.control.proposal.expires_wall))
        return
    if (
        state.control.paused is not None
        or _was_rejected(turn, record)
        or is_being_written(turn, gates.situation_id(state, record, state.me))
    ):
        return
    write(turn, replace(state.control, proposal=_compose(turn, record)))


def is_being_written(turn: Turn, word: str) -> bool:
    """A proposal or request of this id, a moment ago already; a later one would differ from it only by its time."""
    version = turn.state.control.version
    for effect, asked_at in turn.state.asked.items():
        if not isinstance(effect, WriteControl) or effect.expected != version or turn.now >= asked_at + CONTROL_AGAIN:
            continue
        if word in [each.id for each in (effect.control.proposal, effect.control.request) if each is not None]:
            turn.wake(asked_at + CONTROL_AGAIN)
            return True
    return False


def _compose(turn: Turn, record: Record) -> Proposal:
    state = turn.state
    verdict = state.verdict
    assert verdict is not None
    choice = electing.candidate(state, record)
    doubt = gates.doubtful_data(state) or gates.too_much_lost(state)
    return Proposal(
        id=gates.situation_id(turn.state, record, turn.state.me),
        epoch=record.epoch,
        diagnosis=effective_diagnosis(state, verdict),
        subject=verdict.subject,
        candidate=state.me,
        situation=f"{verdict.sentence}; {state.me} would become primary in epoch {record.epoch + 1}"
        + ("; acknowledged commits may be lost" if doubt else ""),
        evidence=(*verdict.evidence, *choice.passed_over, *([f"acknowledged commits may be lost: {doubt}"] if doubt else [])),
        expected_loss_bytes=electing.expected_loss(state, record, choice.position),
        author=state.me,
        at_wall=state.wall,
        expires_wall=state.wall + state.policy.proposal_expires,
    )


def _same_situation(turn: Turn, proposal: Proposal, record: Record) -> bool:
    return proposal.id == gates.situation_id(turn.state, record, turn.state.me) and turn.state.wall < proposal.expires_wall


def _was_rejected(turn: Turn, record: Record) -> bool:
    """A rejected situation does not ask again before it has been forgotten."""
    control = turn.state.control
    fresh = turn.state.wall < control.rejected_wall + turn.state.policy.proposal_expires
    return control.rejected == gates.situation_id(turn.state, record, turn.state.me) and fresh


def withdraw(turn: Turn, because: str = "") -> None:
    """Our own open proposal is void as soon as what it says is no longer so."""
    proposal = turn.state.control.proposal
    if proposal is not None and proposal.author == turn.state.me and write(turn, replace(turn.state.control, proposal=None)):
        void = f"proposal {proposal.id} is void: {because or f'{proposal.subject} is well'}"
        turn.notice(NoticeKind.DECISION, "proposal void", void)


def tidy(turn: Turn, record: Record) -> None:
    """The serving primary clears away words about epochs that are over, and about its own death."""
    control = turn.state.control
    proposal, request = control.proposal, control.request
    keep_proposal = proposal is not None and proposal.epoch == record.epoch and not _disproved(turn, proposal)
    keep_request = (
        request is not None
        and request.epoch == record.epoch
        and request.id != turn.state.heard_request
        and turn.state.wall < request.expires_wall
    )
    if keep_request and request is not None and request.proposal is not None:
        keep_request = False  # it approved our replacement, and we are well: the situation has changed
    tidied = replace(
        control,
        proposal=proposal if keep_proposal else None,
        request=request if keep_request else None,
        answer=control.answer if keep_request else _answer(turn, request) or control.answer,
    )
    if tidied != control and write(turn, tidied):
        over = proposal.id if proposal is not None and not keep_proposal else request.id if request else ""
        turn.notice(NoticeKind.DECISION, "word used up", f"{over} is over: it counts no more")


def _answer(turn: Turn, request: Request | None) -> Answer | None:
    state = turn.state
    if request is None:
        return None
    if request.id == state.heard_request:
        why = state.answer
    elif state.wall >= request.expires_wall:
        why = "it could not be carried out in time"
    else:
        why = f"the situation has changed: {state.me} is well"
    return Answer(request=request.id, text=why, by=state.me, at_wall=state.wall) if why else None


def _disproved(turn: Turn, proposal: Proposal) -> bool:
    """It speaks of our own failure, and we are well; the others may have heard of it a moment before we do."""
    if proposal.subject != turn.state.me:
        return False
    sure_at = turn.now + (proposal.at_wall - turn.state.wall) + DISPROVED_AFTER
    turn.wake(sure_at)
    return turn.now >= sure_at


def use_up(control: Control) -> Control | None:
    """The control after a claim that rests on a word: the word counts once. None when no word stands."""
    if control.request is None and control.proposal is None:
        return None
    return replace(control, version=control.version + 1, request=None, proposal=None)


def write(turn: Turn, control: Control) -> bool:
    """True when it was handed out just now, and not a moment ago already."""
    present = turn.state.control.version
    wanted = replace(control, version=present + 1)
    return turn.want(WriteControl(control=wanted, expected=present), again_every=CONTROL_AGAIN)


def _instant(turn: Turn, wall: float) -> float:
    return turn.now + (wall - turn.state.wall)
