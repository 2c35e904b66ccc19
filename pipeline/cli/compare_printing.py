"""What `attribatch compare` prints."""

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from pipeline.cli.console import out, print_json, print_table
from pipeline.formatting import plural, visible

if TYPE_CHECKING:
    from pipeline.analysis.comparison import Comparison

MOST_CLASSES = 20


def comparison(found: "Comparison", *, exceeded: bool | None, as_json: bool) -> None:
    """What differs between two runs; `exceeded` is what a gate said, None where there is none."""
    if as_json:
        print_json(found.to_dict() | ({} if exceeded is None else {"exceeded": exceeded}))
        return
    shared = plural(found.shared_images, "image")
    out.print(f"A {found.run_a}, B {found.run_b}: {shared} with a map in both", markup=False)
    if found.run_a == found.run_b:
        out.print("A and B are the same run: nothing can differ", markup=False)
    remarks = {
        "in A alone": found.only_a,
        "in B alone": found.only_b,
        "with other bytes": found.changed_files,
        "predicted differently": found.flips,
    }
    out.print(", ".join(f"{count:,} {what}" for what, count in remarks.items()) + "\n", markup=False)
    _spec(found)
    _figures(found)
    _classes(found)
    _changed(found)
    if exceeded:
        out.print("\nGATE EXCEEDED", markup=False)


def _spec(found: "Comparison") -> None:
    if not found.spec:
        out.print("both runs ask for the same\n")
        return
    table = Table("asked differently", "A", "B", box=None, header_style="bold")
    for each in found.spec:
        table.add_row(*(escape(visible(cell)) for cell in (each.field, each.a, each.b)))
    print_table(table)
    out.print()


def _figures(found: "Comparison") -> None:
    table = _right("of the maps", "10 %", "median", "90 %")
    rows = {
        "cosine": found.cosine,
        "rank correlation": found.rank_correlation,
        "relative L1 distance": found.distance,
    }
    for name, each in rows.items():
        table.add_row(name, *(f"{value:.4f}" for value in (each.p10, each.median, each.p90)))
    print_table(table)
    out.print(f"drift over all images {found.drift:.4f}, nDCG {found.ndcg:.4f}\n", markup=False)


def _classes(found: "Comparison") -> None:
    table = _right(f"class ({found.by})", "images", "drift", "nDCG", "mean cosine")
    for each in found.classes[:MOST_CLASSES]:
        figures = (f"{value:.4f}" for value in (each.drift, each.ndcg, each.cosine))
        table.add_row(escape(visible(each.class_name)), f"{each.images:,}", *figures)
    if found.classes:
        print_table(table)
        if (more := len(found.classes) - MOST_CLASSES) > 0:
            out.print(f"and {more:,} more that moved less; all are in --json", markup=False)
        out.print()


def _changed(found: "Comparison") -> None:
    table = _right("moved most", "cosine", "rank correlation", "distance", "predicted")
    for each in found.changed:
        figures = (f"{value:.4f}" for value in (each.cosine, each.rank_correlation, each.distance))
        same = each.predicted_a == each.predicted_b
        predicted = each.predicted_a or "" if same else f"{each.predicted_a} -> {each.predicted_b}"
        table.add_row(escape(visible(each.key)), *figures, escape(visible(predicted)))
    print_table(table)


def _right(first: str, *others: str) -> Table:
    """A table whose columns but the first are aligned to the right."""
    table = Table(first, box=None, header_style="bold")
    for name in others:
        table.add_column(name, justify="right")
    return table
