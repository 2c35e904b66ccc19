"""What every command does around its one call of the API: open it, end by Ctrl-C, choose the exit code.

Exit codes: 0 ok, 1 failed (a run: no image is done), 2 usage, 3 the run is partial (some images or units failed),
4 a gate (`--fail-on`) is exceeded, 130 stopped by Ctrl-C.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from pipeline.cli import console

FAILED, USAGE, PARTIAL, EXCEEDED, INTERRUPTED = 1, 2, 3, 4, 130

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
RunRef = Annotated[str, typer.Argument(metavar="RUN", help="Id, prefix of an id, name, or latest.")]


def open_pipeline() -> Any:
    """The pipeline that the environment names; imported only now, so that `--help` need not wait for it."""
    from pipeline.api import Pipeline

    return Pipeline.open()


@contextmanager
def resumable() -> Iterator[None]:
    """Ctrl-C ends the command with a sentence."""
    try:
        yield
    except KeyboardInterrupt:
        console.error("stopped; the same command goes on where it was")
        raise typer.Exit(INTERRUPTED) from None


def exit_with(state: str) -> None:
    """End with the code of a run's state: nothing for `done`."""
    if state != "done":
        raise typer.Exit(PARTIAL if state == "partial" else FAILED)
