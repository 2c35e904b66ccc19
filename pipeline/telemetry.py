"""What workers tell of themselves: metrics for Prometheus, and the ids on their log lines. Knows no work itself.

The functions are the instrumentation points; without `serve` they count for nobody, at well under a microsecond each.
Processes are scraped one by one, each on a port of its own: no files to share, nothing left by those that died.
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
RETRIES = Counter("attribatch_unit_retries", "Units claimed that somebody had claimed before")
HALVINGS = Counter("attribatch_memory_halvings", "Chunks halved because they did not fit into memory")
LEASE_LOSSES = Counter("attribatch_lease_losses", "Units given up because the lease was lost")
HELD = Gauge("attribatch_units_held", "Units that this process holds")


def serve(host: str, port: int) -> None:
    """Answer Prometheus at http://host:port/metrics from a thread, as long as the process lives.

    Raises:
        OSError: the port is taken.
    """
    start_http_server(port, addr=host)


@contextmanager
def unit(run_id: str, number: int, attempt: int) -> Iterator[Callable[[str], None]]:
    """While a thread computes a unit: its ids are on every log line of that thread. Yields what to call at its end.

    That may be later and in another thread, where the unit is stored. It takes what became of it: done, adopted,
    released, fenced or failed.
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
