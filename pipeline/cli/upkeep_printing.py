"""What the commands of upkeep print."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from pipeline.cli.console import out, print_json
from pipeline.formatting import plural

if TYPE_CHECKING:
    from db.session import Index
    from pipeline.cli.doctor import Check
    from pipeline.runs.cleanup import Collected
    from pipeline.runs.repair import Repaired


def counted(noun: str, done: str, count: int, *, as_json: bool) -> None:
    """How many of what were done what with: "unit", "cancelled"."""
    if as_json:
        print_json({f"{noun}s_{done}": count})
        return
    out.print(f"{plural(count, noun)} {done}")


def migrated(found: "Index", *, as_json: bool) -> None:
    """Which index it is, and its revision."""
    if as_json:
        print_json(found)
        return
    out.print(f"{found.url}: schema {found.revision}", markup=False)


def repaired(found: "Repaired", *, as_json: bool) -> None:
    """What `repair` did."""
    if as_json:
        print_json(found)
        return
    out.print(
        f"{plural(found.runs, 'run')}: {plural(found.units_intact, 'unit')} intact, "
        f"{found.units_restored:,} restored from their sidecars, {found.units_queued_again:,} queued again"
        + (f"; {plural(found.schedules_restored, 'schedule')} restored" if found.schedules_restored else "")
    )
    for key in found.damaged[:20]:
        out.print(f"  missing or damaged: {key}", markup=False)
    for key in found.newer[:20]:
        out.print(f"  written by a newer version, left as it is: {key}", markup=False)
    if found.newer:
        out.print("next: upgrade attribatch, then `attribatch repair`", markup=False)
    if found.units_queued_again:
        out.print("next: the same `attribatch run` command as before computes them again", markup=False)


def collected(found: "Collected", *, dry_run: bool, as_json: bool) -> None:
    """What `gc` deleted, or would."""
    if as_json:
        print_json(found)
        return
    for key in found.deleted[:20]:
        out.print(f"  {key}", markup=False)
    out.print(f"{plural(len(found.deleted), 'object')} {'would be ' if dry_run else ''}deleted")
    for run_id in found.rebuildable:
        out.print(
            f"run {run_id} is in storage alone: `attribatch repair` brings it back, "
            f"`attribatch remove {run_id}` deletes it",
            markup=False,
        )


def checks(found: "Sequence[Check]", *, as_json: bool) -> None:
    """What `doctor` tried."""
    if as_json:
        print_json(found)
        return
    for check in found:
        mark = "[green]ok[/]    " if check.ok else "[bold red]wrong[/] "
        out.print(f"{mark} {check.name:8} {escape(check.detail)}")
