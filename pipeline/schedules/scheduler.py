"""Ticks: claim the schedules that are due, submit their runs, and compare each finished run with the previous one.

SQL records the state of each occasion, so a tick may be killed at any point: the lease of the occasion expires, and a
later tick resumes it. Errors are recorded in the history of the schedule. They do not stop other schedules, and the
schedule comes due again as planned.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from db import schedule_queries
from db.objects import Objects
from db.records import ClassDrift, Drift, Occasion, OccasionState, Progress, Run, RunState, Schedule
from db.schedule_ledger import Timetable
from db.session import Engine
from pipeline.engine.lease import held_lease
from pipeline.errors import AttribatchError, Permanent, Retryable, UsageError
from pipeline.schedules.cron import check_name, due, next_due
from pipeline.schedules.records import put_record, record_key
from pipeline.spec.gate import Gate
from pipeline.spec.request import RunRequest

log = logging.getLogger("attribatch.scheduling")

OnProgress = Callable[[Progress], None]


class Runs(Protocol):
    """The methods of `pipeline.api.Pipeline` that a scheduler uses."""

    def check(self, request: RunRequest) -> None:
        """Raise UsageError if the request cannot be submitted."""

    def submit(self, request: RunRequest) -> Run:
        """Store the run of a request over a fresh listing."""

    def get_run(self, ref: str) -> Run:
        """A stored run."""

    def status(self, ref: str) -> Progress:
        """Counts of a run."""

    def compute(self, run: Run, *, workers: int, on_progress: OnProgress) -> Progress:
        """Return when no unit of the run waits."""

    def wake(self) -> None:
        """Send a message for each waiting unit to Celery workers."""

    def drift(self, ref: str, previous: str) -> Drift:
        """Compare the maps of two runs."""


@dataclass(frozen=True, slots=True)
class TickReport:
    """Result of a tick."""

    occasions: tuple[Occasion, ...]  # the occasions that it advanced, in their new state


class Scheduler:
    """Schedules of one index, and the ticks that run them.

    Args:
        database: index with the current schema.
        objects: store of a record of each schedule.
        runs: submits, computes and compares runs.
        lease_seconds: a tick that is silent for longer loses its occasion to another tick.
    """

    def __init__(self, database: Engine, objects: Objects, runs: Runs, *, lease_seconds: float) -> None:
        self._database = database
        self._objects = objects
        self._runs = runs
        self._lease_seconds = lease_seconds
        self._timetable = Timetable(database, lease_seconds=lease_seconds)

    # ---- managing schedules

    def add(
        self, name: str, request: RunRequest, *, cron: str, timezone: str = "UTC", fail_on: str | None = None
    ) -> Schedule:
        """Store a schedule. Its runs get its name, and its paths are made absolute.

        Args:
            name: letters, digits, '.', '_' and '-'.
            request: request that is submitted each time. It is checked now: models are loaded, images listed.
            cron: five fields, see `pipeline.schedules.cron.next_due`.
            timezone: time zone of the fields.
            fail_on: a gate, for example "drift>0.1".

        Raises:
            UsageError: one of these is invalid, or there is a schedule with that name.
        """
        check_name(name)
        if fail_on is not None:
            Gate.parse(fail_on)
        now, _ = schedule_queries.list_schedules(self._database)
        first = next_due(cron, timezone, now)
        request = replace(request.absolute(), name=name)
        self._runs.check(request)
        made = self._timetable.add(
            name, cron=cron, timezone=timezone, request=request.to_json(), fail_on=fail_on, next_due=first
        )
        put_record(self._objects, made)
        return made

    def listed(self) -> list[Schedule]:
        """All schedules, in order of their names."""
        return schedule_queries.list_schedules(self._database)[1]

    def get(self, name: str) -> Schedule:
        """One schedule. Raises NotFound."""
        return schedule_queries.get_schedule(self._database, name)

    def pause(self, name: str) -> None:
        """Let a schedule come due no more until `resume`. Raises NotFound."""
        self._timetable.pause(self.get(name))
        put_record(self._objects, self.get(name))

    def resume(self, name: str) -> None:
        """Let it come due again; occasions missed while it was paused are not made up for. Raises NotFound."""
        schedule = self.get(name)
        now, _ = schedule_queries.list_schedules(self._database)
        self._timetable.resume(schedule, next_due=next_due(schedule.cron, schedule.timezone, now))
        put_record(self._objects, self.get(name))

    def remove(self, name: str) -> None:
        """Forget a schedule and its history; its runs stay. Raises NotFound."""
        schedule = self.get(name)
        self._objects.delete(
            record_key(name)
        )  # first: after a crash in between the schedule still exists and can be removed
        self._timetable.remove(schedule)

    def history(self, name: str, *, limit: int = 100) -> list[Occasion]:
        """The occasions of a schedule, the latest first. Raises NotFound."""
        return schedule_queries.history(self._database, self.get(name).id, limit=limit)

    def classes(self, occasion: Occasion) -> tuple[ClassDrift, ...]:
        """Drift of each class on one occasion; empty if nothing was compared or nothing had changed."""
        return schedule_queries.class_drifts(self._database, occasion.id)

    # ---- ticks

    def run_now(
        self, name: str, *, wait: bool = True, workers: int = 1, on_progress: OnProgress = lambda _: None
    ) -> Occasion:
        """Start an occasion at once, even if the schedule is paused or not due. An open occasion is resumed.

        Args:
            name: name of the schedule.
            wait: return at the end of the occasion. Otherwise workers compute its run, and a later tick ends it.
            workers: number of worker processes, with `wait` and without a broker.
            on_progress: called with the counts of the run, with `wait`.

        Raises:
            UsageError: a tick is at work on this schedule.
            NotFound: there is no schedule with this name.
        """
        schedule = self.get(name)
        held = self._timetable.claim_now(schedule)
        if held is None:
            mine = [o for o in schedule_queries.open_occasions(self._database) if o.schedule_id == schedule.id]
            held = next(filter(None, map(self._timetable.take, mine)), None)
        if held is None:
            raise UsageError(f"schedule {name!r} is at work already; see `attribatch schedule history {name}`")
        if wait:
            return self._advance(held, lambda run: self._runs.compute(run, workers=workers, on_progress=on_progress))
        occasion = self._advance(held, lambda run: self._runs.status(run.id))
        with suppress(Retryable):  # as in `tick`
            self._runs.wake()
        return occasion

    def tick(self, *, wait: bool, workers: int = 1, on_progress: OnProgress = lambda _: None) -> TickReport:
        """Advance every schedule that is due or has an open occasion, each by at most one occasion.

        Any number of ticks may run at once: each occasion is held by one of them.

        Args:
            wait: compute each run to its end, one schedule after the other. Otherwise workers compute the runs, and a
                later tick ends the occasions.
            workers: number of worker processes, with `wait` and without a broker.
            on_progress: called with the counts of the run that is computed.

        Raises:
            StoreUnavailable: the database does not answer.
        """

        def compute(run: Run) -> Progress:
            return self._runs.compute(run, workers=workers, on_progress=on_progress)

        def status(run: Run) -> Progress:
            return self._runs.status(run.id)

        seen: set[int] = set()
        advanced = []
        while (held := self._next(seen, wait=wait)) is not None:
            seen.add(held.schedule_id)
            advanced.append(self._advance(held, compute if wait else status))
        if not wait:
            try:
                self._runs.wake()
            except Retryable as error:  # the next tick sends again, and idle workers look in SQL
                log.warning("%s", error)
        return TickReport(tuple(advanced))

    def _next(self, seen: set[int], *, wait: bool) -> Occasion | None:
        """Hold an occasion of a schedule not in `seen`: one that is open and free, else one that is due."""
        for occasion in schedule_queries.open_occasions(self._database):
            ready = wait or occasion.run_id is None or _is_over(self._runs.status(occasion.run_id))
            if occasion.schedule_id not in seen and ready and (held := self._timetable.take(occasion)):
                return held
        now, schedules = schedule_queries.list_schedules(self._database)
        for schedule in due(schedules, now):
            if schedule.id in seen:
                continue
            try:
                later = next_due(schedule.cron, schedule.timezone, now)
            except UsageError as error:  # a time zone unknown to this machine: other schedules are not affected
                log.error("schedule %s: %s", schedule.name, error)  # noqa: TRY400 - an expected error: its sentence says all, a traceback would bury it
                continue
            if held := self._timetable.claim(schedule, next_due=later):
                return held
        return None

    def _advance(self, held: Occasion, compute: Callable[[Run], Progress]) -> Occasion:
        """Advance a held occasion as far as possible, and return its new state."""
        # If the lease is lost nevertheless, `settle` and `let_go` below change nothing.
        with held_lease(lambda: self._timetable.renew(held), self._lease_seconds):
            try:
                return self._carried_out(held, compute)
            except Retryable as error:
                with suppress(Retryable):
                    self._timetable.let_go(held, error=str(error))
                return replace(held, error=str(error))
            except Exception as error:
                surprise = not isinstance(error, AttribatchError)
                if surprise:
                    log.exception("schedule %s", held.schedule)
                reason = f"{type(error).__name__}: {error}" if surprise else str(error)
                return self._settled(replace(held, state=OccasionState.FAILED, error=reason))
            except BaseException:  # Ctrl-C: the next tick resumes at once
                with suppress(Retryable):
                    self._timetable.let_go(held)
                raise

    def _carried_out(self, held: Occasion, compute: Callable[[Run], Progress]) -> Occasion:
        schedule = self.get(held.schedule)
        if held.run_id is None:
            run = self._runs.submit(RunRequest.from_json(schedule.request))
            self._timetable.submitted(held, run.id)
            held = replace(held, state=OccasionState.RUNNING, run_id=run.id)
        else:
            run = self._runs.get_run(held.run_id)
        progress = self._runs.status(run.id)
        if not _is_over(progress):
            progress = compute(run)
        if not _is_over(progress):
            self._timetable.let_go(held)
            return replace(held, token=None)
        if (reason := _failure(progress)) is not None:
            return self._settled(replace(held, state=OccasionState.FAILED, error=reason))
        complete = progress.state is RunState.DONE
        held = replace(held, state=OccasionState.DONE if complete else OccasionState.PARTIAL, error=None)
        return self._settled(*self._compared(held, schedule))

    def _compared(self, held: Occasion, schedule: Schedule) -> tuple[Occasion, tuple[ClassDrift, ...]]:
        """An occasion whose run is over, with its drift and whether that exceeds the gate."""
        run_id, before = held.run_id, schedule_queries.previous(self._database, held)
        if before is None or before.run_id is None or run_id is None:
            return held, ()
        held = replace(held, previous_run_id=before.run_id, unchanged=before.run_id == run_id)
        classes: tuple[ClassDrift, ...] = ()
        if held.unchanged:
            held = replace(held, drift=0.0, class_drift=0.0, ndcg=1.0)
        else:
            try:
                found = self._runs.drift(run_id, before.run_id)
            except Permanent as error:  # maps are gone: the run is done all the same, and the next one's measure
                return replace(held, error=f"the drift against run {before.run_id} is not known: {error}"), ()
            held = replace(held, drift=found.drift, class_drift=found.class_drift, ndcg=found.ndcg)
            classes = found.classes
        if schedule.fail_on is not None:
            figures = {"drift": held.drift, "class_drift": held.class_drift, "ndcg": held.ndcg}
            held = replace(held, exceeded=Gate.parse(schedule.fail_on).exceeded(figures))
            if held.exceeded is None:
                held = replace(held, error=f"gate {schedule.fail_on}: no class has enough images in both runs")
        return held, classes

    def _settled(self, outcome: Occasion, classes: tuple[ClassDrift, ...] = ()) -> Occasion:
        if self._timetable.settle(outcome, classes):
            return replace(outcome, token=None)
        lost = "another tick took this occasion over, or the schedule was removed; this result was not recorded"
        return replace(outcome, state=OccasionState.RUNNING, token=None, exceeded=None, error=lost)


def _is_over(progress: Progress) -> bool:
    return progress.state not in (RunState.PENDING, RunState.RUNNING)


def _failure(progress: Progress) -> str | None:
    """The reason why a run that is over has no map to compare; None if it has some."""
    if progress.state is RunState.CANCELLED:
        return f"run {progress.run_id} was cancelled"
    if progress.images_done:
        return None
    reason = progress.errors[0] if progress.errors else f"see `attribatch query {progress.run_id} --where failed`"
    return f"no image of run {progress.run_id} could be attributed: {reason}"
