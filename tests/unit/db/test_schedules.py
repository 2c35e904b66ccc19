"""The laws of schedules and their occasions."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from db.errors import NotFound, UsageError
from db.ledger import Ledger
from db.records import ClassDrift, Occasion, OccasionState, Schedule
from db.schedule_ledger import Timetable
from db.schedule_queries import class_drifts, get_schedule, history, list_schedules, open_occasions, previous
from db.tables import drifts, occasions, runs
from tests.support.ledger_processes import claim_turn_at_once
from tests.support.ledger_states import count, pass_hours
from tests.support.records import make_drafts, make_run

TOMORROW = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)


@pytest.fixture
def timetable(engine: Engine) -> Timetable:
    return Timetable(engine)


def add(timetable: Timetable, name: str = "nightly") -> Schedule:
    return timetable.add(name, cron="0 2 * * *", timezone="UTC", request="{}", fail_on=None, next_due=TOMORROW)


@pytest.fixture
def overdue(engine: Engine, timetable: Timetable) -> Schedule:
    """A schedule that came due an hour ago."""
    add(timetable)
    pass_hours(engine, 25)
    return get_schedule(engine, "nightly")


def turn(found: Occasion | None) -> Occasion:
    assert found is not None
    return found


def ended(engine: Engine, timetable: Timetable, schedule: Schedule, run_id: str) -> Occasion:
    """One turn with a stored run, done."""
    run = make_run(run_id)
    Ledger(engine).submit(run, make_drafts(run))
    held = turn(timetable.claim_now(schedule))
    assert timetable.submitted(held, run_id)
    assert timetable.settle(replace(held, state=OccasionState.DONE, run_id=run_id))
    return history(engine, schedule.id)[0]


def test_a_schedule_is_stored_as_given_under_a_new_name(engine: Engine, timetable: Timetable) -> None:
    """A schedule is stored as it was given and a name is taken once."""
    made = add(timetable)
    assert (made.name, made.next_due, made.paused, made.fail_on) == ("nightly", TOMORROW, False, None)
    assert get_schedule(engine, "nightly") == made
    with pytest.raises(UsageError, match="schedule 'nightly' exists already"):
        add(timetable)
    other = add(timetable, "hourly")
    told, found = list_schedules(engine)
    assert found == [other, made]
    assert abs(told - datetime.now(UTC)) < timedelta(seconds=5)


def test_an_unknown_name_is_answered_with_those_that_are_there(engine: Engine, timetable: Timetable) -> None:
    with pytest.raises(NotFound, match="no schedules yet"):
        get_schedule(engine, "daily")
    add(timetable)
    with pytest.raises(NotFound, match="there are nightly"):
        get_schedule(engine, "daily")


def test_a_due_schedule_is_claimed_once_and_moves_on(engine: Engine, timetable: Timetable, overdue: Schedule) -> None:
    held = turn(timetable.claim(overdue, next_due=TOMORROW))
    assert (held.state, held.due_at, held.schedule, held.run_id) == (
        OccasionState.DUE, overdue.next_due, "nightly", None,
    )  # fmt: skip
    assert get_schedule(engine, "nightly").next_due == TOMORROW
    assert timetable.claim(overdue, next_due=TOMORROW) is None
    assert timetable.settle(replace(held, state=OccasionState.FAILED, error="gone"))
    assert timetable.claim(overdue, next_due=TOMORROW) is None, "next_due is no more what was read"
    assert [(each.state, each.error) for each in history(engine, overdue.id)] == [(OccasionState.FAILED, "gone")]


def test_four_processes_that_claim_one_turn_get_it_once(
    engine: Engine, url: str, overdue: Schedule, processes: ProcessPoolExecutor
) -> None:
    answers = [processes.submit(claim_turn_at_once, url, overdue, TOMORROW) for _ in range(8)]
    assert sum(answer.result() is not None for answer in answers) == 1
    assert count(engine, occasions) == 1


def test_what_is_not_due_is_not_claimed_even_if_asked(engine: Engine, timetable: Timetable) -> None:
    assert timetable.claim(add(timetable), next_due=TOMORROW + timedelta(days=1)) is None
    pass_hours(engine, 25)
    overdue = get_schedule(engine, "nightly")
    timetable.pause(overdue)
    assert timetable.claim(overdue, next_due=TOMORROW) is None, "paused after it was read"
    assert count(engine, occasions) == 0


def test_a_schedule_resumes_from_the_given_time(engine: Engine, timetable: Timetable, overdue: Schedule) -> None:
    """A paused schedule goes on from the time that resume gives."""
    timetable.pause(overdue)
    assert get_schedule(engine, "nightly").paused
    timetable.resume(overdue, next_due=TOMORROW)
    assert get_schedule(engine, "nightly") == replace(overdue, next_due=TOMORROW)


def test_a_turn_that_is_not_over_holds_back_the_next_one(
    engine: Engine, timetable: Timetable, overdue: Schedule
) -> None:
    held = turn(timetable.claim(overdue, next_due=TOMORROW))
    pass_hours(engine, 48)
    due_again = get_schedule(engine, "nightly")
    assert timetable.claim(due_again, next_due=TOMORROW) is None
    assert timetable.claim_now(due_again) is None
    assert get_schedule(engine, "nightly") == due_again, "it stays due"
    again = turn(timetable.take(held))
    assert timetable.settle(replace(again, state=OccasionState.FAILED))
    assert timetable.claim(due_again, next_due=TOMORROW)


def test_an_occasion_is_taken_over_from_a_silent_holder(
    engine: Engine, timetable: Timetable, overdue: Schedule
) -> None:
    """A held turn is taken over only from a silent holder who is fenced off."""
    held = turn(timetable.claim(overdue, next_due=TOMORROW))
    assert timetable.take(held) is None
    assert timetable.renew(held)
    pass_hours(engine, 1)
    other = turn(timetable.take(held))
    assert other.token != held.token
    assert not timetable.renew(held)
    assert not timetable.let_go(held)
    assert not timetable.submitted(held, "0" * 12)
    assert not timetable.settle(replace(held, state=OccasionState.DONE))
    assert open_occasions(engine) == [other]


def test_a_turn_that_is_let_go_is_free_at_once_and_says_why(
    engine: Engine, timetable: Timetable, overdue: Schedule
) -> None:
    held = turn(timetable.claim(overdue, next_due=TOMORROW))
    assert timetable.let_go(held, error="the store was away")
    assert open_occasions(engine)[0].error == "the store was away"
    again = turn(timetable.take(held))
    assert timetable.settle(replace(again, state=OccasionState.FAILED))
    assert timetable.take(again) is None, "it is over"


def test_a_turn_asked_for_leaves_the_next_one_where_it_was(engine: Engine, timetable: Timetable) -> None:
    schedule = add(timetable)
    held = turn(timetable.claim_now(schedule))
    assert abs(held.due_at - datetime.now(UTC)) < timedelta(seconds=5)
    assert get_schedule(engine, "nightly") == schedule


def test_a_settled_turn_keeps_its_drift_and_its_classes(engine: Engine, timetable: Timetable) -> None:
    schedule = add(timetable)
    first = ended(engine, timetable, schedule, "a" * 12)
    run = make_run("b" * 12)
    Ledger(engine).submit(run, make_drafts(run))
    held = turn(timetable.claim_now(schedule))
    figures = {"drift": 0.25, "class_drift": 0.5, "ndcg": 0.75, "exceeded": True, "unchanged": False}
    outcome = replace(held, state=OccasionState.PARTIAL, run_id=run.id, previous_run_id=first.run_id, **figures)  # type: ignore[arg-type]
    assert timetable.submitted(held, run.id)
    classes = (ClassDrift("cat", 5, 6, 0.5, 0.75), ClassDrift("dog", 0, 3, None, None))
    assert timetable.settle(outcome, classes)
    stored = history(engine, schedule.id)[0]
    assert stored.ended_at is not None
    assert stored == replace(outcome, token=None, ended_at=stored.ended_at)
    assert class_drifts(engine, stored.id) == classes
    assert not timetable.settle(outcome, classes), "a drift is recorded once"


def test_the_run_before_is_the_last_one_that_left_maps(engine: Engine, timetable: Timetable) -> None:
    schedule, other = add(timetable), add(timetable, "other")
    ended(engine, timetable, other, "c" * 12)
    first = ended(engine, timetable, schedule, "a" * 12)
    assert previous(engine, first) is None
    failed = turn(timetable.claim_now(schedule))
    assert timetable.settle(replace(failed, state=OccasionState.FAILED))
    third = ended(engine, timetable, schedule, "b" * 12)
    assert previous(engine, third) == first
    assert [each.id for each in history(engine, schedule.id, limit=2)] == [third.id, failed.id]


def test_a_removed_schedule_leaves_its_runs(engine: Engine, timetable: Timetable) -> None:
    """A removed schedule takes its history and leaves its runs."""
    schedule = add(timetable)
    ended(engine, timetable, schedule, "a" * 12)
    held = turn(timetable.claim_now(schedule))
    assert timetable.settle(replace(held, state=OccasionState.FAILED), [ClassDrift("cat", 1, 1, 0.0, 1.0)])
    held = turn(timetable.claim_now(schedule))
    timetable.remove(schedule)
    assert [count(engine, table) for table in (occasions, drifts, runs)] == [0, 0, 1]
    assert not timetable.settle(replace(held, state=OccasionState.DONE))
    assert timetable.claim_now(schedule) is None
