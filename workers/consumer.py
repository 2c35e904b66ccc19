"""The work of one worker process: one unit at a time, from a message or from SQL, and a sweep in a thread.

A message only wakes a worker, so work continues in any state of the broker. Every `sweep_seconds` the thread

1. ends the leases of dead and silent workers, and sends messages for units that have none;
2. claims directly from SQL if this process has had no unit since the last sweep, until no unit is pending or a message
   arrives. If a worker is idle while units are pending, their messages are lost: the broker was flushed, or does not
   answer. Work resumes within two sweeps.

After each unit the process checks itself. If it exceeds its memory limit, or its GPU no longer answers (some CUDA
errors last until the process ends), it requests its replacement.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

import psutil

from pipeline.engine.broker import Waker
from pipeline.engine.devices import is_broken
from pipeline.engine.identity import release_dead, worker_name
from pipeline.engine.unit import Outcome, Workshop
from pipeline.engine.worker import begin
from pipeline.errors import Retryable

log = logging.getLogger("attribatch.worker")


class Consumer:
    """The consumer of one process.

    Args:
        shop: the open ledger, object storage and device; shared by all units of the process.
        broker_url: broker to which the sweep sends messages.
        sweep_seconds: time between two sweeps.
        max_memory_mb: resident memory in MiB. If a unit leaves the process above it, the process is replaced; None
            sets no limit.
        end: called once, to end the process gracefully.
    """

    def __init__(
        self,
        shop: Workshop,
        *,
        broker_url: str,
        sweep_seconds: float,
        max_memory_mb: int | None,
        end: Callable[[], None],
    ) -> None:
        self.spent = False  # whether this process requests its replacement
        self._shop = shop
        self._wake = Waker(shop.ledger, broker_url)
        self._sweep_seconds = sweep_seconds
        self._max_memory_mb = max_memory_mb
        self._end = end
        self._name = worker_name()
        self._busy = threading.Lock()
        self._messages = 0  # messages that wait for `_busy`
        self._units = 0  # units claimed by this process
        self._thread = threading.Thread(target=self._keep, name="attribatch-sweep", daemon=True)

    def open(self) -> None:
        """Start the sweep."""
        self._thread.start()

    def close(self, timeout_seconds: float = 30.0) -> None:
        """Stop. A unit that is being computed returns to the queue; one that is being stored is completed."""
        self._shop.stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        self._shop.finish()

    def run(self, unit_id: int) -> str:
        """Compute the unit of a message, unless it was claimed before, as after a duplicated message.

        Returns:
            The result that Celery logs: "begun", "gone", "stopping" or "index away".
        """
        self._messages += 1
        with self._busy:
            self._messages -= 1
            try:
                if self._shop.stop.is_set():
                    self._shop.ledger.unsend([unit_id])
                    return "stopping"
                return "gone" if self._one(unit_id) is None else "begun"
            except Retryable as error:  # the index does not answer: a sweep will find the unit later
                log.warning("unit id %s is not claimed: %s", unit_id, error)
                return "index away"

    def claim_from_sql(self) -> None:
        """Claim units from SQL and compute them, until none is pending, a message arrives, or `_busy` is taken."""
        while not self._messages and not self._shop.stop.is_set() and self._busy.acquire(blocking=False):
            try:
                if self._one(None) is None:
                    return
            finally:
                self._busy.release()

    def _keep(self) -> None:
        before = self._units
        while not self._shop.stop.wait(self._sweep_seconds):
            try:
                release_dead(self._shop.ledger)
                self._wake()
                if self._units == before:
                    self.claim_from_sql()
            except Retryable as error:
                log.warning("this sweep is skipped: %s", error)
            except Exception:
                log.exception("this sweep failed; the next one is due in %g s", self._sweep_seconds)
            before = self._units

    def _one(self, unit_id: int | None) -> "Future[Outcome] | None":
        unit = self._shop.ledger.claim(self._name, unit_id=unit_id)
        if unit is None:
            return None
        self._units += 1
        begun = begin(self._shop, unit)
        self._look_after(begun.result() if begun.done() else Outcome.DONE)
        return begun

    def _look_after(self, outcome: Outcome) -> None:
        used = psutil.Process().memory_info().rss >> 20
        if self._max_memory_mb is not None and used > self._max_memory_mb:
            reason = f"{used} MiB are in use, above ATTRIBATCH_MAX_MEMORY_MB={self._max_memory_mb}"
        elif outcome is Outcome.FAILED and is_broken(self._shop.device):
            reason = f"{self._shop.device} no longer answers"
        else:
            return
        log.warning("%s: this process ends, and another one replaces it", reason)
        self.spent = True
        self._shop.stop.set()
        self._end()
