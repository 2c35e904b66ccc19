"""Occasions of schedules that were started from the page, each in its own thread, so that the page keeps answering.

Models run in worker processes, as with `attribatch schedule run-now`.
"""

import logging
import threading
from typing import TYPE_CHECKING

from db.records import Progress
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.api import Pipeline

log = logging.getLogger("attribatch.web")

JOIN_SECONDS = 40.0  # a worker process returns its unit between two chunks


class _StoppedError(BaseException):
    """Stop the computation: the units of the run are returned, and the next tick resumes the occasion."""


class BackgroundOccasions:
    """The occasions that run in the background of one server.

    Args:
        pipeline: an open pipeline, whose schedules can be started.
        workers: worker processes of one occasion; unused if a broker is configured.
        wait: compute runs here. If False, another program computes and ticks: `attribatch up`, or Celery and beat.
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
        """Begin an occasion. Raises NotFound for an unknown schedule, UsageError if one of its occasions runs here."""
        self._pipeline.schedules.history(name, limit=1)
        with self._lock:
            running = self._threads.get(name)
            if running is not None and running.is_alive():
                raise UsageError(f"schedule {name!r} is running here already; wait until this occasion has ended")
            self._errors.pop(name, None)
            thread = threading.Thread(target=self._run, args=(name,), name=f"attribatch-occasion-{name}", daemon=True)
            self._threads[name] = thread
            thread.start()

    def is_running(self, name: str) -> bool:
        """Whether an occasion of this schedule was started here and has not ended."""
        thread = self._threads.get(name)
        return thread is not None and thread.is_alive()

    def error(self, name: str) -> str | None:
        """The error of the last occasion that was started here; None if it had none."""
        return self._errors.get(name)

    def close(self) -> None:
        """Stop all occasions, and wait up to `JOIN_SECONDS` for each."""
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
