"""What the tests of the ledger do and look at, again and again."""

from sqlalchemy import Engine, func, select, update

from db.ledger import Ledger
from db.queries import UnitRow, iter_units
from db.records import Unit, UnitState
from db.session import read, write
from db.tables import occasions, schedules, units
from tests.support.records import make_run

RUN = make_run()


def claimed(ledger: Ledger, worker: str = "w1", **which: int | str) -> Unit:
    unit = ledger.claim(worker, **which)  # type: ignore[arg-type]
    assert unit is not None
    return unit


def pass_time(engine: Engine, seconds: float) -> None:
    """Let the database's clock run: move everything that it is compared with into the past."""
    past = {name: units.c[name] - seconds for name in ("lease_until", "not_before", "enqueued_at")}
    with write(engine) as connection:
        connection.execute(update(units).values(past))


def die(engine: Engine) -> None:
    pass_time(engine, 61)


def states(engine: Engine, run_id: str = RUN.id) -> list[UnitState]:
    return [unit.state for unit in iter_units(engine, run_id)]


def first_unit(engine: Engine) -> UnitRow:
    return next(iter_units(engine, RUN.id))


def count(engine: Engine, table: object) -> int:
    with read(engine) as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()  # type: ignore[arg-type]


def pass_hours(engine: Engine, hours: int) -> None:
    """The same for schedules and their turns."""
    with write(engine) as connection:
        connection.execute(update(schedules).values(next_due=schedules.c.next_due - 3600 * hours))
        connection.execute(update(occasions).values(lease_until=occasions.c.lease_until - 3600 * hours))
