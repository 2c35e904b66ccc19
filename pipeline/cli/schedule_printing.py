"""What the schedule commands print: tables and sentences for people, JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.markup import escape
from rich.table import Table

from db.records import ClassDrift, Occasion, OccasionState, Schedule
from pipeline.cli.console import out, print_json, print_table
from pipeline.formatting import visible
from pipeline.schedules.cron import on_clock

_ENDED = (OccasionState.DONE, OccasionState.PARTIAL)


def schedules(found: Sequence[Schedule], *, as_json: bool) -> None:
    """One line for each schedule."""
    if as_json:
        print_json([asdict(each) | {"request": json.loads(each.request)} for each in found])
        return
    if not found:
        out.print("no schedules yet; make one with: attribatch schedule add")
        return
    table = Table("schedule", "cron", "time zone", "next due", "fail on", "source", box=None, header_style="bold")
    for each in found:
        due = "paused" if each.paused else on_clock(each.next_due, each.timezone)
        cells = (each.name, each.cron, each.timezone, due, each.fail_on or "", json.loads(each.request)["source"])
        table.add_row(*(escape(visible(cell)) for cell in cells))
    print_table(table)


def said(sentence: str, value: object, *, as_json: bool) -> None:
    """What a command did: a sentence, or a record for programs."""
    if as_json:
        print_json(value)
    else:
        out.print(sentence, markup=False)


def history(found: Sequence[tuple[Occasion, Sequence[ClassDrift]]], timezone: str, *, as_json: bool) -> None:
    """The turns of a schedule, the latest first, on its own clock; classes of each for programs."""
    if as_json:
        print_json([asdict(occasion) | {"classes": classes} for occasion, classes in found])
        return
    if not found:
        out.print("this schedule has not come due yet; `attribatch schedule run-now` does not wait for it")
        return
    columns = ("due", "state", "run", "drift", "class drift", "nDCG", "remark")
    table = Table(*columns, box=None, header_style="bold")
    for occasion, classes in found:
        figures = ["" if v is None else f"{v:.4f}" for v in (occasion.drift, occasion.class_drift, occasion.ndcg)]
        due = on_clock(occasion.due_at, timezone)
        table.add_row(due, str(occasion.state), occasion.run_id or "", *figures, escape(remark(occasion, classes)))
    print_table(table)


def turn(occasion: Occasion) -> None:
    """One turn that was moved on."""
    run = f", run {occasion.run_id}" if occasion.run_id else ""
    drift = "" if occasion.drift is None else f", drift {occasion.drift:.4f}"
    text = remark(occasion, ())
    out.print(f"{occasion.schedule}: {occasion.state}{run}{drift}{'; ' if text else ''}{text}", markup=False)


def turns(found: Sequence[Occasion], *, as_json: bool) -> None:
    """What a tick did."""
    if as_json:
        print_json(found)
        return
    for occasion in found:
        turn(occasion)
    if not found:
        out.print("nothing is due")


def remark(occasion: Occasion, classes: Sequence[ClassDrift]) -> str:
    """What the figures of a turn do not say."""
    parts = ["GATE EXCEEDED"] if occasion.exceeded else []
    if occasion.unchanged:
        parts.append("nothing changed: the same run as before, nothing was computed")
    elif occasion.state in _ENDED and occasion.previous_run_id is None:
        parts.append("nothing to compare with yet")
    moved = [each for each in classes if each.drift is not None]
    if moved:
        most = max(moved, key=lambda each: each.drift or 0.0)
        parts.append(f"most moved class: {most.class_name} ({most.drift:.4f})")
    if occasion.error:
        parts.append(occasion.error)
    return visible("; ".join(parts))
