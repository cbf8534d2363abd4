"""Failback: the serving primary gives the role back to the preferred member, when policy says so, by a switchover."""

from dataclasses import replace

from orchestrator.domain.positions import bytes_behind
from orchestrator.domain.record import FAILBACK, Cause, Proposal, Record, Request, RequestKind
from orchestrator.domain.spans import Instant, in_words
from orchestrator.domain.topology import NodeName
from orchestrator.domain.verdicts import Permission
from orchestrator.engine import gates, handing_over, people
from orchestrator.engine.state import State
from orchestrator.engine.turn import Turn
from orchestrator.engine.words import REQUEST_HOLDS
from strategies.automation import permission
from strategies.failback import earliest

POLICY: str = "policy (failback)"
"""Whose word it is, where policy lets the role go back by itself."""


def consider(turn: Turn, record: Record) -> None:
    """Called while the group serves and nobody has asked for anything."""
    state = turn.state
    wish, home = state.policy.failback, state.group.preferred
    if wish is None or home is None or home == state.me:
        return
    if record.cause is not Cause.FAILOVER:
        turn.refuse(
            FAILBACK, "failover", f"{state.me} did not become primary by a failover, and stays it until a person says otherwise"
        )
        return
    if reason := _why_not_now(state, record, home):
        turn.change(preferred_fit_since=None)
        turn.refuse(FAILBACK, "preferred member", reason)
        _withdraw(turn, record, home, reason)
        return
    since = turn.now if state.preferred_fit_since is None else state.preferred_fit_since
    turn.change(preferred_fit_since=since)
    due = max(earliest(wish, since, turn.now, state.wall), gates.not_cooled_down(state) or turn.now)
    if turn.now < due:
        lasts = in_words(turn.now - since)
        reason = f"{home} has been fit to take the role back for {lasts}; policy lets it go back in {in_words(due - turn.now)}"
        turn.refuse(FAILBACK, "time", reason, until=due)
        _withdraw(turn, record, home, "the time for it is over")
        return
    match permission(state.policy.automation, approved=False):
        case Permission.GO:
            turn.allow(FAILBACK)
            _go(turn, record, home)
        case Permission.ASK:
            _ask(turn, record, home, since)
        case Permission.HOLD:
            turn.refuse(FAILBACK, "permitted", f"the role would go back to {home}: {_left(state)}")


def _why_not_now(state: State, record: Record, home: NodeName) -> str:
    paused = state.control.paused
    return f"paused by {paused.by}" if paused is not None else handing_over.why_not_target(state, record, home)


def _left(state: State) -> str:
    return f"policy is {state.policy.automation}, `tanist switchover` does it"


def _id(state: State, record: Record, home: NodeName) -> str:
    """Not of the form of a proposal about a failure: to refuse a failback says nothing about those."""
    return f"{state.group.name}-{FAILBACK}-{record.epoch}-{home}"


def _go(turn: Turn, record: Record, home: NodeName) -> None:
    state = turn.state
    request = Request(
        id=f"{_id(state, record, home)}-{state.control.version}",
        kind=RequestKind.SWITCHOVER,
        epoch=record.epoch,
        target=home,
        by=POLICY,
        at_wall=state.wall,
        expires_wall=state.wall + REQUEST_HOLDS,
    )
    if not people.is_being_written(turn, request.id):
        people.write(turn, replace(state.control, proposal=None, request=request))


def _ask(turn: Turn, record: Record, home: NodeName, since: Instant) -> None:
    state = turn.state
    control, asked_id = state.control, _id(state, record, home)
    if control.rejected == asked_id:
        turn.refuse(FAILBACK, "rejected", f"a person has rejected proposal {asked_id}")
        return
    turn.refuse(FAILBACK, "permitted", "policy asks for a person's confirmation")
    if people.is_being_written(turn, asked_id):
        return
    open_ = control.proposal
    if open_ is not None and state.wall < open_.expires_wall:
        turn.wake(turn.now + (open_.expires_wall - state.wall))
        return
    proposal = Proposal(
        id=asked_id,
        epoch=record.epoch,
        diagnosis=FAILBACK,
        subject=home,
        candidate=home,
        situation=f"{home}, the preferred member, is well again; it would become primary in epoch {record.epoch + 1}",
        evidence=(f"{home} has been fit to take over for {in_words(turn.now - since)}", _distance(state, home)),
        expected_loss_bytes=0,
        author=state.me,
        at_wall=state.wall,
        expires_wall=state.wall + state.policy.proposal_expires,
    )
    people.write(turn, replace(control, proposal=proposal))


def _distance(state: State, home: NodeName) -> str:
    peer, view = state.heard(home), state.local.view
    theirs = peer.statement.position if peer is not None and peer.statement is not None else None
    behind = bytes_behind(theirs, view.position) if theirs is not None and view is not None else None
    if behind is None:
        return f"{home}'s position is not known; a switchover waits until it has everything"
    return f"{home} is {max(0, behind)} bytes behind; a switchover waits until it has everything"


def _withdraw(turn: Turn, record: Record, home: NodeName, because: str) -> None:
    proposal = turn.state.control.proposal
    if proposal is not None and proposal.id == _id(turn.state, record, home):
        people.withdraw(turn, because)
