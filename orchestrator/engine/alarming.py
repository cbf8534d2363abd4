"""What is wrong with the service here is told to the history once it lasts, whether or not policy acts upon it."""

from orchestrator.domain.effects import NoticeKind
from orchestrator.domain.spans import in_words
from orchestrator.engine.turn import Turn


def alarm(turn: Turn) -> None:
    """A condition is told after the time that makes a service unresponsive, and its end is told too."""
    state = turn.state
    local, told = state.local, state.alarmed
    finding = local.finding
    if finding is None:
        if told is not None:
            turn.change(alarmed=None)
            turn.notice(NoticeKind.EVENT, f"{told.code} is over", f"{state.me}: over: {told}")
        return
    if finding.continues(told):
        return
    due = local.found_since + state.policy.timing.unresponsive.after
    turn.wake(due)
    if turn.now >= due:
        turn.change(alarmed=finding)
        lasts = in_words(turn.now - local.found_since)
        turn.notice(NoticeKind.ALARM, finding.code, f"{state.me}: {finding}, for {lasts}")
