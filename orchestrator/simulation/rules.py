"""The protocol's rules, each with a switch: what becomes of the promises without it?

`tanist simulate --without RULE` runs with one rule off; the checkers must then find a broken promise. A rule is switched
off by putting something else in the place of the one small function that is the rule, so production code has no switches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.coordination.memory import Store
from orchestrator.domain import events
from orchestrator.domain.observations import Hold, Release
from orchestrator.domain.record import Record
from orchestrator.domain.spans import FOREVER, NEVER, Instant, Span, held_until
from orchestrator.domain.topology import Pair
from orchestrator.engine import absorb, asking, diagnosing, gates, quorum, replicas, serving, starting, writes
from orchestrator.keeper import core, memory
from orchestrator.keeper.clocks import ClockWatch
from orchestrator.keeper.core import Core, Peer
from orchestrator.simulation.daemons import Daemon
from orchestrator.simulation.hosts import Host, Keeper
from probes.interconnected.wire import Section


@dataclass(frozen=True, slots=True)
class Instead:
    """Put `stand_in` where `owner.name` is."""

    owner: Any
    name: str
    stand_in: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    name: str
    number: str
    """The rule's number in section 5 of the design."""
    says: str
    off: tuple[Instead, ...]
    shown_by: str = ""
    """The directed schedule that fails soonest without the rule; empty: random trouble does."""
    seen_at: int | None = None
    """A schedule that failed without it once, worth trying first: a search for one takes a minute."""
    unshown: str = ""
    """Why no schedule fails without it, and why it stays all the same."""
    gate: bool | None = None
    """Whether the kernel gate must be there, or absent, for this rule to be the one that matters."""
    synchronous: bool | None = None
    """Whether replication must be synchronous, or not, for this rule to matter."""
    quorum: bool = False
    """The rule matters under a quorum: one of two standbys or more."""


@contextmanager
def without(rule: Rule) -> Iterator[None]:
    """The rule is off inside."""
    before = [
        (
            each.owner,
            each.name,
            each.owner.__dict__[each.name] if isinstance(each.owner, type) else getattr(each.owner, each.name),
        )
        for each in rule.off
    ]
    for each in rule.off:
        setattr(each.owner, each.name, each.stand_in)
    try:
        yield
    finally:
        for owner, name, original in before:
            setattr(owner, name, original)


# --- what stands in for a rule that is off ---------------------------------------------------------------------------


def _waits_for_the_next_alone(state: Any, record: Record, wanted: tuple[Pair, ...]) -> quorum.Kept:
    """Commits wait at once as the next record will have it, whatever the present one still says."""
    return quorum.kept(wanted, quorum.wished(state.policy, len(wanted)))


def _all_have_all(turn: Any, pairs: tuple[Pair, ...]) -> frozenset[str]:
    return frozenset(pair.name for pair in pairs)


def _release_of_any_version(self: Core, version: int) -> Release | None:
    primary = self.memory.primary
    peer = self.peers.get(primary.name) if primary else None
    return peer.release if peer is not None else None


def _released_in_any_version(state: Any, record: Record) -> Release | None:
    peer = state.peer(record.primary.name)
    return peer.release if peer is not None else None


def _same_life_again(life: int, now: Instant, lease: Span, epoch: int) -> memory.Memory:
    return memory.Memory(life=1, began_at=now, lease=lease, wait_lease=lease, epoch=epoch)


def _count_from_receipt(self: Core, peer: Peer, section: Section, now: Instant) -> None:
    if section.granted and section.epoch == self.memory.right_epoch:
        peer.granted_until = held_until(now, self.memory.lease)
        for counted in self.memory.counted:
            if counted.pair == Pair(peer.name, section.life):
                counted.until = max(counted.until, held_until(now, self.memory.lease))


def _right_by_name(self: Core, now: Instant) -> bool:
    primary = self.memory.primary
    if primary is None or primary.name != self.me:
        return False
    self.memory.right_epoch = max(self.memory.right_epoch, self.memory.epoch)
    return self.memory.release is None


def _right_by_any_promise(self: Core, now: Instant) -> Instant:
    if not self._may_have_right(now):
        return NEVER
    promised = max((counted.until for counted in self.memory.counted), default=FOREVER)
    return max(promised, self.memory.write_until)


def _right_without_the_silent(self: Core, now: Instant) -> Instant:
    if not self._may_have_right(now):
        return NEVER
    heard = [each.until for each in self.memory.counted if not self.peers[each.pair.name].silent]
    return max(min(heard, default=FOREVER), self.memory.write_until)


def _wrote_counts_from_now(original: Callable[..., None]) -> Callable[..., None]:
    def wrote(self: Core, record: Record, began_at: Instant, now: Instant) -> None:
        original(self, record, now, now)

    return wrote


def _unknown_is_applied(original: Callable[..., Any]) -> Callable[..., Any]:
    def absorb_write(state: Any, event: events.RecordWritten) -> Any:
        if event.outcome is events.WriteOutcome.UNKNOWN:
            from dataclasses import replace

            event = replace(event, outcome=events.WriteOutcome.APPLIED)
        return original(state, event)

    return absorb_write


def _claim_goes_on_promising(self: Core, version: int, no_promise_after: Instant | None, now: Instant) -> core.Answer:
    memory_ = self.memory
    if memory_.version > version or memory_.hold is not Hold.NONE or self._promise_runs(now):
        return core.Declined("claim", "not now")
    memory_.claim = version
    return core.ClaimBegun(version)


def _promise_although_claiming(self: Core, peer: Peer, section: Section, now: Instant) -> bool:
    claim, self.memory.claim = self.memory.claim, None
    try:
        return _PROMISE(self, peer, section, now)
    finally:
        self.memory.claim = claim


def _claim_in_spite_of_promise(self: Core, version: int, no_promise_after: Instant | None, now: Instant) -> core.Answer:
    if self.memory.version > version or self.memory.hold is not Hold.NONE:
        return core.Declined("claim", "not now")
    self.memory.promised_to, self.memory.promised_until = None, NEVER
    self.memory.claim = version
    return core.ClaimBegun(version)


def _set_whatever_stands(original: Callable[..., bool]) -> Callable[..., bool]:
    def set_record(self: Store, group: str, record: Record, expected: int | None, *rest: Any) -> bool:
        kept = self.read(group).record
        return original(self, group, record, kept.version if kept is not None else None, *rest)

    return set_record


def _thaw_at_once(self: Core, now: Instant) -> bool:
    return self.memory.frozen_since is not None and self.stopped and not self.killing


def _right_in_spite_of_release(self: Core, now: Instant) -> bool:
    release, self.memory.release = self.memory.release, None
    try:
        return _MAY_HAVE_RIGHT(self, now)
    finally:
        self.memory.release = release


def _kill_after_thawing(self: Keeper) -> None:
    self.host.thaw_service()
    self.world.after(0.01, lambda: _KILLED(self))


def _right_in_spite_of_promise(self: Core, now: Instant) -> bool:
    until, self.memory.promised_until = self.memory.promised_until, NEVER
    try:
        return _MAY_HAVE_RIGHT(self, now)
    finally:
        self.memory.promised_until = until


def _never_close(self: Host, until: Instant) -> None:
    self.gate_until = FOREVER


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _always(*_: Any, **__: Any) -> bool:
    return True


def _green(state: Any, record: Record) -> None:
    return None


def _not(*_: Any, **__: Any) -> bool:
    return False


_PROMISE = Core._promise
_MAY_HAVE_RIGHT = Core._may_have_right
_KILLED = Keeper._killed


def _ask_although_frozen(self: Core) -> bool:
    return self.memory.hold is not Hold.NONE and self.memory.written and not self.memory.superseded


def _ask_in_any_state(self: Core) -> bool:
    return self.memory.written and self.memory.primary == Pair(self.me, self.memory.life)


def _right_by_record(turn: Any, keeper: Any, record: Record) -> bool:
    return bool(keeper.right_until > turn.now)


def _hide_release(original: Callable[..., Any]) -> Callable[..., Any]:
    def view(self: Core) -> Any:
        from dataclasses import replace

        return replace(original(self), release=None)

    return view


def _plain(began_at: Instant, lease: Span) -> Instant:
    return began_at + lease


RULES: Final[tuple[Rule, ...]] = (
    Rule(
        name="release-version",
        number="1, 20",
        says="a release is usable only for a claim on exactly its version",
        shown_by="regained after release",
        off=(
            Instead(Core, "_usable_release", _release_of_any_version),
            Instead(diagnosing, "released", _released_in_any_version),
        ),
    ),
    Rule(
        name="lives",
        number="4, 7",
        says="a keeper that lost its memory is another life, which counts as having promised at its start",
        shown_by="lost page",
        off=(Instead(memory, "begin_life", _same_life_again),),
    ),
    Rule(
        name="write-of-this-life",
        number="6",
        says="a node that finds itself primary by record has no right until a write of this life succeeds",
        shown_by="rebooted with an old record",
        off=(
            Instead(Core, "_may_have_right", _right_by_name),
            Instead(starting, "_right_is_back", _right_by_record),
        ),
    ),
    Rule(
        name="all-promises",
        number="8",
        says="the right needs every counted member's promise, not one of them",
        shown_by="one standby apart",
        off=(Instead(Core, "_right", _right_by_any_promise),),
    ),
    Rule(
        name="promise-from-sending",
        number="8",
        says="a promise counts from the sending of the beat it answers",
        shown_by="late answers",
        off=(Instead(Core, "_count_promise", _count_from_receipt),),
    ),
    Rule(
        name="write-from-beginning",
        number="8",
        says="a write counts from before it was handed to the library",
        shown_by="late replies",
        off=(Instead(Core, "_wrote", _wrote_counts_from_now(Core._wrote)),),
    ),
    Rule(
        name="counted-before-written",
        number="9",
        says="a member is counted before the write that adds it",
        shown_by="added without an answer",
        off=(Instead(serving, "_uncounted", lambda new, keeper: ()),),
    ),
    Rule(
        name="dropped-after-confirmed",
        number="9",
        says="a silent member is counted until the write that drops it is confirmed",
        shown_by="late replies",
        off=(Instead(Core, "_right", _right_without_the_silent),),
    ),
    Rule(
        name="unknown-is-pending",
        seen_at=25,
        number="10",
        says="a write without an answer is pending, not applied",
        off=(Instead(absorb, "_absorb_write", _unknown_is_applied(absorb._absorb_write)),),
    ),
    Rule(
        name="claim-stops-promising",
        number="11",
        says="a member that claims promises nothing until a newer version decides it; what is frozen asks for nothing; "
        "no right while an own promise runs (any one of the three is enough)",
        shown_by="claim in the post",
        off=(
            Instead(Core, "_promise", _promise_although_claiming),
            Instead(Core, "_asking", _ask_although_frozen),
            Instead(Core, "_may_have_right", _right_in_spite_of_promise),
        ),
    ),
    Rule(
        name="own-promise-first",
        number="11",
        says="a claim waits until the own promise has run out",
        off=(
            Instead(Core, "_begin_claim", _claim_in_spite_of_promise),
            Instead(gates, "TAKEOVER", tuple(gate for gate in gates.TAKEOVER if gate[0] != "promise over")),
            Instead(gates, "promise_over", _green),
        ),
    ),
    Rule(
        name="full-lease-first",
        seen_at=230,
        number="12",
        says="a claim waits a full lease since the record's version was first seen",
        off=(
            Instead(gates, "TAKEOVER", tuple(gate for gate in gates.TAKEOVER if gate[0] != "lease over")),
            Instead(gates, "lease_over", _green),
        ),
    ),
    Rule(
        name="exact-version",
        number="12",
        says="a claim succeeds on exactly the version that was waited for",
        off=(Instead(Store, "set_record", _set_whatever_stands(Store.set_record)),),
    ),
    Rule(
        name="frozen-in-time",
        seen_at=7,
        number="14",
        says="the service is frozen before the right ends, by keeper or daemon",
        off=(Instead(Core, "_enforce_end", _nothing), Instead(Daemon, "guard", _nothing)),
        gate=False,
    ),
    Rule(
        name="daemon-guards",
        number="14",
        says="the daemon freezes the service when the keeper does not",
        off=(Instead(Daemon, "guard", _nothing),),
        gate=False,
    ),
    Rule(
        name="gate-closes",
        number="15",
        says="the kernel gate closes by itself when neither process runs",
        off=(Instead(Host, "set_gate", _never_close),),
        gate=True,
    ),
    Rule(
        name="thawed-only-with-right",
        number="16",
        says="a frozen service goes on only with a fresh right and two budgets left",
        off=(Instead(Core, "_may_thaw", _thaw_at_once),),
        gate=False,
    ),
    Rule(
        name="harmless-before-release",
        number="17",
        says="the right is released only when nothing here can commit",
        unshown="the engine gives up only what it has seen demoted or gone, and a frozen service is given up a lease after its "
        "right ended; it stays because the keeper must not rest on the daemon's word for what it can see itself",
        off=(Instead(Core, "_harmless", _always),),
    ),
    Rule(
        name="released-is-released",
        number="18",
        says="from a release on no right exists until a later write succeeds",
        shown_by="late switchover",
        off=(
            Instead(Core, "_may_have_right", _right_in_spite_of_release),
            Instead(Core, "view", _hide_release(Core.view)),
        ),
    ),
    Rule(
        name="write-sent-after-release",
        number="18",
        says="only a write sent after the release ends it",
        unshown="the daemon tells its keeper of an own write before anything that could move the release to the new version, so "
        "no schedule was found in which this rule is the last defence; it stays for daemons that restart in between",
        off=(Instead(Core, "_ends_release", _always),),
    ),
    Rule(
        name="killed-not-thawed",
        number="22",
        says="a superseded service is killed while frozen, never thawed first",
        off=(Instead(Keeper, "_killed", _kill_after_thawing),),
        gate=False,
    ),
    Rule(
        name="never-older",
        number="23",
        says="a record older than one seen or heard is not acted upon",
        shown_by="restored mediator",
        off=(
            Instead(absorb, "_is_older", _not),
            Instead(Core, "_is_older", _not),
            Instead(writes, "is_behind", _not),
            Instead(starting, "_better_data_elsewhere", lambda state, record: ""),
        ),
    ),
    Rule(
        name="dead-do-not-ask",
        number="25",
        says="promises are asked for only while the service lives",
        shown_by="frozen daemon, dead service",
        off=(Instead(Core, "_asking", _ask_in_any_state),),
    ),
    Rule(
        name="lease-shares",
        number="2",
        says="holders count 0.99 of a lease, everybody else 1.01",
        shown_by="clocks apart",
        off=(
            Instead(core, "held_until", _plain),
            Instead(core, "waited_until", _plain),
            Instead(gates, "waited_until", _plain),
        ),
    ),
    Rule(
        name="clock-watched",
        number="5",
        says="a clock that stood still voids right and promises",
        shown_by="stopped clock",
        off=(Instead(ClockWatch, "stood_still", _not),),
    ),
    Rule(
        name="covered-before-counted",
        number="9",
        says="a newcomer is waited for by every write before it may take over (implied by the next rule, so both are off)",
        shown_by="back, and needed at once",
        off=(Instead(replicas, "cover", _always), Instead(replicas, "_having_all", _all_have_all)),
        synchronous=True,
    ),
    Rule(
        name="has-all-before-counted",
        number="9",
        says="a newcomer has what was acknowledged without it before it may take over",
        shown_by="back, and needed at once",
        off=(Instead(replicas, "_having_all", _all_have_all),),
        synchronous=True,
    ),
    Rule(
        name="covered-before-opened",
        number="9",
        says="a new primary waits for its standbys from its first write on",
        shown_by="twice in a row",
        off=(Instead(replicas, "ready_to_open", _always),),
        synchronous=True,
    ),
    Rule(
        name="uncovered-last",
        number="9",
        says="a member that is dropped is waited for until no record lists it",
        shown_by="dropped, not written",
        off=(Instead(replicas, "_waits_for", _waits_for_the_next_alone),),
        synchronous=True,
    ),
    Rule(
        name="quorum-heard",
        seen_at=25,
        number="decision 0011",
        says="under a quorum a claim needs the positions of so many that one of them has each acknowledged commit",
        off=(Instead(quorum, "needed", lambda record: 1),),
        quorum=True,
    ),
    Rule(
        name="asked-after-the-right",
        seen_at=63,
        number="decision 0011",
        says="a position counts that was looked at after the right had ended, not before",
        off=(Instead(asking, "_has_answered", _always),),
        quorum=True,
    ),
    Rule(
        name="no-promise-since-asked",
        number="decision 0011",
        says="a claim rests on answers only if no promise was given since the question; what is frozen asks for nothing "
        "(either is enough)",
        shown_by="answered long ago",
        off=(
            Instead(Core, "_has_promised_since", _not),
            Instead(asking, "_still_holds", _always),
            Instead(Core, "_asking", _ask_although_frozen),
        ),
        quorum=True,
    ),
    Rule(
        name="next-have-everything",
        number="decision 0011",
        says="a claim under a quorum leaves only those listed that have all that the claimant has",
        shown_by="one behind, and twice",
        off=(Instead(writes, "_has_all", _always),),
        quorum=True,
    ),
    Rule(
        name="quorum-seen-first",
        number="decision 0011",
        says="the record says what every commit waits for already, and what earlier ones are seen to have",
        shown_by="dropped, and alone with it",
        off=(Instead(replicas, "_is_seen", _always),),
        quorum=True,
    ),
    Rule(
        name="quorum-of-both",
        number="decision 0011",
        says="while a change of the succession is undecided, commits wait for what either record promises",
        shown_by="listed without an answer",
        off=(Instead(replicas, "_waits_for", _waits_for_the_next_alone),),
        quorum=True,
    ),
)

BY_NAME: Final = {rule.name: rule for rule in RULES}

__all__ = ["BY_NAME", "RULES", "Rule", "without"]
