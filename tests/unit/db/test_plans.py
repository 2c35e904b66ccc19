"""The database's own word that claims and pages walk an index, however many rows there are."""

import pytest
from sqlalchemy import Engine, event, text

from db.ledger import Ledger
from db.paging import FEW
from db.queries import find_images
from db.session import read, write
from db.tables import IMAGE_SORTS, images
from tests.support.databases import on_sqlite
from tests.support.records import empty, make_drafts, make_row, make_run

RUN = make_run()


def plan(engine: Engine, seen: list[str], kind: str) -> str:
    statement = next(statement for statement in seen if statement.startswith(kind))
    with read(engine) as connection:
        return " ".join(row[3] for row in connection.execute(text("EXPLAIN QUERY PLAN " + statement)))


FILTERS = [  # of the documented ones, each with the index that answers it
    ("failed", "failed"),
    ("state = 'failed'", "failed"),
    ("mispredicted", "mispredicted"),
    ("label != predicted", "mispredicted"),
    ("key = 'cats/00003.png'", "key"),
    ("failed and error != null", "failed"),
    *((f"{name} = 'eel'", name) for name in ("label", "predicted")),
    *((f"{name} > 0.9999", name) for name in IMAGE_SORTS if images.c[name].type.python_type is float),
]


def fill(engine: Engine, count: int) -> None:
    """A run of so many images, each figure even over 0..1, one in 1,000 failed, one in 1,000 mispredicted."""
    Ledger(engine).submit(RUN, [])
    figures = [name for name in IMAGE_SORTS if images.c[name].type.python_type is float]
    columns = ["run_id", "row", "key", "version", "state", "label", "predicted", *figures]
    numbers = "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)"
    values = [
        *(":run, n, 'cats/' || n, '1', CASE WHEN n % 1000 = 7 THEN 'failed' ELSE 'done' END", "'class-' || n % 100"),
        *(
            "CASE WHEN n % 1000 = 8 THEN 'other' ELSE 'class-' || n % 100 END",
            *["(n * 7919 % 9973) / 9973.0"] * len(figures),
        ),
    ]
    insert = f"INSERT INTO attribatch_images ({', '.join(columns)}) {numbers} SELECT {', '.join(values)} FROM numbers"
    with write(engine) as connection:
        connection.execute(text(insert), {"last": count - 1, "run": RUN.id})


def plans_of(engine: Engine, where: str | None, sort: str | None = None) -> list[str]:
    """How the database answers each statement of a page."""
    plans: list[str] = []

    def explain(connection, cursor, statement, parameters, *_) -> None:  # type: ignore[no-untyped-def]
        if statement.startswith("SELECT") and "attribatch_images" in statement:
            word = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
            own = connection.connection.dbapi_connection.cursor()
            own.execute(f"{word} {statement}", parameters)
            plans.append(" ".join(str(row[-1]) for row in own.fetchall()))

    event.listen(engine, "before_cursor_execute", explain)
    find_images(engine, RUN.id, where=where, sort=sort, limit=20)
    event.remove(engine, "before_cursor_execute", explain)
    return plans


@pytest.fixture(scope="module")
def filled(shared: Engine) -> Engine:
    """Of an index with images enough that a plan matters."""
    empty(shared)
    fill(shared, 3 * FEW)
    if shared.dialect.name == "postgresql":
        with write(shared) as connection:
            connection.execute(text("ANALYZE attribatch_images"))
    return shared


@pytest.mark.parametrize(("where", "index"), FILTERS)
def test_every_documented_filter_is_answered_by_its_index(filled: Engine, where: str, index: str) -> None:
    *_, plan = plans_of(filled, where)
    assert f"ix_attribatch_images_{index} " in plan, plan


@pytest.mark.parametrize("name", IMAGE_SORTS)
def test_every_documented_sort_walks_its_index(filled: Engine, name: str) -> None:
    plan = plans_of(filled, None, f"-{name}")[0]
    assert f"ix_attribatch_images_{name} " in plan, plan


@on_sqlite
def test_a_broad_filter_walks_the_index_of_the_sort(filled: Engine) -> None:
    """What fits many images is looked for in the order of the page."""
    *_, plan = plans_of(filled, "entropy > 0.1")
    assert "ix_attribatch_images_entropy" not in plan
    *_, plan = plans_of(filled, "entropy > 0.1", "-gini")
    assert "ix_attribatch_images_gini " in plan


@pytest.fixture
def seen(own_engine: Engine) -> list[str]:
    """The statements from here on, with their values (the pool has one connection)."""
    seen: list[str] = []
    with read(own_engine) as connection:
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
