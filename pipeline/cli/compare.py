"""`attribatch compare`: the differences between two runs."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from pipeline.cli import console
from pipeline.cli.console import out
from pipeline.cli.session import EXCEEDED, Json, open_pipeline
from pipeline.formatting import plural, visible

if TYPE_CHECKING:
    from pipeline.analysis.comparison import Comparison

LISTED_CLASSES = 20


def register(app: typer.Typer) -> None:
    """Add `compare`."""
    app.command(epilog='Example: attribatch compare nightly-1 nightly-2 --fail-on "cosine<0.9"')(compare)


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Reference run: id, name, or latest.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The run to compare with A.")],
    by: Annotated[str, typer.Option(help="Group images by A's predicted class or by label.")] = "predicted",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Images to list, the largest changes first.")] = 20,
    fail_on: Annotated[
        str | None,
        typer.Option(
            help="Gate for exit code 4: 'cosine<0.9'. Figures: the medians cosine, rank_correlation and distance; "
            "flip_share, drift, class_drift, ndcg."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare two runs: how far each image's map moved.

    Also lists the options that differ, and the classes and images that moved most. Images are matched by key. Runs
    may differ in models, baselines, steps or images, but not in the size of the input.
    """
    from pipeline.analysis.comparison import FIGURES
    from pipeline.spec.gate import Gate

    gate = None if fail_on is None else Gate.parse(fail_on, figures=FIGURES)
    with open_pipeline() as pipeline, console.working("comparing the maps"):
        found = pipeline.compare(a, b, by=by, limit=limit)
        for run in (found.run_a, found.run_b):
            console.unfinished(pipeline.status(run))
    exceeded = gate is not None and gate.exceeded(found.figures()) is not False  # an unknown figure fails the gate
    if as_json:
        console.print_json(found.to_dict() | ({} if gate is None else {"exceeded": exceeded}))
    else:
        _print(found)
    if exceeded:
        if not as_json:
            out.print("\nGATE EXCEEDED", markup=False)
        raise typer.Exit(EXCEEDED)


def _print(found: "Comparison") -> None:
    shared = plural(found.shared_images, "image")
    out.print(f"A {found.run_a}, B {found.run_b}: {shared} with a map in both", markup=False)
    if found.run_a == found.run_b:
        out.print("A and B are the same run, so nothing differs", markup=False)
    remarks = {
        "only in A": found.only_a,
        "only in B": found.only_b,
        "with a changed file": found.changed_files,
        "predicted differently": found.flips,
    }
    out.print(", ".join(f"{count:,} {what}" for what, count in remarks.items()) + "\n", markup=False)
    _print_spec(found)
    _print_figures(found)
    _print_classes(found)
    _print_images(found)


def _print_spec(found: "Comparison") -> None:
    if not found.spec:
        out.print("both runs have the same options\n")
        return
    table = console.table(("differs", "A", "B"))
    for each in found.spec:
        table.add_row(*(escape(visible(cell)) for cell in (each.field, each.a, each.b)))
    console.print_table(table)
    out.print()


def _print_figures(found: "Comparison") -> None:
    table = console.table("of the maps", ("10 %", "median", "90 %"))
    rows = {
        "cosine": found.cosine,
        "rank correlation": found.rank_correlation,
        "relative L1 distance": found.distance,
    }
    for name, each in rows.items():
        table.add_row(name, *(f"{value:.4f}" for value in (each.p10, each.median, each.p90)))
    console.print_table(table)
    out.print(f"drift over all images {found.drift:.4f}, nDCG {found.ndcg:.4f}\n", markup=False)


def _print_classes(found: "Comparison") -> None:
    if not found.classes:
        return
    table = console.table(f"class ({found.by})", ("images", "drift", "nDCG", "mean cosine"))
    for each in found.classes[:LISTED_CLASSES]:
        figures = (f"{value:.4f}" for value in (each.drift, each.ndcg, each.cosine))
        table.add_row(escape(visible(each.class_name)), f"{each.images:,}", *figures)
    console.print_table(table)
    if (more := len(found.classes) - LISTED_CLASSES) > 0:
        out.print(f"and {more:,} more that moved less; --json lists all", markup=False)
    out.print()


def _print_images(found: "Comparison") -> None:
    table = console.table("moved most", ("cosine", "rank correlation", "distance", "predicted"))
    for each in found.changed:
        figures = (f"{value:.4f}" for value in (each.cosine, each.rank_correlation, each.distance))
        same = each.predicted_a == each.predicted_b
        predicted = each.predicted_a or "" if same else f"{each.predicted_a} -> {each.predicted_b}"
        table.add_row(escape(visible(each.key)), *figures, escape(visible(predicted)))
    console.print_table(table)
