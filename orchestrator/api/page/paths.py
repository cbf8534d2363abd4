"""The page's paths: what a browser sees, signing in with a token, and the buttons, which are the API's acts."""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from orchestrator.api.access import COOKIE, SESSION_LASTS, Caller, Door
from orchestrator.api.app import NEEDED, body_of, carry_out
from orchestrator.api.page import seeing
from orchestrator.api.shapes import Word
from orchestrator.config.tokens import Right
from orchestrator.daemon.node import Node
from orchestrator.domain.spans import Span

HERE: Final = Path(__file__).parent
LOOK_EVERY: Span = 0.25
"""How soon a change is seen; figures that run on by themselves are sent every `TICK`."""
TICK: Span = 2.0
STREAMS: Final = 32
"""Browsers that may watch one daemon live; the next one reads by reloading."""

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    "Referrer-Policy": "same-origin",  # with no-referrer browsers send forms with the origin "null"
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
STATIC: Final = {"style.css": "text/css", "live.js": "text/javascript", "icon.svg": "image/svg+xml"}


class Page:
    def __init__(self, node: Node, door: Door) -> None:
        self.node = node
        self.door = door
        self._streams = 0
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=select_autoescape(default=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(seeing.FILTERS)

    def routes(self) -> tuple[BaseRoute, ...]:
        return (
            Route("/", self._page),
            Route("/page/groups", self._groups),
            Route("/page/events", self._events),
            Route("/page/{group}/{act}", self._act, methods=["POST"]),
            Route("/sign-in", self._sign_in, methods=["GET", "POST"]),
            Route("/sign-out", self._sign_out, methods=["POST"]),
            *(Route(f"/static/{name}", self._static) for name in STATIC),
        )

    # --- reading -------------------------------------------------------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        caller = self._caller(request)
        if isinstance(caller, Response):
            return caller
        told = ""
        if caller.session is not None:
            told, caller.session.told = caller.session.told, ""
        return self._html("cluster.html", caller, told=told)

    async def _groups(self, request: Request) -> Response:
        """What the page's script puts in the place of what is shown."""
        caller = self._caller(request)
        if isinstance(caller, Response):
            raise HTTPException(401, "sign in again")
        return self._html("groups.html", caller)

    def _caller(self, request: Request) -> Caller | Response:
        """Whoever may read something; everybody else is led to where one signs in."""
        caller = self.door.caller(request)
        if any(caller.right(name) >= Right.READ for name in self.node.groups):
            return caller
        return RedirectResponse("/sign-in", 303, headers=HEADERS)

    def _html(self, template: str, caller: Caller, status: int = 200, **more: Any) -> Response:
        names = [name for name in self.node.groups if caller.right(name) >= Right.READ]
        groups = [seeing.group(self.node.groups[name], caller.right(name)) for name in names]
        text = self._templates.get_template(template).render(
            cluster=self.node.cluster,
            node=self.node.name,
            keeper=self.node.keeper.connected,
            mediator=self.node.mediator.words if self.node.mediator is not None else "none",
            groups=groups,
            person=caller.name,
            csrf=caller.session.csrf if caller.session is not None else "",
            may_sign_in=self.door.tokens is not None,
            now=seeing.moment(),
            **more,
        )
        return HTMLResponse(text, status, headers=HEADERS)

    async def _events(self, request: Request) -> Response:
        """Server-sent events: one whenever something has changed."""
        caller = self._caller(request)
        if isinstance(caller, Response):
            raise HTTPException(401, "sign in again")
        if self._streams >= STREAMS:
            raise HTTPException(503, f"{STREAMS} browsers watch this node already: reload to see more", {"Retry-After": "30"})
        return StreamingResponse(self._stream(request), media_type="text/event-stream", headers=HEADERS)

    async def _stream(self, request: Request) -> AsyncIterator[str]:
        self._streams += 1
        try:
            yield "retry: 2000\n\n"
            seen, waited = "", 0.0
            while not await request.is_disconnected():
                shown = self._what_stands()
                if shown != seen or waited >= TICK:
                    seen, waited = shown, 0.0
                    yield f"event: look\ndata: {shown}\n\n"
                await asyncio.sleep(LOOK_EVERY)
                waited += LOOK_EVERY
        finally:
            self._streams -= 1

    def _what_stands(self) -> str:
        """A digest of all that does not run on by itself."""
        parts = [seeing.standing(runner) for runner in self.node.groups.values()]
        return hashlib.sha256(repr((parts, self.node.keeper.connected)).encode()).hexdigest()[:16]

    async def _static(self, request: Request) -> Response:
        name = request.url.path.rpartition("/")[2]
        return FileResponse(HERE / "static" / name, media_type=STATIC[name], headers={**HEADERS, "Cache-Control": "no-cache"})

    # --- acting --------------------------------------------------------------------------------------------------------

    async def _sign_in(self, request: Request) -> Response:
        if self.door.tokens is None:
            raise HTTPException(404, "there is nothing to sign in to: api.tokens is not configured")
        if request.method == "GET":
            self.door.caller(request)
            return self._signing_in("")
        site = request.headers.get("sec-fetch-site", "same-origin")
        if site not in ("same-origin", "none"):
            raise HTTPException(403, "this form was not sent by a page of this node")
        form = await _form(request)
        address = request.client.host if request.client is not None else "nowhere"
        try:
            bearer = self.door.known(form.get("token", "").strip(), address)
        except HTTPException as error:
            return self._signing_in(error.detail, error.status_code)
        answer = RedirectResponse("/", 303, headers=HEADERS)
        answer.set_cookie(
            COOKIE,
            self.door.begin_session(bearer),
            max_age=int(SESSION_LASTS),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    def _signing_in(self, wrong: str, status: int = 200) -> Response:
        text = self._templates.get_template("sign-in.html").render(cluster=self.node.cluster, node=self.node.name, wrong=wrong)
        return HTMLResponse(text, status, headers=HEADERS)

    async def _sign_out(self, request: Request) -> Response:
        caller, form = self.door.caller(request), await _form(request)
        self.door.same_page(request, caller, form.get("csrf", ""))
        self.door.end_session(request)
        answer = RedirectResponse("/", 303, headers=HEADERS)
        answer.delete_cookie(COOKIE)
        return answer

    async def _act(self, request: Request) -> Response:
        """A button: the same act as the API's, with what was shown sent back, so that a page that is out of date does nothing."""
        caller = self.door.caller(request)
        group, act = request.path_params["group"], request.path_params["act"]
        try:
            form = await _form(request)
            self.door.same_page(request, caller, form.get("csrf", ""))
            self.door.slow_acts(caller, request)
            if act not in seeing.BUTTONS or group not in self.node.groups:
                raise HTTPException(404, f"no button {act!r} for {group!r}")
            self.door.may(caller, group, NEEDED[act])
            _typed(act, group, form)
            await carry_out(self.node.groups[group], caller, act, _word(caller, form))
        except HTTPException as error:
            return self._html("cluster.html", caller, error.status_code, told=f"Not done: {error.detail}.")
        assert caller.session is not None
        caller.session.told = f"{seeing.BUTTONS[act]} {group}: your word stands, and is carried out now."
        return RedirectResponse("/", 303, headers=HEADERS)


def _typed(act: str, group: str, form: dict[str, str]) -> None:
    """What changes roles has to be typed. Raises HTTPException."""
    if act in seeing.TYPED and not hmac.compare_digest(form.get("typed", "").strip().encode(), group.encode()):
        raise HTTPException(422, f"type the group's name, {group}, to {act}")


def _word(caller: Caller, form: dict[str, str]) -> Word:
    epoch = form.get("epoch", "")
    if epoch and not (epoch.isascii() and epoch.isdigit() and len(epoch) < 19):
        raise HTTPException(422, f"epoch: read {epoch[:40]!r}, expected a number")
    return Word(
        by=caller.name,
        target=form.get("target") or None,
        proposal=form.get("proposal") or None,
        epoch=int(epoch) if epoch else None,
        reason=form.get("reason", "")[:200],
    )


async def _form(request: Request) -> dict[str, str]:
    try:
        fields = parse_qs((await body_of(request)).decode(), max_num_fields=20, strict_parsing=False)
    except ValueError:
        raise HTTPException(422, "the form cannot be read") from None
    return {name: values[-1] for name, values in fields.items()}
