"""`attribatch query` and `attribatch export`: results of a run as rows and as files."""

import csv
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from db.records import ImageRow
from pipeline.cli import console
from pipeline.cli.console import out
from pipeline.cli.session import Json, RunRef, open_pipeline
from pipeline.formatting import plural, visible

Where = Annotated[
    str | None,
    typer.Option(help="Filter: comparisons of columns, and, or, not, in (...); also mispredicted, failed, converged."),
]
COLUMNS = {
    "image": "row* key* version state error sha256 map_run map_row",
    "classes": "label* predicted* target predicted_index target_index top_classes",
    "model": "probability* output baseline_output",
    "quality": "error_estimate* completeness_gap* convergence_delta converged evaluations",
    "members": "member_disagreement* sign_agreement",
    "baselines": "baseline_sensitivity",
    "where": "border_share* center_share* top_left_share* top_right_share*",
    "": "bottom_left_share* bottom_right_share* center_x center_y",
    "how spread": "entropy* gini* effective_pixels positive_share",
}
INDEXED = "Columns with *, failed and mispredicted have an index, and answer at once in a run of any size:"
_SHOWN = ("row", "key", "label", "predicted", "probability", "error_estimate", "completeness_gap", "border_share")
_NEEDS = {
    "member_disagreement": ": it needs several members",
    "sign_agreement": ": it needs several members",
    "baseline_sensitivity": ": it needs several baselines",
}


def register(app: typer.Typer) -> None:
    """Add `query` and `export`."""
    example = 'attribatch query latest --where "predicted != label and border_share > 0.3" --sort -member_disagreement'
    app.command(epilog=f"Example: {example}", help=f"{query.__doc__}\n\n{INDEXED}\n\n\b\n{_columns()}")(query)
    app.command(epilog="Example: attribatch export latest --format npz --out first.npz")(export)


def _columns() -> str:
    """The lines of `COLUMNS`; columns without a group are listed as other."""
    grouped = {"run_id", *re.findall(r"\w+", " ".join(COLUMNS.values()))}
    other = " ".join(each.name for each in fields(ImageRow) if each.name not in grouped)
    lines = COLUMNS | ({"other": other} if other else {})
    return "\n".join(f"{group:<12} {columns}" for group, columns in lines.items())


def query(
    ref: RunRef = "latest",
    where: Where = None,
    sort: Annotated[str | None, typer.Option(help="Column; -column for descending. Empty values come last.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Maximum number of rows.")] = 20,
    after: Annotated[str | None, typer.Option(help="Continue after a page: its `next`.")] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with every column.")] = False,
) -> None:
    """Find images of a run by their values in the index."""
    from pipeline.runs.stored import used_columns

    with open_pipeline() as pipeline:
        page = pipeline.find(ref, where=where, sort=sort, limit=limit, after=after)
        labelled = bool(page.rows) or pipeline.has_labels(ref)
    if as_csv:
        _print_csv(page.rows)
    elif as_json:
        console.print_json({"rows": page.rows, "next": page.next})
    elif not page.rows:
        out.print("no image matches" + ("" if labelled else "; no image of this run has a label"))
    else:
        _print_rows(page.rows, used_columns(where, sort))
        if page.next:
            out.print(f"more: --after {page.next}", markup=False)


def export(
    ref: RunRef = "latest",
    format_name: Annotated[
        str, typer.Option("--format", help="npz, parquet (files); png, virelay, fiftyone (folders).")
    ] = "npz",
    out: Annotated[Path | None, typer.Option(help="File or folder to write. Default: named after the run.")] = None,
    where: Where = None,
    sort: Annotated[str | None, typer.Option(help="Column; -column for descending.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of images. Default: all.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    as_json: Json = False,
) -> None:
    """Write a run's results for another tool. Only parquet includes failed images."""
    with open_pipeline() as pipeline, console.working(f"writing {format_name}"):
        path = out or Path(f"{pipeline.get_run(ref).id}-{format_name}")
        if out is None and format_name in ("parquet", "npz"):
            path = path.with_suffix(f".{format_name}")
        found = pipeline.export(
            ref, format=format_name, out=path, where=where, sort=sort, limit=limit, overwrite=overwrite
        )
        console.unfinished(pipeline.status(ref))
    if as_json:
        console.print_json(found)
        return
    left = f"; {found.skipped:,} left out: no map, or the file is missing or changed" if found.skipped else ""
    console.out.print(f"{plural(found.images, 'image')}  {found.path}{left}", markup=False)


def _print_rows(rows: Sequence[ImageRow], asked: Sequence[str]) -> None:
    """Print rows with the usual columns, and those that the filter or the order uses."""
    columns = list(dict.fromkeys([*_SHOWN, *asked]))
    if any(row.error for row in rows) and "error" not in asked:
        columns.append("error")
    table = console.table(columns)
    for row in rows:
        table.add_row(*(escape(_cell(getattr(row, column))) for column in columns))
    console.print_table(table)
    for column in asked:
        if all(getattr(row, column) is None for row in rows):
            out.print(f"{column} is empty for these images{_NEEDS.get(column, '')}")


def _print_csv(rows: Sequence[ImageRow]) -> None:
    writer = csv.DictWriter(sys.stdout, [field.name for field in fields(ImageRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else visible(str(value))
