"""A daemon's node without a daemon: one group's real runner over a mediator in memory, and nothing that runs by itself."""

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from prometheus_client import CollectorRegistry
from scenarios import GROUP, control, peer, peers_of, record, serving

from orchestrator.api.access import Door
from orchestrator.api.app import Api
from orchestrator.coordination.memory import MemoryMediator, Store
from orchestrator.daemon.clock import now
from orchestrator.daemon.journal import Journal
from orchestrator.daemon.meters import Meters, MeterSet
from orchestrator.daemon.runner import GroupRunner, Seams
from orchestrator.domain.effects import Notice, NoticeKind
from orchestrator.domain.observations import PathView
from orchestrator.domain.record import Control, Snapshot
from orchestrator.engine.state import State
from orchestrator.keeper.talk import Count, Tally

PATH = "10.0.0.1:7400"
TALLY = Tally(
    at=0.0,
    counts=(
        *(Count(name=f"beats_{name}", label=f"db2|{PATH}", value=90.0) for name in ("sent", "heard", "lost", "unsendable")),
        Count(name="beats_refused", label="old number", value=2.0),
        Count(name="line_up", label="db2|serial:///dev/ttyS0", value=1.0),
        Count(name="freezes", label="orders", value=1.0),
        Count(name="last_freeze_seconds", label="orders", value=0.002),
        Count(name="longest_delay_seconds", label="orders", value=0.004),
        Count(name="freeze_budget_seconds", label="orders", value=0.02),
    ),
    remarks=("no real-time priority: not permitted",),
)


@dataclass
class StubKeeper:
    connected: bool = True
    starts: int = 1
    tally: Tally | None = TALLY
    orders: list[Any] = field(default_factory=list)

    def order(self, group: str, command: Any) -> None:
        self.orders.append(command)


class StubDisk:
    """Writes at once."""

    def put(self, act: Any) -> None:
        act()

    put_at_leisure = put


class StubNode:
    """The node db1, which serves the group `orders` in epoch 3."""

    def __init__(self, directory: Path, state: State | None = None) -> None:
        self.store = Store()
        self.mediator = MemoryMediator(self.store)
        self.journal = Journal(directory / "orders")
        self.keeper = StubKeeper()
        self.registry = CollectorRegistry()
        self.until = now() + 3600.0
        self.broken: list[BaseException] = []
        self.warm = False
        self.runner = GroupRunner(state or well(), self._seams(directory), Meters(MeterSet(self.registry), "orders"))
        self.say(control())

    def _seams(self, directory: Path) -> Seams:
        return Seams(
            mediator=self.mediator,
            keeper=self.keeper,
            journal=self.journal,
            disk=StubDisk(),
            history_path=directory / "history.json",
            right_until=lambda: self.until,
            service=None,
            clients=(),
            log=lambda text: None,
            broken=self.broken.append,
        )

    @property
    def node(self) -> Any:
        return SimpleNamespace(
            name="db1",
            cluster="shop",
            started_at=now() - 60.0,
            mediator=self.mediator,
            keeper=self.keeper,
            registry=self.registry,
            groups={"orders": self.runner},
            setup=SimpleNamespace(groups=(SimpleNamespace(name="orders", warm=self.warm),)),
        )

    def api(self, *, acts_allowed: bool = True) -> "Asked":
        return Asked(Api(self.node, Door(local=acts_allowed)).app())

    # --- what the group is told --------------------------------------------------------------------------------------

    def change(self, **changes: Any) -> None:
        self.runner.state = replace(self.runner.state, **changes)

    def say(self, said: Control) -> None:
        """Stands at the mediator, and the daemon has read it."""
        self.store.restore(Snapshot(group="orders", record=record(), control=said))
        self.change(mediated=replace(self.runner.state.mediated, control=said))

    @property
    def said(self) -> Control:
        """What stands at the mediator."""
        return self.store.read("orders").control

    def tell(self, text: str, kind: NoticeKind = NoticeKind.DECISION, evidence: tuple[str, ...] = ()) -> None:
        notice = Notice(kind=kind, code="test", text=text, epoch=3, evidence=evidence)
        self.journal.keep(self.journal.entry(notice, 1_700_000_000.25, "db1"))
        self.runner.meters.saw_notice(notice)


def well(**changes: Any) -> State:
    """The primary db1; db2 is heard on one path, db3 lags by 20 bytes."""
    heard = PathView(path=PATH, heard_at=now(), lost=0.25, round_trip=0.0004)
    known = serving()
    assert known.keeper is not None
    peers = peers_of("db1", db2=peer("db2", paths=(heard,)), db3=peer("db3", statement=lagging()))
    usual = {"keeper": replace(known.keeper, peers=peers), "group": GROUP}
    return replace(known, **{**usual, **changes})


def lagging() -> Any:
    known = peer("db3").statement
    assert known is not None and known.position is not None
    return replace(known, position=replace(known.position, offset=known.position.offset - 20))


class Asked:
    """Asks an application over HTTP, without a socket."""

    def __init__(self, app: Any) -> None:
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    def request(self, method: str, path: str, cookies: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            known = {"transport": self._transport, "base_url": "http://localhost", "cookies": cookies, "verify": False}
            async with httpx.AsyncClient(**known) as client:
                return await client.request(method, path, **more)

        return asyncio.run(ask())

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.request("POST", path, **more)
