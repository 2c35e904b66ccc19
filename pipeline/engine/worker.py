"""The loop of a local worker: claim straight from SQL, work, repeat, until nothing of the run is left.

`python -m pipeline.engine.worker RUN` runs the loop in a process of its own, started by `pipeline.engine.processes`. It
stops on SIGTERM or when its parent process is gone, and gives its unit back in both cases. If the index's disk stays
full, nothing can be recorded, not even a failure: the process ends with `StoreFull.EXIT_CODE`.
"""

import argparse
import logging
import signal
import sys
from concurrent.futures import Future

from db.queries import progress
from db.records import Unit
from pipeline import logs, telemetry
from pipeline.engine.devices import pick_device
from pipeline.engine.identity import release_dead, when_parent_is_gone, worker_name
from pipeline.engine.unit import OnStep, Outcome, Workshop, begin_unit
from pipeline.errors import Retryable, StoreFull
from pipeline.settings import Settings
from pipeline.storage.stores import Stores

log = logging.getLogger("attribatch.work")

IDLE_SECONDS = 0.2  # between looks for a unit, while other workers hold the last ones
FULL_TRIES = 5  # of an index whose disk is full, a second apart: something may be freed meanwhile


def open_workshop(settings: Settings, *, on_step: OnStep = lambda *_: None) -> Workshop:
    """Open the stores and the device of a worker. `on_step` is called after each step of the unit protocol."""
    stores = Stores.open(settings)
    return Workshop(
        database=stores.database,
        ledger=stores.ledger,
        objects=stores.objects,
        lease_seconds=settings.lease_seconds,
        max_pixels=settings.max_pixels,
        s3_endpoint_url=settings.s3_endpoint_url,
        device=pick_device(settings.device),
        allowed_modules=settings.allowed_modules,
        on_step=on_step,
    )


def begin(shop: Workshop, unit: Unit) -> "Future[Outcome]":
    """`pipeline.engine.unit.begin_unit`, with log lines and metrics."""
    with telemetry.unit(unit.run_id, unit.number, unit.attempt) as finished:
        begun = begin_unit(shop, unit)
        begun.add_done_callback(lambda future: finished(future.result()))
        return begun


def work(shop: Workshop, run_id: str) -> None:
    """Claim and run units of a run until none waits, or until `shop.stop` is set; other runs' units are left alone.

    Raises:
        StoreFull: nothing can be recorded, `FULL_TRIES` times in a row.
    """
    worker, full = worker_name(), 0
    while not shop.stop.is_set():
        try:
            release_dead(shop.ledger)
            shop.ledger.sweep()
            unit = shop.ledger.claim(worker, run_id=run_id)
            full = 0
            if unit is not None:
                begin(shop, unit)
            elif shop.is_storing():
                shop.finish()
            elif progress(shop.database, run_id).over:
                return
            else:
                shop.stop.wait(IDLE_SECONDS)
        except Retryable as error:  # the database is away: nothing is lost, look again
            full = full + 1 if isinstance(error, StoreFull) else 0
            if full >= FULL_TRIES:
                raise
            log.warning("%s", error)
            shop.stop.wait(5 * IDLE_SECONDS)
    shop.finish()


def main() -> None:
    """Entry of a worker process."""
    parser = argparse.ArgumentParser(prog="pipeline.engine.worker", description=__doc__)
    parser.add_argument("run", help="id of the run to work on")
    parser.add_argument("--parent", type=int, required=True, help="pid to watch: stop when it is gone")
    parser.add_argument("--threads", type=int, default=0, help="of torch on a CPU; 0 leaves the default")
    options = parser.parse_args()
    settings = Settings.from_env()
    logs.configure(settings.log_format or "console", level=logging.WARNING)
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    shop = open_workshop(settings)
    signal.signal(signal.SIGTERM, lambda *_: shop.stop.set())
    when_parent_is_gone(options.parent, shop.stop.set)
    code = 0
    try:
        work(shop, options.run)
    except StoreFull as error:
        log.error("%s", error)  # noqa: TRY400 - an expected error: its sentence says all, a traceback would bury it
        code = StoreFull.EXIT_CODE
    shop.database.dispose()
    sys.exit(code)


if __name__ == "__main__":
    main()
