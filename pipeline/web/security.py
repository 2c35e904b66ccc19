"""Access rules: login, host names, protection of forms, and the security headers of every response.

By default the page listens on 127.0.0.1. Every program of this user could read the files there anyway, but a web site
that is open in the same browser must not. Therefore requests for a foreign host name are refused (DNS rebinding), each
change needs a value that only this server's pages contain, and a policy lets pages load nothing from elsewhere and run
no inline script. On any other address a token is required too.
"""

import hashlib
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Iterable, MutableMapping
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.errors import UsageError

COOKIE = "attribatch_session"
MAX_BODY_BYTES = 64 * 1024
MIN_TOKEN_CHARACTERS = 16
UNCACHED = "no-store"  # pages change, and reveal much about a data set
CACHED = "public, max-age=31536000, immutable"  # for static files: their addresses contain a digest
OPEN_PATHS = ("/login", "/healthz", "/static/")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """The access rules of one server.

    Args:
        token: token that visitors must enter; None requires no login.
        names: host names of the server, in addition to IP addresses, `localhost` and the name of the machine.

    Raises:
        UsageError: the token is too short to withstand guessing, or not ASCII.
    """

    def __init__(self, token: str | None, names: Iterable[str] = ()) -> None:
        if token is not None and (len(token) < MIN_TOKEN_CHARACTERS or not token.isascii()):
            made = secrets.token_urlsafe(24)
            raise UsageError(f"the token needs at least {MIN_TOKEN_CHARACTERS} ASCII characters; for example {made}")
        self._token = token
        self._names = {"localhost", socket.gethostname().lower(), *(name.lower() for name in names)}
        self._secret = secrets.token_bytes(32) if token is None else hashlib.sha256(token.encode()).digest()
        self.session = self._signed("session")  # value of the cookie; it does not reveal the token
        self.form_token = self._signed("form")

    def _signed(self, what: str) -> str:
        return hmac.new(self._secret, f"attribatch/{what}".encode(), hashlib.sha256).hexdigest()

    @property
    def needs_login(self) -> bool:
        """Whether visitors must log in."""
        return self._token is not None

    def is_token(self, token: str) -> bool:
        """Whether this is the token, compared in constant time."""
        return self._token is not None and _same(token, self._token)

    def admits(self, request: Request) -> bool:
        """Whether a request may read: it has the cookie of a login or the token, or none is needed."""
        return not self.needs_login or _same(request.cookies.get(COOKIE, ""), self.session) or self._has_token(request)

    def may_write(self, request: Request, form_token: str) -> bool:
        """Whether a request may change something: it comes from a page of this server, or has the token."""
        if self._has_token(request):
            return True
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower():
            return False
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        return _same(form_token, self.form_token)

    def is_own_name(self, host: str) -> bool:
        """Whether a Host header names this server. Every IP address does: DNS rebinding needs a name."""
        name = urlsplit(f"//{host}").hostname if host else None
        if name is None:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True

    def refusal(self, request: Request) -> Response | None:
        """The response to a request that is refused; None if it is admitted."""
        try:
            own = self.is_own_name(request.headers.get("host", ""))
        except ValueError:
            own = False
        if not own:
            return PlainTextResponse(
                "this host name is not one of the server's; see attribatch serve --allowed-host", 421
            )
        if request.method not in ("GET", "HEAD"):
            length = request.headers.get("content-length", "")
            if not length.isascii() or not length.isdecimal():
                return PlainTextResponse("the request needs a Content-Length header", 411)
            if int(length) > MAX_BODY_BYTES:
                return PlainTextResponse(f"a body may have at most {MAX_BODY_BYTES} bytes", 413)
        path = request.url.path
        if self.admits(request) or path.startswith(OPEN_PATHS):
            return None
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            query = f"?{request.url.query}" if request.url.query else ""
            return RedirectResponse(f"/login?next={quote(path + query, safe='')}", 303)
        return PlainTextResponse("log in, or send the header Authorization: Bearer TOKEN", 401)

    def _has_token(self, request: Request) -> bool:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and self.is_token(token)


class SecurityMiddleware:
    """ASGI middleware: refuses requests that the guard does not admit, and sets `HEADERS` on every response."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(message, CACHED if scope["path"].startswith("/static/") else UNCACHED)
            await send(message)

        refused = self._guard.refusal(Request(scope))
        await (refused or self._app)(scope, receive, with_headers)


def _add_headers(message: MutableMapping[str, Any], caching: str) -> None:
    headers = MutableHeaders(raw=message["headers"])
    for name, value in HEADERS.items():
        headers[name] = value
    if "cache-control" not in Headers(raw=message["headers"]):
        headers["Cache-Control"] = caching
    message["headers"] = headers.raw


def local_path(target: str) -> str:
    """The page to show after the login. An address that is not a path of this server becomes `/runs`."""
    split = urlsplit(target.replace("\\", "/"))
    safe = not split.scheme and not split.netloc and target.startswith("/") and not target.startswith("//")
    return target if safe and target.isprintable() else "/runs"


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
