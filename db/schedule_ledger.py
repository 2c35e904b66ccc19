"""Every state transition of schedules and their occasions, each one transaction, by the database's clock only.

A due schedule is claimed by compare-and-set on `next_due`: of two ticks one finds the row as it read it. The claim
makes an occasion and holds it by a token, under a lease, as units are held; whoever holds another token is fenced off.
An occasion whose holder went silent is taken over by a later tick. A schedule has one open occasion at most, so turns
that come due meanwhile, or while nothing ticks, are made up for once.

Every method raises `StoreUnavailable` where the database does not answer; nothing is written then.
"""

import secrets
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Update, and_, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from db.encoding import schedule_from_row
from db.errors import UsageError
from db.records import ClassDrift, Occasion, OccasionState, Schedule
from db.schedule_queries import OPEN, one_occasion
from db.session import writing
from db.tables import drifts, now, occasions, schedules

_OUTCOME = ("state", "previous_run_id", "unchanged", "drift", "class_drift", "ndcg", "exceeded", "error")


class Timetable:
    """The only writer of schedules and occasions.

    Args:
        engine: from `db.session.open_engine`, migrated.
        lease_seconds: how long an occasion is held unless renewed.
    """

    def __init__(self, engine: Engine, *, lease_seconds: float = 60.0) -> None:
        self._engine = engine
        self._lease_seconds = lease_seconds

    # ---- what people say

    def add(
        self, name: str, *, cron: str, timezone: str, request: str, fail_on: str | None, next_due: datetime
    ) -> Schedule:
        """Store a schedule.

        Raises:
            UsageError: there is one of that name.
        """
        values = {"name": name, "cron": cron, "timezone": timezone, "request": request, "fail_on": fail_on}
        made = insert(schedules).values(
            values | {"paused": False, "next_due": next_due.timestamp(), "created_at": now()}
        )
        try:
            with writing(self._engine) as connection:
                return schedule_from_row(connection.execute(made.returning(*schedules.c)).one())
        except IntegrityError as error:
            raise UsageError(
                f"there is a schedule {name!r} already; choose another name, or `attribatch schedule remove {name}`"
            ) from error

    def pause(self, schedule: Schedule) -> None:
        """Let nothing come due until `resume`. What is under way goes on."""
        self._set(schedule, {"paused": True})

    def resume(self, schedule: Schedule, *, next_due: datetime) -> None:
        """Let it come due again, from `next_due` (UTC) on: turns that were missed while it was paused stay missed."""
        self._set(schedule, {"paused": False, "next_due": next_due.timestamp()})

    def remove(self, schedule: Schedule) -> None:
        """Forget a schedule and its history. Its runs stay."""
        own = select(occasions.c.id).where(occasions.c.schedule_id == schedule.id)
        with writing(self._engine) as connection:
            connection.execute(delete(drifts).where(drifts.c.occasion_id.in_(own)))
            connection.execute(delete(occasions).where(occasions.c.schedule_id == schedule.id))
            connection.execute(delete(schedules).where(schedules.c.id == schedule.id))

    # ---- what ticks say

    def claim(self, schedule: Schedule, *, next_due: datetime) -> Occasion | None:
        """Hold the turn that is due, and move the schedule on to `next_due` (UTC, after the database's now).

        None: it is not due, paused, or gone, somebody else claimed it, or its last occasion is not over.
        """
        seen = schedule.next_due.timestamp()
        due = and_(schedules.c.next_due == seen, schedules.c.next_due <= now(), schedules.c.paused.is_(False))
        moved = update(schedules).where(schedules.c.id == schedule.id, due).values(next_due=next_due.timestamp())
        return self._begin(schedule, seen, moved)

    def claim_now(self, schedule: Schedule) -> Occasion | None:
        """Hold a turn that somebody asked for; the next one comes due when it would have. None: one is not over."""
        return self._begin(schedule, now())

    def take(self, occasion: Occasion) -> Occasion | None:
        """Hold an open occasion that nobody holds, or whose holder went silent. None: it is held or over."""
        free = or_(occasions.c.lease_until.is_(None), occasions.c.lease_until < now())
        taken = update(occasions).where(occasions.c.id == occasion.id, occasions.c.state.in_(OPEN), free)
        with writing(self._engine) as connection:
            if connection.execute(taken.values(self._lease())).rowcount == 0:
                return None
            return one_occasion(connection, occasion.id)

    def renew(self, occasion: Occasion) -> bool:
        """Extend the lease from now on. False: somebody else has the occasion, or it is gone."""
        return self._say(occasion, {"lease_until": now() + self._lease_seconds})

    def let_go(self, occasion: Occasion, *, error: str | None = None) -> bool:
        """Leave an open occasion to a later tick; `error` says why it could not go on. False: it was lost."""
        return self._say(occasion, {"token": None, "lease_until": None, "error": error})

    def submitted(self, occasion: Occasion, run_id: str) -> bool:
        """Note the run of an occasion, which is stored. False: the occasion was lost."""
        return self._say(occasion, {"state": OccasionState.RUNNING, "run_id": run_id})

    def settle(self, occasion: Occasion, classes: Sequence[ClassDrift] = ()) -> bool:
        """End an occasion with its state, drift and reason as given. False: fenced off, nothing was written."""
        outcome = {name: getattr(occasion, name) for name in _OUTCOME} | {"token": None, "lease_until": None}
        with writing(self._engine) as connection:
            ended = update(occasions).where(_held(occasion)).values(outcome | {"ended_at": now()})
            if connection.execute(ended).rowcount == 0:
                return False
            if classes:
                rows = [asdict(each) | {"occasion_id": occasion.id} for each in classes]
                connection.execute(insert(drifts), rows)
            return True

    # ---- how it is said

    def _begin(self, schedule: Schedule, due_at: Any, moved: Update | None = None) -> Occasion | None:
        values = {"schedule_id": schedule.id, "due_at": due_at, "state": OccasionState.DUE, "started_at": now()}
        made = insert(occasions).values(values | self._lease()).returning(occasions.c.id)
        try:
            with writing(self._engine) as connection:
                if moved is not None and connection.execute(moved).rowcount == 0:
                    return None
                return one_occasion(connection, connection.execute(made).scalar_one())
        except IntegrityError:  # the one open occasion that a schedule may have is there, or the schedule is gone
            return None

    def _lease(self) -> dict[str, Any]:
        return {"token": secrets.token_hex(16), "lease_until": now() + self._lease_seconds}

    def _set(self, schedule: Schedule, values: dict[str, Any]) -> None:
        with writing(self._engine) as connection:
            connection.execute(update(schedules).where(schedules.c.id == schedule.id).values(values))

    def _say(self, occasion: Occasion, values: dict[str, Any]) -> bool:
        with writing(self._engine) as connection:
            return connection.execute(update(occasions).where(_held(occasion)).values(values)).rowcount == 1


def _held(occasion: Occasion) -> Any:
    return and_(occasions.c.id == occasion.id, occasions.c.token == occasion.token, occasions.c.state.in_(OPEN))
