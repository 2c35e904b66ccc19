"""Restart policy of Celery worker processes: at once on request, later after each early exit; signals stop all."""

import logging
import signal
import threading
from collections import Counter
from collections.abc import Mapping, Sequence

from pipeline.engine.processes import Exit, Processes

log = logging.getLogger("attribatch.supervisor")

REPLACE = 75  # exit code of a process that requests its replacement
POLL_SECONDS = 0.2
STEADY_SECONDS = 60.0  # a process that lived for longer is restarted at once
LONGEST_WAIT_SECONDS = 60.0
STOP_SECONDS = 45.0  # time to release the unit, between two chunks, and to close Celery's connection to the broker
QUIT_SECONDS = 8.0


class Supervisor(Processes):
    """One process for each environment.

    Args:
        command: program and arguments of a worker process; its number is appended.
        environments: complete environment of each process.
    """

    def __init__(self, command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> None:
        super().__init__([*command, "{slot}"], environments)
        self._early_exits: Counter[int] = Counter()  # consecutive ones, by slot
        self._stopping = threading.Event()
        self._hurry = False

    def run(self) -> None:
        """Run until SIGTERM or SIGINT (units are released), or SIGQUIT (in a hurry). Call in the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._ask)
        try:
            while not self._stopping.wait(POLL_SECONDS):
                self.tend()
        finally:
            # SIGTERM even in a hurry: at SIGQUIT Celery would drop the unit in flight instead of releasing it.
            self.stop(lambda: QUIT_SECONDS if self._hurry else STOP_SECONDS)
            log.info("all workers have stopped")

    def _ask(self, number: int, _frame: object) -> None:
        self._hurry = number == signal.SIGQUIT or self._stopping.is_set()
        self._stopping.set()

    def restart(self, ended: Exit) -> float:
        """Restart at once, or after an early exit in 1, 2, 4, ... seconds."""
        steady = ended.code == REPLACE or ended.seconds > STEADY_SECONDS
        early = self._early_exits[ended.slot] = 0 if steady else self._early_exits[ended.slot] + 1
        wait = min(2.0 ** (early - 1), LONGEST_WAIT_SECONDS) if early else 0.0
        log.warning("worker %s (pid %s) exited with code %s; next in %g s", ended.slot, ended.pid, ended.code, wait)
        return wait
