"""The laws of ledger, queries, filters and schema, on a real PostgreSQL."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest
from sqlalchemy import Engine, event, text

from db.errors import IndexOutdated, StoreUnavailable
from db.ledger import Ledger
from db.queries import find_images, list_runs
from db.session import migrate, open_engine, reading, writing
from db.tables import VERSION_TABLE
from tests.support.ledger_processes import migrate_at_once
from tests.support.records import empty, make_drafts, make_row, make_run
from tests.support.servers import free_port, postgres
from tests.unit.db.conftest import *  # noqa: F403
from tests.unit.db.test_filters import (  # noqa: F401
    stored,
    test_filter_finds,
    test_longest_filter_is_within_the_databases_limits,
)
from tests.unit.db.test_ledger import *  # noqa: F403
from tests.unit.db.test_ledger_outcomes import *  # noqa: F403
from tests.unit.db.test_migrations import test_an_index_of_an_earlier_version_keeps_what_it_holds  # noqa: F401
from tests.unit.db.test_plans import (  # noqa: F401
    filled,
    test_every_documented_filter_is_answered_by_its_index,
    test_every_documented_sort_walks_its_index,
)
from tests.unit.db.test_queries import *  # noqa: F403
from tests.unit.db.test_schedules import *  # noqa: F403
from tests.unit.db.test_session import (  # noqa: F401
    differences,
    test_a_question_that_takes_too_long_is_broken_off_and_the_next_one_is_answered,
)
from tests.unit.db.test_session import test_database_clock_tells_the_time as clock_test


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(scope="module")
def shared(server: str) -> Iterator[Engine]:
    engine = open_engine(server)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(shared: Engine) -> Engine:
    empty(shared)
    return shared


@pytest.fixture
def url(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


@pytest.fixture
def new_url(server: str, shared: Engine) -> Iterator[str]:
    """Of a database without tables."""
    with shared.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE other"))
        yield server.removesuffix("postgres") + "other"
        connection.execute(text("DROP DATABASE other"))


def test_clock(engine: Engine) -> None:
    clock_test(engine)


def test_migrated_schema_equals_the_tables(engine: Engine) -> None:
    assert differences(engine) == []


def test_four_processes_may_migrate_a_new_database_at_once(
    new_url: str,
    processes: ProcessPoolExecutor,
) -> None:
    assert list(processes.map(migrate_at_once, [new_url] * 4)) == ["migrated"] * 4


def test_database_of_a_newer_version_is_refused(new_url: str) -> None:
    engine = open_engine(new_url)
    migrate(engine)
    with writing(engine) as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(IndexOutdated, match="'9999'"):
        migrate(engine)
    engine.dispose()


def test_cut_connections_are_made_anew(engine: Engine) -> None:
    with reading(engine) as connection:
        connection.execute(text("SELECT 1"))
    other = open_engine(engine.url.render_as_string(hide_password=False))
    with writing(other) as connection:
        connection.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"))
    other.dispose()
    assert list_runs(engine) == []


def test_connection_cut_within_a_transaction_is_unavailable_and_nothing_written(engine: Engine) -> None:
    run = make_run()
    Ledger(engine).submit(run, [])

    def cut() -> None:
        with writing(engine) as connection:
            connection.execute(text("DELETE FROM attribatch_runs"))
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(StoreUnavailable, match="did not answer"):
        cut()
    assert [found.id for found in list_runs(engine)] == [run.id]


def test_no_server_is_unavailable_and_the_password_not_told() -> None:
    engine = open_engine(f"postgresql://user:hush@127.0.0.1:{free_port()}/name")
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1") as caught:
        migrate(engine)
    assert "hush" not in str(caught.value)
    engine.dispose()


def test_claims_pass_over_units_that_others_are_claiming(engine: Engine) -> None:
    run = make_run()
    ledger = Ledger(engine)
    ledger.submit(run, make_drafts(run))
    with writing(engine) as slow:
        slow.execute(text("SELECT id FROM attribatch_units WHERE number = 0 FOR UPDATE"))
        unit = ledger.claim("w2")
        assert unit is not None
        assert unit.number == 1
        assert len(ledger.unsent(10)) == 1  # the third


def test_hostile_texts_are_texts(engine: Engine) -> None:
    run = make_run()
    ledger = Ledger(engine)
    ledger.submit(run, make_drafts(run))
    rows = [make_row(run.id, 0, label="'; DROP TABLE x; --"), make_row(run.id, 1, label="%(label)s :x \\")]
    ledger.adopt(run.id, 0, rows)
    assert list(find_images(engine, run.id, where="label = '%(label)s :x \\'").rows) == rows[1:]


def test_claims_walk_the_index_of_what_waits_from_the_first_on(engine: Engine) -> None:
    run = make_run(image_count=2000, unit_size=1)
    ledger = Ledger(engine)
    ledger.submit(run, make_drafts(run))
    claims: list[tuple[str, object]] = []

    def note(_connection: object, _cursor: object, statement: str, values: object, *_: object) -> None:
        if statement.startswith("UPDATE"):
            claims.append((statement, values))

    event.listen(engine, "before_cursor_execute", note)
    assert ledger.claim("w1")
    event.remove(engine, "before_cursor_execute", note)
    statement, values = claims[0]
    with reading(engine) as connection:
        plan = "\n".join(row[0] for row in connection.exec_driver_sql("EXPLAIN " + statement, values))
    assert "Index Scan using ix_attribatch_units_waiting" in plan
    assert "Sort" not in plan
