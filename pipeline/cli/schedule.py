"""`attribatch schedule`: repeat a run by the clock, and measure how far the evidence moved."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from db.records import ClassDrift, Occasion, OccasionState, Schedule
from pipeline.cli import console
from pipeline.cli.console import out
from pipeline.cli.options import takes_request
from pipeline.cli.session import EXCEEDED, FAILED, PARTIAL, Json, open_pipeline, resumable
from pipeline.formatting import visible

if TYPE_CHECKING:
    from pipeline.spec.request import RunRequest

schedule_app = typer.Typer(
    no_args_is_help=True,
    help="Repeat a run by the clock, and measure the drift.",
    epilog="Example: attribatch schedule tick",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule.")]
Workers = Annotated[int, typer.Option(min=1, help="Worker processes, if no broker is configured.")]


@schedule_app.command(
    epilog='Example: attribatch schedule add nightly ./images --model torchvision:resnet50@DEFAULT --cron "0 2 * * *" '
    '--timezone Europe/Berlin --fail-on "drift>0.1"'
)
@takes_request
def add(
    name: Name,
    request: "RunRequest",
    cron: Annotated[str, typer.Option(help="Five fields: minute, hour, day of month, month, day of week.")],
    timezone: Annotated[str, typer.Option(help="Time zone of the cron fields, for example Europe/Berlin.")] = "UTC",
    fail_on: Annotated[
        str | None,
        typer.Option(help="Gate for exit code 4: drift, class_drift or ndcg, compared with a number: 'drift>0.1'."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Store a schedule. Loads the models and lists the images once as a check; computes nothing."""
    from pipeline.schedules.cron import on_clock

    with open_pipeline() as pipeline, console.working("loading models and listing images"):
        made = pipeline.schedules.add(name, request, cron=cron, timezone=timezone, fail_on=fail_on)
    due = on_clock(made.next_due, made.timezone)
    _print_done(f"schedule {name}: next due {due}; `attribatch schedule tick` runs it then", made, as_json=as_json)


@schedule_app.command("list", epilog="Example: attribatch schedule list --json")
def list_schedules(as_json: Json = False) -> None:
    """Show all schedules and when each is due next."""
    from pipeline.schedules.cron import on_clock

    with open_pipeline() as pipeline:
        found: Sequence[Schedule] = pipeline.schedules.listed()
    if as_json:
        console.print_json([asdict(each) | {"request": json.loads(each.request)} for each in found])
        return
    if not found:
        out.print("no schedules yet; add one with: attribatch schedule add")
        return
    table = console.table(("schedule", "cron", "time zone", "next due", "fail on", "source"))
    for each in found:
        due = "paused" if each.paused else on_clock(each.next_due, each.timezone)
        source = json.loads(each.request).get("source", "not readable by this version")
        cells = (each.name, each.cron, each.timezone, due, each.fail_on or "", source)
        table.add_row(*(escape(visible(cell)) for cell in cells))
    console.print_table(table)


@schedule_app.command(epilog="Example: attribatch schedule pause nightly")
def pause(name: Name, as_json: Json = False) -> None:
    """Stop a schedule from coming due. A run in progress continues."""
    with open_pipeline() as pipeline:
        pipeline.schedules.pause(name)
    sentence = f"schedule {name} is paused; `attribatch schedule resume {name}` resumes it"
    _print_done(sentence, {"schedule": name, "done": "pause"}, as_json=as_json)


@schedule_app.command(epilog="Example: attribatch schedule resume nightly")
def resume(name: Name, as_json: Json = False) -> None:
    """Let a paused schedule come due again. Occurrences missed during the pause are skipped."""
    with open_pipeline() as pipeline:
        pipeline.schedules.resume(name)
    _print_done(f"schedule {name} is resumed", {"schedule": name, "done": "resume"}, as_json=as_json)


@schedule_app.command(epilog="Example: attribatch schedule remove nightly")
def remove(name: Name, as_json: Json = False) -> None:
    """Delete a schedule and its history. Its runs are kept."""
    with open_pipeline() as pipeline:
        pipeline.schedules.remove(name)
    sentence = f"schedule {name} is removed; its runs are kept, see `attribatch status`"
    _print_done(sentence, {"schedule": name, "done": "remove"}, as_json=as_json)


@schedule_app.command("run-now", epilog="Example: attribatch schedule run-now nightly --workers 2")
def run_now(name: Name, workers: Workers = 1, as_json: Json = False) -> None:
    """Run a schedule now, to its end. Exit code 4 if its gate is exceeded."""
    with open_pipeline() as pipeline, resumable(), console.ProgressBar() as bar:
        scheduler = pipeline.schedules
        scheduler.get(name)  # an unknown name fails before the next line
        bar.say(f"schedule {name}: loading models and listing images")
        found = [scheduler.run_now(name, workers=workers, on_progress=bar.update)]
    _print_ended(found, as_json=as_json)


@schedule_app.command(epilog="Example, in a crontab: * * * * * cd /srv/work && .venv/bin/attribatch schedule tick")
def tick(workers: Workers = 1, as_json: Json = False) -> None:
    """Submit, compute and compare the schedules that are due.

    Run it from the system's cron every minute; ticks may overlap. With a broker it only submits: Celery workers
    compute, and a later tick compares. Exit code 4 if a gate is exceeded, else 1 if a schedule failed, else 3 if a
    run is partial.
    """
    with open_pipeline() as pipeline, resumable(), console.ProgressBar() as bar:
        found = pipeline.tick(workers=workers, on_progress=bar.update).occasions
    _print_ended(found, as_json=as_json)


@schedule_app.command(epilog="Example: attribatch schedule history nightly --json")
def history(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Maximum number of occasions.")] = 20,
    as_json: Json = False,
) -> None:
    """Show the past occasions of a schedule, the latest first.

    Each with its run, its drift and remarks; --json adds the classes.
    """
    with open_pipeline() as pipeline:
        scheduler = pipeline.schedules
        found = [(each, scheduler.classes(each)) for each in scheduler.history(name, limit=limit)]
        timezone = next((each.timezone for each in scheduler.listed() if each.name == name), "UTC")
    if as_json:
        console.print_json([asdict(occasion) | {"classes": classes} for occasion, classes in found])
    elif found:
        _print_history(found, timezone)
    else:
        out.print("this schedule was not due yet; `attribatch schedule run-now` runs it at once")


def print_occasion(occasion: Occasion) -> None:
    """Print the new state of an occasion, in one line."""
    run = f", run {occasion.run_id}" if occasion.run_id else ""
    drift = "" if occasion.drift is None else f", drift {occasion.drift:.4f}"
    text = _remark(occasion, ())
    out.print(f"{occasion.schedule}: {occasion.state}{run}{drift}{'; ' if text else ''}{text}", markup=False)


def _print_done(sentence: str, value: object, *, as_json: bool) -> None:
    if as_json:
        console.print_json(value)
    else:
        out.print(sentence, markup=False)


def _print_history(found: Sequence[tuple[Occasion, Sequence[ClassDrift]]], timezone: str) -> None:
    from pipeline.schedules.cron import on_clock

    table = console.table(("due", "state", "run", "drift", "class drift", "nDCG", "remark"))
    for occasion, classes in found:
        figures = ["" if v is None else f"{v:.4f}" for v in (occasion.drift, occasion.class_drift, occasion.ndcg)]
        due = on_clock(occasion.due_at, timezone)
        table.add_row(due, str(occasion.state), occasion.run_id or "", *figures, escape(_remark(occasion, classes)))
    console.print_table(table)


def _print_ended(found: Sequence[Occasion], *, as_json: bool) -> None:
    """Print the results of a tick, and exit with the code of its worst result."""
    if as_json:
        console.print_json(found)
    else:
        for each in found:
            print_occasion(each)
        if not found:
            out.print("nothing is due")
    if any(each.exceeded for each in found):
        raise typer.Exit(EXCEEDED)
    if any(each.state is OccasionState.FAILED or each.error for each in found):
        raise typer.Exit(FAILED)
    if any(each.state is OccasionState.PARTIAL for each in found):
        raise typer.Exit(PARTIAL)


def _remark(occasion: Occasion, classes: Sequence[ClassDrift]) -> str:
    parts = ["GATE EXCEEDED"] if occasion.exceeded else []
    if occasion.unchanged:
        parts.append("nothing changed: the same run as before, nothing was computed")
    elif occasion.state in (OccasionState.DONE, OccasionState.PARTIAL) and occasion.previous_run_id is None:
        parts.append("no earlier run to compare with")
    moved = [(each.drift, each.class_name) for each in classes if each.drift is not None]
    if moved:
        drift, name = max(moved, key=lambda each: each[0])
        parts.append(f"most moved class: {name} ({drift:.4f})")
    if occasion.error:
        parts.append(occasion.error)
    return visible("; ".join(parts))
