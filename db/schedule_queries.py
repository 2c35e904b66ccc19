"""Queries of schedules and their occasions."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, Select, select

from db.encoding import occasion_from_row, schedule_from_row
from db.errors import NotFound
from db.records import ClassDrift, Occasion, OccasionState, Schedule
from db.session import read
from db.tables import drifts, now, occasions, schedules

OPEN = (OccasionState.DUE.value, OccasionState.RUNNING.value)
OCCASIONS = (
    select(*(column for column in occasions.c if column.key != "lease_until"), schedules.c.name.label("schedule"))
    .select_from(occasions)
    .join(schedules)
)


def list_schedules(engine: Engine) -> tuple[datetime, list[Schedule]]:
    """Return the database's time (UTC) and all schedules sorted by name, from one transaction."""
    with read(engine) as connection:
        told = datetime.fromtimestamp(connection.execute(select(now())).scalar_one(), UTC)
        found = connection.execute(select(schedules).order_by(schedules.c.name)).all()
    return told, [schedule_from_row(row) for row in found]


def get_schedule(engine: Engine, name: str) -> Schedule:
    """Find a schedule by its name.

    Raises:
        NotFound: no schedule has this name.
    """
    with read(engine) as connection:
        found = connection.execute(select(schedules).where(schedules.c.name == name)).first()
        if found is not None:
            return schedule_from_row(found)
        known = connection.execute(select(schedules.c.name).order_by(schedules.c.name).limit(5)).scalars().all()
    if not known:
        raise NotFound("there are no schedules yet; make one with `attribatch schedule add`")
    raise NotFound(f"no schedule {name!r}; there are {', '.join(known)}; `attribatch schedule list` lists all")


def open_occasions(engine: Engine) -> list[Occasion]:
    """Return all open occasions, claimed or not, the oldest first."""
    with read(engine) as connection:
        found = connection.execute(OCCASIONS.where(occasions.c.state.in_(OPEN)).order_by(occasions.c.id)).all()
    return [occasion_from_row(row) for row in found]


def history(engine: Engine, schedule_id: int, *, limit: int = 100) -> list[Occasion]:
    """Return up to `limit` occasions of a schedule, the latest first."""
    query = OCCASIONS.where(occasions.c.schedule_id == schedule_id).order_by(occasions.c.id.desc()).limit(limit)
    with read(engine) as connection:
        return [occasion_from_row(row) for row in connection.execute(query)]


def previous(engine: Engine, occasion: Occasion) -> Occasion | None:
    """Return the last earlier occasion of the same schedule whose run has maps and still exists, or None."""
    with read(engine) as connection:
        found = connection.execute(_with_maps(occasion).order_by(occasions.c.id.desc()).limit(1)).first()
    return None if found is None else occasion_from_row(found)


def class_drifts(engine: Engine, occasion_id: int) -> tuple[ClassDrift, ...]:
    """Return the drift of each class on one occasion, sorted by class name; () if it was not compared."""
    query = select(*(c for c in drifts.c if c.key != "occasion_id")).where(drifts.c.occasion_id == occasion_id)
    with read(engine) as connection:
        return tuple(ClassDrift(*row) for row in connection.execute(query.order_by(drifts.c.class_name)))


def one_occasion(connection: Connection, occasion_id: int) -> Occasion:
    """Return an existing occasion as this transaction sees it."""
    return occasion_from_row(connection.execute(OCCASIONS.where(occasions.c.id == occasion_id)).one())


def _with_maps(occasion: Occasion) -> Select[Any]:
    with_maps = occasions.c.state.in_([OccasionState.DONE.value, OccasionState.PARTIAL.value])
    there = occasions.c.run_id.is_not(None)  # NULL if the run was removed
    before = (occasions.c.schedule_id == occasion.schedule_id, occasions.c.id < occasion.id)
    return OCCASIONS.where(*before, with_maps, there)
