"""`attribatch compare`: what differs between two runs."""

from typing import Annotated

import typer

from pipeline.cli import console
from pipeline.cli.session import EXCEEDED, Json, open_pipeline


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(epilog='Example: attribatch compare nightly-1 nightly-2 --fail-on "cosine<0.9"')(compare)


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="The run that is compared with: id, name, or latest.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other run.")],
    by: Annotated[
        str, typer.Option(help="Group images by the class that A predicted, or by their label.")
    ] = "predicted",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Images to list, those that moved most.")] = 20,
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

    Also what was asked differently, and which classes and images moved most. Images are matched by key. Runs may
    differ in models, baselines, steps or images, not in the size of the input.
    """
    from pipeline.analysis.comparison import FIGURES
    from pipeline.cli.compare_printing import comparison
    from pipeline.spec.gate import Gate

    gate = None if fail_on is None else Gate.parse(fail_on, figures=FIGURES)
    with open_pipeline() as pipeline, console.working("comparing the maps"):
        found = pipeline.compare(a, b, by=by, limit=limit)
        for run in (found.run_a, found.run_b):
            console.unfinished(pipeline.status(run))
    exceeded = gate is not None and gate.exceeded(found.figures()) is not False  # what is not measured is not passed
    comparison(found, exceeded=exceeded if gate else None, as_json=as_json)
    if exceeded:
        raise typer.Exit(EXCEEDED)
