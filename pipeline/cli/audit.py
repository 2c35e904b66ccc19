"""`attribatch audit`: figures per class, shortcuts and the HTML report of a run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from pipeline.cli import console
from pipeline.cli.console import out
from pipeline.cli.session import EXCEEDED, Json, RunRef, open_pipeline, resumable
from pipeline.formatting import number, percent, plural, visible

if TYPE_CHECKING:
    from pipeline.analysis.audit import Audit

LOGGED_IMAGES = 5_000  # without a terminal, fewer items are not worth a line per tenth


def register(app: typer.Typer) -> None:
    """Add `audit`."""
    app.command(epilog="Example: attribatch audit latest --by label --out ./report --fail-on 'findings>0'")(audit)


def audit(
    ref: RunRef = "latest",
    by: Annotated[str, typer.Option(help="Group images by their predicted class or their label.")] = "predicted",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for report.html, audit.json and audit.npz. Default: below ATTRIBATCH_HOME."),
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            help="Gate for exit code 4, in quotes, repeatable: 'findings>0', 'border_share>0.3', 'accuracy<0.9', ..."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Summarize a run's maps by class, and find shortcuts.

    Writes figures per class, the tested shortcuts, and an HTML report.
    """
    from pipeline.analysis.audit.gate_figures import exceeded, parse_gates

    gates = parse_gates(fail_on or ())
    with open_pipeline() as pipeline, resumable(), _counting() as count:
        found, report = pipeline.audit(ref, by=by, out=out, on_progress=count)
    over = exceeded(found, gates)
    if as_json:
        console.print_json(found.to_dict() | {"exceeded": over})
    else:
        print_audit(found)
        for gate in over:
            console.out.print(f"[bold red]gate exceeded:[/] {escape(gate)}")
        console.out.print(f"\nreport  {report} (open it in a browser)", markup=False)
    if over:
        raise typer.Exit(EXCEEDED)


def print_audit(found: "Audit") -> None:
    """Print the table of classes, the findings and the remarks of an audit."""
    _print_classes(found)
    out.print()
    for finding in found.findings:
        out.print(f"[bold]finding:[/] {escape(finding.sentence)}")
    if not found.findings:
        out.print(escape(found.summary))
    for reason, count in found.failed.items():
        out.print(f"{plural(count, 'image')} failed: {visible(reason)}", markup=False)
    for remark in found.remarks if found.searched else ():
        out.print(remark, markup=False)


def _print_classes(found: "Audit") -> None:
    members, baselines = found.overall.member_disagreement is not None, found.overall.baseline_sensitivity is not None
    columns = ["images", "completeness gap", "error estimate", "border share"]
    columns += ["disagreement", "sign agreement"] * members + ["baseline sensitivity"] * baselines
    table = console.table("class", columns)
    for one in found.classes:
        cells = [percent(value) for value in (one.completeness_gap, one.error_estimate, one.border_share)]
        cells += [number(one.member_disagreement), percent(one.sign_agreement)] * members
        cells += [number(one.baseline_sensitivity)] * baselines
        table.add_row(escape(one.class_name), f"{one.images:,}", *cells)
    console.print_table(table)
    out.print("[dim]medians, within half a percent; border share (in the outer eighth) and sign agreement: means")
    if members:
        out.print("[dim]unrelated members: disagreement 1.0 for two, 1.6 for three; sign agreement 71 %, 43 %")
    if baselines:
        out.print("[dim]baseline sensitivity: distance of two baselines' maps; 0 for equal maps, 1.41 for unrelated")


@contextmanager
def _counting() -> Iterator[Callable[[str, int, int], None]]:
    """A callback that shows progress: one changing line on a terminal, otherwise a line for each tenth."""
    tenths: dict[str, int] = {}
    with console.err.status("opening the maps") as status:

        def count(what: str, done: int, of: int) -> None:
            text = f"{'maps read' if what == 'maps' else 'places tested'}: {done:,} of {of:,}"
            status.update(text)
            tenth = 10 * done // max(of, 1)
            if not console.err.is_terminal and tenths.get(what) != tenth and of > LOGGED_IMAGES:
                tenths[what] = tenth
                console.err.print(f"[dim]{text}[/]")

        yield count
