"""A record of each schedule in object storage, so that `repair` can put it into an index that is new.

SQL is the truth: the record follows what is said there, and a removal takes the record first. History is not in it.
"""

import json
import logging

from db import schedule_queries
from db.objects import Objects
from db.records import Schedule
from db.schedule_ledger import Timetable
from db.session import Engine
from pipeline.errors import ObjectMissing, Retryable, UsageError
from pipeline.schedules.cron import check_name, next_due
from pipeline.spec.gate import Gate

log = logging.getLogger("attribatch.scheduling")

PREFIX = "schedules/"
_FIELDS = ("name", "cron", "timezone", "request", "fail_on", "paused")


def record_key(name: str) -> str:
    """Where the record of a schedule lies in object storage."""
    return f"{PREFIX}{name}.json"


def put_record(objects: Objects, schedule: Schedule) -> None:
    """Store the record of a schedule; where the store is away that is logged, for `repair` makes up for it."""
    try:
        objects.put(record_key(schedule.name), _encoded(schedule))
    except Retryable as error:
        log.warning(
            "schedule %s: no record of it in object storage (%s); try `attribatch repair`", schedule.name, error
        )


def restore_schedules(database: Engine, objects: Objects) -> tuple[int, list[str]]:
    """Put schedules into the index that only storage knows, and records into storage that are missing there or old.

    A restored schedule comes due next as its cron fields say, from now on.

    Returns:
        Schedules that were restored, and keys of records that cannot be read.
    """
    timetable = Timetable(database)
    now, known = schedule_queries.list_schedules(database)
    for schedule in known:
        if _stored(objects, schedule.name) != _encoded(schedule):
            put_record(objects, schedule)
    names = {schedule.name for schedule in known}
    restored, damaged = 0, []
    for key in sorted(objects.list(PREFIX)):
        name = key.removeprefix(PREFIX).removesuffix(".json")
        if name in names:
            continue
        try:
            data = json.loads(objects.get(key))
            fields = {field: data[field] for field in _FIELDS if field not in ("name", "paused")}
            check_name(name)
            if fields["fail_on"] is not None:
                Gate.parse(fields["fail_on"])
            made = timetable.add(name, **fields, next_due=next_due(fields["cron"], fields["timezone"], now))
            if data["paused"]:
                timetable.pause(made)
            restored += 1
        except ObjectMissing:  # removed meanwhile
            continue
        except (ValueError, KeyError, TypeError, AttributeError, UsageError):
            damaged.append(key)
    return restored, damaged


def _encoded(schedule: Schedule) -> bytes:
    return json.dumps({field: getattr(schedule, field) for field in _FIELDS}, sort_keys=True).encode()


def _stored(objects: Objects, name: str) -> bytes | None:
    try:
        return objects.get(record_key(name))
    except ObjectMissing:
        return None
