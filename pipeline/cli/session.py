"""Steps around the API call of a command: open the pipeline, handle Ctrl-C, choose the exit code.

Exit codes: 0 success; 1 failure (for a run: no image is done); 2 usage error; 3 partial run (some images or units
failed); 4 a gate (`--fail-on`) is exceeded; 130 stopped by Ctrl-C.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import console

if TYPE_CHECKING:
    from pipeline.api import Pipeline

FAILED, USAGE, PARTIAL, EXCEEDED, INTERRUPTED = 1, 2, 3, 4, 130

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
RunRef = Annotated[str, typer.Argument(metavar="RUN", help="Id, prefix of an id, name, or latest.")]


def open_pipeline() -> "Pipeline":
    """Open the pipeline of the environment. The import is here because `--help` does not need it."""
    from pipeline.api import Pipeline

    return Pipeline.open()


@contextmanager
def resumable() -> Iterator[None]:
    """End the command with a sentence and code 130 on Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        console.error("stopped; the same command resumes where it stopped")
        raise typer.Exit(INTERRUPTED) from None


def exit_with(state: str) -> None:
    """Exit with the code of a run's state; return if the state is `done`."""
    if state != "done":
        raise typer.Exit(PARTIAL if state == "partial" else FAILED)
