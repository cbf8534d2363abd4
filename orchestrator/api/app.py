"""The API's paths. Everything is read from the engine's state; people's words go to the mediator, checked there and then."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from orchestrator.api import health, openapi
from orchestrator.api.access import Caller, Door
from orchestrator.api.metrics import StateCollector
from orchestrator.api.shapes import Word
from orchestrator.config.tokens import Right
from orchestrator.daemon.node import Node
from orchestrator.daemon.report import explanation, group_report, node_report
from orchestrator.daemon.runner import GroupRunner
from orchestrator.domain.plain import to_plain
from orchestrator.domain.record import Control, Record, RequestKind
from orchestrator.domain.spans import WallTime
from orchestrator.engine import words
from orchestrator.ports import Conflict, RefusedByPeer, Unreachable

HISTORY_SHOWN: Final = 50
BODY_BYTES: Final = 16 * 1024
ADOPT: Final = "adopt"
ANY_GROUP: Final = "*"


@dataclass(frozen=True, slots=True)
class Api:
    node: Node
    door: Door
    more: tuple[BaseRoute, ...] = field(default=())
    """The page's paths, where there is one."""

    def app(self) -> Starlette:
        routes = [
            Route("/v1/openapi.json", self._openapi),
            Route("/v1/status", self._status),
            Route("/v1/groups/{group}", self._group),
            Route("/v1/groups/{group}/explain", self._explain),
            Route("/v1/groups/{group}/history", self._history),
            Route("/v1/groups/{group}/{act}", self._act, methods=["POST"]),
            Route("/health/{group}/{role}", self._health, methods=["GET", "HEAD", "OPTIONS"]),
            Route("/metrics", self._metrics),
            *self.more,
            *(Route(f"/{name}", self._health_by_name, methods=["GET", "HEAD", "OPTIONS"]) for name in health.BY_NAME),
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

    def _reader(self, request: Request) -> tuple[Caller, GroupRunner]:
        caller = self.door.caller(request)
        self.door.may(caller, request.path_params["group"], Right.READ)
        return caller, self._runner(request)

    async def _status(self, request: Request) -> Response:
        caller = self.door.caller(request)
        if not any(caller.right(name) for name in self.node.groups):
            self.door.may(caller, ANY_GROUP, Right.READ)
        report = node_report(self.node)
        report["groups"] = {name: each for name, each in report["groups"].items() if caller.right(name) >= Right.READ}
        return JSONResponse(report)

    async def _group(self, request: Request) -> Response:
        return JSONResponse(group_report(self._reader(request)[1]))

    async def _explain(self, request: Request) -> Response:
        runner = self._reader(request)[1]
        return JSONResponse(explanation(runner, runner.recent(_count(request))))

    async def _history(self, request: Request) -> Response:
        return JSONResponse(self._reader(request)[1].recent(_count(request)))

    async def _health(self, request: Request) -> Response:
        """For load balancers: 200 when this node has the role, 503 when not."""
        return self._judged(self._runner(request), request.path_params["role"], request)

    async def _health_by_name(self, request: Request) -> Response:
        """The same by the names that load balancers in front of Patroni ask for; they name no group."""
        groups = [each for each in self.node.groups.values() if each.state.is_member]
        if len(groups) != 1:
            told = f"{self.node.name} has {len(groups)} groups, so /health/GROUP/ROLE has to say which"
            raise HTTPException(404, told)
        return self._judged(groups[0], request.url.path.strip("/"), request)

    def _judged(self, runner: GroupRunner, role: str, request: Request) -> Response:
        verdict = health.judge(runner, role, request.query_params, self._serves_warm(runner))
        if verdict.status == 404:
            raise HTTPException(404, verdict.reason)
        return JSONResponse(verdict.told, status_code=verdict.status)

    def _serves_warm(self, runner: GroupRunner) -> bool:
        return any(each.warm for each in self.node.setup.groups if each.name == runner.name)

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(openapi.document())

    async def _metrics(self, request: Request) -> Response:
        self.door.may(self.door.caller(request), ANY_GROUP, Right.READ)
        text = generate_latest(self.node.registry) + generate_latest(StateCollector(self.node))
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    # --- being told --------------------------------------------------------------------------------------------------

    async def _act(self, request: Request) -> Response:
        caller, act = self.door.caller(request), request.path_params["act"]
        self.door.slow_acts(caller, request)
        needed = NEEDED.get(act, Right.OPERATE)
        self.door.may(caller, request.path_params["group"], needed)
        runner = self._runner(request)
        if act not in NEEDED:
            raise HTTPException(404, f"no act {act!r}; there are {', '.join(NEEDED)}")
        word = await _read_word(request, caller)
        return JSONResponse(await carry_out(runner, caller, act, word))


async def carry_out(runner: GroupRunner, caller: Caller, act: str, word: Word) -> dict[str, Any]:
    """Say it at the mediator. What came in over the network stands in the history, whether it was taken or refused.

    Raises HTTPException when it does not apply, or cannot be said now.
    """
    said = f"{word.by} (by a token): {act}" + "".join(f" {each}" for each in (word.target, word.proposal) if each)
    try:
        if act == ADOPT:
            record = await runner.adopt(word.target or "", word.by or "", word.epoch or 0)
            answer = {"record": to_plain(record)}
        else:
            control = await runner.speak(ACTS[act](runner, word))
            answer = {"said": to_plain(control), "epoch": runner.state.epoch}
    except (words.Void, Conflict, Unreachable, RefusedByPeer) as error:
        refusal = _why(error)
        if not caller.local:
            runner.happened("word", f"{said}: refused: {refusal.detail}")
        raise refusal from None
    if not caller.local:
        runner.happened("word", f"{said}: taken")
    return answer


def _why(error: words.Void | Conflict | Unreachable | RefusedByPeer) -> HTTPException:
    match error:
        case words.Void():
            return HTTPException(409, str(error))
        case Conflict():
            return HTTPException(409, f"somebody else said something at the same moment: {error}")
        case _:
            return HTTPException(503, f"the mediator cannot be asked: {error}")


Say = Callable[[Control, Record | None, WallTime], Control]


def _ask(kind: RequestKind) -> Callable[[GroupRunner, Word], Say]:
    def make(runner: GroupRunner, word: Word) -> Say:
        return lambda control, record, wall: words.ask(
            control, record, runner.state.group, kind, word.target, word.by or "", wall
        )

    return make


def _confirm(runner: GroupRunner, word: Word) -> Say:
    def say(control: Control, record: Record | None, wall: WallTime) -> Control:
        if record is None:
            raise words.Void("there is no record, so nothing to confirm")
        if word.proposal is None or word.epoch is None:
            raise words.Void("say which proposal, and for which epoch")
        return words.approve(control, record, word.proposal, word.epoch, word.by or "", wall)

    return say


def _reject(runner: GroupRunner, word: Word) -> Say:
    return lambda control, record, wall: words.reject(control, word.proposal or "", word.by or "", wall)


def _pause(runner: GroupRunner, word: Word) -> Say:
    return lambda control, record, wall: words.pause(control, word.by or "", word.reason, wall)


def _resume(runner: GroupRunner, word: Word) -> Say:
    return lambda control, record, wall: words.resume(control, word.by or "")


ACTS: Final[dict[str, Callable[[GroupRunner, Word], Say]]] = {
    "switchover": _ask(RequestKind.SWITCHOVER),
    "failover": _ask(RequestKind.FAILOVER),
    "confirm": _confirm,
    "reject": _reject,
    "pause": _pause,
    "resume": _resume,
}


NEEDED: Final[dict[str, Right]] = {
    **dict.fromkeys(ACTS, Right.OPERATE),
    "confirm": Right.CONFIRM,
    "reject": Right.CONFIRM,
    ADOPT: Right.OPERATE,
}


async def body_of(request: Request) -> bytes:
    """Raises HTTPException when it is longer than anything that a person says."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES:
            raise HTTPException(413, f"the body is longer than {BODY_BYTES} bytes")
    return body


async def _read_word(request: Request, caller: Caller) -> Word:
    try:
        word = Word.model_validate_json(await body_of(request))
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'body'}: {each['msg']}" for each in error.errors())
        raise HTTPException(422, told) from None
    if caller.local:
        if word.by is None:
            raise HTTPException(422, "by: a person's name is needed")
        return word
    if word.by not in (None, caller.name):
        raise HTTPException(403, f"this token speaks for {caller.name}, and not for {word.by}")
    return word.model_copy(update={"by": caller.name})


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
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)
