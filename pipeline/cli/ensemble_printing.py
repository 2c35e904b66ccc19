"""What `attribatch ensemble` prints."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from pipeline.cli.console import out, print_json, print_table, program
from pipeline.formatting import percent, plural, visible

if TYPE_CHECKING:
    from pipeline.models.training.ensemble_manifest import Ensemble

SHOWN = 5  # images that were left out


def trained(found: "Ensemble", folder: Path, *, as_json: bool) -> None:
    """Accuracies of the members and of their mean probability."""
    if as_json:
        print_json(asdict(found) | {"folder": str(folder)})
        return
    table = Table("member", box=None, header_style="bold")
    table.add_column("held-out images right", justify="right")
    table.add_column("weights")
    for number, member in enumerate(found.members, 1):
        table.add_row(str(number), percent(member.accuracy, 1), member.weights)
    table.add_row("ensemble", percent(found.accuracy, 1), "mean probability of all")
    print_table(table)
    counts = f"{plural(found.train_images, 'image')} trained on, {found.holdout_images:,} held out"
    out.print(f"{len(found.class_names)} classes; {counts}, {found.skipped_images:,} left out", markup=False)
    for one in found.skipped[:SHOWN]:
        out.print(f"  {visible(one.reason)}", markup=False)
    out.print(f"\nnext: {program()} run {found.recipe['data']} --ensemble {folder}", markup=False)
