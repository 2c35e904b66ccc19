"""The Celery app. Its messages carry unit ids only, so a lost or duplicated message does no harm."""

from celery import Celery

from pipeline.engine.broker import QUEUE
from pipeline.settings import Settings


def make_app(settings: Settings) -> Celery:
    """Create the app of a worker process.

    Two settings follow from measurements. A task that takes longer than the visibility timeout is delivered a second
    time while it runs, so the timeout is far longer than a lease. redis-py's default socket timeout, 5 s, is too short
    under load.
    """
    app = Celery("attribatch", broker=settings.broker_url, set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,  # the unit can continue: its lease is in SQL
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": max(3600, 10 * int(settings.lease_seconds)),
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
        },
    )
    return app
