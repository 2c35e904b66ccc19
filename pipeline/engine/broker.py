"""Wakes Celery workers through a broker.

A message carries only a unit id. Losing it costs nothing: SQL holds the state, and `sweep` sends it again.
"""

import logging
import time
from collections.abc import Sequence

from db.ledger import Ledger
from pipeline.errors import StoreUnavailable, UsageError

log = logging.getLogger("attribatch.dispatch")

TASK = "attribatch.run_unit"
QUEUE = "attribatch"
AT_ONCE = 1000  # units marked as sent in one transaction
_PATIENCE = {"socket_connect_timeout": 5, "socket_timeout": 5}


def send(broker_url: str, unit_ids: Sequence[int]) -> None:
    """Wake Celery workers: one message for each unit.

    Raises:
        StoreUnavailable: the broker does not accept them; `sweep` in a worker will send them.
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
    """Send a message for each due unit that has none, and return the number of messages.

    Units are marked as sent in SQL first, so that two sweeps do not send the same unit. If the broker fails, the marks
    are removed. If the sender is killed in between, idle workers find the units in SQL.

    Raises:
        StoreUnavailable: the broker or the index does not answer.
    """
    sent = 0
    while unit_ids := ledger.unsent(AT_ONCE):
        try:
            send(broker_url, unit_ids)
        except StoreUnavailable:
            ledger.unsend(unit_ids)  # some may have been sent: a second message does no harm
            raise
        sent += len(unit_ids)
    return sent


class Waker:
    """Releases expired leases and sends messages for waiting units, unless it did so a moment ago.

    Args:
        ledger: the ledger of the units.
        broker_url: the broker of the workers. While it is away nothing is lost: idle workers look in SQL.
        every_seconds: shortest time between two sweeps; other calls do nothing.
    """

    def __init__(self, ledger: Ledger, broker_url: str, *, every_seconds: float = 0.0) -> None:
        self._ledger = ledger
        self._broker_url = broker_url
        self._every_seconds = every_seconds
        self._due = 0.0

    def __call__(self) -> None:
        """Sweep and send, if `every_seconds` have passed."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self._every_seconds
        try:
            self._ledger.sweep()
            send_waiting(self._ledger, self._broker_url)
        except StoreUnavailable as error:
            log.warning("%s", error)


def check_broker_url(broker_url: str) -> None:
    """Raise UsageError for a URL of an unknown kind of broker. Does not connect."""
    from kombu.transport import resolve_transport

    kind = broker_url.partition(":")[0]  # the rest may hold a password
    try:
        resolve_transport(kind)
    except (KeyError, ImportError) as error:
        raise UsageError(f"ATTRIBATCH_BROKER_URL '{kind}:...' cannot be used; write redis://host:6379/0") from error


def reach_broker(broker_url: str) -> str:
    """Connect once, and return the URL without its password.

    Raises:
        StoreUnavailable: the broker does not answer within 5 s, or is of an unknown kind.
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
