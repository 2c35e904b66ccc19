"""Conversion between records and table rows."""

import json
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from math import isfinite
from operator import attrgetter
from typing import Any, get_args, get_type_hints

from db.records import Entry, ImageRow, ImageState, Occasion, OccasionState, Run, Schedule, UnitDraft

IMAGE_FIELDS = tuple(field.name for field in fields(ImageRow))
_image_fields = attrgetter(*IMAGE_FIELDS)
IMAGE_TYPES: dict[str, type] = {  # type of each field, without None
    name: next(kind for kind in (str, bool, int, float) if issubclass((get_args(hint) or (hint,))[0], kind))
    for name, hint in get_type_hints(ImageRow).items()
}
_STATE = IMAGE_FIELDS.index("state")


def draft_values(run: Run, draft: UnitDraft) -> dict[str, Any]:
    """Return the values of a new unit, except the columns that the database fills in."""
    return {
        "run_id": run.id,
        "number": draft.number,
        "priority": run.priority,
        "entries": entries_to_text(draft.entries),
    }


def entries_to_text(entries: Sequence[Entry]) -> str:
    """Return compact JSON: a list of `[row, key, version, label]`."""
    rows = [(e.row, e.key, e.version, e.label) for e in entries]
    return json.dumps(rows, separators=(",", ":"))


def entries_from_text(text: str) -> tuple[Entry, ...]:
    """Parse the JSON of `entries_to_text`."""
    return tuple(Entry(row, key, version, label) for row, key, version, label in json.loads(text))


def image_values(row: ImageRow) -> dict[str, Any]:
    """Return an image's values by column. NaN and infinity become None: neither SQLite nor JSON can store them."""
    values = zip(IMAGE_FIELDS, _image_fields(row), strict=True)
    return {name: None if type(value) is float and not isfinite(value) else value for name, value in values}


def image_from_row(row: Sequence[Any]) -> ImageRow:
    """Return the record of a row whose columns are in the order of `IMAGE_FIELDS`."""
    values = list(row)
    values[_STATE] = ImageState(values[_STATE])
    return ImageRow(*values)


def run_from_row(row: Any) -> Run:
    """Return the record of a row of `attribatch_runs`."""
    return Run(**_with_times(row, "created_at", "submitted_at"))


def schedule_from_row(row: Any) -> Schedule:
    """Return the record of a row of `attribatch_schedules`."""
    return Schedule(**_with_times(row, "next_due", "created_at"))


def occasion_from_row(row: Any) -> Occasion:
    """Return the record of a row of `attribatch_occasions`, joined with the schedule's name, without the lease."""
    values = _with_times(row, "due_at", "started_at", "ended_at")
    return Occasion(**values | {"state": OccasionState(row.state)})


def _with_times(row: Any, *names: str) -> dict[str, Any]:
    values = dict(row._mapping)
    known = {name: datetime.fromtimestamp(values[name], UTC) for name in names if values[name] is not None}
    return values | known
