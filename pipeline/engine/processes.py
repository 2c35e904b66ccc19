"""Keeps child processes running: one per slot, each replaced when it exits, all stopped together.

Processes are started by exec, never by fork: CUDA does not survive a fork. Subclasses are restart policies:
`LocalWorkers` here, `workers.supervisor.Supervisor` for Celery workers.
"""

import logging
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Self

from pipeline.errors import StoreFull, WorkersBroken

log = logging.getLogger("attribatch.processes")

BROKEN_STARTS = 4  # consecutive workers that exit without a claim
STOP_SECONDS = 30.0  # time for workers to release their units, which they do between two chunks
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Exit:
    """A child process that exited without being stopped."""

    slot: int  # position of its environment
    pid: int
    code: int  # exit code; minus the signal's number for a killed process
    seconds: float  # that the process lived


@dataclass
class _Slot:
    environment: Mapping[str, str]
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0  # time.monotonic() of the last start
    due: float = 0.0  # time.monotonic() from which the next start is allowed


class Processes(ABC):
    """One child process per environment. The first ones start with the first `tend`.

    Args:
        command: program and arguments; the slot's number replaces each "{slot}".
        environments: complete environment of each process.
        stdout: file that receives the children's standard output; None: that of this process.
    """

    def __init__(
        self, command: Sequence[str], environments: Sequence[Mapping[str, str]], *, stdout: IO[str] | None = None
    ) -> None:
        self._command = command
        self._slots = [_Slot(environment) for environment in environments]
        self._stdout = stdout

    @abstractmethod
    def restart(self, ended: Exit) -> float:
        """Seconds to wait before the next start after an exit. May raise instead, which `tend` passes on."""

    def tend(self) -> None:
        """Start the processes that are due, and call `restart` for those that exited."""
        for number, slot in enumerate(self._slots):
            now = time.monotonic()
            if slot.process is not None and (code := slot.process.poll()) is not None:
                slot.due = now + self.restart(Exit(number, slot.process.pid, code, now - slot.started))
                slot.process = None
            if slot.process is None and now >= slot.due:
                # Its own process group: Ctrl-C reaches only this process, which then stops the children.
                command = [word.replace("{slot}", str(number)) for word in self._command]
                slot.process = subprocess.Popen(  # noqa: S603 - a list made by our own code, no shell
                    command, env=slot.environment, process_group=0, stdout=self._stdout
                )
                slot.started = now
                log.info("worker %s started as pid %s", number, slot.process.pid)

    def stop(self, grace: Callable[[], float]) -> None:
        """Send SIGTERM to all, wait until they exit, and kill those that run for longer.

        Args:
            grace: seconds to wait. Read at each poll; when it changes, SIGTERM is sent and timed again.
        """
        processes = [slot.process for slot in self._slots if slot.process is not None]
        begun, limit = 0.0, -1.0
        while any(process.poll() is None for process in processes):
            if limit != (limit := grace()):
                begun = time.monotonic()
                for process in processes:
                    process.terminate()
            if time.monotonic() - begun > limit:
                for process in processes:
                    process.kill()
            time.sleep(POLL_SECONDS)


class LocalWorkers(Processes):
    """Worker processes on this machine, for one run. A context manager that stops them at its end.

    A worker that exits is replaced at once: SQL counts the attempts of the unit that it held.

    Args:
        run_id: run whose units they claim.
        count: number of processes, 1 or more; on a CPU they share its cores.
        environment: variables added to this process's environment.
    """

    def __init__(self, run_id: str, count: int, environment: Mapping[str, str]) -> None:
        self._run_id = run_id
        self._broken = self._claims = self._claims_before = 0
        threads = max((os.cpu_count() or 1) // count, 1)
        command = [sys.executable, "-P", "-m", "pipeline.engine.worker", run_id, "--parent", str(os.getpid())]
        command += ["--threads", str(threads)]
        # Output of models goes to stderr: stdout is for --json.
        super().__init__(command, [{**os.environ, **environment}] * count, stdout=sys.stderr)
        self.tend()

    def replace_exited(self, claims: int) -> None:
        """Replace workers that exited; `claims` counts the claims of the run's units so far. Raises as `restart`."""
        self._claims = claims
        self.tend()

    def restart(self, ended: Exit) -> float:
        """Restart at once.

        Raises:
            WorkersBroken: `BROKEN_STARTS` consecutive workers made no claim, so they cannot start.
            StoreFull: the index's disk is full.
        """
        if ended.code == StoreFull.EXIT_CODE:
            raise StoreFull(
                f"no space left for the index of run {self._run_id}; free some, then the same command resumes"
            )
        self._broken = 0 if self._claims > self._claims_before else self._broken + 1
        self._claims_before = self._claims
        if self._broken >= BROKEN_STARTS:
            raise WorkersBroken(f"worker processes of run {self._run_id} end with code {ended.code}; see their log")
        return 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(lambda: STOP_SECONDS)
