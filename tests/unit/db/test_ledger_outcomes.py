"""The laws of failing, killing, waking, cancelling and repairing."""

from dataclasses import replace

import pytest
from sqlalchemy import Engine

from db.errors import UsageError
from db.ledger import Ledger
from db.queries import find_images, iter_images, iter_units, list_runs, progress
from db.records import DEATHS, ImageRow, ImageState, RunState, Unit, UnitState
from db.tables import images, suspects
from tests.support.ledger_states import RUN, claimed, count, die, first_unit, pass_time, states
from tests.support.records import make_drafts, make_row, make_rows, make_run

# ---- failing


def test_failed_unit_waits_and_is_tried_again(engine: Engine, submitted: Ledger) -> None:
    unit = claimed(submitted)
    assert submitted.fail(unit, "503 Slow Down", retry_in=30)
    assert submitted.claim("w1", unit_id=unit.id) is None
    assert progress(engine, RUN.id).errors == ("503 Slow Down",)
    pass_time(engine, 31)
    again = claimed(submitted, unit_id=unit.id)
    assert again.attempt == 2
    assert submitted.complete(again, make_rows(again))
    assert progress(engine, RUN.id).errors == ()


def test_permanent_failure_is_not_tried_again(engine: Engine, submitted: Ledger) -> None:
    unit = claimed(submitted)
    assert submitted.fail(unit, "the model returned NaN", retry_in=None)
    assert states(engine)[0] is UnitState.FAILED
    die(engine)
    assert submitted.claim("w1", unit_id=unit.id) is None
    assert submitted.sweep() == 0


def test_failures_are_bounded(engine: Engine) -> None:
    ledger = Ledger(engine, max_attempts=3)
    ledger.submit(RUN, make_drafts(RUN))
    attempts = []
    while unit := ledger.claim("w1", unit_id=first_unit(engine).id):
        attempts.append(unit.attempt)
        ledger.fail(unit, "503", retry_in=0)
    assert attempts == [1, 2, 3]
    assert states(engine)[0] is UnitState.FAILED


@pytest.mark.parametrize("swept", [True, False], ids=["swept between", "claimed at once"])
def test_deaths_are_bounded_and_the_reason_named(engine: Engine, swept: bool) -> None:
    ledger = Ledger(engine, max_attempts=3)
    ledger.submit(RUN, make_drafts(RUN))
    unit_id = first_unit(engine).id
    attempts = []
    while unit := ledger.claim("host:7", unit_id=unit_id):
        attempts.append(unit.attempt)
        die(engine)
        if swept:
            ledger.sweep()
    ledger.sweep()
    first = first_unit(engine)
    assert attempts == [1, 2, 3]
    assert first.state is UnitState.FAILED
    assert first.error is not None
    assert first.error.startswith("host:7 stopped answering")


# ---- images that kill


def test_deaths_are_counted_and_forgiven_by_row(submitted: Ledger) -> None:
    unit = claimed(submitted)
    assert submitted.suspects(unit) == {}
    assert submitted.note_row(unit, 2)
    assert submitted.note_row(unit, 2)
    assert submitted.note_row(unit, 3)
    assert submitted.suspects(unit) == {2: 2, 3: 1}
    submitted.clear_row(unit, 2)
    assert submitted.suspects(unit) == {3: 1}


def test_condemned_rows_grant_their_unit_more_attempts(engine: Engine) -> None:
    ledger = Ledger(engine, max_attempts=5)
    ledger.submit(RUN, make_drafts(RUN))
    unit_id = first_unit(engine).id
    poisonous = {1, 2}
    for attempts in range(1, 20):
        unit = ledger.claim("w1", unit_id=unit_id)
        assert unit is not None, f"given up after {attempts - 1} attempts"
        condemned = {row for row, deaths in ledger.suspects(unit).items() if deaths >= DEATHS}
        if attempts == 1:  # without care
            die(engine)
            ledger.sweep()
        elif killer := poisonous - condemned:
            ledger.note_row(unit, min(killer))
            die(engine)
            ledger.sweep()
        else:
            assert ledger.complete(unit, make_rows(unit))
            break
    assert attempts == 1 + DEATHS * len(poisonous) + 1
    assert count(engine, suspects) == 0


# ---- waking workers


def test_unsent_units_are_named_once_the_urgent_first(engine: Engine, submitted: Ledger) -> None:
    urgent = make_run("e" * 12, image_count=4, priority=2)
    submitted.submit(urgent, make_drafts(urgent))
    ids = {run: [unit.id for unit in iter_units(engine, run)] for run in (RUN.id, urgent.id)}
    assert submitted.unsent(2) == [*ids[urgent.id], ids[RUN.id][0]]
    assert submitted.unsent(10) == ids[RUN.id][1:]
    assert submitted.unsent(10) == []


def test_units_that_wait_long_are_sent_again(engine: Engine, submitted: Ledger) -> None:
    sent = submitted.unsent(10)
    pass_time(engine, 299)
    assert submitted.unsent(10) == []
    pass_time(engine, 2)
    assert submitted.unsent(10) == sent


def test_units_that_come_back_are_sent_again_when_due(engine: Engine, submitted: Ledger) -> None:
    submitted.unsent(10)
    first, second, third = (claimed(submitted) for _ in range(3))
    submitted.release(first)
    submitted.fail(second, "503", retry_in=20)
    assert submitted.unsent(10) == [first.id]
    pass_time(engine, 21)
    assert submitted.unsent(10) == [second.id]
    die(engine)
    submitted.sweep()
    assert submitted.unsent(10) == [third.id]


# ---- cancelling, retrying, repairing


def test_cancelling_stops_what_waits_and_fences_what_runs(engine: Engine, submitted: Ledger) -> None:
    done = claimed(submitted)
    submitted.complete(done, make_rows(done))
    running = claimed(submitted)
    assert submitted.cancel(RUN.id) == 2
    assert not submitted.renew(running)
    assert not submitted.complete(running, make_rows(running))
    assert submitted.claim("w1") is None
    assert progress(engine, RUN.id).state is RunState.CANCELLED
    assert submitted.cancel(RUN.id) == 0


def test_cancelling_leaves_other_runs_alone(engine: Engine, submitted: Ledger) -> None:
    other = make_run("e" * 12)
    submitted.submit(other, make_drafts(other))
    submitted.cancel(other.id)
    assert set(states(engine)) == {UnitState.PENDING}


def test_retry_arms_failed_and_cancelled_units_anew(engine: Engine, submitted: Ledger) -> None:
    failed, running = claimed(submitted), claimed(submitted)
    submitted.note_row(failed, 1)
    submitted.fail(failed, "broken", retry_in=None)
    submitted.note_row(running, 5)
    assert submitted.retry(RUN.id) == 1
    assert count(engine, suspects) == 1
    submitted.cancel(RUN.id)
    assert submitted.retry(RUN.id) == 3
    assert progress(engine, RUN.id).errors == ()
    again = claimed(submitted, unit_id=failed.id)
    assert again.attempt == 1
    assert submitted.suspects(again) == {}


@pytest.mark.parametrize("before", ["pending", "leased", "failed", "cancelled", "done"])
def test_repair_adopts_a_unit_in_any_state(engine: Engine, submitted: Ledger, before: str) -> None:
    unit = claimed(submitted)
    rows = make_rows(unit)
    _bring_to(submitted, unit, before)
    assert submitted.adopt(RUN.id, 0, rows)
    assert states(engine)[0] is UnitState.DONE
    assert list(iter_images(engine, RUN.id)) == rows
    assert progress(engine, RUN.id).images_done == 4
    assert not submitted.renew(unit)


def _bring_to(ledger: Ledger, unit: Unit, state: str) -> None:
    if state == "pending":
        ledger.release(unit)
    elif state == "failed":
        ledger.fail(unit, "x", retry_in=None)
    elif state == "cancelled":
        ledger.cancel(unit.run_id)
    elif state == "done":
        ledger.complete(unit, make_rows(unit))


def test_requeued_unit_is_computed_again_and_its_rows_are_gone(engine: Engine, submitted: Ledger) -> None:
    for _ in range(2):
        unit = claimed(submitted)
        submitted.complete(unit, make_rows(unit))
    assert submitted.requeue(RUN.id, 0)
    assert [row.row for row in iter_images(engine, RUN.id)] == [4, 5, 6, 7]
    assert progress(engine, RUN.id).images_done == 4
    assert claimed(submitted).number == 0
    assert not submitted.requeue(RUN.id, 0)
    assert not submitted.requeue(RUN.id, 2)


def test_repair_of_an_unknown_unit_says_so(submitted: Ledger) -> None:
    assert not submitted.adopt(RUN.id, 99, [])
    assert not submitted.requeue("nobody", 0)


def test_large_units_can_be_completed_and_requeued(engine: Engine, ledger: Ledger) -> None:
    run = make_run(image_count=2500, unit_size=2500)
    ledger.submit(run, make_drafts(run))
    unit = claimed(ledger)
    assert ledger.complete(unit, make_rows(unit))
    assert count(engine, images) == 2500
    assert ledger.requeue(run.id, 0)
    assert count(engine, images) == 0


# ---- states


def test_run_state_follows_its_units(engine: Engine, submitted: Ledger) -> None:
    def state() -> RunState:
        return progress(engine, RUN.id).state

    assert state() is RunState.PENDING
    first = claimed(submitted)
    assert state() is RunState.RUNNING
    submitted.release(first)
    assert state() is RunState.PENDING
    first = claimed(submitted)
    submitted.complete(first, make_rows(first))
    assert state() is RunState.RUNNING
    for _ in range(2):
        unit = claimed(submitted)
        submitted.complete(unit, make_rows(unit))
    assert state() is RunState.DONE


def test_run_with_a_failed_image_or_unit_ends_partial(engine: Engine, submitted: Ledger) -> None:
    for number in range(3):
        unit = claimed(submitted)
        rows: list[ImageRow] = make_rows(unit)
        if number == 1:
            rows[0] = replace(rows[0], state=ImageState.FAILED, error="truncated")
        submitted.complete(unit, rows)
    assert progress(engine, RUN.id).state is RunState.PARTIAL
    submitted.requeue(RUN.id, 1)
    submitted.fail(claimed(submitted), "broken", retry_in=None)
    found = progress(engine, RUN.id)
    assert (found.state, found.images_done, found.images_failed) == (RunState.PARTIAL, 8, 0)
    assert found.units[UnitState.FAILED] == 1


def test_run_of_which_no_image_is_done_ends_failed(engine: Engine, submitted: Ledger) -> None:
    unit = claimed(submitted)
    submitted.complete(unit, [replace(row, state=ImageState.FAILED, error="truncated") for row in make_rows(unit)])
    for _ in range(2):
        submitted.fail(claimed(submitted), "broken", retry_in=None)
    assert progress(engine, RUN.id).state is RunState.FAILED


def test_unsent_messages_are_unmarked_for_waiting_units(engine: Engine, submitted: Ledger) -> None:
    """Marks of messages that did not go out are taken back of units that still wait."""
    sent = submitted.unsent(10)
    claimed = submitted.claim("w1", unit_id=sent[0])
    assert submitted.unsend(sent) == len(sent) - 1
    assert submitted.unsent(10) == sent[1:]
    assert submitted.unsend([]) == 0
    assert claimed is not None
    assert submitted.renew(claimed)


def test_a_removed_run_leaves_nothing_and_others_all(engine: Engine, submitted: Ledger) -> None:
    other = make_run("other", image_count=2)
    submitted.submit(other, make_drafts(other))
    submitted.adopt(other.id, 0, [make_row(other.id, 0), make_row(other.id, 1)])
    unit = submitted.claim("w1", run_id=RUN.id)
    assert unit is not None
    submitted.note_row(unit, unit.entries[0].row)
    with pytest.raises(UsageError, match=f"attribatch cancel {RUN.id}"):
        submitted.remove(RUN.id)
    submitted.cancel(RUN.id)
    submitted.remove(RUN.id)
    assert [run.id for run in list_runs(engine)] == [other.id]
    assert len(find_images(engine, other.id).rows) == 2
    assert not submitted.complete(unit, [])
    assert count(engine, suspects) == 0


def test_a_run_whose_maps_another_one_shows_is_not_removed(engine: Engine, submitted: Ledger) -> None:
    other = make_run("other", image_count=1)
    submitted.submit(other, make_drafts(other))
    submitted.adopt(other.id, 0, [replace(make_row(other.id, 0), map_run=RUN.id, map_row=0)])
    with pytest.raises(UsageError, match="remove other first"):
        submitted.remove(RUN.id)
    submitted.remove(other.id)
    submitted.remove(RUN.id)
    assert list_runs(engine) == []
