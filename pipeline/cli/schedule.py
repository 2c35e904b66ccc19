"""`attribatch schedule ...` and `attribatch up`: runs that are repeated, and how far the evidence moved between two."""

import signal
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated, Any

import typer

from pipeline.cli import console
from pipeline.cli.options import takes_request
from pipeline.cli.serving import Host, Names, Port, Token, place
from pipeline.cli.session import EXCEEDED, FAILED, PARTIAL, Json, open_pipeline, resumable
from pipeline.errors import PortTaken

schedule_app = typer.Typer(
    no_args_is_help=True,
    help="Repeat a run by the clock, and measure the drift.",
    epilog="Example: attribatch schedule tick",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule.")]
Workers = Annotated[int, typer.Option(min=1, help="Worker processes, where no broker is configured.")]


@schedule_app.command(
    epilog='Example: attribatch schedule add nightly ./images --model torchvision:resnet50@DEFAULT --cron "0 2 * * *" '
    '--timezone Europe/Berlin --fail-on "drift>0.1"'
)
@takes_request
def add(
    name: Name,
    request: Any,
    cron: Annotated[str, typer.Option(help="Five fields: minute, hour, day of month, month, day of week.")],
    timezone: Annotated[str, typer.Option(help="Whose clock they mean, for example Europe/Berlin.")] = "UTC",
    fail_on: Annotated[
        str | None,
        typer.Option(help="Gate for exit code 4: drift, class_drift or ndcg, compared with a number: 'drift>0.1'."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Store a schedule. Models are loaded and images listed once now, to see that it can run; nothing is computed."""
    from pipeline.cli.schedule_printing import said
    from pipeline.schedules.cron import on_clock

    with open_pipeline() as pipeline, console.working("loading models and listing images"):
        made = pipeline.schedules.add(name, request, cron=cron, timezone=timezone, fail_on=fail_on)
    due = on_clock(made.next_due, made.timezone)
    sentence = f"schedule {name}: next due {due}; `attribatch schedule tick` runs it then"
    said(sentence, made, as_json=as_json)


@schedule_app.command("list", epilog="Example: attribatch schedule list --json")
def list_schedules(as_json: Json = False) -> None:
    """Show all schedules and when each comes due next."""
    from pipeline.cli.schedule_printing import schedules

    with open_pipeline() as pipeline:
        schedules(pipeline.schedules.listed(), as_json=as_json)


@schedule_app.command(epilog="Example: attribatch schedule pause nightly")
def pause(name: Name, as_json: Json = False) -> None:
    """Let a schedule come due no more. What is under way goes on."""
    _change("pause", name, f"schedule {name} is paused; `attribatch schedule resume {name}` ends that", as_json)


@schedule_app.command(epilog="Example: attribatch schedule resume nightly")
def resume(name: Name, as_json: Json = False) -> None:
    """Let a paused schedule come due again. What was missed meanwhile stays missed."""
    _change("resume", name, f"schedule {name} goes on", as_json)


@schedule_app.command(epilog="Example: attribatch schedule remove nightly")
def remove(name: Name, as_json: Json = False) -> None:
    """Forget a schedule and its history. Its runs stay."""
    _change("remove", name, f"schedule {name} is removed; its runs stay, see `attribatch status`", as_json)


@schedule_app.command("run-now", epilog="Example: attribatch schedule run-now nightly --workers 2")
def run_now(name: Name, workers: Workers = 1, as_json: Json = False) -> None:
    """Do one turn of a schedule at once, to its end. Exit code 4 where its gate is exceeded."""
    from pipeline.cli.schedule_printing import turns

    with open_pipeline() as pipeline, resumable(), console.progress_bar() as bar:
        scheduler = pipeline.schedules
        scheduler.get(name)  # before anything is said of its models
        bar.say(f"schedule {name}: loading models and listing images")
        found = [scheduler.run_now(name, workers=workers, on_progress=bar.update)]
    turns(found, as_json=as_json)
    _exit_after(found)


@schedule_app.command(epilog="Example, in a crontab: * * * * * cd /srv/work && .venv/bin/attribatch schedule tick")
def tick(workers: Workers = 1, as_json: Json = False) -> None:
    """Do what is due: submit, compute, compare. For the system's cron, every minute; ticks may overlap.

    With a broker it only submits; Celery workers compute, and a later tick compares. Exit code 4 where a gate is
    exceeded, else 1 where a schedule failed, else 3 where a run is partial.
    """
    from pipeline.cli.schedule_printing import turns

    with open_pipeline() as pipeline, resumable(), console.progress_bar() as bar:
        found = pipeline.tick(workers=workers, on_progress=bar.update).occasions
    turns(found, as_json=as_json)
    _exit_after(found)


@schedule_app.command(epilog="Example: attribatch schedule history nightly --json")
def history(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most turns.")] = 20,
    as_json: Json = False,
) -> None:
    """Show what became of each turn, the latest first.

    Its run, its drift and the reasons. Classes are in the JSON.
    """
    from pipeline.cli.schedule_printing import history as print_history

    with open_pipeline() as pipeline:
        scheduler = pipeline.schedules
        found = [(turn, scheduler.classes(turn)) for turn in scheduler.history(name, limit=limit)]
        timezone = next((each.timezone for each in scheduler.listed() if each.name == name), "UTC")
    print_history(found, timezone, as_json=as_json)


def up(
    workers: Workers = 1,
    host: Host = "127.0.0.1",
    port: Port = None,
    token: Token = None,
    allowed_host: Names = None,
    web: Annotated[bool, typer.Option("--web/--no-web", help="Serve the page, too.")] = True,
) -> None:
    """Stand by: run schedules, compute what waits, serve the page.

    Until Ctrl-C or SIGTERM. With a broker it computes nothing: Celery workers do.
    """
    from pipeline.cli.schedule_printing import turn
    from pipeline.cli.up import Watch

    stop = threading.Event()

    def ask(number: int, _: Any) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)  # asked twice, it ends at once

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    with open_pipeline() as pipeline, ExitStack() as opened:
        console.err.print(f"standing by at {pipeline.settings.home}; Ctrl-C ends it", markup=False)
        if web:
            _serve(pipeline, workers, opened, place(host, port, token, allowed_host), chosen=port is not None)
        Watch(pipeline, workers, stop, say=turn, complain=console.error).stand()


def _serve(pipeline: Any, workers: int, opened: ExitStack, where: Any, *, chosen: bool) -> None:
    """Serve the page until the stack closes. A usual port that another one has taken stops nothing else."""
    from pipeline.web.server import served

    where.check()
    try:
        server = opened.enter_context(served(pipeline, where, workers=workers, computes=True))
    except PortTaken as error:
        if chosen:
            raise
        console.err.print(f"no page is served: {error}", markup=False)
    else:
        console.err.print(f"the page is at {server.url}", markup=False)


def _change(what: str, name: str, sentence: str, as_json: bool) -> None:
    from pipeline.cli.schedule_printing import said

    with open_pipeline() as pipeline:
        getattr(pipeline.schedules, what)(name)
    said(sentence, {"schedule": name, "done": what}, as_json=as_json)


def _exit_after(found: Sequence[Any]) -> None:
    """The worst of what became of some turns decides the exit code."""
    if any(turn.exceeded for turn in found):
        raise typer.Exit(EXCEEDED)
    if any(turn.state == "failed" or turn.error for turn in found):
        raise typer.Exit(FAILED)
    if any(turn.state == "partial" for turn in found):
        raise typer.Exit(PARTIAL)
