"""Before a claim under a quorum: ask the others where their data ends now that the right has ended (decision 0011).

A position heard earlier is worth nothing: the primary may have had a commit acknowledged since by just those that were heard
first. What a standby still receives later can no longer reach a client.
"""

from collections.abc import Callable

from orchestrator.domain.effects import LookNow
from orchestrator.domain.observations import Statement
from orchestrator.domain.positions import Position, bytes_behind
from orchestrator.domain.record import Record
from orchestrator.domain.spans import Instant, Span
from orchestrator.domain.topology import NodeName
from orchestrator.engine import electing, quorum
from orchestrator.engine.diagnosing import usable_release
from orchestrator.engine.state import Asking, State
from orchestrator.engine.turn import Turn

LOOK_AGAIN: Span = 0.05


def answer_questions(turn: Turn) -> None:
    """Whoever asks gets a look that was begun after the question was heard."""
    if any(heard_at > turn.state.local.viewed_at for heard_at in turn.state.questions.values()):
        turn.want(LookNow(), again_every=LOOK_AGAIN)


def answers(state: State) -> tuple[int, ...]:
    """The questions that our position answers."""
    record, view = state.record, state.local.view
    if not state.questions or record is None or view is None or electing.why_not_whole(state, record):
        return ()
    return tuple(sorted(token for token, heard_at in state.questions.items() if heard_at <= state.local.viewed_at))


def ask(turn: Turn, record: Record, may_ask: Callable[[State, Record], bool]) -> None:
    """Ask as soon as the right has ended, and again when that was not the last of it."""
    state = turn.state
    if not is_needed(state, record) or not may_ask(state, record):
        if state.asking is not None and not _is_claiming(state, record):
            turn.change(asking=None)
        return
    if state.asking is not None and _still_holds(state, state.asking, record):
        return
    keeper = state.keeper
    assert keeper is not None
    rests_on = None if usable_release(state, record) is not None else keeper.promised_until
    turn.change(asking=Asking(token=turn.draw(), version=record.version, since=state.now, no_promise_after=rests_on))
    turn.emit(LookNow())


def is_needed(state: State, record: Record) -> bool:
    """One's own word is not enough, and no primary has said where everything ends."""
    if quorum.needed(record) <= 1:
        return False
    release, view = usable_release(state, record), state.local.view
    if release is None or release.target != state.me or release.position is None or view is None:
        return True
    behind = bytes_behind(view.position, release.position)
    return behind is None or behind > 0


def _is_claiming(state: State, record: Record) -> bool:
    """The keeper promises nothing any more, so what was answered stands."""
    return state.keeper is not None and state.keeper.claim == record.version


def _still_holds(state: State, asking: Asking, record: Record) -> bool:
    if asking.version != record.version or state.keeper is None:
        return False
    if _is_claiming(state, record) or asking.no_promise_after is None:
        return True
    return asking.no_promise_after == state.keeper.promised_until


def answered_by(state: State, record: Record) -> dict[NodeName, Position]:
    """Where the data of those ends who have answered, ourselves among them.

    Whichever life their keepers are in: a host that came back has the data that it had.
    """
    asking, view = state.asking, state.local.view
    if asking is None or asking.version != record.version:
        return {}
    found: dict[NodeName, Position] = {}
    if view is not None and state.local.viewed_at >= asking.since and not electing.why_not_whole(state, record):
        found[state.me] = view.position
    for pair in record.succession:
        peer = state.heard(pair.name)
        said = peer.statement if peer is not None else None
        if pair.name != state.me and said is not None and said.position is not None and _has_answered(said, asking):
            found[pair.name] = said.position
    return found


def _has_answered(said: Statement, asking: Asking) -> bool:
    return asking.token in said.answers


def missing(state: State, record: Record) -> str:
    """Why the answers do not show yet that everything acknowledged is here; empty when they do."""
    if not is_needed(state, record):
        return ""
    answered, view = answered_by(state, record), state.local.view
    number = quorum.needed(record)
    if state.me not in answered or view is None:
        return "the members are asked where their data ends"
    if len(answered) < number:
        silent = ", ".join(pair.name for pair in record.succession if pair.name not in answered)
        return (
            f"a commit may be on {quorum.promised(record).enough} of {len(record.succession)} standbys alone, so {number} of "
            f"them must say where their data ends; {silent} did not"
        )
    for name, position in sorted(answered.items()):
        behind = bytes_behind(view.position, position)
        if behind is None:
            return f"the data here cannot be compared with that of {name}"
        if behind > 0:
            return f"{name} has {behind} bytes more"
    return ""


def waited_until(state: State, record: Record) -> Instant | None:
    """Until when answers are waited for before a person is asked; None while there is no question."""
    asking = state.asking
    return asking.since + record.lease if asking is not None and asking.version == record.version else None
