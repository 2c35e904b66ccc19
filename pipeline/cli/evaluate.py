"""The command that asks whether a run's maps are true: evaluate."""

from typing import Annotated

import typer

from pipeline.cli import console, evaluate_printing
from pipeline.cli.session import Json, RunRef, open_pipeline


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(epilog="Example: attribatch evaluate latest --images 32 --metric deletion --metric baselines")(evaluate)


def evaluate(
    ref: RunRef = "latest",
    images: Annotated[int, typer.Option(min=1, help="Size of the random sample.")] = 32,
    seed: Annotated[int, typer.Option(help="Of the sample and of everything random.")] = 0,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="reproduction, deletion, insertion, road, randomisation, sensitivity, infidelity, baselines or "
            "agreement. Repeat for several. Default: all."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Test whether a run's maps are true.

    Also how far they depend on the baseline. Costs about 30 times the making of the sample's maps.
    """
    with open_pipeline() as pipeline, console.progress_bar() as bar:
        found = pipeline.evaluate(ref, images=images, seed=seed, metrics=tuple(metric or ()), say=bar.say)
    evaluate_printing.evaluation(found, as_json=as_json)
