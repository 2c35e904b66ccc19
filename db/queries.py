"""Queries of runs, units and images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, Engine, Row, Select, and_, exists, func, or_, select

from db.encoding import IMAGE_FIELDS, entries_from_text, image_from_row, run_from_row
from db.errors import NotFound
from db.filters import compile_where
from db.paging import Page, count_of, page_of
from db.records import Entry, ImageRow, ImageState, Progress, Run, RunState, UnitState
from db.session import read, time_limit
from db.tables import WAITING, images, runs, units

BATCH = 1000  # rows held at a time while streaming
REUSED_RUNS = 3  # earlier runs whose rows are matched by key and version; older ones are found by digest
SHORTEST_PREFIX = 4  # first digits of a run's id that may be used instead of the whole

_IMAGE = [images.c[name] for name in IMAGE_FIELDS]
_DONE = images.c.state == ImageState.DONE
NEWEST_FIRST = (runs.c.submitted_at.desc(), runs.c.id)


@dataclass(frozen=True, slots=True)
class UnitRow:
    """One stored unit, for `repair` and `status`."""

    id: int
    number: int
    state: UnitState
    attempt: int
    worker: str | None  # its last holder
    error: str | None
    entries: tuple[Entry, ...]


# ---- runs


def list_runs(engine: Engine, *, limit: int | None = None, offset: int = 0) -> list[Run]:
    """Return `limit` runs or all, after `offset` others, the latest submission first."""
    query = select(runs).order_by(*NEWEST_FIRST).limit(limit).offset(offset)
    with read(engine) as connection:
        return [run_from_row(row) for row in connection.execute(query)]


def count_runs(engine: Engine) -> int:
    """Return the number of runs."""
    with read(engine) as connection:
        return int(connection.execute(select(func.count()).select_from(runs)).scalar_one())


def waiting_runs(engine: Engine) -> list[Run]:
    """Return the runs with a pending or leased unit, by descending priority, then by submission time."""
    waiting = select(units.c.run_id).where(WAITING)
    query = select(runs).where(runs.c.id.in_(waiting)).order_by(runs.c.priority.desc(), runs.c.submitted_at)
    with read(engine) as connection:
        return [run_from_row(row) for row in connection.execute(query)]


def get_run(engine: Engine, ref: str) -> Run:
    """Find a run by its id, else by its name (the latest of that name), else by the beginning of its id.

    `latest` finds the run that was submitted last.

    Raises:
        NotFound: no run matches, or several ids begin with `ref`.
    """
    with read(engine) as connection:
        newest = select(runs).order_by(*NEWEST_FIRST)
        if ref == "latest":
            choices = [newest.limit(1)]
        else:
            choices = [newest.where(runs.c.id == ref), newest.where(runs.c.name == ref).limit(1)]
            if len(ref) >= SHORTEST_PREFIX:
                choices.append(newest.where(func.substr(runs.c.id, 1, len(ref)) == ref.lower()))
        for choice in choices:
            found = connection.execute(choice).all()
            if len(found) == 1:
                return run_from_row(found[0])
            if found:
                raise NotFound(f"{len(found)} runs begin with {ref!r}: {_named(found)}; give more digits")
        known = connection.execute(newest.limit(5)).all()
    if not known:
        raise NotFound("there are no runs yet; start one with `attribatch run`")
    raise NotFound(f"no run {ref!r}; the latest are {_named(known)}; `attribatch status` lists all")


def progress(engine: Engine, run_id: str) -> Progress:
    """Count the units and images of a run, in one transaction.

    Raises:
        NotFound: no run has this id.
    """
    count = select(
        units.c.state,
        func.count().label("count"),
        func.sum(units.c.attempt).label("attempts"),
        func.sum(units.c.images_done).label("done"),
        func.sum(units.c.images_failed).label("failed"),
    )
    error = select(units.c.error).where(units.c.run_id == run_id, units.c.error.is_not(None))
    with read(engine) as connection:
        total = connection.execute(select(runs.c.image_count).where(runs.c.id == run_id)).scalar()
        counted = connection.execute(count.where(units.c.run_id == run_id).group_by(units.c.state)).all()
        ordered = error.group_by(units.c.error).order_by(func.min(units.c.number)).limit(5)
        errors = connection.execute(ordered).scalars().all()
    if total is None:
        raise NotFound(f"no run {run_id!r}; `attribatch status` lists all")
    by_state = dict.fromkeys(UnitState, 0) | {UnitState(row.state): int(row[1]) for row in counted}
    names = ("attempts", "done", "failed")
    attempts, done, failed = (sum(int(getattr(row, name)) for row in counted) for name in names)
    return Progress(
        run_id=run_id,
        state=run_state(by_state, attempts, done, total),
        units=by_state,
        images_total=total,
        images_done=done,
        images_failed=failed,
        attempts=attempts,
        errors=tuple(errors),
    )


def iter_units(engine: Engine, run_id: str, state: UnitState | None = None) -> Iterator[UnitRow]:
    """Yield the units of a run in order, reading `BATCH` at a time; later batches see changes made in between."""
    columns = [units.c[name] for name in ("id", "number", "state", "attempt", "worker", "error", "entries")]
    query = select(*columns).where(units.c.run_id == run_id).order_by(units.c.number).limit(BATCH)
    if state is not None:
        query = query.where(units.c.state == state)
    for row in _stream(engine, query, units.c.number):
        values = dict(row._mapping)
        values |= {"state": UnitState(row.state), "entries": entries_from_text(row.entries)}
        yield UnitRow(**values)


# ---- existing attributions


def attributions_by_version(engine: Engine, run: Run, keys: Sequence[str]) -> dict[tuple[str, str], ImageRow]:
    """Return done rows of the latest `REUSED_RUNS` runs with the same spec and source, by (key, version)."""
    like = and_(runs.c.spec_key == run.spec_key, runs.c.source == run.source, runs.c.id != run.id)
    with read(engine) as connection:
        latest = connection.execute(select(runs.c.id).where(like).order_by(*NEWEST_FIRST).limit(REUSED_RUNS)).scalars()
        known = and_(images.c.run_id.in_(latest.all()), images.c.key.in_(keys), _DONE, _points_to(ImageState.DONE))
        return {(row.key, row.version): image_from_row(row) for row in connection.execute(select(*_IMAGE).where(known))}


def has_labels(engine: Engine, run_id: str) -> bool:
    """Return whether any image of a run has a label."""
    labelled = select(images.c.row).where(images.c.run_id == run_id, images.c.label.is_not(None)).limit(1)
    with read(engine) as connection:
        return connection.execute(labelled).first() is not None


def count_reused(engine: Engine, run_id: str) -> int:
    """Count the done rows of a run whose map comes from another run or another row."""
    elsewhere = or_(images.c.map_run != images.c.run_id, images.c.map_row != images.c.row)
    with read(engine) as connection:
        return int(connection.execute(select(func.count()).where(images.c.run_id == run_id, elsewhere)).scalar_one())


def dangling(engine: Engine, run_id: str) -> list[int]:
    """Return the done rows whose map came from a row that has failed since, or from a run that was removed.

    Rows whose map is being computed again are not included: the map will have the same place.
    """
    with read(engine) as connection:
        lost = or_(_points_to(ImageState.FAILED), images.c.map_run.not_in(select(runs.c.id)))
        wanted = select(images.c.row).where(images.c.run_id == run_id, _DONE, lost)
        return list(connection.execute(wanted).scalars())


def attributions_by_digest(engine: Engine, spec_key: str, digests: Sequence[str]) -> dict[str, ImageRow]:
    """Return done rows of all runs of a spec by sha256 of the image, if their own run computed the map."""
    own = and_(images.c.sha256.in_(digests), images.c.map_run == images.c.run_id, _DONE)
    wanted = select(*_IMAGE).join(runs, runs.c.id == images.c.run_id).where(own, runs.c.spec_key == spec_key)
    with read(engine) as connection:
        return {row.sha256: image_from_row(row) for row in connection.execute(wanted)}


# ---- images


def find_images(
    engine: Engine,
    run_id: str,
    *,
    where: str | None = None,
    sort: str | None = None,
    limit: int = 100,
    after: str | None = None,
) -> Page:
    """Return a page of a run's images.

    Args:
        engine: the index, from `db.session.open_engine`.
        run_id: the full id, 12 hex digits.
        where: a filter in the language of `db.filters`; None selects all images.
        sort: a column, or `-column` for descending order; None sorts by row. Images without a value come last, and
            equal values are sorted by row.
        limit: number of rows on the page, 1 or more.
        after: the cursor of the page before, of the same run, filter and sort; None for the first page.

    Raises:
        UsageError: the filter, the sort, the limit or the cursor is wrong.
    """
    query, question = _images_of(run_id), (run_id, where, sort)
    condition = None if where is None else compile_where(where)
    with read(engine) as connection:
        return page_of(connection, query, where=condition, question=question, sort=sort, limit=limit, after=after)


def iter_found(
    engine: Engine, run_id: str, *, where: str | None = None, sort: str | None = None, limit: int | None = None
) -> Iterator[ImageRow]:
    """Yield the rows of all pages of `find_images`, reading `BATCH` rows at a time.

    Args:
        engine: the index, from `db.session.open_engine`.
        run_id: the full id, 12 hex digits.
        where: a filter in the language of `db.filters`; None selects all images.
        sort: a column, or `-column` for descending order; None sorts by row.
        limit: stop after this many rows; None yields all.

    Raises:
        UsageError: the filter, the sort or the limit is wrong. Raised when the first row is read.
    """
    left, after = limit, None
    while left != 0:
        wanted = BATCH if left is None else min(left, BATCH)
        page = find_images(engine, run_id, where=where, sort=sort, limit=wanted, after=after)
        yield from page.rows
        left, after = None if left is None else left - len(page.rows), page.next
        if after is None:
            return


def count_images(engine: Engine, run_id: str, *, where: str | None = None) -> int:
    """Count the images of a run that match a filter.

    Raises:
        UsageError: the filter is wrong.
    """
    query = select(func.count()).select_from(images).where(images.c.run_id == run_id)
    if where is not None:
        query = query.where(compile_where(where))
    with read(engine) as connection:
        return connection.execute(query).scalar_one()


def count_up_to(engine: Engine, run_id: str, *, where: str, most: int, seconds: float) -> int | None:
    """Count the images of a run that match a filter, within limits.

    Args:
        engine: the index, from `db.session.open_engine`.
        run_id: the full id, 12 hex digits.
        where: a filter in the language of `db.filters`.
        most: largest number to count exactly.
        seconds: time limit of the query.

    Returns:
        The number of matches, `most` + 1 if there are more than `most`, or None if the time limit was reached.

    Raises:
        UsageError: the filter is wrong.
    """
    query, condition = _images_of(run_id), compile_where(where)
    try:
        with read(engine) as connection, time_limit(connection, seconds):
            return count_of(connection, query, where=condition, most=most)
    except TimeoutError:
        return None


def iter_images(engine: Engine, run_id: str, state: ImageState | None = None) -> Iterator[ImageRow]:
    """Yield the rows of a run in order, reading `BATCH` at a time."""
    query = _images_of(run_id).order_by(images.c.row).limit(BATCH)
    if state is not None:
        query = query.where(images.c.state == state)
    return (image_from_row(row) for row in _stream(engine, query, images.c.row))


def find_image(engine: Engine, run_id: str, ref: str) -> ImageRow:
    """Find an image of a run by its key, else by its row number, else by the end of its key.

    Whole parts of a key match first: `7.png` finds `a/7.png` even if there is an `a/17.png`.

    Raises:
        NotFound: no image matches, or several keys end with `ref`.
    """
    numbered = [images.c.row == int(ref)] if ref.isdecimal() and len(ref) <= 9 else []
    ending = [_ends_with(images.c.key, "/" + ref.lstrip("/")), _ends_with(images.c.key, ref)]
    choices = [images.c.key == ref, *numbered, *ending]
    with read(engine) as connection:
        for choice in choices:
            found = connection.execute(_images_of(run_id).where(choice).order_by(images.c.row).limit(4)).all()
            if len(found) == 1:
                return image_from_row(found[0])
            if found:
                keys = ", ".join(row.key for row in found[:3]) + (", ..." if len(found) > 3 else "")
                raise NotFound(f"several images of run {run_id} end with {ref!r}: {keys}; give more of the key")
        ends = select(func.min(images.c.row), func.max(images.c.row)).where(images.c.run_id == run_id)
        first, last = connection.execute(ends).one()
        example = connection.execute(_images_of(run_id).where(images.c.row == first)).first()
    hint = f"keys look like {example.key!r}" if example else "none of its images is recorded yet"
    if example and ref.isdecimal():
        hint = f"its rows go from {first} to {last}, and {hint}"
    raise NotFound(f"run {run_id} has no recorded image {ref!r}; {hint}; give a row number or the end of a key")


# ---- statements


def _images_of(run_id: str) -> Select[Any]:
    return select(*_IMAGE).where(images.c.run_id == run_id)


def _stream(engine: Engine, query: Select[Any], column: Column[int]) -> Iterator[Row[Any]]:
    """Yield all rows of a query that is ordered by `column` and limited to `BATCH`, one transaction per batch."""
    batch_query = query
    while True:
        with read(engine) as connection:  # closed between batches, so that a slow reader blocks no writer
            batch = connection.execute(batch_query).all()
        yield from batch
        if len(batch) < BATCH:
            return
        batch_query = query.where(column > getattr(batch[-1], column.key))


def _ends_with(column: ColumnElement[str], end: str) -> ColumnElement[bool]:
    # Not LIKE, which ignores case in SQLite and needs escapes.
    return func.substr(column, func.length(column) - (len(end) - 1)) == end


def _named(found: Any) -> str:
    return ", ".join(f"{row.id} ({row.name})" if row.name else row.id for row in found[:5])


def run_state(by_state: Mapping[UnitState, int], attempts: int, images_done: int, images_total: int) -> RunState:
    """Return the state of a run.

    Args:
        by_state: number of units in every state.
        attempts: claims of its units so far.
        images_done: images with a map.
        images_total: images of the manifest.
    """
    if by_state[UnitState.PENDING] or by_state[UnitState.LEASED]:
        return RunState.RUNNING if attempts or by_state[UnitState.DONE] else RunState.PENDING
    if by_state[UnitState.CANCELLED]:
        return RunState.CANCELLED
    if not by_state[UnitState.FAILED] and images_done == images_total:
        return RunState.DONE
    return RunState.PARTIAL if images_done else RunState.FAILED


def _points_to(state: ImageState) -> ColumnElement[bool]:
    """Match images whose map comes from a row in this state. That row may have failed since, or been removed."""
    there = images.alias("there")
    pointed = and_(there.c.run_id == images.c.map_run, there.c.row == images.c.map_row)
    return exists().where(pointed, there.c.state == state)
