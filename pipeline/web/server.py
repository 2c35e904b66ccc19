"""Serves the page: checks where it listens, opens the port, and runs uvicorn until it is told to stop."""

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

LET_GO_SECONDS = 2  # what open streams are given at the end


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens, and who may come in."""

    host: str = "127.0.0.1"
    port: int = 8077  # 0: any that is free
    token: str | None = None
    names: Sequence[str] = ()  # by which it may be called, beside IP addresses and `localhost`

    def check(self) -> None:
        """Refuse an address that others reach without a token. Raises UsageError."""
        if not is_loopback(self.host) and self.token is None:
            raise UsageError(
                f"{self.host} can be reached from other machines; set `Place.token` or ATTRIBATCH_WEB_TOKEN"
            )


@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs in a thread."""

    url: str
    thread: threading.Thread


@contextmanager
def served(pipeline: "Pipeline", place: Place, *, workers: int = 1, computes: bool = False) -> Iterator[Served]:
    """The page, served by a thread for as long as the context lasts.

    Args:
        pipeline: opened.
        place: where.
        workers: processes of a turn that is started from the page.
        computes: whether this process computes what waits.

    Raises:
        UsageError: the port is taken, the address is none of this machine, or it needs a token.
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
            thread.join(LET_GO_SECONDS + 3)
            occasions.close()


def _config(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=LET_GO_SECONDS,
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
