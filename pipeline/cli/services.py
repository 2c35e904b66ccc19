"""Commands that run for long or set things up, one process each: worker, beat, migrate."""

import os
import signal
import sys
import threading
from typing import Annotated

import typer

from pipeline.cli import upkeep_printing
from pipeline.cli.session import Json, open_pipeline


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(epilog="Example: attribatch worker --device auto --metrics-port 9100")(worker)
    app.command(epilog="Example: attribatch beat --every 30")(beat)
    app.command(epilog="Example: attribatch migrate")(migrate)


def worker(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "",
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Processes. Default: one for each GPU, or one.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Prometheus port of the first process; the others' follow."),
    ] = None,
) -> None:
    """Compute units that the broker announces, until stopped. SIGTERM gives units in flight back."""
    given = {"--device": device, "--concurrency": concurrency, "--metrics-port": metrics_port}
    options = [part for name, value in given.items() if value for part in (name, str(value))]
    # Another program: the pipeline does not import the workers. -P: the working folder is no place to import from.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "workers", *options])  # noqa: S606 - a fixed list: this interpreter, our module and checked options, no shell


def beat(
    every: Annotated[float, typer.Option(min=1, max=60, help="Seconds between two looks at what is due.")] = 30.0,
) -> None:
    """Do what is due, again and again, until stopped.

    One such process for an installation.
    """
    from pipeline import logs
    from pipeline.engine.broker import reach_broker
    from pipeline.schedules.beat import beat as run
    from pipeline.settings import Settings

    settings = Settings.from_env()
    logs.configure(settings.log_format or "json")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    broker = settings.broker_url

    def reach() -> None:
        if broker is not None:
            reach_broker(broker)

    with open_pipeline() as pipeline:
        run(pipeline.tick, every_seconds=every, stop=stop, reach=reach)


def migrate(as_json: Json = False) -> None:
    """Bring the index's schema up to date, and say its revision. Safe to repeat, and beside others."""
    with open_pipeline() as pipeline:
        upkeep_printing.migrated(pipeline.index, as_json=as_json)
