"""Who may ask, and what an answer allows a browser to do. Knows nothing of runs.

The page listens on 127.0.0.1, where every program of this user could read the files anyway; a web site open in the same
browser must not. So: names that are not this server's are refused (DNS rebinding), whatever changes something carries
a value that only this server's own pages hold, and a policy lets pages load nothing from elsewhere and run no inline
script. On any other address a token is asked for as well.
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
LEAST_TOKEN = 16  # characters
UNKEPT = "no-store"  # what is stored changes, and says much of a data set
STATIC = "public, max-age=31536000, immutable"  # their addresses hold a key of their content
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
    """The rules of one server.

    Args:
        token: that visitors must know; None asks for none.
        names: by which the server may be called, besides IP addresses, `localhost` and the machine's name.

    Raises:
        UsageError: the token is too short to withstand guessing.
    """

    def __init__(self, token: str | None, names: Iterable[str] = ()) -> None:
        if token is not None and (len(token) < LEAST_TOKEN or not token.isascii()):
            made = secrets.token_urlsafe(24)
            raise UsageError(f"the token needs {LEAST_TOKEN} ASCII characters or more; this one is new: {made}")
        self._token = token
        self._names = {"localhost", socket.gethostname().lower(), *(name.lower() for name in names)}
        self._secret = secrets.token_bytes(32) if token is None else hashlib.sha256(token.encode()).digest()
        self.session = self._signed("session")  # the cookie's value: not the token itself
        self.form_token = self._signed("form")

    def _signed(self, what: str) -> str:
        return hmac.new(self._secret, f"attribatch/{what}".encode(), hashlib.sha256).hexdigest()

    @property
    def asks(self) -> bool:
        """Whether visitors must log in."""
        return self._token is not None

    def knows(self, token: str) -> bool:
        """Whether this is the token. Takes as long for a near miss as for any other."""
        return self._token is not None and _same(token, self._token)

    def admits(self, request: Request) -> bool:
        """Whether whoever asks has logged in, or sends the token along."""
        return not self.asks or _same(request.cookies.get(COOKIE, ""), self.session) or self._bears(request)

    def may_write(self, request: Request, form_token: str) -> bool:
        """Whether a change is asked for by one of this server's own pages, or by a program that knows the token."""
        if self._bears(request):
            return True
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower():
            return False
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        return _same(form_token, self.form_token)

    def is_called(self, host: str) -> bool:
        """Whether a Host header is a name of this server: an IP address cannot be rebound, other names can."""
        name = urlsplit(f"//{host}").hostname if host else None
        if name is None:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True

    def refusal(self, request: Request) -> Response | None:
        """The answer to a request that goes no further; None where it may."""
        try:
            called = self.is_called(request.headers.get("host", ""))
        except ValueError:
            called = False
        if not called:
            return PlainTextResponse("this name is none of the server's; see attribatch serve --allowed-host", 421)
        if request.method not in ("GET", "HEAD"):
            length = request.headers.get("content-length", "")
            if not length.isascii() or not length.isdecimal():
                return PlainTextResponse("send a Content-Length", 411)
            if int(length) > MAX_BODY_BYTES:
                return PlainTextResponse(f"at most {MAX_BODY_BYTES} bytes are read", 413)
        path = request.url.path
        if self.admits(request) or path.startswith(OPEN_PATHS):
            return None
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            query = f"?{request.url.query}" if request.url.query else ""
            return RedirectResponse(f"/login?next={quote(path + query, safe='')}", 303)
        return PlainTextResponse("log in, or send the header Authorization: Bearer TOKEN", 401)

    def _bears(self, request: Request) -> bool:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and self.knows(token)


class Safety:
    """ASGI middleware: refuses what the guard refuses, and puts its headers on every answer."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(message, STATIC if scope["path"].startswith("/static/") else UNKEPT)
            await send(message)

        refused = self._guard.refusal(Request(scope))
        await (refused or self._app)(scope, receive, with_headers)


def _add_headers(message: MutableMapping[str, Any], kept: str) -> None:
    headers = MutableHeaders(raw=message["headers"])
    for name, value in HEADERS.items():
        headers[name] = value
    if "cache-control" not in Headers(raw=message["headers"]):
        headers["Cache-Control"] = kept
    message["headers"] = headers.raw


def local_path(target: str) -> str:
    """Where to go after the login: a path of this server, whatever somebody wrote into the address."""
    split = urlsplit(target.replace("\\", "/"))
    safe = not split.scheme and not split.netloc and target.startswith("/") and not target.startswith("//")
    return target if safe and target.isprintable() else "/runs"


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
