"""A record of each schedule in object storage, from which `repair` restores it into a new index.

SQL is the truth: each change there is followed by a new record, and a removal deletes the record first. The record does
not contain the history.
"""

import json
import logging
from dataclasses import asdict, dataclass, fields
from datetime import datetime

from db import schedule_queries
from db.objects import Objects
from db.records import Schedule
from db.schedule_ledger import Timetable
from db.session import Engine
from pipeline.errors import ObjectMissing, Retryable, UsageError
from pipeline.record_format import build, is_newer, numbered, read_record
from pipeline.schedules.cron import check_name, next_due
from pipeline.spec.gate import Gate

log = logging.getLogger("attribatch.scheduling")

PREFIX = "schedules/"


@dataclass(frozen=True, slots=True)
class _Record:
    """The stored fields of a schedule."""

    name: str
    cron: str
    timezone: str
    request: str
    fail_on: str | None
    paused: bool


@dataclass(frozen=True, slots=True)
class Restored:
    """Result of `restore_schedules`."""

    schedules: int  # number of schedules added to the index
    damaged: tuple[str, ...]  # keys of damaged records
    newer: tuple[str, ...]  # keys of records that a newer version wrote; they are not changed


def record_key(name: str) -> str:
    """Key of the record of a schedule."""
    return f"{PREFIX}{name}.json"


def put_record(objects: Objects, schedule: Schedule) -> None:
    """Store the record of a schedule, unless a newer version wrote the stored one.

    If the store is away this is logged, and `repair` stores the record later.
    """
    key = record_key(schedule.name)
    try:
        if objects.exists(key) and is_newer(objects.get(key)):
            log.warning("schedule %s: %s is of a newer version and is kept; upgrade attribatch", schedule.name, key)
            return
        objects.put(key, _encoded(schedule))
    except Retryable as error:
        log.warning(
            "schedule %s: no record of it in object storage (%s); try `attribatch repair`", schedule.name, error
        )


def restore_schedules(database: Engine, objects: Objects) -> Restored:
    """Add schedules to the index that only storage has, and put records that are missing or outdated in storage.

    A restored schedule comes due at the next time of its cron fields.
    """
    timetable = Timetable(database)
    now, known = schedule_queries.list_schedules(database)
    by_key = {record_key(schedule.name): schedule for schedule in known}
    restored, damaged, newer = 0, [], []
    for key in sorted({*objects.list(PREFIX), *by_key}):
        data = _stored(objects, key)
        if data is not None and is_newer(data):
            newer.append(key)
        elif key in by_key:
            if data != _encoded(by_key[key]):
                put_record(objects, by_key[key])
        elif data is not None:  # else it was removed meanwhile
            try:
                _add(timetable, key, data, now)
                restored += 1
            except (ValueError, UsageError):
                damaged.append(key)
    return Restored(restored, tuple(damaged), tuple(newer))


def _add(timetable: Timetable, key: str, data: bytes, now: datetime) -> None:
    """Put a schedule into the index. Raises ValueError or UsageError if its record is damaged."""
    name, record = key.removeprefix(PREFIX).removesuffix(".json"), build(_Record, read_record(data, key))
    check_name(name)
    if record.fail_on is not None:
        Gate.parse(record.fail_on)
    made = timetable.add(
        name,
        cron=record.cron,
        timezone=record.timezone,
        request=record.request,
        fail_on=record.fail_on,
        next_due=next_due(record.cron, record.timezone, now),
    )
    if record.paused:
        timetable.pause(made)


def _encoded(schedule: Schedule) -> bytes:
    record = _Record(**{field.name: getattr(schedule, field.name) for field in fields(_Record)})
    return json.dumps(numbered(asdict(record)), sort_keys=True).encode()


def _stored(objects: Objects, key: str) -> bytes | None:
    try:
        return objects.get(key)
    except ObjectMissing:
        return None
