"""`attribatch status`, `cancel`, `retry`, `repair`, `remove`, `gc` and `doctor`."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.markup import escape

from db.records import Progress, Run, UnitState
from pipeline.cli import console
from pipeline.cli.console import out
from pipeline.cli.session import FAILED, Json, RunRef, open_pipeline
from pipeline.errors import Retryable
from pipeline.formatting import plural

WATCH_SECONDS = 1.0
LISTED_KEYS = 20


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(epilog="Example: attribatch status latest --watch")(status)
    app.command(epilog="Example: attribatch cancel latest")(cancel)
    app.command(epilog="Example: attribatch retry latest && attribatch run ... (the same command as before)")(retry)
    app.command(epilog="Example: attribatch repair")(repair)
    app.command(epilog="Example: attribatch remove 3f2a91c0d4e5 --yes")(remove)
    app.command(epilog="Example: attribatch gc --dry-run")(gc)
    app.command(epilog="Example: attribatch doctor --json")(doctor)


def status(
    ref: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run. Default: the latest runs.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Runs to list, the latest first.")] = 100,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until no run waits or is computed.")] = False,
    as_json: Json = False,
) -> None:
    """Show the progress of runs, and the errors in them."""
    shown: list[tuple[Run, Progress]] | None = None
    with open_pipeline() as pipeline:
        while True:
            try:
                runs = pipeline.runs(limit=limit) if ref is None else [pipeline.get_run(ref)]
                found = [(run, pipeline.status(run.id)) for run in runs]
                tuning = {} if ref is None else pipeline.tuning(runs[0].id)
                more = pipeline.count_runs() - limit if ref is None else 0
            except Retryable as error:
                if not watch:
                    raise
                console.error(str(error))
            else:
                if found != shown:
                    if shown is not None and not as_json:
                        out.clear()
                    _print_status(found, tuning, as_json=as_json)
                    if more > 0 and not as_json:
                        out.print(
                            f"{plural(more, 'earlier run')} not listed; --limit {limit + more} lists all", markup=False
                        )
                    shown = found
                if not watch or all(progress.over for _, progress in found):
                    return
            time.sleep(WATCH_SECONDS)


def cancel(ref: RunRef, as_json: Json = False) -> None:
    """Stop a run. Submitting it again resumes it."""
    with open_pipeline() as pipeline:
        _print_count("unit", "cancelled", pipeline.cancel(ref), as_json=as_json)


def retry(ref: RunRef, as_json: Json = False) -> None:
    """Restore the attempts of a run's failed units.

    Also of units with failed images.
    """
    with open_pipeline() as pipeline:
        _print_count("unit", "re-armed", pipeline.retry(ref), as_json=as_json)


def repair(as_json: Json = False) -> None:
    """Rebuild the index from the stored maps.

    Missing or damaged units are queued again.
    """
    with open_pipeline() as pipeline, console.working("comparing the index with the stored objects"):
        found = pipeline.repair()
    if as_json:
        console.print_json(found)
        return
    out.print(
        f"{plural(found.runs, 'run')}: {plural(found.units_intact, 'unit')} intact, "
        f"{found.units_restored:,} restored from their sidecars, {found.units_queued_again:,} queued again"
        + (f"; {plural(found.schedules_restored, 'schedule')} restored" if found.schedules_restored else "")
    )
    for key in found.damaged[:LISTED_KEYS]:
        out.print(f"  missing or damaged: {key}", markup=False)
    for key in found.newer[:LISTED_KEYS]:
        out.print(f"  written by a newer version, left unchanged: {key}", markup=False)
    if found.newer:
        out.print("next: upgrade attribatch, then `attribatch repair`", markup=False)
    if found.units_queued_again:
        out.print("next: the same `attribatch run` command as before computes them again", markup=False)


def remove(
    ref: RunRef,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without confirmation.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a run: its rows, its units and its maps. Refuses while units of it are being computed."""
    with open_pipeline() as pipeline:
        run_id = pipeline.removable(ref)
        if not yes:
            named = run_id if ref == run_id else f"{run_id} ({ref})"
            typer.confirm(f"Delete run {named} and its maps?", abort=True, err=True)
        _print_count("object", "deleted", pipeline.remove(run_id), as_json=as_json)


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the objects.")] = False, as_json: Json = False
) -> None:
    """Delete stored objects that no run needs. Keeps every object that `repair` could use."""
    with open_pipeline() as pipeline:
        found = pipeline.gc(dry_run=dry_run)
    if as_json:
        console.print_json(found)
        return
    for key in found.deleted[:LISTED_KEYS]:
        out.print(f"  {key}", markup=False)
    out.print(f"{plural(len(found.deleted), 'object')} {'would be ' if dry_run else ''}deleted")
    for run_id in found.rebuildable:
        out.print(
            f"run {run_id} is in storage but not in the index: `attribatch repair` restores it, "
            f"`attribatch remove {run_id}` deletes it",
            markup=False,
        )


def doctor(as_json: Json = False) -> None:
    """Check that this installation works.

    Checks disk, index, object storage, clock, device and broker.
    """
    from pipeline.runs.health import examine
    from pipeline.settings import Settings

    checks = examine(Settings.from_env())
    if as_json:
        console.print_json(checks)
    else:
        for check in checks:
            mark = "[green]ok[/]    " if check.ok else "[bold red]wrong[/] "
            out.print(f"{mark} {check.name:8} {escape(check.detail)}")
    if not all(check.ok for check in checks):
        raise typer.Exit(FAILED)


def _print_count(noun: str, done: str, count: int, *, as_json: bool) -> None:
    if as_json:
        console.print_json({f"{noun}s_{done}": count})
    else:
        out.print(f"{plural(count, noun)} {done}")


def _print_status(found: Sequence[tuple[Run, Progress]], tuning: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a line for each run, its errors, and the tuning of a single run."""
    if as_json:
        more = {"tuning": tuning} if tuning else {}
        console.print_json([{"run": run.id, "name": run.name, "progress": progress, **more} for run, progress in found])
        return
    if not found:
        out.print(f"no runs yet; start with: {console.program()} demo", markup=False)
        return
    table = console.table(("run", "name", "state", "images", "failed", "units", "submitted"))
    for run, progress in found:
        done = progress.units[UnitState.DONE]
        idle = progress.state == "running" and not progress.units[UnitState.LEASED]
        table.add_row(
            run.id,
            escape(run.name or ""),
            "stopped" if idle else str(progress.state),
            f"{progress.images_done:,}/{progress.images_total:,}",
            f"{progress.images_failed:,}",
            f"{done:,}/{sum(progress.units.values()):,}",
            f"{run.submitted_at:%Y-%m-%d %H:%M:%S}" if run.submitted_at else "",
        )
    console.print_table(table)
    for run, progress in found:
        for text in progress.errors:
            out.print(f"{run.id}: {text}", markup=False)
    for name, measured in tuning.items():
        for text in _tuning_lines(name, measured):
            out.print(text, markup=False)


def _tuning_lines(name: str, measured: Mapping[str, Any]) -> Iterator[str]:
    if name == "nodes":
        for baseline, knots in measured["knots"].items():
            inner = ", ".join(f"{knot:.2f}" for knot in knots[1:-1])
            even = all(abs(knot - index / (len(knots) - 1)) < 1e-9 for index, knot in enumerate(knots))
            placed = "evenly; fitting lowers no error" if even else f"an eighth of them each up to alpha {inner}, 1"
            yield f"nodes from {baseline}: {placed} (measured on {plural(len(measured['images']), 'image')})"
        return
    for index, variant in enumerate(measured["members"]):
        change = f"maps differ by {variant['error']:.2%}, {variant['speedup']:.2f} times as fast"
        suffix = "" if variant["name"] == "as given" else f" ({change})"
        yield f"{name}: member {index} runs {variant['name']}{suffix}"
