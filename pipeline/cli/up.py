"""`attribatch up`: one process that runs schedules, computes waiting runs and serves the page."""

import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from db.records import Progress
from pipeline.cli import console
from pipeline.cli.schedule import Workers, print_occasion
from pipeline.cli.services import Host, Names, Port, Token, place, stop_event
from pipeline.cli.session import open_pipeline
from pipeline.errors import Permanent, PortTaken, Retryable

if TYPE_CHECKING:
    from pipeline.api import Pipeline
    from pipeline.web.server import Place

TICK_SECONDS = 5.0
IDLE_SECONDS = 0.5  # between two looks for a waiting run


def register(app: typer.Typer) -> None:
    """Add `up`."""
    app.command(epilog="Example: attribatch up --workers 2")(up)


def up(
    workers: Workers = 1,
    host: Host = "127.0.0.1",
    port: Port = None,
    token: Token = None,
    allowed_host: Names = None,
    web: Annotated[bool, typer.Option("--web/--no-web", help="Also serve the page.")] = True,
) -> None:
    """Run schedules, compute waiting runs, serve the page.

    Runs until Ctrl-C or SIGTERM. With a broker it computes nothing: Celery workers do.
    """
    stop = stop_event()
    with open_pipeline() as pipeline, ExitStack() as stack:
        console.err.print(f"standing by at {pipeline.settings.home}; Ctrl-C ends it", markup=False)
        if web:
            _serve(pipeline, workers, stack, place(host, port, token, allowed_host), chosen=port is not None)
        Watch(pipeline, workers, stop).run()


def _serve(pipeline: "Pipeline", workers: int, stack: ExitStack, where: "Place", *, chosen: bool) -> None:
    """Serve the page until the stack closes. If the default port is taken, continue without the page."""
    from pipeline.web.server import served

    where.check()
    try:
        server = stack.enter_context(served(pipeline, where, workers=workers, computes=True))
    except PortTaken as error:
        if chosen:
            raise
        console.err.print(f"the page is not served: {error}", markup=False)
    else:
        console.err.print(f"the page is at {server.url}", markup=False)


class _StoppedError(Exception):
    """Stop computing the current run and give its units back."""


@dataclass
class Watch:
    """Tick every few seconds, and compute waiting runs between the ticks.

    Args:
        pipeline: opened. With a broker this process only ticks: Celery workers compute.
        workers: processes that compute.
        stop: set by signal handlers.
    """

    pipeline: "Pipeline"
    workers: int
    stop: threading.Event

    def __post_init__(self) -> None:
        self._next_tick = 0.0
        self._broken: set[str] = set()  # runs whose workers cannot start; skipped until this process restarts

    def run(self) -> None:
        """Tick and compute until `stop` is set."""
        while not self.stop.is_set():
            try:
                self._tick()
                if not self._compute_one():
                    self.stop.wait(IDLE_SECONDS)
            except Retryable as error:  # the database does not answer: nothing is lost, retry
                console.error(str(error))
                self.stop.wait(TICK_SECONDS)
            except _StoppedError:
                return

    def _tick(self, _: Progress | None = None) -> None:
        """Tick if it is time; also called a few times a second while a run is computed."""
        if self.stop.is_set():
            raise _StoppedError
        if time.monotonic() < self._next_tick:
            return
        try:
            for occasion in self.pipeline.tick(wait=False).occasions:
                print_occasion(occasion)
        finally:
            self._next_tick = time.monotonic() + TICK_SECONDS

    def _compute_one(self) -> bool:
        """Compute the waiting run of the highest priority. Returns False if no run waits."""
        if self.pipeline.settings.broker_url is not None:
            return False
        waiting = [run for run in self.pipeline.waiting() if run.id not in self._broken]
        if not waiting:
            return False
        try:
            self.pipeline.work(waiting[0], workers=self.workers, on_progress=self._tick)
        except Permanent as error:
            console.error(str(error))
            self._broken.add(waiting[0].id)
        return True
