"""Hands units to whoever works: local worker processes, or Celery workers through a broker.

SQL is the truth either way. A message carries a unit id and nothing else; losing it costs nothing, sweep sends again.
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from db.ledger import Ledger
from pipeline.errors import StoreFull, StoreUnavailable, UsageError, WorkersBroken

log = logging.getLogger("attribatch.dispatch")

TASK = "attribatch.run_unit"
QUEUE = "attribatch"
AT_ONCE = 1000  # units marked as sent in one transaction
BROKEN_STARTS = 4  # workers that end before they claim anything, in a row
_PATIENCE = {"socket_connect_timeout": 5, "socket_timeout": 5}
STOP_SECONDS = 30.0  # a worker that was asked to stop gives its unit back between two chunks


def send(broker_url: str, unit_ids: Sequence[int]) -> None:
    """Wake Celery workers: one message for each unit.

    Raises:
        StoreUnavailable: the broker does not take them; `sweep` in a worker will send them.
    """
    from celery import Celery
    from kombu.exceptions import OperationalError

    app = Celery("attribatch", broker=broker_url, set_as_current=False)
    app.conf.task_default_queue = QUEUE
    app.conf.broker_transport_options = _PATIENCE
    try:
        for unit_id in unit_ids:
            app.send_task(TASK, args=[unit_id], serializer="json", ignore_result=True, retry=False)
    except (OperationalError, OSError) as error:
        raise StoreUnavailable(f"the broker took no message ({error}); workers will find the units in SQL") from error
    finally:
        app.close()


def send_waiting(ledger: Ledger, broker_url: str) -> int:
    """Send the due units that nobody was told of. Messages sent.

    Units are marked in SQL before they are sent, so that two sweepers do not send the same; where the broker fails, the
    marks of those not sent are taken back. A sender killed in between leaves units to idle workers, who look in SQL.

    Raises:
        StoreUnavailable: the broker or the index does not answer.
    """
    sent = 0
    while unit_ids := ledger.unsent(AT_ONCE):
        try:
            send(broker_url, unit_ids)
        except StoreUnavailable:
            ledger.unsend(unit_ids)  # some may have gone out: a second message does no harm
            raise
        sent += len(unit_ids)
    return sent


class Waker:
    """Gives back what silent workers hold and sends what waits, at most every so often. Each call is one occasion.

    Args:
        ledger: of the units.
        broker_url: of the workers' broker. While it is away nothing is lost: idle workers look in SQL.
        every_seconds: calls in between do nothing.
    """

    def __init__(self, ledger: Ledger, broker_url: str, *, every_seconds: float = 0.0) -> None:
        self._ledger = ledger
        self._broker_url = broker_url
        self._every_seconds = every_seconds
        self._due = 0.0

    def __call__(self) -> None:
        """Sweep and send, if it is time."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self._every_seconds
        try:
            self._ledger.sweep()
            send_waiting(self._ledger, self._broker_url)
        except StoreUnavailable as error:
            log.warning("%s", error)


def check_broker_url(broker_url: str) -> None:
    """Raise UsageError where a URL is of no kind of broker that is known. Connects to nothing."""
    from kombu.transport import resolve_transport

    kind = broker_url.partition(":")[0]  # the rest may hold a password
    try:
        resolve_transport(kind)
    except (KeyError, ImportError) as error:
        raise UsageError(f"ATTRIBATCH_BROKER_URL '{kind}:...' cannot be used; write redis://host:6379/0") from error


def reach_broker(broker_url: str) -> str:
    """Connect once, and say to what. The password is not part of it.

    Raises:
        StoreUnavailable: it does not answer within 5 s, or the URL is of no broker that is known.
    """
    from kombu.connection import Connection
    from kombu.exceptions import OperationalError

    kind = broker_url.partition(":")[0]
    try:
        with Connection(broker_url, transport_options=_PATIENCE) as connection:  # type: ignore[no-untyped-call]  # kombu ships no annotations
            connection.ensure_connection(max_retries=1)
            return str(connection.as_uri()).partition("?")[0]
    except OperationalError as error:
        raise StoreUnavailable(f"broker {kind}://... does not answer: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise StoreUnavailable(
            f"ATTRIBATCH_BROKER_URL '{kind}:...' cannot be used; write redis://host:6379/0"
        ) from error


class LocalWorkers:
    """Worker processes on this machine, for one run. A context manager: leaving it stops them.

    A worker that dies is replaced: what killed it is counted in SQL against its unit.

    Args:
        run_id: whose units they claim.
        count: processes; on a CPU they share its cores.
        environment: settings they are given, on top of this process's.
    """

    def __init__(self, run_id: str, count: int, environment: dict[str, str]) -> None:
        self._run_id = run_id
        self._broken = self._claims = 0
        self._environment = {**os.environ, **environment}
        threads = max((os.cpu_count() or 1) // count, 1)
        self._command = [sys.executable, "-P", "-m", "pipeline.engine.worker", run_id, "--parent", str(os.getpid())]
        self._command += ["--threads", str(threads)]
        self._processes = [self._start() for _ in range(count)]

    def tend(self, claims: int) -> None:
        """Replace workers that ended, for as long as the run is not finished.

        Args:
            claims: of units so far, over the run. A worker that dies after a claim is counted in SQL against its unit;
                workers that die without one cannot even start.

        Raises:
            WorkersBroken: `BROKEN_STARTS` of them in a row.
            StoreFull: a worker could record nothing for want of space.
        """
        for index, process in enumerate(self._processes):
            code = process.poll()
            if code is None:
                continue
            if code == StoreFull.EXIT_CODE:
                raise StoreFull(
                    f"no space left for the index of run {self._run_id}; free some, then the same command goes on"
                )
            self._broken = 0 if claims > self._claims else self._broken + 1
            self._claims = claims
            if self._broken >= BROKEN_STARTS:
                raise WorkersBroken(f"worker processes of run {self._run_id} end with code {code}; see their log")
            self._processes[index] = self._start()

    def stop(self) -> None:
        """Ask all to stop, wait, and end by force those that do not."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        give_up = time.monotonic() + STOP_SECONDS
        for process in self._processes:
            try:
                process.wait(max(give_up - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> subprocess.Popen[bytes]:
        # A group of its own: Ctrl-C reaches this process alone, which then asks the workers to stop. What a model
        # prints goes to stderr: stdout is for --json.
        return subprocess.Popen(  # noqa: S603 - a fixed list: this interpreter and our module, no shell
            self._command, env=self._environment, process_group=0, stdout=sys.stderr
        )
