"""Small worlds for the engine's tests: a group of three members and a witness, and what each of its parts may say."""

from dataclasses import replace
from typing import Any

from orchestrator.domain import effects, events
from orchestrator.domain.observations import Health, Hold, KeeperView, PeerView, Role, ServiceView, Statement
from orchestrator.domain.policy import Policy, Timing, TimingRule
from orchestrator.domain.positions import Position
from orchestrator.domain.record import Cause, Control, Pause, Proposal, Record, Request, RequestKind, Snapshot
from orchestrator.domain.spans import NEVER
from orchestrator.domain.topology import Group, Member, Pair
from orchestrator.engine.state import Local, Mediated, Mediation, Phase, State
from orchestrator.engine.step import Step, step

GROUP = Group(
    name="orders",
    members=tuple(
        Member(name=f"db{number}", address=f"10.0.0.{number}", port=6379, preferred=number == 1) for number in (1, 2, 3)
    ),
    witnesses=("app1",),
)
LIVES = {"db1": 11, "db2": 22, "db3": 33, "app1": 44}
NOW = 1000.0
WALL = 1_700_000_000.0
LEASE = 1.0
HISTORY = "line1"


def policy(**changes: Any) -> Policy:
    timing = Timing(
        host_down=changes.pop("host_down", TimingRule(after=LEASE)),
        process_down=changes.pop("process_down", TimingRule(after=0.0)),
        unresponsive=changes.pop("unresponsive", TimingRule(after=2.0)),
        restarts_first=changes.pop("restarts_first", 0),
    )
    return Policy(lease=changes.pop("lease", LEASE), timing=timing, **changes)


def record(
    version: int = 5, epoch: int = 3, primary: str = "db1", succession: tuple[str, ...] = ("db2", "db3"), **changes: Any
) -> Record:
    known = Record(
        version=version,
        incarnation=9,
        epoch=epoch,
        primary=Pair(primary, LIVES[primary]),
        succession=tuple(Pair(name, LIVES[name]) for name in succession),
        lease=LEASE,
        nonce=1,
        cause=Cause.FAILOVER,
        reason="for the test",
        since=WALL - 3600.0,
    )
    return replace(known, **changes)


def position(offset: int = 500, history: str = HISTORY) -> Position:
    return Position(history, offset)


def service(role: Role = Role.STANDBY, offset: int = 500, **changes: Any) -> ServiceView:
    standby = {"upstream": ("10.0.0.1", 6379), "link_up": True} if role is Role.STANDBY else {}
    return ServiceView(**{"role": role, "position": position(offset), "pid": 4711, "process_started": 99, **standby, **changes})


def statement(offset: int = 500, **changes: Any) -> Statement:
    usual = {"health": Health.WELL, "role": Role.STANDBY, "position": position(offset), "electable": True, "following": "db1"}
    return Statement(**{**usual, **changes})


def primary_says(**changes: Any) -> Statement:
    usual = {"role": Role.PRIMARY, "serving_epoch": 3, "electable": False, "following": None}
    return statement(**{**usual, **changes})


def peer(name: str, **changes: Any) -> PeerView:
    return PeerView(**{"name": name, "life": LIVES[name], "statement": statement(), **changes})


def peers_of(me: str, **changes: Any) -> tuple[PeerView, ...]:
    """Everybody else, well and heard; each may be given another view, or None for nobody."""
    usual = {
        "db1": peer("db1", statement=primary_says()),
        "db2": peer("db2"),
        "db3": peer("db3"),
        "app1": peer("app1", statement=Statement(health=Health.WELL, why_not="a witness has no data")),
    }
    usual.update(changes)
    return tuple(view for name, view in usual.items() if name != me and view is not None)


def keeper(me: str = "db2", peers: tuple[PeerView, ...] | None = None, **changes: Any) -> KeeperView:
    usual = {
        "life": LIVES[me],
        "epoch": 3,
        "version": 5,
        "seen_version": 5,
        "incarnation": 9,
        "hold": Hold.NONE,
        "right_epoch": 0,
        "right_until": NEVER,
        "wants_write": False,
        "pid": 4711,
        "process_started": 99,
        "readable": True,
        "gate": "closed",
        "budget": 0.1,
        "peers": peers_of(me) if peers is None else peers,
    }
    return KeeperView(**{**usual, **changes})


def control(version: int = 4, **changes: Any) -> Control:
    return Control(**{"version": version, **changes})


PAUSE = Pause(by="ann", at_wall=WALL - 60.0, reason="maintenance")


def request(kind: RequestKind = RequestKind.FAILOVER, **changes: Any) -> Request:
    usual = {
        "id": f"{kind}-3-4",
        "kind": kind,
        "epoch": 3,
        "target": None,
        "by": "ann",
        "at_wall": WALL - 1.0,
        "expires_wall": WALL + 59.0,
    }
    return Request(**{**usual, **changes})


def proposal(**changes: Any) -> Proposal:
    usual = {
        "id": "orders-3-host_down-db2",
        "epoch": 3,
        "diagnosis": "host_down",
        "subject": "db1",
        "candidate": "db2",
        "situation": "db1 has not been heard for 2.0 s; db2 would become primary in epoch 4",
        "evidence": ("interconnected: no beat",),
        "expected_loss_bytes": 0,
        "author": "db2",
        "at_wall": WALL - 5.0,
        "expires_wall": WALL + 595.0,
    }
    return Proposal(**{**usual, **changes})


def state(me: str = "db2", **changes: Any) -> State:
    """A standby that follows the primary db1 and has seen the record for an hour."""
    known = changes.pop("record", record())
    mediated = Mediated(
        status=changes.pop("status", Mediation.PRESENT),
        record=known,
        first_seen_at=changes.pop("first_seen_at", NOW - 3600.0),
        control=changes.pop("control", control()),
        lost_since=changes.pop("lost_since", None),
        lost_because=changes.pop("lost_because", ""),
    )
    usual = {
        "me": me,
        "group": GROUP,
        "policy": policy(),
        "run": 7,
        "now": NOW,
        "wall": WALL,
        "phase": Phase.STANDBY,
        "phase_since": NOW - 3600.0,
        "began_at": NOW - 7200.0,
        "mediated": mediated,
        "keeper": keeper(me),
        "local": Local(view=service(), viewed_at=NOW - 0.1),
    }
    return State(**{**usual, **changes})


def serving(**changes: Any) -> State:
    """The primary db1, which serves epoch 3 with both standbys in its succession."""
    holding = {"hold": Hold.SERVING, "right_epoch": 3, "right_until": NOW + 0.9, "readable": False, "gate": "open"}
    usual = {
        "phase": Phase.SERVING,
        "keeper": keeper("db1", counted=record().succession, **holding),
        "local": Local(view=service(Role.PRIMARY), viewed_at=NOW - 0.1),
        "history": effects.History(record=record(), served_epoch=3),
        "policy": policy(),
    }
    return state("db1", **{**usual, **changes})


def silent(name: str = "db1", since: float = NOW - 5.0, **changes: Any) -> PeerView:
    return peer(name, silent_since=since, statement=primary_says() if name == "db1" else statement(), **changes)


def settled(version: int = 5) -> dict[str, Any]:
    """The other standby has said where its data ends."""
    return {"db3": peer("db3", statement=statement(settled=version))}


def bereaved(**changes: Any) -> State:
    """A standby whose primary has been silent for five leases, with nothing else in its way."""
    view = changes.pop("keeper", None) or keeper("db2", peers_of("db2", db1=silent(), **settled()))
    usual = {"keeper": view, "settled": (5, NOW - 4.0)}
    return state("db2", **{**usual, **changes})


class Engine:
    """One member's engine, fed by hand. Every event is fed twice, to see that a step depends on nothing else."""

    def __init__(self, begin: State) -> None:
        self.state = begin
        self.last: Step | None = None

    @property
    def now(self) -> float:
        return self.state.now

    def feed(self, event: events.Event) -> tuple[effects.Effect, ...]:
        first, again = step(self.state, event), step(self.state, event)
        assert first == again
        self.state, self.last = first.state, first
        return first.effects

    def _when(self, after: float) -> dict[str, float]:
        return {"at": self.state.now + after, "wall": self.state.wall + after}

    def tick(self, after: float = 0.0) -> tuple[effects.Effect, ...]:
        return self.feed(events.Ticked(**self._when(after)))

    def looked(self, outcome: Any, after: float = 0.0) -> tuple[effects.Effect, ...]:
        when = self._when(after)
        return self.feed(events.Looked(**when, began_at=when["at"], outcome=outcome))

    def keeper_seen(self, view: KeeperView | None, after: float = 0.0) -> tuple[effects.Effect, ...]:
        return self.feed(events.KeeperSeen(**self._when(after), view=view))

    def read(self, known: Record | None, said: Control | None = None, after: float = 0.0) -> tuple[effects.Effect, ...]:
        snapshot = Snapshot(group="orders", record=known, control=said or self.state.control)
        return self.feed(events.MediatorRead(**self._when(after), snapshot=snapshot))

    def lost(self, after: float = 0.0) -> tuple[effects.Effect, ...]:
        return self.feed(events.MediatorLost(**self._when(after), reason="no answer"))

    def written(self, write: effects.WriteRecord, outcome: events.WriteOutcome, after: float = 0.0) -> tuple[effects.Effect, ...]:
        when = self._when(after)
        return self.feed(events.RecordWritten(**when, began_at=when["at"] - after, write=write, outcome=outcome))

    def done(self, effect: effects.Effect, after: float = 0.0) -> tuple[effects.Effect, ...]:
        return self.feed(events.EffectDone(**self._when(after), effect=effect))

    def failed(self, effect: effects.Effect, reason: str = "it refused", after: float = 0.0) -> tuple[effects.Effect, ...]:
        return self.feed(events.EffectFailed(**self._when(after), effect=effect, reason=reason))


def of(found: tuple[effects.Effect, ...], kind: type) -> list[Any]:
    return [each for each in found if isinstance(each, kind)]


def told(found: tuple[effects.Effect, ...], kind: type) -> list[Any]:
    """Commands to the keeper of this kind."""
    return [each.command for each in of(found, effects.TellKeeper) if isinstance(each.command, kind)]


def notices(found: tuple[effects.Effect, ...]) -> list[str]:
    return [each.text for each in of(found, effects.Notice)]
