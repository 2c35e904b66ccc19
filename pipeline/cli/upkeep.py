"""Commands that look after runs and the installation: status, cancel, retry, repair, remove, gc, doctor."""

import time
from typing import Annotated, Any

import typer

from pipeline.cli import console, upkeep_printing
from pipeline.cli.session import FAILED, Json, RunRef, open_pipeline
from pipeline.errors import Retryable

WATCH_SECONDS = 1.0


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
    ref: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run; all of them by default.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until nothing waits or runs.")] = False,
    as_json: Json = False,
) -> None:
    """Show how far runs are, and what failed in them."""
    shown: Any = None
    with open_pipeline() as pipeline:
        while True:
            try:
                runs = pipeline.runs() if ref is None else [pipeline.get_run(ref)]
                found = [(run, pipeline.status(run.id)) for run in runs]
                tuning = {} if ref is None else pipeline.tuning(runs[0].id)
            except Retryable as error:
                if not watch:
                    raise
                console.error(str(error))
            else:
                if found != shown:
                    console.status(found, tuning, as_json=as_json, again=shown is not None)
                    shown = found
                if not watch or all(progress.over for _, progress in found):
                    return
            time.sleep(WATCH_SECONDS)


def cancel(ref: RunRef, as_json: Json = False) -> None:
    """Stop a run. Submitting it again goes on where it was."""
    with open_pipeline() as pipeline:
        upkeep_printing.counted("unit", "cancelled", pipeline.cancel(ref), as_json=as_json)


def retry(ref: RunRef, as_json: Json = False) -> None:
    """Give what failed in a run all its attempts again.

    Failed units, and units with failed images.
    """
    with open_pipeline() as pipeline:
        upkeep_printing.counted("unit", "re-armed", pipeline.retry(ref), as_json=as_json)


def repair(as_json: Json = False) -> None:
    """Rebuild the index from the stored maps.

    What is missing or damaged is queued again.
    """
    with open_pipeline() as pipeline, console.working("comparing the index with the stored objects"):
        found = pipeline.repair()
    upkeep_printing.repaired(found, as_json=as_json)


def remove(
    ref: RunRef,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a run: its rows, its units and its maps. Refuses while units of it are being computed."""
    with open_pipeline() as pipeline:
        run_id = pipeline.removable(ref)
        if not yes:
            named = run_id if ref == run_id else f"{run_id} ({ref})"
            typer.confirm(f"Delete run {named} and its maps?", abort=True, err=True)
        upkeep_printing.counted("object", "deleted", pipeline.remove(run_id), as_json=as_json)


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False, as_json: Json = False
) -> None:
    """Delete stored objects that no run needs. Whatever a run could be rebuilt from stays."""
    with open_pipeline() as pipeline:
        upkeep_printing.collected(pipeline.gc(dry_run=dry_run), dry_run=dry_run, as_json=as_json)


def doctor(as_json: Json = False) -> None:
    """Check that this installation works.

    Disk, index, object storage, clock, device and broker.
    """
    from pipeline.cli.doctor import examine
    from pipeline.settings import Settings

    checks = examine(Settings.from_env())
    upkeep_printing.checks(checks, as_json=as_json)
    if not all(check.ok for check in checks):
        raise typer.Exit(FAILED)
