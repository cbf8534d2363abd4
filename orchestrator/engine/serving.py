"""Phase SERVING: hold the right, keep the succession true, notice the own service's failure, hear people."""

from dataclasses import replace

from orchestrator.domain import commands
from orchestrator.domain.effects import NoticeKind, TellKeeper
from orchestrator.domain.observations import Hold, KeeperView, Role
from orchestrator.domain.record import Record
from orchestrator.domain.spans import Span, in_words
from orchestrator.domain.topology import Pair
from orchestrator.domain.verdicts import Permission
from orchestrator.engine import electing, failing_back, gates, people, quorum, replicas, succession, writes
from orchestrator.engine.handing_over import begin_handover
from orchestrator.engine.state import Phase, State
from orchestrator.engine.turn import Turn

PREPARE_AGAIN: Span = 0.05
KILL_AGAIN: Span = 1.0


def serving(turn: Turn) -> None:
    state = turn.state
    record = state.record
    if record is None:
        return
    if record.primary.name != state.me or state.epoch > record.epoch:
        _lose_office(turn, record)
        return
    if state.keeper is None:
        turn.refuse("renew", "keeper", "there is no keeper; the daemon guards the service alone")
        return
    turn.allow("renew")
    if _replaced_behind_our_back(turn) or _own_failure(turn, record):
        return
    _write_what_is_due(turn, record)
    _hear_people(turn, record)


def _lose_office(turn: Turn, record: Record) -> None:
    """Somebody else holds a newer epoch: the keeper kills what runs here, and we follow."""
    if record.primary.name != turn.state.me:
        turn.enter(Phase.JOINING, f"{record.primary.name} is primary in epoch {record.epoch}")


def _replaced_behind_our_back(turn: Turn) -> bool:
    """Another process answers than the one that was serving, or it is no primary any more: its data must be compared first."""
    state = turn.state
    view, keeper = state.local.view, state.keeper
    assert keeper is not None
    if keeper.hold is not Hold.NONE or view is None:
        return False
    replaced = keeper.main_exited or keeper.stranger or electing.is_another_run(state, view)
    if not replaced and view.role is Role.PRIMARY:
        return False  # a new keeper, about to be told of the service
    turn.enter(Phase.STARTING, "the service was restarted or demoted behind our back: comparing its data first")
    return True


def _own_failure(turn: Turn, record: Record) -> bool:
    """The service here has failed: restart it, give the role away, or wait for a person, as policy says."""
    state = turn.state
    verdict = state.verdict
    dead = state.local.gone_since is not None
    if dead and state.local.restarts < state.policy.timing.restarts_first:
        return _restart_in_place(turn)
    if verdict is None or not verdict.is_failure:
        turn.allow("let go")
        return False
    if not verdict.is_certain(turn.now):
        turn.wake(verdict.certain_at)
        return False
    if (reason := _why_not_let_go(turn, record)) is None:
        turn.allow("let go")
        turn.enter(Phase.LETTING_GO, f"{verdict.sentence}: giving the role away", verdict.evidence)
        return True
    turn.refuse("let go", *reason)
    if dead and (reason[0] == "candidate" or _was_told_to_stay(state, record)):
        return _restart_in_place(turn)
    return dead


def _why_not_let_go(turn: Turn, record: Record) -> tuple[str, str] | None:
    state = turn.state
    if state.control.paused is not None and gates.standing_request(state) is None:
        return "not paused", f"paused by {state.control.paused.by}"
    choice = electing.candidate(state, record)
    if choice.name is None:
        why = "; ".join(choice.passed_over) or "the succession is empty"
        return "candidate", f"nobody could take over: {why}"
    answer = gates.may_act(state)
    if answer is Permission.GO:
        return None
    until = gates.not_cooled_down(state)
    if until is not None:
        turn.wake(until)
        return "cool-down", f"cool-down after the last failover for another {in_words(until - turn.now)}"
    return "permitted", gates.left_to_a_person(state, f"{choice.name} would have been let take over")


def _was_told_to_stay(state: State, record: Record) -> bool:
    """A person has rejected the proposal to replace us in this epoch."""
    rejected = state.control.rejected
    return rejected is not None and rejected.startswith(f"{state.group.name}-{record.epoch}-")


def _restart_in_place(turn: Turn) -> bool:
    """Nothing of it may be left; `starting` starts it as a standby of nobody, compares its data, and only then lets it serve."""
    local, keeper = turn.state.local, turn.state.keeper
    if keeper is not None and keeper.hold is not Hold.NONE:
        turn.want(TellKeeper(commands.KillService()), again_every=KILL_AGAIN)
        return True
    turn.change(local=replace(local, restarts=local.restarts + 1))
    turn.enter(Phase.STARTING, f"the service's process is gone: starting it again in place, attempt {local.restarts + 1}")
    return True


def _write_what_is_due(turn: Turn, record: Record) -> None:
    """One write carries all that is due: the renewal, and every change of the succession that the keeper counts already."""
    state = turn.state
    keeper = state.keeper
    assert keeper is not None
    wanted = succession.wanted(state, record)
    pairs = replicas.writable(turn, record, wanted.pairs)
    new = tuple(pair for pair in pairs or () if pair not in record.succession)
    uncounted = _uncounted(new, keeper)
    lease = state.policy.lease
    if uncounted or lease < record.lease:
        turn.want(TellKeeper(commands.Prepare(new, min(lease, record.lease))), again_every=PREPARE_AGAIN)
    if pairs is not None and uncounted:
        pairs = tuple(pair for pair in pairs if pair not in uncounted)
        pairs = pairs if replicas.follows(state, record, pairs) else None
    next_ = replace(record, succession=record.succession if pairs is None else pairs, lease=lease)
    if pairs is not None:
        next_ = replace(next_, quorum=quorum.wished(state.policy, len(pairs)))
    changes = succession.made(wanted, record, (*next_.succession, *uncounted))
    if next_.quorum != record.quorum:
        changes += (f"every commit is on at least {next_.quorum} of the succession",)
    renew = writes.renew_due(turn)
    if next_ == record and not renew:
        if not changes:
            turn.change(announced=())
        return
    paced = turn.state.last_write_at + record.lease / 3
    if state.now < paced and not renew:
        turn.wake(paced)
        return
    if not writes.may_write(turn):
        return
    for change in changes:
        if change not in state.announced:
            turn.notice(NoticeKind.DECISION, "succession", change)
    turn.change(announced=changes)
    primary = Pair(state.me, keeper.life)
    writes.send(turn, writes.next_record(turn, primary=primary, succession=next_.succession, quorum=next_.quorum, lease=lease))


def _uncounted(new: tuple[Pair, ...], keeper: KeeperView) -> tuple[Pair, ...]:
    """Rule 9: counted, then written."""
    return tuple(pair for pair in new if pair not in keeper.counted)


def _hear_people(turn: Turn, record: Record) -> None:
    people.tidy(turn, record)
    request = gates.standing_request(turn.state)
    if request is None or request.proposal is not None:
        turn.allow("switchover")
        failing_back.consider(turn, record)
        return
    turn.change(preferred_fit_since=None)  # should it fail, the time begins anew
    begin_handover(turn, record, request)
