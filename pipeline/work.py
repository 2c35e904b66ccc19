"""The loop of a local worker: claim straight from SQL, work, repeat, until nothing of the run is left.

Also the process that runs it (`python -m pipeline.work RUN`), started by `pipeline.dispatch`: it stops when asked to,
or when the process that started it is gone, and gives its unit back either way.
"""

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time

import psutil

from db.ledger import Ledger
from db.objects import open_objects
from db.queries import progress
from db.records import RunState
from db.session import migrate, open_engine
from pipeline.engine import Workshop, begin_unit
from pipeline.errors import Retryable
from pipeline.settings import Settings

log = logging.getLogger("attribatch.work")

IDLE_SECONDS = 0.2  # between looks for a unit, while other workers hold the last ones


def open_workshop(settings: Settings) -> Workshop:
    """Everything that a worker needs, opened: the index (migrated), the ledger, object storage, the device."""
    database = open_engine(settings.database_url)
    migrate(database)
    return Workshop(
        database=database,
        ledger=Ledger(database, lease_seconds=settings.lease_seconds, max_attempts=settings.max_attempts),
        objects=open_objects(settings.objects_url, s3_endpoint_url=settings.s3_endpoint_url),
        lease_seconds=settings.lease_seconds,
        max_pixels=settings.max_pixels,
        s3_endpoint_url=settings.s3_endpoint_url,
        device=pick_device(settings.device),
        allowed_modules=settings.allowed_modules,
    )


def pick_device(wanted: str) -> str:
    """`auto` is the first GPU where there is one, else the CPU."""
    if wanted != "auto":
        return wanted
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def work(shop: Workshop, run_id: str) -> None:
    """Claim and run units of a run until none waits, or until `shop.stop` is set; other runs' units are left alone."""
    worker = worker_name()
    while not shop.stop.is_set():
        try:
            shop.ledger.release_owned_by([name for name in shop.ledger.lease_owners() if is_dead(name)])
            shop.ledger.sweep()
            unit = shop.ledger.claim(worker, run_id=run_id)
            if unit is not None:
                begin_unit(shop, unit)
            elif shop.is_storing():
                shop.finish()
            elif progress(shop.database, run_id).state not in (RunState.PENDING, RunState.RUNNING):
                return
            else:
                shop.stop.wait(IDLE_SECONDS)
        except Retryable as error:  # the database is away: nothing is lost, look again
            log.warning("%s", error)
            shop.stop.wait(5 * IDLE_SECONDS)
    shop.finish()


def worker_name() -> str:
    """Who holds a lease: host, pid and the process's start, so that a reused pid is another worker."""
    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.2f}"


def is_dead(worker: str) -> bool:
    """Whether a worker of this host is known to be gone; False for other hosts and whatever is no worker's name."""
    host, _, rest = worker.rpartition(":")[0].rpartition(":")
    started = worker.rpartition(":")[2]
    if host != socket.gethostname() or not rest.isdecimal():
        return False
    try:
        process = psutil.Process(int(rest))
        return f"{process.create_time():.2f}" != started or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def main() -> None:
    """Entry of a worker process."""
    parser = argparse.ArgumentParser(prog="pipeline.work", description=__doc__)
    parser.add_argument("run", help="id of the run to work on")
    parser.add_argument("--parent", type=int, required=True, help="pid to watch: stop when it is gone")
    parser.add_argument("--threads", type=int, default=0, help="of torch on a CPU; 0 leaves the default")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    shop = open_workshop(Settings.from_env())
    signal.signal(signal.SIGTERM, lambda *_: shop.stop.set())

    def watch_parent() -> None:
        while os.getppid() == options.parent:
            time.sleep(0.2)
        shop.stop.set()

    threading.Thread(target=watch_parent, name="attribatch-parent", daemon=True).start()
    work(shop, options.run)
    shop.database.dispose()
    sys.exit(0)


if __name__ == "__main__":
    main()
