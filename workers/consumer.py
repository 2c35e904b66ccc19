"""What one worker process does: one unit at a time, brought by a message or found in SQL, and a sweep in a thread.

A message is a wake-up and nothing more, so no state of the broker may stop the work. Every `sweep_seconds` the thread

1. takes units from dead and silent workers, and sends what nobody was told of;
2. where this process has had no unit since the sweep before, claims straight from SQL, until nothing waits there or a
   message arrives. An idle worker beside waiting units means that their messages are lost: the broker was flushed, is
   away, hangs, or the connection to it does. Two sweeps later the work goes on, whichever it was.

After each unit the process looks at itself: above its memory ceiling, or with a GPU that no longer answers (CUDA errors
that stick to a process), it asks to be replaced.
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


class Desk:
    """The work of one process.

    Args:
        shop: the process's.
        broker_url: where the sweep sends wake-ups.
        sweep_seconds: between two sweeps.
        max_memory_mb: resident memory in MiB above which the process asks to be replaced, after a unit; None: never.
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
        self.spent = False  # this process asks to be replaced
        self._shop = shop
        self._wake = Waker(shop.ledger, broker_url)
        self._sweep_seconds = sweep_seconds
        self._max_memory_mb = max_memory_mb
        self._end = end
        self._name = worker_name()
        self._turn = threading.Lock()
        self._messages = 0  # that wait for their turn
        self._units = 0  # claimed by this process
        self._thread = threading.Thread(target=self._keep, name="attribatch-sweep", daemon=True)

    def open(self) -> None:
        """Begin to sweep."""
        self._thread.start()

    def close(self, timeout_seconds: float = 30.0) -> None:
        """Stop: the unit that is computed goes back, the one that is stored is stored."""
        self._shop.stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)
        self._shop.finish()

    def run(self, unit_id: int) -> str:
        """Run a unit that a message names, if it is there to be had: no row is left for a message that came twice."""
        self._messages += 1
        with self._turn:
            self._messages -= 1
            try:
                if self._shop.stop.is_set():
                    self._shop.ledger.unsend([unit_id])
                    return "stopping"
                return "gone" if self._one(unit_id) is None else "begun"
            except Retryable as error:  # the index is away: whoever is idle when it is back finds the unit there
                log.warning("unit id %s is not claimed: %s", unit_id, error)
                return "index away"

    def work_straight(self) -> None:
        """Claim from SQL and run, until nothing waits there, a message does, or another thread has the turn."""
        while not self._messages and not self._shop.stop.is_set() and self._turn.acquire(blocking=False):
            try:
                if self._one(None) is None:
                    return
            finally:
                self._turn.release()

    def _keep(self) -> None:
        before = self._units
        while not self._shop.stop.wait(self._sweep_seconds):
            try:
                release_dead(self._shop.ledger)
                self._wake()
                if self._units == before:
                    self.work_straight()
            except Retryable as error:
                log.warning("no sweep this time: %s", error)
            except Exception:
                log.exception("the sweep failed; it goes on")
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
            reason = f"{self._shop.device} does not answer any more"
        else:
            return
        log.warning("%s: this process ends, another takes its place", reason)
        self.spent = True
        self._shop.stop.set()
        self._end()
