"""Who may read the page: the token, the Host header, reading only, and what a browser is allowed to do with it."""

import ipaddress
import secrets
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
NO_TOKEN = (
    "This page needs the address that `tunestudy serve` printed, with its token.\n"
    "Open that address again: every start of `tunestudy serve` has a new one.\n"
)
WRONG_HOST = (
    "This address is not one of this page's own names, so the request was refused: a web site could otherwise reach\n"
    "the page through your browser. Use localhost or the machine's IP address.\n"
)
READ_ONLY = "This page can only be read: it changes nothing of a study.\n"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How one server is guarded."""

    token: str | None
    """None: everyone who reaches the address may read, which only a loopback address allows."""
    port: int
    names: frozenset[str] = frozenset()
    """Host names, in lower case, by which the page may be asked for beside `localhost` and IP addresses."""
    loopback: bool = True

    @property
    def cookie(self) -> str:
        """Cookies know no ports: each server has its own name."""
        return f"tunestudy-{self.port}"

    def is_own_name(self, host_header: str) -> bool:
        """Whether a Host header can come from someone who typed it. A name that a stranger owns cannot: his DNS could
        point it here. An address is no name; behind a loopback address only loopback ones are expected. Any port: the
        page may be reached through a tunnel."""
        host = _without_port(host_header)
        if host == "localhost" or host in self.names:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return address.is_loopback or not self.loopback


class Guard:
    """Every answer of the application passes through here."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        refusal = self._refusal(connection) if scope["type"] == "http" else PlainTextResponse(READ_ONLY, 405)
        brought = self._rules.token is not None and _same(_in_query(scope), self._rules.token)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if brought and refusal is None:
                    cookie = f"{self._rules.cookie}={self._rules.token}; HttpOnly; SameSite=Strict; Path=/"
                    headers.append("Set-Cookie", cookie)
            await send(message)

        await (refusal or self._app)(scope, receive, send_guarded)

    def _refusal(self, connection: HTTPConnection) -> Response | None:
        if not self._rules.is_own_name(connection.headers.get("host", "")):
            return PlainTextResponse(WRONG_HOST, 421)
        if connection.scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse(READ_ONLY, 405, {"Allow": "GET, HEAD"})
        fetched_by_stranger = connection.headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if fetched_by_stranger and connection.headers.get("sec-fetch-mode") != "navigate":
            return PlainTextResponse("Only this page itself may ask for its data.\n", 403)
        if self._rules.token is None:
            return None
        by_address = _same(_in_query(connection.scope), self._rules.token)
        by_cookie = _same(connection.cookies.get(self._rules.cookie, ""), self._rules.token)
        return None if by_address or by_cookie else PlainTextResponse(NO_TOKEN, 403)


def new_token() -> str:
    """192 random bits, safe in an address."""
    return secrets.token_urlsafe(24)


def _same(given: str, token: str) -> bool:
    """In a time that does not tell how much of it was right."""
    return secrets.compare_digest(given.encode(), token.encode())


def _in_query(scope: Scope) -> str:
    query: bytes = scope.get("query_string", b"")
    return parse_qs(query.decode("latin-1")).get("token", [""])[0]


def _without_port(host: str) -> str:
    """`[::1]:80` → `::1`, `localhost:80` → `localhost`, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
