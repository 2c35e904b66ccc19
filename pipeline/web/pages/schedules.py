"""Schedules: when each comes due, what became of its turns, and what may be done with it.

A schedule is made here from a run that was done before: the page names no model and no path that this installation has
not run already.
"""

import json
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Path
from fastapi.responses import RedirectResponse, Response

from db.records import ClassDrift, Occasion, Run, Schedule
from pipeline.errors import NotFound, UsageError
from pipeline.formatting import visible
from pipeline.outputs import charts
from pipeline.schedules.cron import on_clock
from pipeline.spec.describe import model_name
from pipeline.spec.gate import Gate
from pipeline.spec.request import repeat
from pipeline.web import redaction
from pipeline.web.pages.runs import WRITES
from pipeline.web.responses import Asked, Here, View, twins

TURNS, CHOICES, MOST_MOVED = 100, 200, 5

router = APIRouter()
Name = Annotated[str, Path(max_length=64)]


@twins(router, "/schedules")
def schedules(here: Here) -> View:
    """All schedules, and the form that makes one."""
    return _listed(here)


@twins(router, "/schedules/{name}")
def schedule(here: Here, name: Name) -> View:
    """One schedule: next due, history, drift. The CSV twin is the history."""
    found = next((each for each in here.pipeline.schedules.listed() if each.name == name), None)
    if found is None:
        raise NotFound(f"there is no schedule {visible(name)!r}")
    turns = here.pipeline.schedules.history(name, limit=TURNS)
    history = [_turn(here, turn) for turn in turns]
    moved = [(on_clock(turn.due_at, found.timezone), turn.drift) for turn in reversed(turns) if turn.drift is not None]
    data = {"schedule": _record(here, found), "history": history}
    more = {
        "curve": charts.drift(moved, _level(found)) if moved else None,
        "classes": most_moved(here, turns),
        "said": here.public(here.site.turns.said(name) or ""),
        "live_run": next((turn.run_id for turn in turns if turn.ended_at is None and turn.run_id), None),
        "live": here.site.turns.is_running(name),
    }
    return View("schedule.html", data, more, rows=history)


@router.post("/schedules", dependencies=WRITES, response_class=Response)
def add(
    here: Here,
    run: Annotated[str, Form(max_length=200)] = "",
    name: Annotated[str, Form(max_length=100)] = "",
    cron: Annotated[str, Form(max_length=200)] = "",
    timezone: Annotated[str, Form(max_length=100)] = "UTC",
    fail_on: Annotated[str, Form(max_length=100)] = "",
) -> Response:
    """Repeat a run by the clock. Its models are loaded and its images listed once now."""
    typed = {"run": run, "name": name, "cron": cron, "timezone": timezone, "fail_on": fail_on}
    spoken_of: list[Run] = []
    try:
        spoken_of.append(here.pipeline.get_run(run))
        request = repeat(spoken_of[0])
        here.pipeline.schedules.add(
            name, request, cron=cron, timezone=timezone or "UTC", fail_on=fail_on.strip() or None
        )
    except UsageError as error:
        return here.answer(_listed(here, typed, here.public(str(error), *spoken_of)), "html")
    except ImportError:  # the image of the page alone
        reason = "torch is not installed here, so the models cannot be tried: use attribatch schedule add on a worker"
        return here.answer(_listed(here, typed, reason), "html")
    return RedirectResponse(f"/schedules/{name}", 303)


@router.post("/schedules/{name}/{what}", dependencies=WRITES, status_code=303, response_class=RedirectResponse)
def change(here: Here, name: Name, what: Literal["pause", "resume", "remove", "run-now"]) -> Response:
    """Pause, resume or remove a schedule, or do one turn of it at once in the background."""
    if what == "run-now":
        here.site.turns.start(name)
    else:
        getattr(here.pipeline.schedules, what)(name)
    return RedirectResponse("/schedules" if what == "remove" else f"/schedules/{name}", 303)


def most_moved(here: Asked, turns: list[Occasion]) -> list[ClassDrift]:
    """The classes that moved most in the last turn that was compared."""
    compared = next((turn for turn in turns if turn.drift is not None and not turn.unchanged), None)
    if compared is None:
        return []
    found = [each for each in here.pipeline.schedules.classes(compared) if each.drift is not None]
    return sorted(found, key=lambda each: -(each.drift or 0.0))[:MOST_MOVED]


def _listed(here: Asked, typed: dict[str, str] | None = None, problem: str | None = None) -> View:
    found = [_record(here, each) for each in here.pipeline.schedules.listed()]
    blank = {"run": "", "name": "", "cron": "0 2 * * *", "timezone": "UTC", "fail_on": ""}
    more = {"runs": here.pipeline.runs(limit=CHOICES), "typed": typed or blank, "problem": problem}
    return View("schedules.html", {"schedules": found}, more, rows=found, status=200 if problem is None else 400)


def _record(here: Asked, found: Schedule) -> dict[str, Any]:
    request = json.loads(found.request)
    last = next(iter(here.pipeline.schedules.history(found.name, limit=1)), None)
    return {
        "name": found.name,
        "cron": found.cron,
        "timezone": found.timezone,
        "paused": found.paused,
        "next_due": found.next_due,
        "fail_on": found.fail_on,
        "source": redaction.base_name(request["source"]),
        "models": [model_name(model["source"]) for model in request["models"]],
        "last_state": None if last is None else str(last.state),
        "last_drift": None if last is None else last.drift,
        "last_exceeded": None if last is None else last.exceeded,
    }


def _turn(here: Asked, turn: Occasion) -> dict[str, Any]:
    found = asdict(turn)
    del found["token"], found["schedule_id"]
    found["error"] = None if turn.error is None else here.public(turn.error)
    return found


def _level(found: Schedule) -> float | None:
    gate = None if found.fail_on is None else Gate.parse(found.fail_on)
    return gate.limit if gate is not None and gate.figure == "drift" else None
