"""The laws of submitting, claiming and completing."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from db.ledger import INSERT_BATCH, Ledger
from db.queries import find_images, get_run, iter_images, iter_units, list_runs, progress
from db.records import ImageState, RunState, UnitDraft, UnitState
from db.tables import images, units
from tests.support.ledger_processes import claim_and_complete_all, claim_and_die, submit_at_once
from tests.support.ledger_states import RUN, claimed, count, die, pass_time, states
from tests.support.records import make_drafts, make_entry, make_row, make_rows, make_run

# ---- submitting


def test_submit_stores_the_run_and_its_units(engine: Engine, ledger: Ledger) -> None:
    stored = ledger.submit(replace(RUN, name="nightly", priority=3), make_drafts(RUN))
    assert stored.created_at is not None
    assert stored == replace(
        RUN, name="nightly", priority=3, created_at=stored.created_at, submitted_at=stored.submitted_at
    )
    assert [unit.entries for unit in iter_units(engine, RUN.id)] == [d.entries for d in make_drafts(RUN)]
    assert set(states(engine)) == {UnitState.PENDING}


def test_submitting_again_returns_the_stored_run(engine: Engine, submitted: Ledger) -> None:
    """Submitting again duplicates nothing and returns what is stored."""

    def unread() -> Iterator[UnitDraft]:
        raise AssertionError("the stored units stand")
        yield

    first = get_run(engine, RUN.id)
    again = submitted.submit(replace(RUN, unit_size=2, name="renamed"), unread())
    assert (again.unit_size, again.name, again.created_at) == (4, "renamed", first.created_at)
    assert again.submitted_at is not None
    assert first.submitted_at is not None
    assert again.submitted_at > first.submitted_at
    assert len(states(engine)) == 3


def test_submitting_again_without_a_name_keeps_it(ledger: Ledger) -> None:
    ledger.submit(replace(RUN, name="nightly"), make_drafts(RUN))
    assert ledger.submit(RUN, make_drafts(RUN)).name == "nightly"


def test_submitting_again_rearms_cancelled_units(engine: Engine, ledger: Ledger) -> None:
    """Submitting again arms cancelled units with all their attempts."""
    once = Ledger(engine, max_attempts=1)
    once.submit(RUN, make_drafts(RUN))
    done = claimed(once)
    assert once.complete(done, make_rows(done))
    claimed(once)
    assert once.cancel(RUN.id) == 2
    once.submit(RUN, make_drafts(RUN))
    assert states(engine) == [UnitState.DONE, UnitState.PENDING, UnitState.PENDING]
    assert claimed(once).attempt == 1


def test_submitting_again_takes_over_the_priority(submitted: Ledger) -> None:
    other = make_run("f" * 12)
    submitted.submit(other, make_drafts(other))
    submitted.submit(replace(other, priority=5), [])
    assert claimed(submitted).run_id == other.id


def test_failing_producer_leaves_nothing(engine: Engine, ledger: Ledger) -> None:
    def failing() -> Iterator[UnitDraft]:
        yield from make_drafts(RUN)
        raise RuntimeError("listing broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        ledger.submit(RUN, failing())
    assert list_runs(engine) == []
    assert count(engine, units) == 0


def test_units_are_stored_in_batches_of_any_number(engine: Engine, ledger: Ledger) -> None:
    run = make_run(image_count=2 * INSERT_BATCH + 1, unit_size=1)
    ledger.submit(run, make_drafts(run))
    assert [unit.number for unit in iter_units(engine, run.id)] == list(range(run.image_count))


def test_two_producers_of_one_run_at_once_both_succeed(
    engine: Engine, url: str, processes: ProcessPoolExecutor
) -> None:
    answers = [processes.submit(submit_at_once, url, RUN.id, 4000) for _ in range(2)]
    assert [answer.result() for answer in answers] == [4000, 4000]
    assert len(states(engine)) == 1000


def test_latest_is_the_last_submission_even_within_one_tick(engine: Engine, ledger: Ledger) -> None:
    runs = [make_run(f"{number:012x}") for number in range(8)]
    for run in runs:
        ledger.submit(run, make_drafts(run))
    ledger.submit(runs[3], [])
    newest_first = [runs[number].id for number in (3, 7, 6, 5, 4, 2, 1, 0)]
    assert [run.id for run in list_runs(engine)] == newest_first
    assert get_run(engine, "latest").id == runs[3].id


# ---- claiming


def test_claim_hands_out_each_unit_once_and_the_oldest_first(submitted: Ledger) -> None:
    numbers = [claimed(submitted, f"w{i}").number for i in range(3)]
    assert numbers == [0, 1, 2]
    assert submitted.claim("w4") is None


def test_claim_carries_entries_token_and_attempt(submitted: Ledger) -> None:
    unit = claimed(submitted)
    assert unit.entries == tuple(make_entry(row) for row in range(4))
    assert (unit.run_id, unit.attempt, len(unit.token)) == (RUN.id, 1, 32)
    assert claimed(submitted).token != unit.token


def test_larger_priority_goes_first(submitted: Ledger) -> None:
    urgent = make_run("e" * 12, image_count=4, priority=2)
    submitted.submit(urgent, make_drafts(urgent))
    assert [claimed(submitted).run_id for _ in range(2)] == [urgent.id, RUN.id]


def test_claim_of_a_run_or_a_unit_takes_no_other(engine: Engine, submitted: Ledger) -> None:
    other = make_run("e" * 12, image_count=4)
    submitted.submit(other, make_drafts(other))
    assert claimed(submitted, run_id=other.id).run_id == other.id
    assert submitted.claim("w1", run_id=other.id) is None
    last = list(iter_units(engine, RUN.id))[-1]
    assert claimed(submitted, unit_id=last.id).number == last.number
    assert submitted.claim("w1", unit_id=last.id) is None


def test_four_processes_complete_each_of_400_units_once(
    engine: Engine, url: str, ledger: Ledger, processes: ProcessPoolExecutor
) -> None:
    run = make_run(image_count=800, unit_size=2)
    ledger.submit(run, make_drafts(run))
    answers = [processes.submit(claim_and_complete_all, url, f"w{i}") for i in range(4)]
    completed = [unit_id for answer in answers for unit_id in answer.result()]
    assert len(completed) == len(set(completed)) == 400
    found = progress(engine, run.id)
    assert (found.state, found.images_done, found.attempts) == (RunState.DONE, 800, 400)
    assert count(engine, images) == 800


def test_threads_share_a_ledger(engine: Engine, ledger: Ledger) -> None:
    run = make_run(image_count=60, unit_size=1)
    ledger.submit(run, make_drafts(run))
    with ThreadPoolExecutor(6) as executor:
        claims = list(executor.map(lambda i: claimed(ledger, f"w{i}").id, range(60)))
    assert len(set(claims)) == 60


# ---- leases


def test_expired_lease_goes_to_the_next_and_fences_the_first(engine: Engine, submitted: Ledger) -> None:
    stale = claimed(submitted, "w1")
    die(engine)
    fresh = claimed(submitted, "w2", unit_id=stale.id)
    assert fresh.attempt == 2
    assert not submitted.renew(stale)
    assert not submitted.complete(stale, make_rows(stale))
    assert not submitted.fail(stale, "late", retry_in=0)
    assert not submitted.release(stale)
    assert not submitted.note_row(stale, 0)
    submitted.clear_row(stale, 0)
    assert count(engine, images) == 0
    assert submitted.complete(fresh, make_rows(fresh))


def test_unexpired_lease_is_not_claimed(engine: Engine, submitted: Ledger) -> None:
    unit = claimed(submitted)
    pass_time(engine, 30)
    assert submitted.claim("w2", unit_id=unit.id) is None


def test_renewal_extends_the_lease_from_now(engine: Engine, submitted: Ledger) -> None:
    unit = claimed(submitted)
    pass_time(engine, 40)
    assert submitted.renew(unit)
    pass_time(engine, 40)
    assert submitted.claim("w2", unit_id=unit.id) is None


def test_expired_lease_that_nobody_took_can_still_be_completed(engine: Engine, submitted: Ledger) -> None:
    unit = claimed(submitted)
    die(engine)
    assert submitted.renew(unit)
    assert submitted.complete(unit, make_rows(unit))


def test_released_unit_is_pending_and_its_attempt_uncounted(submitted: Ledger) -> None:
    """Released unit is pending at once and its attempt uncounted."""
    unit = claimed(submitted)
    assert submitted.release(unit)
    assert not submitted.release(unit)
    assert claimed(submitted, "w2", unit_id=unit.id).attempt == 1


def test_sweep_takes_expired_units_only(engine: Engine, submitted: Ledger) -> None:
    claimed(submitted)
    die(engine)
    claimed(submitted, unit_id=claimed(submitted).id + 1)  # the expired one, then the third
    assert submitted.sweep() == 0
    die(engine)
    assert submitted.sweep() == 2
    assert states(engine) == [UnitState.PENDING] * 3


def test_units_of_dead_workers_are_taken_at_once(engine: Engine, submitted: Ledger) -> None:
    for worker in ("host:1", "host:2", "host:3"):
        claimed(submitted, worker)
    assert submitted.lease_owners() == ["host:1", "host:2", "host:3"]
    assert submitted.release_owned_by(["host:1", "host:3", "host:9"]) == 2
    assert submitted.lease_owners() == ["host:2"]
    assert submitted.release_owned_by([]) == 0
    assert states(engine) == [UnitState.PENDING, UnitState.LEASED, UnitState.PENDING]


def test_unit_of_another_process_is_found_by_its_owner(
    url: str, submitted: Ledger, processes: ProcessPoolExecutor
) -> None:
    lost = processes.submit(claim_and_die, url, "host:17").result()
    assert lost is not None
    assert submitted.release_owned_by(["host:17"]) == 1
    assert claimed(submitted, unit_id=lost.id).attempt == 2


# ---- completing


def test_completion_writes_rows_and_counts_them(engine: Engine, submitted: Ledger) -> None:
    unit = claimed(submitted)
    rows = make_rows(unit, probability=0.25, converged=True, evaluations=50, map_run=RUN.id, map_row=3)
    rows[1] = replace(rows[1], state=ImageState.FAILED, error="truncated file", probability=None)
    assert submitted.complete(unit, rows)
    assert list(iter_images(engine, RUN.id)) == rows
    found = progress(engine, RUN.id)
    assert (found.images_total, found.images_done, found.images_failed) == (12, 3, 1)
    assert states(engine)[0] is UnitState.DONE


def test_completion_whose_answer_was_lost_may_be_said_again(engine: Engine, submitted: Ledger) -> None:
    unit = claimed(submitted)
    assert submitted.complete(unit, make_rows(unit))
    assert submitted.complete(unit, make_rows(unit))
    assert count(engine, images) == 4


def test_completion_is_whole_or_not_at_all(engine: Engine, submitted: Ledger) -> None:
    unit = claimed(submitted)
    broken = [*make_rows(unit)[:3], make_row(RUN.id, 3, key=None)]
    with pytest.raises(Exception, match=r"(?i)not.null"):
        submitted.complete(unit, broken)
    assert count(engine, images) == 0
    assert states(engine)[0] is UnitState.LEASED
    assert submitted.complete(unit, make_rows(unit))


def test_rows_are_replaced_not_doubled(engine: Engine, submitted: Ledger) -> None:
    unit = claimed(submitted)
    submitted.complete(unit, make_rows(unit, probability=0.1))
    submitted.requeue(RUN.id, 0)
    assert submitted.adopt(RUN.id, 0, make_rows(unit, probability=0.2))
    assert submitted.adopt(RUN.id, 0, make_rows(unit, probability=0.3))
    assert [row.probability for row in iter_images(engine, RUN.id)] == [0.3] * 4


def test_nan_is_stored_as_missing(engine: Engine, submitted: Ledger) -> None:
    unit = claimed(submitted)
    submitted.complete(unit, make_rows(unit, gini=float("nan"), entropy=0.5))
    row = find_images(engine, RUN.id).rows[0]
    assert (row.gini, row.entropy) == (None, 0.5)


def test_figures_survive_to_the_last_bit(engine: Engine, submitted: Ledger) -> None:
    unit = claimed(submitted)
    submitted.complete(unit, make_rows(unit, output=0.1 + 0.2, convergence_delta=-1e-300))
    row = find_images(engine, RUN.id).rows[0]
    assert (row.output, row.convergence_delta) == (0.1 + 0.2, -1e-300)
