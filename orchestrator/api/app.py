"""The API's paths. Everything is read from the engine's state; people's words go to the mediator, checked there and then."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from orchestrator.api.metrics import StateCollector
from orchestrator.daemon.node import Node
from orchestrator.daemon.report import explanation, group_report, node_report
from orchestrator.daemon.runner import GroupRunner
from orchestrator.domain.plain import to_plain
from orchestrator.domain.record import Control, Record, RequestKind
from orchestrator.domain.spans import WallTime
from orchestrator.engine import words
from orchestrator.engine.state import Phase
from orchestrator.ports import Conflict, RefusedByPeer, Unreachable

HISTORY_SHOWN: Final = 50
ADOPT: Final = "adopt"
ACTS_HERE_ONLY: Final = "acts are taken on this host's own socket only: use the tanist command on the host"


class Word(BaseModel):
    """What a person says, and who says it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    by: str
    target: str | None = None
    proposal: str | None = None
    epoch: int | None = None
    reason: str = ""


Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Api:
    node: Node
    acts_allowed: bool
    """Only on the local socket, which the file system protects."""

    def app(self) -> Starlette:
        routes = [
            Route("/v1/status", self._status),
            Route("/v1/groups/{group}", self._group),
            Route("/v1/groups/{group}/explain", self._explain),
            Route("/v1/groups/{group}/history", self._history),
            Route("/v1/groups/{group}/{act}", self._act, methods=["POST"]),
            Route("/health/{group}/{role}", self._health),
            Route("/metrics", self._metrics),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _refused, Exception: _failed})

    # --- telling -----------------------------------------------------------------------------------------------------

    def _runner(self, request: Request) -> GroupRunner:
        name = request.path_params["group"]
        runner = self.node.groups.get(name)
        if runner is None:
            known = ", ".join(self.node.groups) or "none"
            raise HTTPException(404, f"no group {name!r} on {self.node.name}; its groups: {known}")
        return runner

    async def _status(self, request: Request) -> Response:
        return JSONResponse(node_report(self.node))

    async def _group(self, request: Request) -> Response:
        return JSONResponse(group_report(self._runner(request)))

    async def _explain(self, request: Request) -> Response:
        runner = self._runner(request)
        return JSONResponse(explanation(runner, runner.recent(_count(request))))

    async def _history(self, request: Request) -> Response:
        return JSONResponse(self._runner(request).recent(_count(request)))

    async def _health(self, request: Request) -> Response:
        """For load balancers: 200 when this node has the role, 503 when not."""
        runner, role = self._runner(request), request.path_params["role"]
        if role not in ("primary", "standby"):
            raise HTTPException(404, f"role {role!r}: expected primary or standby")
        state = runner.state
        holds = state.phase is (Phase.SERVING if role == "primary" else Phase.STANDBY)
        if role == "primary" and state.keeper is not None and state.keeper.frozen_since is not None:
            holds = False
        return JSONResponse({"phase": state.phase, "epoch": state.epoch}, status_code=200 if holds else 503)

    async def _metrics(self, request: Request) -> Response:
        text = generate_latest(self.node.registry) + generate_latest(StateCollector(self.node))
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    # --- being told --------------------------------------------------------------------------------------------------

    async def _act(self, request: Request) -> Response:
        if not self.acts_allowed:
            raise HTTPException(403, ACTS_HERE_ONLY)
        runner, act = self._runner(request), request.path_params["act"]
        if act not in ACTS and act != ADOPT:
            raise HTTPException(404, f"no act {act!r}; there are {', '.join((*ACTS, ADOPT))}")
        word = await _read_word(request)
        try:
            if act == ADOPT:
                record = await runner.adopt(word.target or "", word.by, word.epoch or 0)
                return JSONResponse({"record": to_plain(record)})
            control = await runner.speak(ACTS[act](runner, word))
        except words.Void as void:
            raise HTTPException(409, str(void)) from None
        except Conflict as error:
            raise HTTPException(409, f"somebody else said something at the same moment: {error}") from None
        except (Unreachable, RefusedByPeer) as error:
            raise HTTPException(503, f"the mediator cannot be asked: {error}") from None
        return JSONResponse({"said": to_plain(control), "epoch": runner.state.epoch})


Say = Callable[[Control, Record | None, WallTime], Control]


def _ask(kind: RequestKind) -> Callable[[GroupRunner, Word], Say]:
    def make(runner: GroupRunner, word: Word) -> Say:
        return lambda control, record, wall: words.ask(control, record, runner.state.group, kind, word.target, word.by, wall)

    return make


def _confirm(runner: GroupRunner, word: Word) -> Say:
    def say(control: Control, record: Record | None, wall: WallTime) -> Control:
        if record is None:
            raise words.Void("there is no record, so nothing to confirm")
        if word.proposal is None or word.epoch is None:
            raise words.Void("say which proposal, and for which epoch")
        return words.approve(control, record, word.proposal, word.epoch, word.by, wall)

    return say


def _reject(runner: GroupRunner, word: Word) -> Say:
    return lambda control, record, wall: words.reject(control, word.proposal or "", word.by, wall)


def _pause(runner: GroupRunner, word: Word) -> Say:
    return lambda control, record, wall: words.pause(control, word.by, word.reason, wall)


def _resume(runner: GroupRunner, word: Word) -> Say:
    return lambda control, record, wall: words.resume(control, word.by)


ACTS: Final[dict[str, Callable[[GroupRunner, Word], Say]]] = {
    "switchover": _ask(RequestKind.SWITCHOVER),
    "failover": _ask(RequestKind.FAILOVER),
    "confirm": _confirm,
    "reject": _reject,
    "pause": _pause,
    "resume": _resume,
}


async def _read_word(request: Request) -> Word:
    try:
        return Word.model_validate_json(await request.body())
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'body'}: {each['msg']}" for each in error.errors())
        raise HTTPException(422, told) from None


def _count(request: Request) -> int:
    text = request.query_params.get("last", str(HISTORY_SHOWN))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise HTTPException(422, f"last: read {text[:40]!r}, expected a number")
    return int(text)


async def _failed(request: Request, error: Exception) -> Response:
    """Our own mistake: it is told, and the daemon goes on."""
    return JSONResponse({"error": f"internal error: {error!r}"}, status_code=500)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body: dict[str, Any] = {"error": error.detail}
    return JSONResponse(body, status_code=error.status_code)
