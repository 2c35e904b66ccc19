"""All state transitions of schedules and their occasions. Each is one transaction and uses only the database's clock.

A due schedule is claimed by compare-and-set on `next_due`: if two ticks read the same row, only one of them changes
it. The claim creates an occasion with a token and a lease, like the claim of a unit; a tick with an older token is
fenced. If a tick stops renewing its lease, a later tick takes the occasion over. A schedule has at most one open
occasion, so all times that pass while it is open, or while no tick runs, lead to a single occasion.

Every method raises `StoreUnavailable`, and writes nothing, if the database does not answer.
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
from db.session import write
from db.tables import drifts, now, occasions, schedules

_OUTCOME = ("state", "previous_run_id", "unchanged", "drift", "class_drift", "ndcg", "exceeded", "error")


class Timetable:
    """The only writer of schedules and occasions.

    Args:
        engine: the index, from `db.session.open_engine`, with an up-to-date schema.
        lease_seconds: duration of a claim from its last renewal.
    """

    def __init__(self, engine: Engine, *, lease_seconds: float = 60.0) -> None:
        self._engine = engine
        self._lease_seconds = lease_seconds

    # ---- for users

    def add(
        self, name: str, *, cron: str, timezone: str, request: str, fail_on: str | None, next_due: datetime
    ) -> Schedule:
        """Store a schedule.

        Args:
            name: unique name, already checked.
            cron: a cron expression of five fields, already checked.
            timezone: name in the IANA database, for example Europe/Berlin.
            request: canonical JSON of a RunRequest.
            fail_on: a gate, for example drift>0.1; None for no gate.
            next_due: the first time at which it comes due, UTC.

        Raises:
            UsageError: a schedule of this name exists.
        """
        values = {"name": name, "cron": cron, "timezone": timezone, "request": request, "fail_on": fail_on}
        made = insert(schedules).values(
            values | {"paused": False, "next_due": next_due.timestamp(), "created_at": now()}
        )
        try:
            with write(self._engine) as connection:
                return schedule_from_row(connection.execute(made.returning(*schedules.c)).one())
        except IntegrityError as error:
            raise UsageError(
                f"schedule {name!r} exists already; choose another name, or `attribatch schedule remove {name}`"
            ) from error

    def pause(self, schedule: Schedule) -> None:
        """Stop the schedule from coming due until `resume`. An open occasion continues."""
        self._set(schedule, {"paused": True})

    def resume(self, schedule: Schedule, *, next_due: datetime) -> None:
        """Let a paused schedule come due again from `next_due` (UTC). Times that it missed are skipped."""
        self._set(schedule, {"paused": False, "next_due": next_due.timestamp()})

    def remove(self, schedule: Schedule) -> None:
        """Delete a schedule and its history. Its runs remain."""
        own = select(occasions.c.id).where(occasions.c.schedule_id == schedule.id)
        with write(self._engine) as connection:
            connection.execute(delete(drifts).where(drifts.c.occasion_id.in_(own)))
            connection.execute(delete(occasions).where(occasions.c.schedule_id == schedule.id))
            connection.execute(delete(schedules).where(schedules.c.id == schedule.id))

    # ---- for ticks

    def claim(self, schedule: Schedule, *, next_due: datetime) -> Occasion | None:
        """Claim a schedule that is due, and set its next time.

        Args:
            schedule: a record that was read before; another tick may have claimed the schedule since.
            next_due: when it comes due next, UTC, later than the database's clock.

        Returns:
            The new occasion, or None if the schedule is not due, is paused or removed, was claimed by another tick, or
            still has an open occasion.
        """
        seen = schedule.next_due.timestamp()
        due = and_(schedules.c.next_due == seen, schedules.c.next_due <= now(), schedules.c.paused.is_(False))
        moved = update(schedules).where(schedules.c.id == schedule.id, due).values(next_due=next_due.timestamp())
        return self._begin(schedule, seen, moved)

    def claim_now(self, schedule: Schedule) -> Occasion | None:
        """Claim an occasion that a user requested. The schedule's next time stays the same.

        Returns:
            The new occasion, or None if the schedule was removed or still has an open occasion.
        """
        return self._begin(schedule, now())

    def take(self, occasion: Occasion) -> Occasion | None:
        """Claim an open occasion that is free or whose lease has expired. Returns None if it is held or over."""
        free = or_(occasions.c.lease_until.is_(None), occasions.c.lease_until < now())
        taken = update(occasions).where(occasions.c.id == occasion.id, occasions.c.state.in_(OPEN), free)
        with write(self._engine) as connection:
            if connection.execute(taken.values(self._lease())).rowcount == 0:
                return None
            return one_occasion(connection, occasion.id)

    def renew(self, occasion: Occasion) -> bool:
        """Extend the lease by `lease_seconds` from now. Returns False if the occasion is lost."""
        return self._say(occasion, {"lease_until": now() + self._lease_seconds})

    def let_go(self, occasion: Occasion, *, error: str | None = None) -> bool:
        """Release an open occasion for a later tick, with the reason in `error`. Returns False if it is lost."""
        return self._say(occasion, {"token": None, "lease_until": None, "error": error})

    def submitted(self, occasion: Occasion, run_id: str) -> bool:
        """Record the stored run of an occasion. Returns False if the occasion is lost."""
        return self._say(occasion, {"state": OccasionState.RUNNING, "run_id": run_id})

    def settle(self, occasion: Occasion, classes: Sequence[ClassDrift] = ()) -> bool:
        """End an occasion, and store its state, figures and error, and the drift of each class.

        Returns:
            False if the occasion is lost; nothing is written then.
        """
        outcome = {name: getattr(occasion, name) for name in _OUTCOME} | {"token": None, "lease_until": None}
        with write(self._engine) as connection:
            ended = update(occasions).where(_held(occasion)).values(outcome | {"ended_at": now()})
            if connection.execute(ended).rowcount == 0:
                return False
            if classes:
                rows = [asdict(each) | {"occasion_id": occasion.id} for each in classes]
                connection.execute(insert(drifts), rows)
            return True

    # ---- statements

    def _begin(self, schedule: Schedule, due_at: Any, moved: Update | None = None) -> Occasion | None:
        values = {"schedule_id": schedule.id, "due_at": due_at, "state": OccasionState.DUE, "started_at": now()}
        made = insert(occasions).values(values | self._lease()).returning(occasions.c.id)
        try:
            with write(self._engine) as connection:
                if moved is not None and connection.execute(moved).rowcount == 0:
                    return None
                return one_occasion(connection, connection.execute(made).scalar_one())
        except IntegrityError:  # the schedule has an open occasion, or was removed
            return None

    def _lease(self) -> dict[str, Any]:
        return {"token": secrets.token_hex(16), "lease_until": now() + self._lease_seconds}

    def _set(self, schedule: Schedule, values: dict[str, Any]) -> None:
        with write(self._engine) as connection:
            connection.execute(update(schedules).where(schedules.c.id == schedule.id).values(values))

    def _say(self, occasion: Occasion, values: dict[str, Any]) -> bool:
        with write(self._engine) as connection:
            return connection.execute(update(occasions).where(_held(occasion)).values(values)).rowcount == 1


def _held(occasion: Occasion) -> Any:
    return and_(occasions.c.id == occasion.id, occasions.c.token == occasion.token, occasions.c.state.in_(OPEN))
