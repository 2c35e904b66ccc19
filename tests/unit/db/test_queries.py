"""The laws of reading."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from sqlalchemy import Engine, insert

from db import queries
from db.encoding import image_values
from db.errors import NotFound, UsageError
from db.ledger import Ledger
from db.queries import (
    count_images,
    count_up_to,
    find_image,
    find_images,
    get_run,
    has_labels,
    iter_images,
    iter_units,
    list_runs,
    progress,
)
from db.records import ImageRow, ImageState, RunState, UnitState
from db.session import write
from db.tables import images
from tests.support.records import make_drafts, make_row, make_run

RUN = make_run()


def store(engine: Engine, rows: Sequence[ImageRow]) -> None:
    Ledger(engine).submit(RUN, make_drafts(RUN))
    with write(engine) as connection:
        connection.execute(insert(images), [image_values(row) for row in rows])


def mixed_rows(count: int, seed: int = 0) -> list[ImageRow]:
    """Rows full of ties and gaps, in no order."""
    generator = random.Random(seed)
    rows = [
        make_row(
            RUN.id,
            row,
            label=generator.choice(["cat", "dog", "it's", "Ünd", None]),
            predicted=generator.choice(["cat", "dog", None]),
            error_estimate=generator.choice([None, 0.0, 0.1, 0.1 + 0.2, 1e300, -1.5]),
            converged=generator.choice([True, False, None]),
            evaluations=generator.choice([None, 17, 33]),
            state=generator.choice(list(ImageState)),
        )
        for row in range(count)
    ]
    generator.shuffle(rows)
    return rows


def all_pages(engine: Engine, *, limit: int, where: str | None, sort: str | None) -> list[ImageRow]:
    rows: list[ImageRow] = []
    after = None
    while True:
        page = find_images(engine, RUN.id, where=where, sort=sort, limit=limit, after=after)
        rows += page.rows
        after = page.next
        if after is None:
            return rows
        assert len(page.rows) == limit


def sorted_in_memory(rows: Sequence[ImageRow], name: str, *, descending: bool) -> list[ImageRow]:
    by_row = sorted(rows, key=lambda row: row.row)
    present = [row for row in by_row if getattr(row, name) is not None]
    absent = [row for row in by_row if getattr(row, name) is None]
    return sorted(present, key=lambda row: getattr(row, name), reverse=descending) + absent


# ---- pages


@pytest.mark.parametrize("name", ["label", "error_estimate", "converged", "evaluations", "state", "key", "row"])
@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_pages_put_together_are_the_whole_in_order(engine: Engine, name: str, limit: int) -> None:
    rows = mixed_rows(18, seed=limit)
    store(engine, rows)
    for descending in (False, True):
        found = all_pages(engine, limit=limit, where=None, sort="-" * descending + name)
        if name == "label" and engine.dialect.name != "sqlite":  # the order of texts is the database's own
            assert sorted(row.row for row in found) == sorted(row.row for row in rows)
        else:
            assert found == sorted_in_memory(rows, name, descending=descending)


def test_pages_of_a_filter_hold_what_fits_it(engine: Engine) -> None:
    rows = mixed_rows(60)
    store(engine, rows)
    found = all_pages(engine, limit=4, where="label = 'cat' or evaluations > 20", sort="-error_estimate")
    fitting = [row for row in rows if row.label == "cat" or (row.evaluations or 0) > 20]
    assert found == sorted_in_memory(fitting, "error_estimate", descending=True)
    assert count_images(engine, RUN.id, where="label = 'cat' or evaluations > 20") == len(fitting)


@pytest.mark.parametrize("where", ["label = 'cat'", "evaluations > 20", "label = 'cat' or evaluations > 20",
                                   "border_share > 0.1 and not failed", "mispredicted"])  # fmt: skip
def test_a_count_is_exact_up_to_its_bound(engine: Engine, where: str) -> None:
    store(engine, mixed_rows(60))
    fitting = count_images(engine, RUN.id, where=where)
    for most in (1, 5, 59, 60):
        found = count_up_to(engine, RUN.id, where=where, most=most, seconds=60)
        assert found == min(fitting, most + 1)


def test_without_a_sort_pages_follow_the_manifest(engine: Engine) -> None:
    store(engine, mixed_rows(10))
    assert [row.row for row in all_pages(engine, limit=3, where=None, sort=None)] == list(range(10))


def test_pages_hold_images_of_one_run_only(engine: Engine) -> None:
    store(engine, mixed_rows(5))
    other = make_run("e" * 12)
    Ledger(engine).submit(other, make_drafts(other))
    Ledger(engine).adopt(other.id, 0, [make_row(other.id, row) for row in range(4)])
    assert len(find_images(engine, RUN.id).rows) == 5
    assert count_images(engine, other.id) == 4


def test_rows_that_arrive_between_pages_do_not_move_the_rest(engine: Engine) -> None:
    rows = [make_row(RUN.id, row, error_estimate=row / 10) for row in range(0, 20, 2)]
    store(engine, rows)
    first = find_images(engine, RUN.id, sort="error_estimate", limit=5)
    with write(engine) as connection:
        connection.execute(insert(images), [image_values(make_row(RUN.id, 1, error_estimate=-1.0))])
    rest = find_images(engine, RUN.id, sort="error_estimate", limit=99, after=first.next)
    assert [row.row for row in (*first.rows, *rest.rows)] == list(range(0, 20, 2))


@pytest.mark.parametrize("cursor", ["", "x", "!!", "WzFd", "bnVsbA", "é", "WyJhIiwgMSwgMl0"])
def test_broken_cursor_is_refused(engine: Engine, cursor: str) -> None:
    with pytest.raises(UsageError, match="cursor"):
        find_images(engine, RUN.id, after=cursor)


def test_cursor_of_another_question_is_refused(engine: Engine) -> None:
    store(engine, mixed_rows(10))
    cursor = find_images(engine, RUN.id, sort="label", limit=2).next
    for question in ({"sort": "-label"}, {"sort": "label", "where": "failed"}, {}):
        with pytest.raises(UsageError, match="belongs to another query"):
            find_images(engine, RUN.id, after=cursor, **question)
    with pytest.raises(UsageError, match="belongs to another query"):
        find_images(engine, "another", sort="label", after=cursor)


def test_unknown_sort_and_empty_pages_are_refused(engine: Engine) -> None:
    with pytest.raises(UsageError, match="cannot sort by 'size'; columns are: run_id"):
        find_images(engine, RUN.id, sort="-size")
    with pytest.raises(
        UsageError, match=r"cannot sort by 'baseline_sensitivty'; did you mean 'baseline_sensitivity'\?$"
    ):
        find_images(engine, RUN.id, sort="-baseline_sensitivty")
    with pytest.raises(UsageError, match="limit is 0"):
        find_images(engine, RUN.id, limit=0)


# ---- streams


def test_streams_hold_all_rows_in_order(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "BATCH", 7)
    rows = mixed_rows(30)
    store(engine, rows)
    assert [row.row for row in iter_images(engine, RUN.id)] == list(range(30))
    failed = sorted(row.row for row in rows if row.state is ImageState.FAILED)
    assert [row.row for row in iter_images(engine, RUN.id, ImageState.FAILED)] == failed
    assert list(iter_images(engine, "nobody")) == []


def test_slow_reader_of_a_stream_holds_up_no_writer(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "BATCH", 2)
    store(engine, mixed_rows(6))
    stream = iter_images(engine, RUN.id)
    next(stream)
    assert Ledger(engine).adopt(RUN.id, 2, [make_row(RUN.id, row) for row in range(8, 12)])
    assert len(list(stream)) == 9


def test_units_are_streamed_by_state(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.submit(RUN, make_drafts(RUN))
    ledger.adopt(RUN.id, 1, [])
    assert [unit.number for unit in iter_units(engine, RUN.id, UnitState.DONE)] == [1]
    assert [unit.number for unit in iter_units(engine, RUN.id, UnitState.PENDING)] == [0, 2]


# ---- runs


@pytest.fixture
def three_runs(engine: Engine) -> Engine:
    ledger = Ledger(engine)
    for run_id, name in (("abcd11112222", "nightly"), ("abcd11113333", "nightly"), ("ef0111112222", None)):
        ledger.submit(make_run(run_id, name=name), [])
    return engine


def test_runs_are_listed_newest_submission_first(three_runs: Engine) -> None:
    assert [run.id[-4:] for run in list_runs(three_runs)] == ["2222", "3333", "2222"]
    Ledger(three_runs).submit(make_run("abcd11112222"), [])
    assert list_runs(three_runs)[0].id == "abcd11112222"


@pytest.mark.parametrize(
    ("ref", "found"),
    [
        ("abcd11112222", "abcd11112222"),
        ("abcd11113", "abcd11113333"),
        ("EF01", "ef0111112222"),
        ("nightly", "abcd11113333"),
        ("latest", "ef0111112222"),
    ],
)
def test_run_is_found_by_id_beginning_name_or_latest(three_runs: Engine, ref: str, found: str) -> None:
    assert get_run(three_runs, ref).id == found


@pytest.mark.parametrize("ref", ["ef0", "abce", "%", "____", "", "night"])
def test_unknown_run_names_those_that_exist(three_runs: Engine, ref: str) -> None:
    with pytest.raises(NotFound, match=r"no run .*ef0111112222, abcd11113333 \(nightly\)"):
        get_run(three_runs, ref)


def test_ambiguous_beginning_names_the_candidates(three_runs: Engine) -> None:
    with pytest.raises(NotFound, match=r"2 runs begin with 'abcd'.*abcd11112222.*more digits"):
        get_run(three_runs, "abcd")


def test_no_runs_at_all_names_the_remedy(engine: Engine) -> None:
    for ref in ("latest", "abcd"):
        with pytest.raises(NotFound, match="attribatch run"):
            get_run(engine, ref)
    with pytest.raises(NotFound, match="no run 'abcd'"):
        progress(engine, "abcd")


def test_progress_of_a_new_run_counts_every_state(engine: Engine) -> None:
    Ledger(engine).submit(RUN, make_drafts(RUN))
    found = progress(engine, RUN.id)
    assert found.state is RunState.PENDING
    assert found.units == {state: 3 * (state is UnitState.PENDING) for state in UnitState}
    assert (found.images_total, found.images_done, found.images_failed, found.attempts) == (12, 0, 0, 0)


def test_progress_shows_five_distinct_errors_of_the_first_units(engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.submit(make_run(image_count=9, unit_size=1), make_drafts(make_run(image_count=9, unit_size=1)))
    for number in range(9):
        unit = ledger.claim("w1")
        assert unit is not None
        ledger.fail(unit, f"error {number // 2 + 1}", retry_in=None)
    assert progress(engine, RUN.id).errors == tuple(f"error {number}" for number in (1, 2, 3, 4, 5))


# ---- one image


@pytest.fixture
def named(engine: Engine) -> Engine:
    keys = ["a/1.png", "a/11.png", "b/1.png", "b/x_2.png", "B/X_2.PNG", "7", "c/8%.png"]
    store(engine, [replace(make_row(RUN.id, row), key=key) for row, key in enumerate(keys)])
    return engine


@pytest.mark.parametrize(
    ("ref", "row"),
    [
        ("3", 3),
        ("a/1.png", 0),
        ("11.png", 1),
        ("/11.png", 1),
        ("x_2.png", 3),
        ("X_2.PNG", 4),
        ("7", 5),
        ("%.png", 6),
    ],
)
def test_image_is_found_by_row_key_or_ending(named: Engine, ref: str, row: int) -> None:
    assert find_image(named, RUN.id, ref).row == row


@pytest.mark.parametrize("ref", ["99", "nothing.png", "", "9" * 30, "_____"])
def test_unknown_image_shows_what_keys_look_like(named: Engine, ref: str) -> None:
    with pytest.raises(NotFound, match=r"no recorded image|several images") as caught:
        find_image(named, RUN.id, ref)
    assert "a/1.png" in str(caught.value)


def test_a_row_beyond_the_run_is_refused_with_the_range(named: Engine) -> None:
    """A row number beyond the run is told which rows there are."""
    last = max(row.row for row in iter_images(named, RUN.id))
    with pytest.raises(NotFound, match=rf"no recorded image '99'; its rows go from 0 to {last}, and keys look like"):
        find_image(named, RUN.id, "99")


def test_ambiguous_ending_names_the_candidates(named: Engine) -> None:
    with pytest.raises(NotFound, match=r"several images .* end with '1.png': a/1.png, b/1.png; give more"):
        find_image(named, RUN.id, "1.png")


@pytest.mark.parametrize("label", ["cat", None])
def test_a_run_says_whether_it_has_labels_to_compare_with(engine: Engine, label: str | None) -> None:
    store(engine, [make_row(RUN.id, row, label=label if row == 2 else None) for row in range(3)])
    assert has_labels(engine, RUN.id) is (label is not None)
