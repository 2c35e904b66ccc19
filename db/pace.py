"""Speed and duration of a run, from the times of its units by the database's clock."""

from dataclasses import dataclass

from sqlalchemy import Engine, and_, func, select

from db.records import UnitState
from db.session import reading
from db.tables import now, runs, units

WINDOW_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Speed of one run. Reused images count as computed when they were recorded."""

    images_per_second: float  # over the last minute, or since the submission if that is more recent
    seconds: float | None  # from the submission to the last unit that ended; None before any unit ended


def pace(engine: Engine, run_id: str) -> Pace:
    """Return the pace of a run. Its speed is 0 if no unit ended within the last minute."""
    over = and_(units.c.run_id == run_id, units.c.state.in_([UnitState.DONE.value, UnitState.FAILED.value]))
    images = func.sum(units.c.images_done + units.c.images_failed)
    with reading(engine) as connection:
        began, told = connection.execute(select(runs.c.submitted_at, now()).where(runs.c.id == run_id)).one()
        last = connection.execute(select(func.max(units.c.changed_at)).where(over)).scalar()
        recent = connection.execute(select(images).where(over, units.c.changed_at > told - WINDOW_SECONDS)).scalar()
    window = min(max(told - began, 1.0), WINDOW_SECONDS)
    return Pace(float(recent or 0) / window, None if last is None else max(float(last) - began, 0.0))
