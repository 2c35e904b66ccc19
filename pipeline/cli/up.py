"""Keeps one machine going: ticks every few seconds, and computes whatever waits, until it is told to stop."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from db.records import Occasion, Progress
from pipeline.api import Pipeline
from pipeline.errors import Permanent, Retryable

TICK_SECONDS = 5.0
IDLE_SECONDS = 0.5  # between looks for a run that waits


class _StoppedError(Exception):
    """Leave the run that is computed: its units go back."""


@dataclass
class Watch:
    """One process that stands by a pipeline. With a broker it only ticks: Celery workers compute.

    `say` is told of every turn that a tick moved on, `complain` of what went wrong while the rest goes on.
    """

    pipeline: Pipeline
    workers: int  # processes that compute
    stop: threading.Event  # set by signal handlers
    say: Callable[[Occasion], None]
    complain: Callable[[str], None]

    def __post_init__(self) -> None:
        self._next_tick = 0.0
        self._broken: set[str] = set()  # runs whose workers cannot start: left alone until this process starts anew

    def stand(self) -> None:
        """Tick and compute until `stop` is set."""
        while not self.stop.is_set():
            try:
                self._tend()
                if not self._compute_one():
                    self.stop.wait(IDLE_SECONDS)
            except Retryable as error:  # the database is away: nothing is lost, look again
                self.complain(str(error))
                self.stop.wait(TICK_SECONDS)
            except _StoppedError:
                return

    def _tend(self, _: Progress | None = None) -> None:
        """Called a few times a second, also while a run is computed."""
        if self.stop.is_set():
            raise _StoppedError
        if time.monotonic() < self._next_tick:
            return
        try:
            for occasion in self.pipeline.tick(wait=False).occasions:
                self.say(occasion)
        finally:
            self._next_tick = time.monotonic() + TICK_SECONDS

    def _compute_one(self) -> bool:
        """Compute the most urgent run that waits. False: there is none."""
        if self.pipeline.settings.broker_url is not None:
            return False
        waiting = [run for run in self.pipeline.waiting() if run.id not in self._broken]
        if not waiting:
            return False
        try:
            self.pipeline.work(waiting[0], workers=self.workers, on_progress=self._tend)
        except Permanent as error:
            self.complain(str(error))
            self._broken.add(waiting[0].id)
        return True
