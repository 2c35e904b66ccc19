"""The heartbeat of a lease: renews it in a thread for as long as its holder works."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.errors import Retryable

RENEW_SECONDS = 5.0  # longest time between two renewals


@contextmanager
def held_lease(renew: Callable[[], bool], lease_seconds: float) -> Iterator[threading.Event]:
    """Renew a lease in a thread until the block ends.

    Args:
        renew: extends the lease by `lease_seconds` from now; returns False if another holder has it.
        lease_seconds: a lease that was not renewed for so long counts as lost.

    Yields:
        An event that is set once the lease is lost.
    """
    lost, over = threading.Event(), threading.Event()

    def beat() -> None:
        renewed = time.monotonic()
        while not over.wait(min(lease_seconds / 3, RENEW_SECONDS)):
            try:
                if not renew():
                    lost.set()
                    return
                renewed = time.monotonic()
            except Retryable:
                if time.monotonic() - renewed > lease_seconds:
                    lost.set()
                    return

    thread = threading.Thread(target=beat, name="attribatch-lease", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        over.set()
        thread.join()
