"""`attribatch worker`: the supervisor, and with `--child N` one of the Celery worker processes that it starts.

All modules of attribatch are imported here, before Celery inserts the working folder at the front of sys.path.
"""

import argparse
import logging
import os
import signal
import sys
import warnings
from dataclasses import replace

from pipeline import logs, telemetry
from pipeline.engine.broker import TASK, check_broker_url
from pipeline.engine.identity import when_parent_is_gone
from pipeline.engine.worker import open_workshop
from pipeline.errors import AttribatchError, UsageError
from pipeline.settings import Settings
from workers.app import make_app
from workers.consumer import Consumer
from workers.devices import seats
from workers.supervisor import REPLACE, Supervisor


def main() -> int:
    """Run the supervisor or one of its children, and return the exit code."""
    parser = argparse.ArgumentParser(prog="attribatch worker", description="Compute units announced by a broker.")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N; default: ATTRIBATCH_DEVICE")
    parser.add_argument("--concurrency", type=int, help="number of processes; default: one for each GPU, or one")
    parser.add_argument("--metrics-port", type=int, help="port of the first process; each other one uses the next port")
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    settings = Settings.from_env()
    settings = replace(settings, metrics_port=options.metrics_port or settings.metrics_port)
    logs.configure(settings.log_format or "json")
    if settings.broker_url is None:
        raise UsageError(
            "attribatch worker needs ATTRIBATCH_BROKER_URL, for example redis://host:6379/0; without a broker "
            "`attribatch run` starts its own workers"
        )
    check_broker_url(settings.broker_url)
    if options.child is not None:
        try:
            return _work(settings, options.child, options.parent)
        except (AttribatchError, OSError) as error:  # no connection to the index, or the metrics port is in use
            logging.getLogger("attribatch.worker").error("cannot start: %s", error)  # noqa: TRY400 - an expected error, which its sentence explains
            return 1
    environments = [
        {**os.environ, **seat} for seat in seats(options.device or settings.device, options.concurrency, os.environ)
    ]
    command = [sys.executable, "-P", "-m", "workers", "--parent", str(os.getpid())]
    if settings.metrics_port is not None:
        command += ["--metrics-port", str(settings.metrics_port)]
    Supervisor([*command, "--child"], environments).run()
    return 0


def _work(settings: Settings, index: int, parent: int) -> int:
    from celery import signals

    def end() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    if settings.metrics_port is not None:
        telemetry.serve(settings.metrics_host, settings.metrics_port + index)
    shop = open_workshop(settings)
    consumer = Consumer(
        shop,
        broker_url=settings.broker_url or "",
        sweep_seconds=settings.sweep_seconds,
        max_memory_mb=settings.max_memory_mb,
        end=end,
    )
    warnings.filterwarnings("ignore", module="celery")  # warnings about settings that we chose on purpose
    app = make_app(settings)
    app.task(name=TASK)(consumer.run)

    signals.setup_logging.connect(lambda **_: None, weak=False)  # keeps our logging
    signals.worker_shutting_down.connect(lambda **_: shop.stop.set(), weak=False)
    options = {"pool_cls": "threads", "concurrency": 1, "quiet": True, "without_gossip": True, "without_mingle": True}
    worker = app.Worker(hostname=f"attribatch-{index}-{os.getpid()}@%h", **options)
    when_parent_is_gone(parent, end)
    consumer.open()
    worker.start()
    consumer.close()
    shop.database.dispose()
    return REPLACE if consumer.spent else int(worker.exitcode or 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AttribatchError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2 if isinstance(error, UsageError) else 1)
