"""Lists of runs: each overview has the counts of `progress`, and a list costs one statement without specs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import Engine, event, update

from db.errors import NotFound
from db.ledger import Ledger
from db.overviews import overview, overviews
from db.queries import count_runs, list_runs, progress
from db.records import ImageState, RunState
from db.session import write
from db.tables import units
from tests.support.ledger_states import claimed
from tests.support.records import make_drafts, make_rows, make_run

IDS = ("aaaa00000000", "bbbb00000000", "cccc00000000", "dddd00000000")


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    """Four runs, the last one submitted last: done, partial, running and without units."""
    found = Ledger(engine)
    for run_id in IDS:
        run = make_run(run_id, name=f"run {run_id[0]}")
        found.submit(run, [] if run_id == IDS[3] else make_drafts(run))
    for run_id, claims in ((IDS[0], 3), (IDS[1], 3), (IDS[2], 1)):
        for number in range(claims):
            unit = claimed(found, run_id=run_id)
            rows = make_rows(unit)
            if run_id == IDS[1] and number == 0:
                rows[0] = replace(rows[0], state=ImageState.FAILED, error="truncated")
            if run_id == IDS[1] and number == 1:
                found.fail(unit, "broken", retry_in=None)
            else:
                found.complete(unit, rows)
    claimed(found, run_id=IDS[2])
    return found


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """The statements that are sent within the block."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


def test_runs_come_in_pages(engine: Engine, ledger: Ledger) -> None:
    newest_first = [run.id for run in list_runs(engine)]
    assert newest_first == list(reversed(IDS))
    assert count_runs(engine) == 4
    for read in (list_runs, overviews):
        pages = [[run.id for run in read(engine, limit=3, offset=offset)] for offset in (0, 3, 6)]
        assert pages == [newest_first[:3], newest_first[3:], []]


def test_an_overview_has_the_counts_of_its_run(engine: Engine, ledger: Ledger) -> None:
    found = overviews(engine, limit=10)
    runs = list_runs(engine)
    for each, run in zip(found, runs, strict=True):
        assert each == replace(overview(engine, run.id), images_per_second=each.images_per_second)
        assert each.progress == replace(progress(engine, run.id), errors=())
        assert (each.id, each.name, each.source, each.submitted_at) == (run.id, run.name, run.source, run.submitted_at)
    assert [each.progress.state for each in found[1:]] == [RunState.RUNNING, RunState.PARTIAL, RunState.DONE]
    assert [each.seconds is None for each in found] == [True, False, False, False]
    assert all(each.images_per_second > 0 for each in found[1:])
    with pytest.raises(NotFound, match="no run 'nope'"):
        overview(engine, "nope")


def test_a_list_is_one_statement_that_reads_no_spec(engine: Engine, ledger: Ledger) -> None:
    with statements(engine) as seen:
        found = overviews(engine, limit=10)
        overviews(engine, limit=10, known={each.id: each for each in found})
    selects = [statement for statement in seen if statement.startswith("SELECT")]
    assert len(selects) == 2
    assert not any("spec" in statement for statement in selects)


def test_units_of_runs_that_are_over_are_counted_once(engine: Engine, ledger: Ledger) -> None:
    known = {each.id: each for each in overviews(engine, limit=10)}
    ledger.submit(replace(make_run(IDS[0]), name="renamed"), [])
    with write(engine) as connection:
        connection.execute(update(units).values(images_done=1))
    found = {each.id: each for each in overviews(engine, limit=10, known=known)}
    assert next(iter(found)) == IDS[0], "submitted again, so the latest"
    assert found[IDS[0]].name == "renamed"
    assert [found[run_id].progress.images_done for run_id in IDS[:3]] == [12, 7, 3]


def test_units_of_a_run_that_waits_again_are_counted(engine: Engine, ledger: Ledger) -> None:
    known = {each.id: each for each in overviews(engine, limit=10)}
    ledger.requeue(IDS[0], 1)
    found = {each.id: each for each in overviews(engine, limit=10, known=known)}
    assert found[IDS[0]].progress == progress(engine, IDS[0])
    assert found[IDS[0]].progress.state is RunState.RUNNING
