"""Serves the page: checks the address, opens the port, and runs uvicorn until the caller stops it."""

import errno
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from pipeline.errors import PortTaken, UsageError
from pipeline.web.app import create_app
from pipeline.web.background import BackgroundOccasions
from pipeline.web.security import is_loopback

if TYPE_CHECKING:
    from pipeline.api import Pipeline

SHUTDOWN_SECONDS = 2  # time for open streams to end


@dataclass(frozen=True, slots=True)
class Place:
    """The address of a server, and its access rules."""

    host: str = "127.0.0.1"
    port: int = 8077  # 0 takes any free port
    token: str | None = None
    names: Sequence[str] = ()  # host names, in addition to IP addresses and `localhost`

    def check(self) -> None:
        """Raise UsageError if other machines could reach the address without a token."""
        if not is_loopback(self.host) and self.token is None:
            raise UsageError(
                f"{self.host} can be reached from other machines; set `Place.token` or ATTRIBATCH_WEB_TOKEN"
            )


@dataclass(frozen=True, slots=True)
class Served:
    """A running server: its address and its thread."""

    url: str
    thread: threading.Thread


@contextmanager
def served(pipeline: "Pipeline", place: Place, *, workers: int = 1, computes: bool = False) -> Iterator[Served]:
    """Serve the page in a thread until the context ends.

    Args:
        pipeline: an open pipeline; the caller closes it afterwards.
        place: address and access rules.
        workers: worker processes of an occasion that is started from the page.
        computes: whether this process computes waiting runs and ticks; occasions are not computed separately then.

    Yields:
        The server, which accepts requests.

    Raises:
        UsageError: an address that other machines can reach needs a token.
        PortTaken: the port is in use, or the address is not one of this machine.
    """
    place.check()
    occasions = BackgroundOccasions(pipeline, workers, wait=not computes)
    names = [*place.names, place.host]
    app = create_app(pipeline, token=place.token, names=names, occasions=occasions, computes=computes)
    with _listening(place) as listener:
        server = uvicorn.Server(_config(app))
        thread = threading.Thread(target=server.run, args=([listener],), name="attribatch-web", daemon=True)
        thread.start()
        host = f"[{place.host}]" if ":" in place.host else place.host
        try:
            yield Served(f"http://{host}:{listener.getsockname()[1]}/", thread)
        finally:
            server.should_exit = True
            thread.join(SHUTDOWN_SECONDS + 3)
            occasions.close()


def _config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        limit_concurrency=200,
        h11_max_incomplete_event_size=32 * 1024,
        ws="none",
        lifespan="off",
    )


def _why(place: Place, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {place.port} of {place.host} is in use by another program; choose another `Place.port`"
    reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
    remedy = "`Place.port`" if error.errno == errno.EACCES else "`Place.host`"
    return f"{place.host}:{place.port} cannot be listened on ({reason}); choose another {remedy}"


@contextmanager
def _listening(place: Place) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    try:
        listener = socket.create_server((place.host, place.port), family=family, backlog=128)
    except OSError as error:
        raise PortTaken(_why(place, error)) from error
    with listener:
        yield listener
