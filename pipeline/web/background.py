"""Turns of schedules that somebody started from the page: each in a thread of its own, so that the page goes on.

The models run in worker processes, as those of `attribatch schedule run-now` do.
"""

import logging
import threading
from typing import TYPE_CHECKING

from db.records import Progress
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.api import Pipeline

log = logging.getLogger("attribatch.web")

JOIN_SECONDS = 40.0  # worker processes give their units back between two chunks


class _StoppedError(BaseException):
    """Leave the run that is computed: its units go back, its turn is taken up by the next tick."""


class BackgroundOccasions:
    """What runs in the background of one server.

    Args:
        pipeline: whose schedules.
        workers: processes of a turn, where no broker is configured.
        wait: compute turns here. Otherwise something else computes runs and ticks: `attribatch up`, or Celery and beat.
    """

    def __init__(self, pipeline: "Pipeline", workers: int = 1, *, wait: bool = True) -> None:
        self._wait = wait and pipeline.settings.broker_url is None
        self._pipeline = pipeline
        self._workers = workers
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._errors: dict[str, str] = {}

    def start(self, name: str) -> None:
        """Begin a turn. Raises NotFound for a schedule that is not there, UsageError for one that is at work here."""
        self._pipeline.schedules.history(name, limit=1)
        with self._lock:
            running = self._threads.get(name)
            if running is not None and running.is_alive():
                raise UsageError(f"schedule {name!r} is at work already")
            self._errors.pop(name, None)
            thread = threading.Thread(target=self._run, args=(name,), name=f"attribatch-occasion-{name}", daemon=True)
            self._threads[name] = thread
            thread.start()

    def is_running(self, name: str) -> bool:
        """Whether a turn of this schedule was begun here and goes on."""
        thread = self._threads.get(name)
        return thread is not None and thread.is_alive()

    def error(self, name: str) -> str | None:
        """Why the last turn that was begun here could not even start."""
        return self._errors.get(name)

    def close(self) -> None:
        """Ask all to stop, and wait."""
        self._stop.set()
        for thread in self._threads.values():
            thread.join(JOIN_SECONDS)

    def _run(self, name: str) -> None:
        def on_progress(_: Progress) -> None:
            if self._stop.is_set():
                raise _StoppedError

        try:
            self._pipeline.schedules.run_now(name, wait=self._wait, workers=self._workers, on_progress=on_progress)
        except _StoppedError:
            pass
        except Exception as error:
            log.exception("schedule %s", name)
            self._errors[name] = str(error)
