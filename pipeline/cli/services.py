"""`attribatch worker`, `beat`, `serve` and `migrate`: the processes of a server installation."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import console
from pipeline.cli.session import Json, open_pipeline

if TYPE_CHECKING:
    from pipeline.web.server import Place

PORT = 8077

Host = Annotated[str, typer.Option(help="Address of the page. An address that is not this machine's needs a token.")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help=f"Port of the page; 0 takes a free one. [{PORT}]")]
Token = Annotated[
    str | None, typer.Option(help="Secret of visitors, 16 characters or more; better in ATTRIBATCH_WEB_TOKEN.")
]
Names = Annotated[
    list[str] | None,
    typer.Option("--allowed-host", help="A host name that browsers use for the server, for example behind a proxy."),
]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(epilog="Example: attribatch serve --port 8077")(serve)
    app.command(epilog="Example: attribatch worker --device auto --metrics-port 9100")(worker)
    app.command(epilog="Example: attribatch beat --every 30")(beat)
    app.command(epilog="Example: attribatch migrate")(migrate)


def serve(
    host: Host = "127.0.0.1",
    port: Port = None,
    token: Token = None,
    allowed_host: Names = None,
) -> None:
    """Show runs, images, audits and schedules in a browser.

    Serves the page until Ctrl-C or SIGTERM. Does not need torch.
    """
    from pipeline.web.server import served

    stop = stop_event()
    with open_pipeline() as pipeline, served(pipeline, place(host, port, token, allowed_host)) as server:
        console.err.print(f"the page is at {server.url}; Ctrl-C ends it", markup=False)
        while server.thread.is_alive() and not stop.wait(0.5):
            pass


def worker(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "",
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Processes. Default: one for each GPU, or one.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Prometheus port of the first process; the others use the next ones."),
    ] = None,
) -> None:
    """Compute units that the broker announces, until stopped. On SIGTERM, gives back the units in progress."""
    given = {"--device": device, "--concurrency": concurrency, "--metrics-port": metrics_port}
    options = [part for name, value in given.items() if value for part in (name, str(value))]
    # A separate program: the pipeline does not import the workers. -P: do not import from the working folder.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "workers", *options])  # noqa: S606 - a fixed list: this interpreter, our module and checked options, no shell


def beat(
    every: Annotated[float, typer.Option(min=1, max=60, help="Seconds between two ticks.")] = 30.0,
) -> None:
    """Run due schedules every few seconds, until stopped.

    Run one such process per installation.
    """
    from pipeline import logs
    from pipeline.engine.broker import reach_broker
    from pipeline.schedules.beat import beat as run
    from pipeline.settings import Settings

    settings = Settings.from_env()
    logs.configure(settings.log_format or "json")
    broker = settings.broker_url

    def reach() -> None:
        if broker is not None:
            reach_broker(broker)

    stop = stop_event()
    with open_pipeline() as pipeline:
        run(pipeline.tick, every_seconds=every, stop=stop, reach=reach)


def migrate(as_json: Json = False) -> None:
    """Upgrade the index's schema, and print its revision. Safe to repeat, and while others do the same.

    No other command changes the schema of a server. A SQLite index is upgraded by the command that opens it.
    """
    from pipeline.api import Pipeline

    index = Pipeline.migrate()
    if as_json:
        console.print_json(index)
    else:
        console.out.print(f"{index.url}: schema {index.revision}", markup=False)


def place(host: str, port: int | None, token: str | None, names: list[str] | None) -> "Place":
    """The address of the page, from a command's options and the environment."""
    from pipeline.settings import Settings
    from pipeline.web.server import Place

    return Place(host, PORT if port is None else port, token or Settings.from_env().web_token, tuple(names or ()))


def stop_event() -> threading.Event:
    """An event that SIGTERM or SIGINT sets; a second signal ends the process at once."""
    stop = threading.Event()

    def handle(number: int, _: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop
