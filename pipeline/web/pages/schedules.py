"""Schedules: next due times, history of occasions, drift, and actions.

A schedule is made here from an earlier run. The page accepts no model and no path that this installation has not run.
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
from pipeline.web.responses import CurrentRequest, PageRequest, View, twins

OCCASIONS, CHOICES, MOST_MOVED = 100, 200, 5

router = APIRouter()
Name = Annotated[str, Path(max_length=64)]


@twins(router, "/schedules")
def schedules(request: CurrentRequest) -> View:
    """All schedules, and the form that makes one."""
    return _listed(request)


@twins(router, "/schedules/{name}")
def schedule(request: CurrentRequest, name: Name) -> View:
    """One schedule: next due, history, drift. The CSV twin is the history."""
    found = next((each for each in request.pipeline.schedules.listed() if each.name == name), None)
    if found is None:
        raise NotFound(f"there is no schedule {visible(name)!r}")
    occasions = request.pipeline.schedules.history(name, limit=OCCASIONS)
    history = [_redacted(request, each) for each in occasions]
    moved = [
        (on_clock(each.due_at, found.timezone), each.drift) for each in reversed(occasions) if each.drift is not None
    ]
    data = {"schedule": _record(request, found), "history": history}
    more = {
        "curve": charts.drift(moved, _level(found)) if moved else None,
        "classes": most_moved(request, occasions),
        "problem": request.redact(request.site.occasions.error(name) or ""),
        "live_run": next((each.run_id for each in occasions if each.ended_at is None and each.run_id), None),
        "live": request.site.occasions.is_running(name),
    }
    return View("schedule.html", data, more, rows=history)


@router.post("/schedules", dependencies=WRITES, response_class=Response)
def add(
    request: CurrentRequest,
    run: Annotated[str, Form(max_length=200)] = "",
    name: Annotated[str, Form(max_length=100)] = "",
    cron: Annotated[str, Form(max_length=200)] = "",
    timezone: Annotated[str, Form(max_length=100)] = "UTC",
    fail_on: Annotated[str, Form(max_length=100)] = "",
) -> Response:
    """Add a schedule that repeats a run. The models are loaded and the images listed once, as a check."""
    typed = {"run": run, "name": name, "cron": cron, "timezone": timezone, "fail_on": fail_on}
    repeated: list[Run] = []
    try:
        repeated.append(request.open_run(run).run)
        request.pipeline.schedules.add(
            name, repeat(repeated[0]), cron=cron, timezone=timezone or "UTC", fail_on=fail_on.strip() or None
        )
    except UsageError as error:
        return request.answer(_listed(request, typed, request.redact(str(error), *repeated)), "html")
    except ImportError:  # an installation without torch, such as the container image of the page
        reason = "torch is not installed here, so the models cannot be checked; run attribatch schedule add on a worker"
        return request.answer(_listed(request, typed, reason), "html")
    return RedirectResponse(f"/schedules/{name}", 303)


@router.post("/schedules/{name}/{what}", dependencies=WRITES, status_code=303, response_class=RedirectResponse)
def change(request: CurrentRequest, name: Name, what: Literal["pause", "resume", "remove", "run-now"]) -> Response:
    """Pause, resume or remove a schedule, or start an occasion of it in the background."""
    if what == "run-now":
        request.site.occasions.start(name)
    else:
        getattr(request.pipeline.schedules, what)(name)
    return RedirectResponse("/schedules" if what == "remove" else f"/schedules/{name}", 303)


def most_moved(request: PageRequest, occasions: list[Occasion]) -> list[ClassDrift]:
    """The classes with the largest drift on the last occasion that was compared."""
    compared = next((each for each in occasions if each.drift is not None and not each.unchanged), None)
    if compared is None:
        return []
    found = [each for each in request.pipeline.schedules.classes(compared) if each.drift is not None]
    return sorted(found, key=lambda each: -(each.drift or 0.0))[:MOST_MOVED]


def _listed(request: PageRequest, typed: dict[str, str] | None = None, problem: str | None = None) -> View:
    found = [_record(request, each) for each in request.pipeline.schedules.listed()]
    blank = {"run": "", "name": "", "cron": "0 2 * * *", "timezone": "UTC", "fail_on": ""}
    more = {"runs": request.pipeline.runs(limit=CHOICES), "typed": typed or blank, "problem": problem}
    return View("schedules.html", {"schedules": found}, more, rows=found, status=200 if problem is None else 400)


def _record(request: PageRequest, found: Schedule) -> dict[str, Any]:
    repeated = json.loads(found.request)
    last = next(iter(request.pipeline.schedules.history(found.name, limit=1)), None)
    return {
        "name": found.name,
        "cron": found.cron,
        "timezone": found.timezone,
        "paused": found.paused,
        "next_due": found.next_due,
        "fail_on": found.fail_on,
        "source": redaction.base_name(repeated.get("source", "")),
        "models": [model_name(model["source"]) for model in repeated.get("models", ())],
        "last_state": None if last is None else str(last.state),
        "last_drift": None if last is None else last.drift,
        "last_exceeded": None if last is None else last.exceeded,
    }


def _redacted(request: PageRequest, occasion: Occasion) -> dict[str, Any]:
    found = asdict(occasion)
    del found["token"], found["schedule_id"]
    found["error"] = None if occasion.error is None else request.redact(occasion.error)
    return found


def _level(found: Schedule) -> float | None:
    gate = None if found.fail_on is None else Gate.parse(found.fail_on)
    return gate.limit if gate is not None and gate.figure == "drift" else None
