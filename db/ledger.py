"""All state transitions of units and runs. Each is one transaction and uses only the database's clock.

A unit goes `pending -> leased -> done | failed`, or `cancelled`. A claim returns a token, and later calls for the
unit take effect only while that token is valid.

An image that kills its process is found by counting: the engine records its row before it computes the row with care.
After `DEATHS` deaths the row is condemned: the engine skips it, and its unit gets `DEATHS` more attempts.

Every method raises `StoreUnavailable`, and writes nothing, if the database does not answer.
"""

import json
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice, product
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    CursorResult,
    Engine,
    and_,
    case,
    delete,
    func,
    literal,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from db.encoding import draft_values, entries_from_text, image_values, run_from_row
from db.errors import MapsGone, UsageError
from db.records import ImageRow, ImageState, Run, Unit, UnitDraft, UnitState
from db.session import autocommit, read, write
from db.tables import WAITING, images, now, occasions, runs, suspects, units
from db.unit_statements import CLEARING, DONE, HELD, attempts_allowed, claim, most_urgent, upsert_images

INSERT_BATCH = 200  # units per statement: limits the producer's memory

_UNLEASED: dict[str, Any] = {"token": None, "lease_until": None}
_PENDING = _UNLEASED | {"state": UnitState.PENDING, "not_before": 0.0, "enqueued_at": None}
_REARMED = _PENDING | {"attempt": 0, "error": None, "images_done": 0, "images_failed": 0}
_WORN_OUT = " stopped answering while it held this unit, and no attempt is left; see its log, then retry"


class Ledger:
    """The only writer of runs, units and images.

    Args:
        engine: the index, from `db.session.open_engine`, with an up-to-date schema.
        lease_seconds: duration of a claim from its last renewal.
        max_attempts: number of claims after which a unit fails for good; each condemned row adds `DEATHS`.
    """

    def __init__(self, engine: Engine, *, lease_seconds: float = 60.0, max_attempts: int = 5) -> None:
        self._engine = engine
        self._lease_seconds = lease_seconds
        self._max_attempts = max_attempts
        self._insert = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert
        self._upsert = upsert_images(engine.dialect.name)
        self._claims = {
            (of_run, of_unit): claim(
                lease_seconds=lease_seconds, max_attempts=max_attempts, of_run=of_run, of_unit=of_unit
            )
            for of_run, of_unit in product((False, True), repeat=2)
        }
        self._renewal = update(units).where(HELD).values(lease_until=now() + lease_seconds)
        self._completion = update(units).where(HELD).values(DONE)

    # ---- for producers

    def submit(self, run: Run, drafts: Iterable[UnitDraft]) -> Run:
        """Store a run and its units, or re-arm the stored run with the same id, and return the stored run.

        Submitting a run again duplicates nothing. It makes the run the latest, updates its priority, its spec (which
        has the new paths of its files) and, if given, its name, and re-arms cancelled and failed units. The stored
        unit size stays the same, and `drafts` is not read. Two producers may submit the same run at once. Memory holds
        at most `INSERT_BATCH` drafts.
        """
        with write(self._engine) as connection:
            if not self._insert_run(connection, run, drafts):
                _resubmit(connection, run)
            return run_from_row(connection.execute(select(runs).where(runs.c.id == run.id)).one())

    def restore(self, run: Run, drafts: Iterable[UnitDraft]) -> None:
        """Store a run that is missing from the index, for `repair`. An existing run stays unchanged."""
        with write(self._engine) as connection:
            self._insert_run(connection, run, drafts)

    def cancel(self, run_id: str) -> int:
        """Cancel the pending and leased units of a run, and return their number.

        A worker that holds one of them notices when it renews its lease.
        """
        stopped = update(units).where(units.c.run_id == run_id, WAITING)
        return self._count(stopped.values(_UNLEASED | {"state": UnitState.CANCELLED, "changed_at": now()}))

    def retry(self, run_id: str) -> int:
        """Give failed and cancelled units all their attempts again, and return their number."""
        over = and_(units.c.run_id == run_id, units.c.state.in_([UnitState.FAILED, UnitState.CANCELLED]))
        with write(self._engine) as connection:
            connection.execute(delete(suspects).where(suspects.c.unit_id.in_(select(units.c.id).where(over))))
            return _rowcount(connection.execute(update(units).where(over).values(_REARMED | {"changed_at": now()})))

    def remove(self, run_id: str) -> None:
        """Delete a run with its units and images from the index. Its objects in storage remain.

        Raises:
            UsageError: a unit of the run is being computed, or another run shows its maps.
        """
        of_run = units.c.run_id == run_id
        leased = select(func.count()).where(of_run, units.c.state == UnitState.LEASED)
        shown = select(images.c.run_id).where(images.c.map_run == run_id, images.c.run_id != run_id).limit(1)
        with write(self._engine) as connection:
            if count := connection.execute(leased).scalar_one():
                raise UsageError(
                    f"units of run {run_id} are being computed ({count}); first: attribatch cancel {run_id}"
                )
            if (other := connection.execute(shown).scalar()) is not None:
                raise UsageError(f"run {other} shows maps of run {run_id}; remove {other} first")
            connection.execute(delete(suspects).where(suspects.c.unit_id.in_(select(units.c.id).where(of_run))))
            for column in (occasions.c.run_id, occasions.c.previous_run_id):  # occasions keep their figures
                connection.execute(update(occasions).where(column == run_id).values({column: None}))
            for table, column in ((images, images.c.run_id), (units, units.c.run_id), (runs, runs.c.id)):
                connection.execute(delete(table).where(column == run_id))

    # ---- for workers

    def claim(self, worker: str, *, run_id: str | None = None, unit_id: int | None = None) -> Unit | None:
        """Lease the most urgent unit that is pending and due, or whose lease has expired.

        Units of a larger priority come first, then older units. The attempt is counted now, before anything is
        computed.

        Args:
            worker: name of the claiming process, unique per process: `release_owned_by` finds its leases by it.
            run_id: claim only a unit of this run.
            unit_id: claim only this unit.

        Returns:
            The unit with its token, or None if no such unit is available.
        """
        given = {"new_token": secrets.token_hex(16), "new_worker": worker, "of_run": run_id, "of_unit": unit_id}
        with autocommit(self._engine) as connection:
            row = connection.execute(self._claims[run_id is not None, unit_id is not None], given).first()
        if row is None:
            return None
        return Unit(row.id, row.run_id, row.number, entries_from_text(row.entries), row.token, row.attempt)

    def renew(self, unit: Unit) -> bool:
        """Extend the lease by `lease_seconds` from now. Returns False if the unit is lost: stop computing it."""
        return self._count(self._renewal, _claim_of(unit)) == 1

    def complete(self, unit: Unit, rows: Sequence[ImageRow]) -> bool:
        """Write the rows and mark the unit done.

        A second call with the same token is harmless: it returns True as well, in case the first answer was lost.

        Args:
            unit: the claimed unit.
            rows: one for each of its entries, done or failed.

        Returns:
            False if the token is not valid any more; nothing is written then.

        Raises:
            MapsGone: a row points to the maps of a run that has been removed.
        """
        with write(self._engine) as connection:
            if connection.execute(self._completion, _claim_of(unit) | _counts(rows)).rowcount == 0:
                mine = (units.c.id == unit.id, units.c.token == unit.token, units.c.state == UnitState.DONE)
                return connection.execute(select(units.c.id).where(*mine)).first() is not None
            self._write(connection, rows)
            connection.execute(CLEARING, {"of_unit": unit.id})
            return True

    def release(self, unit: Unit) -> bool:
        """Return the unit to the queue as if it had not been claimed. Returns False if it was already lost."""
        return self._say(unit, _PENDING | {"attempt": units.c.attempt - 1, "changed_at": now()})

    def fail(self, unit: Unit, error: str, *, retry_in: float | None) -> bool:
        """Record an error. The unit returns to the queue if attempts are left, else it fails for good.

        Args:
            unit: the claimed unit.
            error: the message that `attribatch status` shows; it names the culprit.
            retry_in: seconds until the unit may be claimed again; None fails it at once.

        Returns:
            False if the unit was already lost.
        """
        over: ColumnElement[bool] = (
            literal(True) if retry_in is None else units.c.attempt >= attempts_allowed(self._max_attempts)
        )
        values = _PENDING | self._back_or_failed(over) | {"error": error, "not_before": now() + (retry_in or 0.0)}
        return self._say(unit, values)

    def note_row(self, unit: Unit, row: int) -> bool:
        """Count one death of this row, before it is computed with care. Returns False if the unit is lost."""
        with write(self._engine) as connection:
            if connection.execute(select(units.c.id).where(HELD), _claim_of(unit)).first() is None:
                return False
            note = self._insert(suspects).values(unit_id=unit.id, row=row, deaths=1)
            more = {"deaths": suspects.c.deaths + 1}
            connection.execute(note.on_conflict_do_update(index_elements=["unit_id", "row"], set_=more))
            return True

    def clear_row(self, unit: Unit, row: int) -> None:
        """Delete the deaths of a row that has been computed."""
        held = select(units.c.id).where(HELD).scalar_subquery()
        self._count(delete(suspects).where(suspects.c.unit_id == held, suspects.c.row == row), _claim_of(unit))

    def suspects(self, unit: Unit) -> dict[int, int]:
        """Return the number of deaths by row. Rows with `DEATHS` or more are condemned."""
        with read(self._engine) as connection:
            query = select(suspects.c.row, suspects.c.deaths).where(suspects.c.unit_id == unit.id)
            return {found.row: found.deaths for found in connection.execute(query)}

    # ---- for the sweep

    def sweep(self) -> int:
        """End all expired leases, and return their number.

        Their units become pending again, or failed if no attempt is left.
        """
        return self._take(units.c.lease_until < now())

    def release_owned_by(self, workers: Collection[str]) -> int:
        """End all leases of workers that the caller knows to be dead, and return their number."""
        return self._take(units.c.worker.in_(list(workers))) if workers else 0

    def lease_owners(self) -> list[str]:
        """Return the workers that hold a lease, expired or not, sorted by name."""
        owners = select(units.c.worker).where(WAITING, units.c.state == UnitState.LEASED).distinct()
        with read(self._engine) as connection:
            return sorted(connection.execute(owners).scalars())

    def unsent(self, limit: int, *, resend_seconds: float = 300.0) -> list[int]:
        """Mark due units without a message as sent, and return their ids, the most urgent first.

        Args:
            limit: largest number of ids to return.
            resend_seconds: a unit that is still pending this long after its message counts as unsent. Either its
                message is lost, or the queue is long and a second message does no harm.
        """
        silent = or_(units.c.enqueued_at.is_(None), units.c.enqueued_at < now() - resend_seconds)
        pending = and_(WAITING, units.c.state == UnitState.PENDING, units.c.not_before <= now())
        chosen = most_urgent(select(units.c.id).where(pending, silent), limit).cte("chosen")
        mark = update(units).where(units.c.id.in_(select(chosen.c.id))).values(enqueued_at=now())
        with write(self._engine) as connection:
            marked = connection.execute(mark.returning(units.c.id, units.c.priority)).all()
        return [row.id for row in sorted(marked, key=lambda row: (-row.priority, row.id))]

    def unsend(self, unit_ids: Collection[int]) -> int:
        """Remove the marks of `unsent`, because the messages were not sent. Returns the number of units unmarked."""
        waiting = (units.c.id.in_(list(unit_ids)), units.c.state == UnitState.PENDING)
        return self._count(update(units).where(*waiting).values(enqueued_at=None)) if unit_ids else 0

    # ---- for repair

    def adopt(self, run_id: str, number: int, rows: Sequence[ImageRow]) -> bool:
        """Mark a unit done with the rows of its sidecar, even if it is leased. Returns False if no such unit exists."""
        with write(self._engine) as connection:
            where = (units.c.run_id == run_id, units.c.number == number)
            unit_id = connection.execute(
                update(units).where(*where).values(DONE | {"token": None}).returning(units.c.id), _counts(rows)
            ).scalar()
            if unit_id is None:
                return False
            self._write(connection, rows)
            connection.execute(CLEARING, {"of_unit": unit_id})
            return True

    def requeue(self, run_id: str, number: int) -> bool:
        """Return a done unit to the queue and delete its rows. Returns False if no such unit is done."""
        where = (units.c.run_id == run_id, units.c.number == number, units.c.state == UnitState.DONE)
        with write(self._engine) as connection:
            again = update(units).where(*where).values(_REARMED | {"changed_at": now()}).returning(units.c.entries)
            text = connection.execute(again).scalar()
            if text is None:
                return False
            rows = [entry.row for entry in entries_from_text(text)]
            for start in range(0, len(rows), 1000):  # databases limit the number of parameters
                some = images.c.row.in_(rows[start : start + 1000])
                connection.execute(delete(images).where(images.c.run_id == run_id, some))
            return True

    # ---- statements

    def _back_or_failed(self, over: ColumnElement[bool]) -> dict[str, Any]:
        return {
            "state": case((over, UnitState.FAILED.value), else_=UnitState.PENDING.value),
            "changed_at": now(),
        }

    def _take(self, which: ColumnElement[bool]) -> int:
        # Skip units that another process is changing: two sweeps never wait for each other.
        gone = select(units.c.id).where(WAITING, units.c.state == UnitState.LEASED, which)
        over = units.c.attempt >= attempts_allowed(self._max_attempts)
        error = case((over, func.coalesce(units.c.worker, "a worker") + _WORN_OUT), else_=units.c.error)
        values = _PENDING | self._back_or_failed(over) | {"error": error}
        taken = units.c.id.in_(gone.with_for_update(skip_locked=True))
        return self._count(update(units).where(taken).values(values))

    def _insert_run(self, connection: Connection, run: Run, drafts: Iterable[UnitDraft]) -> bool:
        """Return False if the run exists already."""
        fresh = self._insert(runs).values(_new_run(run)).on_conflict_do_nothing(index_elements=["id"])
        if connection.execute(fresh.returning(runs.c.id)).scalar() is None:
            return False
        remaining = iter(drafts)
        insert = units.insert().values(created_at=now(), changed_at=now())
        while batch := [draft_values(run, draft) for draft in islice(remaining, INSERT_BATCH)]:
            connection.execute(insert, batch)
        if connection.dialect.name == "postgresql":  # with old statistics it would sort the whole queue for every claim
            connection.execute(text("ANALYZE attribatch_units"))
        return True

    def _say(self, unit: Unit, values: dict[str, Any]) -> bool:
        return self._count(update(units).where(HELD).values(values), _claim_of(unit)) == 1

    def _count(self, statement: Any, given: Mapping[str, Any] | None = None) -> int:
        with autocommit(self._engine) as connection:
            return _rowcount(connection.execute(statement, given))

    def _write(self, connection: Connection, rows: Sequence[ImageRow]) -> None:
        if foreign := {row.map_run for row in rows if row.map_run not in (None, row.run_id)}:
            held = select(runs.c.id).where(runs.c.id.in_(foreign)).with_for_update(read=True)  # blocks their removal
            if gone := foreign - set(connection.execute(held).scalars()):
                raise MapsGone(f"run {gone.pop()}, whose maps are shown, was removed; they are computed again")
        if rows:
            values = [image_values(row) for row in rows]
            one_text = connection.dialect.name == "postgresql"
            connection.execute(self._upsert, {"rows": json.dumps(values)} if one_text else values)


def _new_run(run: Run) -> dict[str, Any]:
    columns = ("id", "name", "spec", "spec_key", "source", "manifest_digest", "image_count", "unit_size", "priority")
    return {name: getattr(run, name) for name in columns} | {
        "created_at": now(),
        "submitted_at": _after_all(),
    }


def _resubmit(connection: Connection, run: Run) -> None:
    # The spec has the same key, but may give another path to the same weights.
    values = {"submitted_at": _after_all(), "priority": run.priority, "spec": run.spec}
    if run.name is not None:
        values["name"] = run.name
    connection.execute(update(runs).where(runs.c.id == run.id).values(values))
    of_run = units.c.run_id == run.id
    stopped = and_(of_run, units.c.state.in_([UnitState.CANCELLED, UnitState.FAILED]))
    connection.execute(delete(suspects).where(suspects.c.unit_id.in_(select(units.c.id).where(stopped))))
    connection.execute(update(units).where(stopped).values(_REARMED | {"changed_at": now()}))
    connection.execute(update(units).where(of_run, units.c.priority != run.priority).values(priority=run.priority))


def _after_all() -> ColumnElement[float]:
    # Two submissions within one millisecond, the resolution of SQLite's clock, still have an order.
    latest = func.coalesce(select(func.max(runs.c.submitted_at)).scalar_subquery(), 0.0) + 1e-6
    return case((latest > now(), latest), else_=now())


def _counts(rows: Sequence[ImageRow]) -> dict[str, int]:
    failed = sum(row.state is ImageState.FAILED for row in rows)
    return {"count_done": len(rows) - failed, "count_failed": failed}


def _claim_of(unit: Unit) -> dict[str, Any]:
    return {"of_unit": unit.id, "of_token": unit.token}


def _rowcount(result: CursorResult[Any]) -> int:
    return result.rowcount
