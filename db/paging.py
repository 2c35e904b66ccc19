"""Pages of a query of images.

A page begins after the last row of the page before, not at an offset, so page 1,000 takes as long as page 1
(PostgreSQL at 100,000 rows: 1 ms; with OFFSET 137 ms).

SQLite has no statistics of the distribution of values, so it cannot choose between two plans: walk the rows in the
order of the page and skip those that do not match, or fetch all matches and sort them. The first is faster if many
rows match, the second if few do, and the wrong one takes a second at a million rows. Therefore each part of the filter
that an index answers in a few ms is first tested for more than `FEW` matches. (SQLite's STAT4 would supply the
statistics, but Debian builds SQLite without it.)
"""

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    BinaryExpression,
    BooleanClauseList,
    Column,
    ColumnElement,
    Connection,
    Row,
    Select,
    UnaryExpression,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy import and_ as all_of
from sqlalchemy.sql.operators import and_, custom_op, eq
from sqlalchemy.sql.visitors import iterate, replacement_traverse

from db.encoding import image_from_row
from db.errors import UsageError, did_you_mean
from db.records import ImageRow
from db.tables import FAILED, IMAGE_SORTS, MISPREDICTED, images

FEW = 5000  # fetching and sorting 5,000 rows takes as long as skipping 20,000


@dataclass(frozen=True, slots=True)
class Page:
    """One page of rows, and the cursor of the next one (None on the last page)."""

    rows: tuple[ImageRow, ...]
    next: str | None


def page_of(
    connection: Connection,
    query: Select[Any],
    *,
    where: ColumnElement[bool] | None,
    question: tuple[str | None, ...],
    sort: str | None,
    limit: int,
    after: str | None,
) -> Page:
    """Return one page of the images of a query.

    Args:
        connection: a transaction from `db.session.reading`.
        query: a SELECT of the columns `IMAGE_FIELDS`, without filter, order and limit.
        where: the filter, from `db.filters.compile_where`; None selects all images.
        question: the run, filter and sort as text. A cursor is accepted only for the question that it came from.
        sort: a column, or `-column` for descending order; None sorts by row. Missing values come last.
        limit: number of rows on the page, 1 or more.
        after: the cursor of the page before; None for the first page.

    Raises:
        UsageError: the sort, the limit or the cursor is wrong.
    """
    if limit < 1:
        raise UsageError(f"limit is {limit}; write 1 or more")
    digest = _digest(*question)
    order = _Order.parse(sort)
    value, row = _decode_cursor(after, digest, order) if after is not None else (_START, None)
    if where is not None:
        if connection.dialect.name == "sqlite":
            order, where = _planned(connection, query, where, order)
        query = query.where(where)
    found: list[Row[Any]] = []
    if value is not None:  # images with a value in the sort column
        found += connection.execute(order.present(query, value, row).limit(limit + 1)).all()
        row = None
    if order.column.nullable and len(found) <= limit:  # then images without one
        found += connection.execute(order.absent(query, row).limit(limit + 1 - len(found))).all()
    page = tuple(image_from_row(each) for each in found[:limit])
    if len(found) <= limit:
        return Page(page, None)
    return Page(page, _encode_cursor(digest, getattr(page[-1], order.column.key), page[-1].row))


def count_of(connection: Connection, query: Select[Any], *, where: ColumnElement[bool], most: int) -> int:
    """Count the images of a query that match a filter, up to `most` + 1.

    Args:
        connection: a transaction from `db.session.reading`.
        query: a SELECT of images without filter, order and limit.
        where: the filter, from `db.filters.compile_where`.
        most: largest number to count exactly.

    Returns:
        The number of matches, or `most` + 1 if there are more than `most`.
    """
    if connection.dialect.name == "sqlite" and not _has_index(where):
        order, where = _planned(connection, query, where, _Order.parse(None))
        query = order.present(query, _START, None)  # without an order it may walk an index and look up every row
    return _count_up_to(connection, query.where(where), most + 1)


def _planned(
    connection: Connection, query: Select[Any], where: ColumnElement[bool], order: "_Order"
) -> tuple["_Order", ColumnElement[bool]]:
    """Rewrite order and filter so that SQLite sorts if few rows match, and walks in order if many do."""
    together = isinstance(where, BooleanClauseList) and where.operator is and_
    terms = []
    for term in where.clauses if together else (where,):
        exact = (isinstance(term, BinaryExpression) and term.operator is eq) or term.compare(MISPREDICTED)
        if not _has_index(term):
            terms.append(term)
        elif _fits_few(connection, query, term):
            terms.append(term)
            order = replace(order, walked=False)
        elif exact and order.column is images.c.row:  # within one value, the index is sorted by row
            terms.append(term)
        else:
            terms.append(_replaced(term))
    return order, all_of(*terms)


def _has_index(term: ColumnElement[bool]) -> bool:
    columns = {each for each in iterate(term) if isinstance(each, Column)}
    by_itself = len(columns) == 1 and columns <= {images.c[name] for name in ("key", *IMAGE_SORTS)}
    return by_itself or term.compare(FAILED) or term.compare(MISPREDICTED)


def _fits_few(connection: Connection, query: Select[Any], where: ColumnElement[bool]) -> bool:
    return _count_up_to(connection, query.where(where), FEW + 1) <= FEW


def _count_up_to(connection: Connection, query: Select[Any], limit: int) -> int:
    some = query.with_only_columns(literal(1)).limit(limit).subquery()
    count: int = connection.execute(select(func.count()).select_from(some)).scalar_one()
    return count


def _replaced(term: Any) -> ColumnElement[bool]:
    replaced: ColumnElement[bool] = replacement_traverse(term, {}, _behind_plus)
    return replaced


def _behind_plus(element: Any, **_: Any) -> Any:
    """Put a plus before a column, so that SQLite uses no index for it. Returns None for other elements."""
    if isinstance(element, Column):
        return UnaryExpression(element, operator=custom_op("+"), type_=element.type)
    return None


_START = object()  # the position before the first row


@dataclass(frozen=True, slots=True)
class _Order:
    column: Column[Any]
    descending: bool
    walked: bool = True  # an index may give the order

    @classmethod
    def parse(cls, sort: str | None) -> "_Order":
        name = (sort or "row").removeprefix("-")
        if name not in images.c:
            hint = did_you_mean(name, images.c.keys()) or f"columns are: {', '.join(images.c.keys())}"
            raise UsageError(f"cannot sort by {name!r}; {hint}")
        return cls(images.c[name], descending=(sort or "").startswith("-"))

    def present(self, query: Select[Any], value: Any, row: int | None) -> Select[Any]:
        """Select the images with a value in the sort column that follow (value, row)."""
        column, number = self._plain(self.column), self._plain(images.c.row)
        if self.column.nullable:
            query = query.where(column.is_not(None))
        if value is not _START:
            value = literal(value, self.column.type)
            beyond, up_to = (column < value, column <= value) if self.descending else (column > value, column >= value)
            # `up_to` excludes nothing more: it gives the index scan a place to start.
            query = query.where(up_to, or_(beyond, all_of(column == value, number > row)))
        first = column.desc() if self.descending else column
        return query.order_by(first) if self.column is images.c.row else query.order_by(first, number)

    def absent(self, query: Select[Any], row: int | None) -> Select[Any]:
        """Select the images without a value in the sort column that follow `row`."""
        number = self._plain(images.c.row)
        query = query.where(self._plain(self.column).is_(None)).order_by(number)
        return query if row is None else query.where(number > row)

    def _plain(self, column: Column[Any]) -> Any:
        return column if self.walked else _behind_plus(column)


def _digest(*question: str | None) -> str:
    return hashlib.sha256(json.dumps(question).encode()).hexdigest()[:16]


def _encode_cursor(question: str, value: Any, row: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([question, value, row]).encode()).decode().rstrip("=")


def _decode_cursor(cursor: str, question: str, order: _Order) -> tuple[Any, int]:
    try:
        asked, value, row = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, TypeError):
        raise UsageError(f"{cursor!r} is not a cursor; omit it to start from the first page") from None
    fits = value is None or isinstance(value, order.column.type.python_type)
    if asked != question or not fits or not isinstance(row, int):
        raise UsageError("this cursor belongs to another query; omit it to start from the first page")
    return value, row
