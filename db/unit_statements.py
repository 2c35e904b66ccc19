"""The statements of every unit, built once: SQLAlchemy takes longer to build a statement than to send it.

Their bound parameters are `of_unit` and `of_token` (an existing claim), `of_run`, `new_worker` and `new_token` (a new
claim), and `count_done` and `count_failed` (numbers of images).
"""

from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Select,
    and_,
    bindparam,
    case,
    cast,
    delete,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningUpdate

from db.records import DEATHS, UnitState
from db.tables import WAITING, images, now, suspects, units

DONE: dict[str, Any] = {
    "state": UnitState.DONE,
    "images_done": bindparam("count_done"),
    "images_failed": bindparam("count_failed"),
    "lease_until": None,
    "error": None,
    "changed_at": now(),
}
HELD = and_(
    units.c.id == bindparam("of_unit"), units.c.token == bindparam("of_token"), units.c.state == UnitState.LEASED
)
CLEARING = delete(suspects).where(suspects.c.unit_id == bindparam("of_unit"))


def claim(*, lease_seconds: float, max_attempts: int, of_run: bool, of_unit: bool) -> ReturningUpdate[Any]:
    """Build the statement that leases the most urgent unit to `new_worker` under `new_token`.

    Args:
        lease_seconds: duration of the lease.
        max_attempts: claims of a unit, unless it has condemned rows.
        of_run: restrict the statement to the run `of_run`.
        of_unit: restrict the statement to the unit `of_unit`.

    Returns:
        An UPDATE that returns the unit's id, run_id, number, entries, token and attempt, or no row.
    """
    # One CASE, not OR: with OR PostgreSQL sorts the whole queue (40 ms a claim).
    pending = units.c.state == UnitState.PENDING
    free_at = case((pending, units.c.not_before), else_=units.c.lease_until)
    left = or_(pending, units.c.attempt < attempts_allowed(max_attempts))
    candidates = select(units.c.id).where(WAITING, free_at <= now(), left)
    if of_run:
        candidates = candidates.where(units.c.run_id == bindparam("of_run"))
    if of_unit:
        candidates = candidates.where(units.c.id == bindparam("of_unit"))
    leased = {
        "state": UnitState.LEASED,
        "token": bindparam("new_token"),
        "worker": bindparam("new_worker"),
        "lease_until": now() + lease_seconds,
        "attempt": units.c.attempt + 1,
        "changed_at": now(),
    }
    columns = (units.c[name] for name in ("id", "run_id", "number", "entries", "token", "attempt"))
    first = most_urgent(candidates, 1).scalar_subquery()
    return update(units).where(units.c.id == first).values(leased).returning(*columns)


def attempts_allowed(max_attempts: int) -> ColumnElement[int]:
    """The number of claims that a unit may have: each condemned row adds `DEATHS`."""
    condemned = select(func.count()).where(suspects.c.unit_id == units.c.id, suspects.c.deaths >= DEATHS)
    return max_attempts + DEATHS * condemned.correlate(units).scalar_subquery()


def most_urgent(candidates: Select[Any], limit: int) -> Select[Any]:
    """Limit a query to the most urgent units, and skip units that another transaction is changing."""
    ordered = candidates.order_by(units.c.priority.desc(), units.c.id).limit(limit)
    return ordered.with_for_update(skip_locked=True)


def upsert_images(dialect: str) -> Any:
    """Build the upsert of image rows.

    PostgreSQL receives the rows of a unit as one JSON text, which takes half the time of `executemany`.
    """
    if dialect == "postgresql":
        columns = [column.name for column in images.c]
        given = func.json_populate_recordset(text("NULL::attribatch_images"), cast(bindparam("rows"), JSON))
        rows = given.table_valued(*columns)
        write: Any = postgresql.insert(images).from_select(columns, select(*(rows.c[name] for name in columns)))
    else:
        write = sqlite.insert(images)
    figures = {column.name: write.excluded[column.name] for column in images.c if not column.primary_key}
    return write.on_conflict_do_update(index_elements=["run_id", "row"], set_=figures)
