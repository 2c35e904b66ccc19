"""Compute a run to its end: with worker processes of this machine, or by Celery workers."""

import logging
import time
from collections.abc import Callable

from db.errors import StoreUnavailable
from db.records import Progress
from pipeline.engine import broker
from pipeline.engine.processes import LocalWorkers
from pipeline.runs.stored import StoredRun

log = logging.getLogger("attribatch.api")

POLL_SECONDS = 0.3
OnProgress = Callable[[Progress], None]


def compute_locally(stored: StoredRun, workers: int, on_progress: OnProgress) -> Progress:
    """Run worker processes on this machine until no unit of the run waits."""
    with LocalWorkers(stored.run.id, workers, stored.settings.to_env()) as local:
        return _until_finished(stored, on_progress, lambda progress: local.replace_exited(progress.attempts))


def follow(stored: StoredRun, broker_url: str, on_progress: OnProgress) -> Progress:
    """Wait for Celery workers; send a message for each unit that has none, every `sweep_seconds`."""
    wake = broker.Waker(stored.stores.ledger, broker_url, every_seconds=stored.settings.sweep_seconds)
    return _until_finished(stored, on_progress, lambda _: wake())


def _until_finished(stored: StoredRun, on_progress: OnProgress, each_time: OnProgress) -> Progress:
    while True:
        try:
            found = stored.progress()
        except StoreUnavailable as error:  # workers wait for the index as well
            log.warning("%s", error)
            time.sleep(10 * POLL_SECONDS)
            continue
        if not found.over:
            each_time(found)
        on_progress(found)
        if found.over:
            return found
        time.sleep(POLL_SECONDS)
