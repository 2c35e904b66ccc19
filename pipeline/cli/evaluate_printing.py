"""What `evaluate` prints."""

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from pipeline.cli.console import out, print_json, print_table
from pipeline.formatting import percent, plural, visible

if TYPE_CHECKING:
    from pipeline.analysis.evaluation import Evaluation

_MEANING = 70  # characters of a line of the column


def evaluation(found: "Evaluation", *, as_json: bool) -> None:
    """Metrics with what they mean, agreement by class, baselines against each other, remarks."""
    if as_json:
        print_json(found.to_dict())
        return
    out.print(f"run {found.run_id}: {plural(found.images, 'image')}, seed {found.seed}; intervals are bootstrap 95 %\n")
    for part in (_metrics(found), _classes(found), _baselines(found)):
        if part.row_count:
            print_table(part)
            out.print()
    for remark in found.remarks:
        out.print(visible(remark), markup=False)


def _metrics(found: "Evaluation") -> Table:
    table = _table("metric", "value", "95 % interval", "images", "better")
    table.add_column("meaning", max_width=_MEANING)
    for one in found.metrics:
        interval = f"{one.low:.3g} .. {one.high:.3g}"
        table.add_row(one.name, f"{one.value:.3g}", interval, f"{one.images:,}", one.better, escape(one.meaning))
    return table


def _classes(found: "Evaluation") -> Table:
    table = _table("explained class", "images", "all members agree", "95 % interval", "most agree", "95 % interval")
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
    table = _table("baseline", "against", "cosine (p10 .. p90)", "rank correlation", "distance, 0 same .. 2")
    for one in found.baseline_sensitivity:
        table.add_row(
            escape(one.baseline),
            escape(one.other),
            f"{one.cosine:.2f} ({one.cosine_p10:.2f} .. {one.cosine_p90:.2f})",
            f"{one.rank_correlation:.2f} ({one.rank_correlation_p10:.2f} .. {one.rank_correlation_p90:.2f})",
            f"{one.distance:.2f} ({one.distance_p10:.2f} .. {one.distance_p90:.2f})",
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold")
    for column in columns:
        left = column in ("metric", "better", "baseline", "against", "explained class")
        table.add_column(column, justify="left" if left else "right")
    return table
