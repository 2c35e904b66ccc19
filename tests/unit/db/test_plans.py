"""SQLite's own word that claims and pages walk an index, however many rows there are."""

import pytest
from sqlalchemy import Engine, text

from db.ledger import Ledger
from db.queries import find_images
from db.session import reading
from tests.unit.db.builders import make_drafts, make_row, make_run

RUN = make_run()


def plan(engine: Engine, seen: list[str], kind: str) -> str:
    statement = next(statement for statement in seen if statement.startswith(kind))
    with reading(engine) as connection:
        return " ".join(row[3] for row in connection.execute(text("EXPLAIN QUERY PLAN " + statement)))


@pytest.fixture
def seen(own_engine: Engine) -> list[str]:
    """The statements from here on, with their values (the pool has one connection)."""
    seen: list[str] = []
    with reading(own_engine) as connection:
        connection.connection.dbapi_connection.set_trace_callback(seen.append)  # type: ignore[union-attr]
    return seen


def test_claims_walk_the_index_of_what_waits(own_engine: Engine, seen: list[str]) -> None:
    ledger = Ledger(own_engine)
    ledger.submit(RUN, make_drafts(RUN))
    seen.clear()
    assert ledger.claim("w1")
    how = plan(own_engine, seen, "UPDATE")
    assert "USING INDEX ix_attribatch_units_waiting" in how
    assert "TEMP B-TREE" not in how


@pytest.mark.parametrize("sort", ["-member_disagreement", "border_share", "label"])
def test_pages_begin_in_the_index_where_the_last_one_ended(own_engine: Engine, seen: list[str], sort: str) -> None:
    figures = {"member_disagreement": 0.5, "border_share": 0.5, "label": "cat"}
    ledger = Ledger(own_engine)
    ledger.submit(RUN, make_drafts(RUN))
    ledger.adopt(RUN.id, 0, [make_row(RUN.id, row, **figures) for row in range(9)])
    cursor = find_images(own_engine, RUN.id, sort=sort, limit=2).next
    seen.clear()
    find_images(own_engine, RUN.id, sort=sort, limit=2, after=cursor)
    name = sort.lstrip("-")
    assert f"USING INDEX ix_attribatch_images_{name} (run_id=? AND {name}" in plan(own_engine, seen, "SELECT")
