"""Who asks, and what they may: the host's own socket, which the file system protects, and bearers of tokens from outside."""

import hashlib
import hmac
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter
from starlette.exceptions import HTTPException
from starlette.requests import Request

from orchestrator.config.load import BadConfig
from orchestrator.config.tokens import Bearer, Right, fingerprint, load_tokens
from orchestrator.daemon.clock import now, wall
from orchestrator.domain.spans import Instant, Span

COOKIE: Final = "tanist_session"
SESSION_LASTS: Span = 12 * 3600.0
SESSIONS_KEPT: Final = 256

READS_PER_SECOND, READS_AT_ONCE = 20.0, 60
ACTS_PER_SECOND, ACTS_AT_ONCE = 1.0, 10
FAILURES_PER_SECOND, FAILURES_AT_ONCE = 0.2, 10
"""Of one address. A token has 256 random bits: this keeps the log readable, not the token secret."""

NO_TOKENS: Final = (
    "acts are taken on this host's own socket only: use the tanist command on the host, or let tokens in (api.tokens)"
)


@dataclass(frozen=True, slots=True)
class Caller:
    """On the host's own socket: whoever the file system lets there, under the name that they give."""

    bearer: Bearer | None = None
    local: bool = False
    anonymous: Right = Right.NONE
    session: "Session | None" = None

    @property
    def name(self) -> str:
        return self.bearer.name if self.bearer is not None else ""

    def right(self, group: str) -> Right:
        if self.local:
            return Right.OPERATE
        return max(self.bearer.right(group), self.anonymous) if self.bearer is not None else self.anonymous


@dataclass(slots=True)
class Session:
    """A browser that has shown a token; the token itself is not kept, and a revoked one ends its sessions."""

    fingerprint: str
    ends_at: Instant
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    told: str = ""
    """What the next page begins with: how the last act went."""


class Limiter:
    """Token buckets by key (an address or a name); the keys least lately seen are forgotten."""

    KEPT: Final = 2048

    def __init__(self, per_second: float, at_once: int, clock: Callable[[], Instant] = now) -> None:
        self._rate = per_second
        self._burst = float(at_once)
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, Instant]] = OrderedDict()

    def wait(self, key: str, cost: float = 1.0) -> Span:
        """Take from the key's bucket; seconds until that will be possible when it is not now. A cost of 0 only asks."""
        moment = self._clock()
        left, at = self._left.pop(key, (self._burst, moment))
        left = min(self._burst, left + (moment - at) * self._rate)
        enough = left >= max(cost, 1.0)
        self._left[key] = (left - cost if enough else left, moment)
        while len(self._left) > self.KEPT:
            self._left.popitem(last=False)
        return 0.0 if enough else (max(cost, 1.0) - left) / self._rate


class Tokens:
    """The tokens file, read again as soon as it has changed. While it cannot be read, no token counts."""

    def __init__(self, path: Path, log: Callable[[str], None]) -> None:
        self._path = path
        self._log = log
        self._seen = self._stamp()
        self._bearers = load_tokens(path)

    def _stamp(self) -> tuple[int, ...]:
        try:
            found = os.stat(self._path)
        except OSError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size

    def who(self, print_: str) -> Bearer | None:
        if (stamp := self._stamp()) != self._seen:
            self._seen = stamp
            try:
                self._bearers = load_tokens(self._path)
                self._log(f"{self._path} was read again: {len(self._bearers)} tokens")
            except BadConfig as error:
                self._bearers = {}
                self._log(f"no token counts until this is mended: {error}")
        bearer = self._bearers.get(print_)
        if bearer is None or (bearer.expires_wall is not None and bearer.expires_wall <= wall()):
            return None
        return bearer


class Door:
    """Of one listener: who may come in, and how often."""

    def __init__(
        self,
        *,
        local: bool,
        tokens: Tokens | None = None,
        anonymous: Literal["read", "none"] = "read",
        secure: bool = False,
        log: Callable[[str], None] = lambda text: None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self.local = local
        self.tokens = tokens
        self.secure = secure
        self._anonymous = Right.READ if anonymous == "read" else Right.NONE
        self._log = log
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._reads = Limiter(READS_PER_SECOND, READS_AT_ONCE)
        self._acts = Limiter(ACTS_PER_SECOND, ACTS_AT_ONCE)
        self._failures = Limiter(FAILURES_PER_SECOND, FAILURES_AT_ONCE)
        self._refusals = (
            Counter("tanist_api_refused", "Requests that were turned away, by why", ["reason"], registry=registry)
            if registry is not None
            else None
        )

    # --- who -----------------------------------------------------------------------------------------------------------

    def caller(self, request: Request) -> Caller:
        """Raises HTTPException 401 for a token that does not count, 429 for whoever asks too often."""
        if self.local:
            return Caller(local=True)
        address = _address(request)
        self._slow_down(self._reads, address)
        header = request.headers.get("authorization")
        if header is not None:
            return Caller(self._bearer(header, address), anonymous=self._anonymous)
        session = self.session(request)
        if session is not None and self.tokens is not None and (bearer := self.tokens.who(session.fingerprint)) is not None:
            return Caller(bearer, anonymous=self._anonymous, session=session)
        return Caller(anonymous=self._anonymous)

    def _bearer(self, header: str, address: str) -> Bearer:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise self._refusal("credentials", 401, "expected `Authorization: Bearer TOKEN`")
        return self.known(token.strip(), address)

    def known(self, token: str, address: str) -> Bearer:
        """Whose token this is. Raises HTTPException."""
        self._slow_down(self._failures, address, cost=0.0)
        bearer = self.tokens.who(fingerprint(token)) if self.tokens is not None else None
        if bearer is None:
            self._failures.wait(address)
            self._log(f"a token from {address} was refused: unknown, revoked or expired")
            raise self._refusal("credentials", 401, "this token is unknown, revoked or expired")
        return bearer

    def may(self, caller: Caller, group: str, needed: Right) -> None:
        """Raises HTTPException when the caller has not the right."""
        if caller.right(group) >= needed:
            return
        if caller.bearer is None:
            if self.tokens is None:
                raise self._refusal("rights", 403, NO_TOKENS)
            raise self._refusal("credentials", 401, "a token is needed: `Authorization: Bearer TOKEN`")
        raise self._refusal("rights", 403, f"the token of {caller.name} may not {needed.name.lower()} {group}")

    def slow_acts(self, caller: Caller, request: Request) -> None:
        if not self.local:
            self._slow_down(self._acts, caller.name or _address(request))

    # --- browsers ------------------------------------------------------------------------------------------------------

    def session(self, request: Request) -> Session | None:
        cookie = request.cookies.get(COOKIE, "")
        session = self._sessions.get(_digest(cookie)) if cookie else None
        return session if session is not None and session.ends_at > now() else None

    def begin_session(self, bearer: Bearer) -> str:
        """The cookie's value."""
        cookie = secrets.token_urlsafe(32)
        self._sessions[_digest(cookie)] = Session(bearer.fingerprint, now() + SESSION_LASTS)
        while len(self._sessions) > SESSIONS_KEPT:
            self._sessions.popitem(last=False)
        return cookie

    def end_session(self, request: Request) -> None:
        self._sessions.pop(_digest(request.cookies.get(COOKIE, "")), None)

    def same_page(self, request: Request, caller: Caller, csrf: str) -> None:
        """A form counts only when it comes from our own page. Raises HTTPException."""
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
        foreign = origin is not None and origin.partition("://")[2] != request.headers.get("host")
        session = caller.session
        if foreign or site != "same-origin" or session is None or not hmac.compare_digest(csrf.encode(), session.csrf.encode()):
            raise self._refusal("foreign page", 403, "this form was not sent by a page of this session: load the page again")

    # --- refusing ------------------------------------------------------------------------------------------------------

    def _slow_down(self, limiter: Limiter, key: str, cost: float = 1.0) -> None:
        if (wait := limiter.wait(key, cost)) > 0.0:
            seconds = str(int(wait) + 1)
            refusal = self._refusal("too often", 429, f"too many requests from {key}: again in {seconds} s")
            refusal.headers = {"Retry-After": seconds}
            raise refusal

    def _refusal(self, reason: str, status: int, words: str) -> HTTPException:
        if self._refusals is not None:
            self._refusals.labels(reason).inc()
        headers = {"WWW-Authenticate": 'Bearer realm="tanist"'} if status == 401 else None
        return HTTPException(status, words, headers)


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else "nowhere"


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
