"""What `attribatch query` and `attribatch export` print."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from db.records import ImageRow
from pipeline.cli.console import out, print_json, print_table
from pipeline.formatting import plural, visible

if TYPE_CHECKING:
    from db.paging import Page
    from pipeline.outputs.export import Exported

_COLUMNS = ("row", "key", "label", "predicted", "probability", "error_estimate", "completeness_gap", "border_share")
_SINGLE = {
    **dict.fromkeys(("member_disagreement", "sign_agreement"), ": a single model has none"),
    "baseline_sensitivity": ": a single baseline has none",
}


def print_page(found: "Page", labelled: bool, asked: Sequence[str], *, as_json: bool) -> None:
    """Rows of the index with the columns that were asked for; where there are none, whether there are labels."""
    if as_json:
        print_json({"rows": found.rows, "next": found.next})
        return
    if not found.rows:
        out.print("no image matches" + ("" if labelled else "; no image of this run has a label"))
        return
    columns = list(dict.fromkeys([*_COLUMNS, *asked]))
    if any(row.error for row in found.rows) and "error" not in asked:
        columns.append("error")
    table = Table(*columns, box=None, header_style="bold")
    for row in found.rows:
        table.add_row(*(escape(_cell(getattr(row, column))) for column in columns))
    print_table(table)
    for column in asked:
        if all(getattr(row, column) is None for row in found.rows):
            out.print(f"{column} is empty for these images{_SINGLE.get(column, '')}")
    if found.next:
        out.print(f"more: --after {found.next}", markup=False)


def csv_rows(rows: Sequence[ImageRow]) -> None:
    """Every column of some rows, as CSV."""
    writer = csv.DictWriter(sys.stdout, [field.name for field in fields(ImageRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)


def exported(found: "Exported", *, as_json: bool) -> None:
    """What an export has written."""
    if as_json:
        print_json(found)
        return
    left = f"; {found.skipped:,} left out: no map, or the file is gone or has changed" if found.skipped else ""
    out.print(f"{plural(found.images, 'image')}  {found.path}{left}", markup=False)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else visible(str(value))
