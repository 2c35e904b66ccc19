"""The command that audits a run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import console
from pipeline.cli.session import EXCEEDED, Json, RunRef, open_pipeline, resumable


def register(app: typer.Typer) -> None:
    """Add `audit`."""
    app.command(epilog="Example: attribatch audit latest --by label --out ./report --fail-on 'findings>0'")(audit)


def audit(
    ref: RunRef = "latest",
    by: Annotated[str, typer.Option(help="Group images by their predicted class or their label.")] = "predicted",
    out: Annotated[
        Path | None, typer.Option(help="Folder of report.html, audit.json and audit.npz. Default: below the home.")
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            help="Gate for exit code 4, in quotes, repeatable: 'findings>0', 'border_share>0.3', 'accuracy<0.9', ..."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a run's maps say together, and find shortcuts.

    Figures per class, shortcuts that were tested, and an HTML report.
    """
    from pipeline.analysis.audit.gate_figures import exceeded, parse_gates

    gates = parse_gates(fail_on or ())
    with open_pipeline() as pipeline, resumable(), _counting() as count:
        found, report = pipeline.audit(ref, by=by, out=out, on_progress=count)
    over = exceeded(found, gates)
    console.audit(found, report, over, as_json=as_json)
    if over:
        raise typer.Exit(EXCEEDED)


@contextmanager
def _counting() -> Iterator[Callable[[str, int, int], None]]:
    """A function that shows how many of what are done: one changing line, or a line for each tenth on no terminal."""
    tenths: dict[str, int] = {}
    with console.err.status("opening the maps") as status:

        def count(what: str, done: int, of: int) -> None:
            text = f"{'maps read' if what == 'maps' else 'places tested'}: {done:,} of {of:,}"
            status.update(text)
            if not console.err.is_terminal and tenths.get(what) != (tenth := 10 * done // max(of, 1)) and of > 5_000:
                tenths[what] = tenth
                console.err.print(f"[dim]{text}[/]")

        yield count
