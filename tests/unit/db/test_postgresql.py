"""What only PostgreSQL can show: cut connections, row locks, its own plans."""

import pytest
from sqlalchemy import Engine, event, text

from db.errors import StoreUnavailable
from db.ledger import Ledger
from db.queries import find_images, list_runs
from db.session import migrate, open_engine, read, write
from tests.support.databases import on_postgresql
from tests.support.records import make_drafts, make_row, make_run
from tests.support.servers import free_port

pytestmark = pytest.mark.slow


@on_postgresql
def test_cut_connections_are_made_anew(engine: Engine) -> None:
    with read(engine) as connection:
        connection.execute(text("SELECT 1"))
    other = open_engine(engine.url.render_as_string(hide_password=False))
    with write(other) as connection:
        connection.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"))
    other.dispose()
    assert list_runs(engine) == []


@on_postgresql
def test_a_cut_transaction_is_unavailable_and_not_written(engine: Engine) -> None:
    """Connection cut within a transaction is unavailable and nothing written."""
    run = make_run()
    Ledger(engine).submit(run, [])

    def cut() -> None:
        with write(engine) as connection:
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


@on_postgresql
def test_claims_pass_over_units_that_others_are_claiming(engine: Engine) -> None:
    run = make_run()
    ledger = Ledger(engine)
    ledger.submit(run, make_drafts(run))
    with write(engine) as slow:
        slow.execute(text("SELECT id FROM attribatch_units WHERE number = 0 FOR UPDATE"))
        unit = ledger.claim("w2")
        assert unit is not None
        assert unit.number == 1
        assert len(ledger.unsent(10)) == 1  # the third


@on_postgresql
def test_hostile_texts_are_texts(engine: Engine) -> None:
    run = make_run()
    ledger = Ledger(engine)
    ledger.submit(run, make_drafts(run))
    rows = [make_row(run.id, 0, label="'; DROP TABLE x; --"), make_row(run.id, 1, label="%(label)s :x \\")]
    ledger.adopt(run.id, 0, rows)
    assert list(find_images(engine, run.id, where="label = '%(label)s :x \\'").rows) == rows[1:]


@on_postgresql
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
    with read(engine) as connection:
        plan = "\n".join(row[0] for row in connection.exec_driver_sql("EXPLAIN " + statement, values))
    assert "Index Scan using ix_attribatch_units_waiting" in plan
    assert "Sort" not in plan
