"""`attribatch evaluate`: tests of how faithful a run's maps are."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from pipeline.cli import console
from pipeline.cli.console import out
from pipeline.cli.session import Json, RunRef, open_pipeline
from pipeline.formatting import percent, plural, visible

if TYPE_CHECKING:
    from pipeline.analysis.evaluation import Evaluation

MEANING_WIDTH = 70  # characters


def register(app: typer.Typer) -> None:
    """Add `evaluate`."""
    app.command(epilog="Example: attribatch evaluate latest --images 32 --metric deletion --metric baselines")(evaluate)


def evaluate(
    ref: RunRef = "latest",
    images: Annotated[int, typer.Option(min=1, help="Size of the random sample.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of the sample and of all random steps.")] = 0,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="`reproduction`, `deletion`, `insertion`, `road`, `randomisation`, `sensitivity`, `infidelity`, "
            "`baselines` or `agreement`. Repeat for several. Default: all."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Test whether a run's maps are faithful to the models.

    Also measures how far they depend on the baseline. Costs about 30 times as much as the maps of the sample.
    """
    with open_pipeline() as pipeline, console.ProgressBar() as bar:
        found = pipeline.evaluate(ref, images=images, seed=seed, metrics=tuple(metric or ()), say=bar.say)
    if as_json:
        console.print_json(found.to_dict())
        return
    out.print(f"run {found.run_id}: {plural(found.images, 'image')}, seed {found.seed}; intervals are bootstrap 95 %\n")
    for table in (_metrics(found), _classes(found), _baselines(found)):
        if table.row_count:
            console.print_table(table)
            out.print()
    for remark in found.remarks:
        out.print(visible(remark), markup=False)


def _metrics(found: "Evaluation") -> Table:
    table = console.table("metric", ("value", "95 % interval", "images"))
    table.add_column("better")
    table.add_column("meaning", max_width=MEANING_WIDTH)
    for one in found.metrics:
        interval = f"{one.low:.3g} .. {one.high:.3g}"
        table.add_row(one.name, f"{one.value:.3g}", interval, f"{one.images:,}", one.better, escape(one.meaning))
    return table


def _classes(found: "Evaluation") -> Table:
    right = ("images", "all members agree", "95 % interval", "most agree", "95 % interval")
    table = console.table("explained class", right)
    for one in found.sign_agreement:
        table.add_row(
            escape(visible(one.class_name)),
            f"{one.images:,}",
            percent(one.all_members, 0),
            f"{percent(one.all_low, 0)} .. {percent(one.all_high, 0)}",
            percent(one.most_members, 0),
            f"{percent(one.most_low, 0)} .. {percent(one.most_high, 0)}",
        )
    return table


def _baselines(found: "Evaluation") -> Table:
    right = ("cosine (p10 .. p90)", "rank correlation", "distance, 0 same .. 2")
    table = console.table(("baseline", "against"), right)
    for one in found.baseline_sensitivity:
        table.add_row(
            escape(one.baseline),
            escape(one.other),
            f"{one.cosine:.2f} ({one.cosine_p10:.2f} .. {one.cosine_p90:.2f})",
            f"{one.rank_correlation:.2f} ({one.rank_correlation_p10:.2f} .. {one.rank_correlation_p90:.2f})",
            f"{one.distance:.2f} ({one.distance_p10:.2f} .. {one.distance_p90:.2f})",
        )
    return table
