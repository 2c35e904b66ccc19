"""The clock of an installation: asks, every so often, for whatever is due. Knows nothing of what that is.

What is due is decided from SQL by each tick, so a tick that is late, doubled or lost changes nothing: run one beat, or
two, or start it anew at any time.
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
    """Tick until told to stop. A tick that fails is logged, and the next one comes.

    Args:
        tick: does what is due.
        every_seconds: from the end of one to the start of the next.
        stop: ends the wait at once.
        reach: raises Retryable while what wakes the workers is away: said once when it goes, once when it is back.
    """
    away = False
    while not stop.is_set():
        away = _said(reach, away)
        try:
            tick()
        except AttribatchError as error:
            log.warning("%s", error)
        except Exception:
            log.exception("a tick failed; the next comes in %g s", every_seconds)
        stop.wait(every_seconds)


def _said(reach: Callable[[], object], away: bool) -> bool:
    """Whether it is away; logged where that has changed."""
    try:
        reach()
    except Retryable as error:
        if not away:
            log.warning("%s; workers look for units in SQL meanwhile", error)
        return True
    if away:
        log.info("the broker answers again")
    return False
