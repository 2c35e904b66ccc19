"""What commands share: arguments that mean the same everywhere, exit codes, and the pipeline they call."""

from typing import Annotated, Any

import typer

FAILED, USAGE, PARTIAL, INTERRUPTED = 1, 2, 3, 130

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
RunRef = Annotated[str, typer.Argument(metavar="RUN", help="Id, prefix of an id, name, or latest.")]


def open_pipeline() -> Any:
    """The pipeline that the environment names. Imported here: `--help` need not pay for it."""
    from pipeline.api import Pipeline

    return Pipeline.open()
