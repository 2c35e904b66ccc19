"""Commands that take results out: query, export."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import console
from pipeline.cli.query_printing import csv_rows, exported, print_page
from pipeline.cli.session import Json, RunRef, open_pipeline

Where = Annotated[
    str | None,
    typer.Option(help="Filter: comparisons of columns, and, or, not, in (...); also mispredicted, failed, converged."),
]
COLUMNS = """
    Columns of filters and sorts; those with *, failed and mispredicted have an index, and answer at once in a run
    of any size:

    \b
    image        row* key* version state error sha256 map_run map_row
    classes      label* predicted* target predicted_index target_index top_classes
    model        probability* output baseline_output
    quality      error_estimate* completeness_gap* convergence_delta converged evaluations
    members      member_disagreement* sign_agreement
    baselines    baseline_sensitivity
    where        border_share* center_share* top_left_share* top_right_share*
                 bottom_left_share* bottom_right_share* center_x center_y
    how spread   entropy* gini* effective_pixels positive_share
"""


def register(app: typer.Typer) -> None:
    """Add these commands."""
    example = 'attribatch query latest --where "predicted != label and border_share > 0.3" --sort -member_disagreement'
    app.command(epilog=f"Example: {example}", help=f"{query.__doc__}\n{COLUMNS}")(query)
    app.command(epilog="Example: attribatch export latest --format npz --out first.npz")(export)


def query(
    ref: RunRef = "latest",
    where: Where = None,
    sort: Annotated[str | None, typer.Option(help="Column; -column for descending. Empty values come last.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Most rows.")] = 20,
    after: Annotated[str | None, typer.Option(help="Continue after a page: its `next`.")] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with every column.")] = False,
) -> None:
    """Find images of a run by what the index knows of them."""
    from db.filters import columns_in

    with open_pipeline() as pipeline:
        page = pipeline.find(ref, where=where, sort=sort, limit=limit, after=after)
        labelled = bool(page.rows) or pipeline.has_labels(ref)
    if as_csv:
        csv_rows(page.rows)
    else:
        asked = [*columns_in(where or ""), *([sort.lstrip("-")] if sort else [])]
        print_page(page, labelled, asked, as_json=as_json)


def export(
    ref: RunRef = "latest",
    format_name: Annotated[
        str, typer.Option("--format", help="npz, parquet (files); png, virelay, fiftyone (folders).")
    ] = "npz",
    out: Annotated[Path | None, typer.Option(help="File or folder to make. Default: named after the run.")] = None,
    where: Where = None,
    sort: Annotated[str | None, typer.Option(help="Column; -column for descending.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most images. Default: all.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    as_json: Json = False,
) -> None:
    """Write a run's results for another tool. Failed images are in parquet alone."""
    with open_pipeline() as pipeline, console.working(f"writing {format_name}"):
        path = out or Path(f"{pipeline.get_run(ref).id}-{format_name}")
        if out is None and format_name in ("parquet", "npz"):
            path = path.with_suffix(f".{format_name}")
        found = pipeline.export(
            ref, format=format_name, out=path, where=where, sort=sort, limit=limit, overwrite=overwrite
        )
        console.unfinished(pipeline.status(ref))
    exported(found, as_json=as_json)
