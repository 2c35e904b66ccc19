"""`attribatch serve`: the page. Its options are those of `attribatch up`, too."""

import signal
import threading
from typing import Annotated, Any

import typer

from pipeline.cli import console
from pipeline.cli.session import open_pipeline

PORT = 8077

Host = Annotated[str, typer.Option(help="Address of the page. Any but this machine's own needs a token.")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help=f"Port of the page; 0 takes a free one. [{PORT}]")]
Token = Annotated[
    str | None, typer.Option(help="What visitors must know, 16 characters or more; better in ATTRIBATCH_WEB_TOKEN.")
]
Names = Annotated[
    list[str] | None,
    typer.Option("--allowed-host", help="A name by which browsers may call the server, as behind a proxy."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: attribatch serve --port 8077")(serve)


def serve(
    host: Host = "127.0.0.1",
    port: Port = None,
    token: Token = None,
    allowed_host: Names = None,
) -> None:
    """Show runs, images, audits and schedules in a browser.

    Serves the page until Ctrl-C or SIGTERM. Needs no torch.
    """
    from pipeline.web.server import served

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with open_pipeline() as pipeline, served(pipeline, place(host, port, token, allowed_host)) as server:
        console.err.print(f"the page is at {server.url}; Ctrl-C ends it", markup=False)
        while server.thread.is_alive() and not stop.wait(0.5):
            pass


def place(host: str, port: int | None, token: str | None, names: list[str] | None) -> Any:
    """Where the page is served, from a command's options and the environment."""
    from pipeline.settings import Settings
    from pipeline.web.server import Place

    return Place(host, PORT if port is None else port, token or Settings.from_env().web_token, tuple(names or ()))
