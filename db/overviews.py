"""Runs in a list: counts and speed of many runs in one statement, without their specs."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, Engine, Row, Select, and_, case, exists, func, or_, select, true

from db.errors import NotFound
from db.queries import NEWEST_FIRST, run_state
from db.records import Progress, RunOverview, UnitState
from db.session import read
from db.tables import now, runs, units

PACE_SECONDS = 60.0  # the speed of a run is measured over the last minute

_HEAD = (runs.c.id, runs.c.name, runs.c.source, runs.c.image_count, runs.c.submitted_at)


def overviews(
    engine: Engine, *, limit: int, offset: int = 0, known: Mapping[str, RunOverview] | None = None
) -> list[RunOverview]:
    """Return one page of runs, the latest submission first.

    Args:
        engine: an engine of an index with an up-to-date schema.
        limit: maximum number of runs.
        offset: number of later submissions to skip.
        known: earlier overviews by id. Of runs that were over and have no waiting unit the units are not counted again.
    """
    over = {} if known is None else {id_: each for id_, each in known.items() if each.progress.over}
    unit = units.alias()
    waits = exists().where(unit.c.run_id == runs.c.id, unit.c.state.in_([UnitState.PENDING, UnitState.LEASED]))
    counted = or_(runs.c.id.not_in(over), waits) if over else true()
    page = select(*_HEAD, counted.label("counted")).order_by(*NEWEST_FIRST).limit(limit).offset(offset)
    with read(engine) as connection:
        found = connection.execute(_counts(page)).all()
    return list(_overviews(found, over))


def overview(engine: Engine, run_id: str) -> RunOverview:
    """Return the overview of one run.

    Raises:
        NotFound: no run has this id.
    """
    with read(engine) as connection:
        found = connection.execute(_counts(select(*_HEAD, true().label("counted")).where(runs.c.id == run_id))).all()
    for each in _overviews(found, {}):
        return each
    raise NotFound(f"no run {run_id!r}; `attribatch status` lists all")


def _counts(page: Select[Any]) -> Select[Any]:
    """Count the units of the runs of a page by state. A run whose units are not counted has one row without a state."""
    head = page.subquery("page")
    ended = units.c.state.in_([UnitState.DONE, UnitState.FAILED])
    images = units.c.images_done + units.c.images_failed
    recently = and_(ended, units.c.changed_at > now() - PACE_SECONDS)
    columns: list[ColumnElement[Any]] = [
        *(column for column in head.c if column.key != "counted"),
        units.c.state,
        func.count(units.c.id).label("units"),
        func.sum(units.c.attempt).label("attempts"),
        func.sum(units.c.images_done).label("done"),
        func.sum(units.c.images_failed).label("failed"),
        func.max(case((ended, units.c.changed_at))).label("last"),
        func.sum(case((recently, images), else_=0)).label("recent"),
    ]
    mine = and_(units.c.run_id == head.c.id, head.c.counted)
    query = select(*columns, now().label("current")).select_from(head.outerjoin(units, mine))
    return query.group_by(*columns[:6]).order_by(head.c.submitted_at.desc(), head.c.id)


def _overviews(found: Any, over: Mapping[str, RunOverview]) -> Iterator[RunOverview]:
    """Build the overviews from the rows of `_counts`, which are ordered by run; `over` has those not counted."""
    for _, group in groupby(found, lambda row: row.id):
        rows: list[Row[Any]] = list(group)
        head, submitted = rows[0], datetime.fromtimestamp(rows[0].submitted_at, UTC)
        counted = [row for row in rows if row.state is not None]
        if not counted and head.id in over:
            yield replace(over[head.id], name=head.name, submitted_at=submitted)
            continue
        by_state = dict.fromkeys(UnitState, 0) | {UnitState(row.state): int(row.units) for row in counted}
        attempts, done, failed = (sum(int(getattr(row, n)) for row in counted) for n in ("attempts", "done", "failed"))
        window = min(max(head.current - head.submitted_at, 1.0), PACE_SECONDS)
        ends = [row.last for row in counted if row.last is not None]
        yield RunOverview(
            id=head.id,
            name=head.name,
            source=head.source,
            submitted_at=submitted,
            progress=Progress(
                run_id=head.id,
                state=run_state(by_state, attempts, done, head.image_count),
                units=by_state,
                images_total=head.image_count,
                images_done=done,
                images_failed=failed,
                attempts=attempts,
            ),
            images_per_second=sum(float(row.recent) for row in counted) / window,
            seconds=max(float(max(ends)) - head.submitted_at, 0.0) if ends else None,
        )
