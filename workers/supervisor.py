"""Keeps worker processes alive: starts one for each seat, replaces those that end, stops them all when asked to.

Processes are started by exec, never forked: CUDA does not survive a fork. Knows nothing of Celery or of units.
"""

import logging
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

log = logging.getLogger("attribatch.supervisor")

REPLACE = 75  # exit code of a process that asks for a successor
POLL_SECONDS = 0.2
STEADY_SECONDS = 60.0  # a process that lived so long is started again at once
LONGEST_WAIT_SECONDS = 60.0
STOP_SECONDS = 45.0  # between two chunks a worker gives its unit back; then Celery says goodbye to the broker
QUIT_SECONDS = 8.0


@dataclass
class _Seat:
    environment: Mapping[str, str]
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    due: float = 0.0  # when to start the next process
    falls: int = 0  # processes in a row that ended early


class Supervisor:
    """One process for each seat.

    Args:
        command: of a worker process; its number is appended.
        environments: one for each seat.
    """

    def __init__(self, command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> None:
        self._command = list(command)
        self._seats = [_Seat(environment) for environment in environments]
        self._asked = threading.Event()
        self._signal = signal.SIGTERM

    def run(self) -> None:
        """Until SIGTERM, SIGINT (units in flight go back) or SIGQUIT (the same in a hurry). Call in the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._ask)
        try:
            while not self._asked.wait(POLL_SECONDS):
                for index in range(len(self._seats)):
                    self._tend(index)
        finally:
            self._stop()

    def _ask(self, number: int, _frame: object) -> None:
        self._signal = signal.SIGQUIT if number == signal.SIGQUIT or self._asked.is_set() else signal.SIGTERM
        self._asked.set()

    def _tend(self, index: int) -> None:
        seat, now = self._seats[index], time.monotonic()
        if seat.process is not None and (code := seat.process.poll()) is not None:
            steady = code == REPLACE or now - seat.started > STEADY_SECONDS
            seat.falls = 0 if steady else seat.falls + 1
            wait = min(2.0 ** (seat.falls - 1), LONGEST_WAIT_SECONDS) if seat.falls else 0.0
            log.warning("worker %s (pid %s) ended with code %s; next in %g s", index, seat.process.pid, code, wait)
            seat.process, seat.due = None, now + wait
        if seat.process is None and now >= seat.due:
            # A group of its own: Ctrl-C reaches the supervisor alone, which then asks the workers to stop.
            command = [*self._command, str(index)]
            seat.process = subprocess.Popen(command, env=seat.environment, process_group=0)  # noqa: S603 - a list that our own code made, no shell
            seat.started = now
            log.info("worker %s started as pid %s", index, seat.process.pid)

    def _stop(self) -> None:
        processes = [seat.process for seat in self._seats if seat.process is not None]
        begun, sent = time.monotonic(), None
        while any(process.poll() is None for process in processes):
            limit = QUIT_SECONDS if self._signal == signal.SIGQUIT else STOP_SECONDS
            if sent is not self._signal:  # a second signal hurries
                begun, sent = time.monotonic(), self._signal
                for process in processes:  # not SIGQUIT: Celery would drop the unit in flight, not give it back
                    process.terminate()
            if time.monotonic() - begun > limit:
                for process in processes:
                    process.kill()
            time.sleep(POLL_SECONDS / 4)
        log.info("all workers have stopped")
