"""Prometheus metrics of workers, and the ids on their log lines.

The functions are the instrumentation points; without `serve` each costs well under a microsecond. Prometheus scrapes
each process on a port of its own, so there are no shared files and no remains of dead processes.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Summary, start_http_server
from structlog.contextvars import bound_contextvars

from db.records import ImageRow, ImageState

log = logging.getLogger("attribatch.unit")

UNITS = Counter("attribatch_units", "Units that ended in this process", ["outcome"])
IMAGES = Counter("attribatch_images", "Images whose rows were recorded", ["state"])
EVALUATIONS = Counter("attribatch_evaluations", "Gradient evaluations of images that were computed")
STAGES = Summary("attribatch_stage_seconds", "Seconds spent by stage of a unit", ["stage"])
RETRIES = Counter("attribatch_unit_retries", "Units claimed again after an earlier attempt")
HALVINGS = Counter("attribatch_memory_halvings", "Chunks halved because they did not fit into memory")
LEASE_LOSSES = Counter("attribatch_lease_losses", "Units given up because the lease was lost")
HELD = Gauge("attribatch_units_held", "Units that this process holds")


def serve(host: str, port: int) -> None:
    """Serve metrics at http://host:port/metrics from a thread, as long as the process lives.

    Raises:
        OSError: the port is taken.
    """
    start_http_server(port, addr=host)


@contextmanager
def unit(run_id: str, number: int, attempt: int) -> Iterator[Callable[[str], None]]:
    """Put the ids of a unit on every log line of the thread that computes it.

    Yields:
        A function to call with the outcome: done, adopted, released, fenced or failed. The call may come later and from
        another thread, because a unit is stored in the background.
    """
    begun, ids = time.monotonic(), {"run": run_id, "unit": number, "attempt": attempt}

    def finished(outcome: str) -> None:
        HELD.dec()
        UNITS.labels(outcome).inc()
        if outcome == "fenced":
            LEASE_LOSSES.inc()
        with bound_contextvars(**ids):
            log.info("unit %s in %.1f s", outcome, time.monotonic() - begun)

    if attempt > 1:
        RETRIES.inc()
    HELD.inc()
    with bound_contextvars(**ids):
        try:
            yield finished
        except BaseException:
            finished("failed")
            raise


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time one of decode (an image, one of several at once), compute, put, commit. Also a decorator."""
    with STAGES.labels(name).time():
        yield


def recorded(rows: Sequence[ImageRow]) -> None:
    """Count rows that were committed."""
    done = sum(row.state is ImageState.DONE for row in rows)
    IMAGES.labels("done").inc(done)
    IMAGES.labels("failed").inc(len(rows) - done)
    computed = (row for row in rows if (row.map_run, row.map_row) == (row.run_id, row.row))  # others are reused
    EVALUATIONS.inc(sum(row.evaluations or 0 for row in computed))


def memory_halved() -> None:
    """Count a chunk that did not fit."""
    HALVINGS.inc()
