"""What a person may say, as changes of the control. Pure: daemon, CLI, page and simulator all say it through here.

Each function returns the control to be written over the version it was read at, or raises `Void` with the reason why the
word does not apply. So a word is given once, for exactly the situation that was shown (P8).
"""

from dataclasses import replace

from orchestrator.domain.record import FAILBACK, Control, Pause, Record, Request, RequestKind
from orchestrator.domain.spans import Span, WallTime
from orchestrator.domain.topology import Group, NodeName

REQUEST_HOLDS: Span = 60.0
"""A request that could not be carried out within this time is void: nobody wants a switchover an hour late."""


class Void(ValueError):
    """The word does not apply; says why."""


def _named(by: str) -> str:
    if not by.strip():
        raise Void("a person's name is needed: --by NAME")
    return by.strip()


def pause(control: Control, by: str, reason: str, wall: WallTime) -> Control:
    if control.paused is not None:
        raise Void(f"paused already, by {control.paused.by}")
    return replace(control, paused=Pause(by=_named(by), at_wall=wall, reason=reason))


def resume(control: Control, by: str) -> Control:
    _named(by)
    if control.paused is None:
        raise Void("not paused")
    return replace(control, paused=None)


def approve(control: Control, record: Record, proposal_id: str, epoch: int, by: str, wall: WallTime) -> Control:
    """Turn the open proposal into a request. Counts once: the proposal is gone afterwards."""
    proposal = control.proposal
    if proposal is None:
        raise Void(f"there is no open proposal {proposal_id}: it was answered already, or its situation is over")
    if proposal.id != proposal_id:
        raise Void(f"proposal {proposal_id} is void; the open one is {proposal.id}")
    if epoch != proposal.epoch or record.epoch != proposal.epoch:
        raise Void(f"proposal {proposal_id} was for epoch {proposal.epoch}, the group is in epoch {record.epoch}")
    if wall >= proposal.expires_wall:
        raise Void(f"proposal {proposal_id} has expired")
    back = proposal.diagnosis == FAILBACK  # nobody has failed: what was approved is an ordinary switchover
    request = Request(
        id=f"{proposal.id}-{control.version}",
        kind=RequestKind.SWITCHOVER if back else RequestKind.FAILOVER,
        epoch=proposal.epoch,
        target=proposal.candidate,
        by=_named(by),
        at_wall=wall,
        expires_wall=wall + REQUEST_HOLDS,
        proposal=None if back else proposal.id,
    )
    return replace(control, proposal=None, request=request)


def reject(control: Control, proposal_id: str, by: str, wall: WallTime) -> Control:
    _named(by)
    if control.proposal is None or control.proposal.id != proposal_id:
        raise Void(f"there is no open proposal {proposal_id}")
    return replace(control, proposal=None, rejected=proposal_id, rejected_wall=wall)


def ask(
    control: Control,
    record: Record | None,
    group: Group,
    kind: RequestKind,
    target: NodeName | None,
    by: str,
    wall: WallTime,
) -> Control:
    """Ask for a switchover (nothing may be lost) or a failover (the primary is given up)."""
    if record is None:
        raise Void(f"{group.name} has no record yet: it has never had a primary")
    if target is not None:
        _check_target(record, group, target)
    request = control.request
    if request is not None and request.epoch == record.epoch and wall < request.expires_wall:
        raise Void(f"{request.by} asked for a {request.kind} already")
    asked = Request(
        id=f"{kind}-{record.epoch}-{control.version}",
        kind=kind,
        epoch=record.epoch,
        target=target,
        by=_named(by),
        at_wall=wall,
        expires_wall=wall + REQUEST_HOLDS,
    )
    return replace(control, proposal=None, request=asked)


def _check_target(record: Record, group: Group, target: NodeName) -> None:
    member = group.member(target)
    if member is None:
        raise Void(f"{target!r} is no member of {group.name}; its members are {', '.join(group.member_names)}")
    if record.primary.name == target:
        raise Void(f"{target} is the primary already")
    if record.life_in_succession(target) is None:
        ready = ", ".join(pair.name for pair in record.succession) or "nobody"
        raise Void(f"{target} is not in the succession of epoch {record.epoch}; ready to take over: {ready}")
