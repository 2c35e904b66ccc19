"""The clock of an installation: calls `tick` at intervals.

Each tick reads from SQL which schedules are due, so a tick that is late, doubled or lost changes nothing. One or more
beats may run, and each may be restarted at any time.
"""

import logging
import threading
from collections.abc import Callable

from pipeline.errors import AttribatchError, Retryable

log = logging.getLogger("attribatch.beat")


def beat(
    tick: Callable[[], object],
    *,
    every_seconds: float,
    stop: threading.Event,
    reach: Callable[[], object] = lambda: None,
) -> None:
    """Tick until `stop` is set. A tick that fails is logged, and the next one follows.

    Args:
        tick: runs the schedules that are due.
        every_seconds: seconds from the end of a tick to the start of the next one.
        stop: ends the wait at once.
        reach: raises Retryable while the broker is away. Logged once when it goes away and once when it is back.
    """
    away = False
    while not stop.is_set():
        away = _is_away(reach, away)
        try:
            tick()
        except AttribatchError as error:
            log.warning("%s", error)
        except Exception:
            log.exception("a tick failed; the next comes in %g s", every_seconds)
        stop.wait(every_seconds)


def _is_away(reach: Callable[[], object], away: bool) -> bool:
    """Whether the broker is away; logged if that has changed."""
    try:
        reach()
    except Retryable as error:
        if not away:
            log.warning("%s; workers look for units in SQL meanwhile", error)
        return True
    if away:
        log.info("the broker answers again")
    return False
