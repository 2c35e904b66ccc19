"""Engines and migrations: what every database does, and what only a SQLite file shows."""

import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, inspect, select, text

import db.migrations
from db.encoding import IMAGE_FIELDS
from db.errors import IndexOutdated, StoreUnavailable, UsageError
from db.session import SCHEMA, migrate, open_engine, prepare, read, time_limit, write
from db.tables import VERSION_TABLE, images, now
from tests.support.databases import differences
from tests.support.ledger_processes import migrate_at_once


def test_migrated_schema_equals_the_tables(engine: Engine) -> None:
    assert differences(engine) == []


def test_a_difference_between_schema_and_tables_would_be_seen(own_engine: Engine) -> None:
    with write(own_engine) as connection:
        connection.execute(text("DROP INDEX ix_attribatch_images_label"))
    assert differences(own_engine) != []


def test_images_table_has_the_fields_of_the_record_in_order() -> None:
    assert tuple(images.c.keys()) == IMAGE_FIELDS


def test_declared_schema_is_the_newest_revision() -> None:
    assert ScriptDirectory(str(Path(db.migrations.__file__).parent)).get_heads() == [SCHEMA]


def test_every_table_carries_the_brand(own_engine: Engine) -> None:
    assert all(name.startswith("attribatch_") for name in inspect(own_engine).get_table_names())


def test_up_to_date_index_is_opened_in_50_ms(own_url: str, own_engine: Engine) -> None:
    spent = []
    for _ in range(3):  # the fastest: others use this machine too
        start = time.perf_counter()
        again = open_engine(own_url)
        migrate(again)
        spent.append(time.perf_counter() - start)
        again.dispose()
    assert min(spent) < 0.05


def test_four_processes_may_migrate_a_new_index_at_once(new_url: str, processes: ProcessPoolExecutor) -> None:
    assert list(processes.map(migrate_at_once, [new_url] * 4)) == ["migrated"] * 4
    engine = open_engine(new_url)
    assert differences(engine) == []
    engine.dispose()


def test_failed_migration_leaves_nothing_behind(own_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("power cut")

    engine = open_engine(own_url)
    with monkeypatch.context() as patched:
        patched.setattr("alembic.operations.Operations.create_index", broken)
        with pytest.raises(RuntimeError, match="power cut"):
            migrate(engine)
    assert inspect(engine).get_table_names() == []
    migrate(engine)
    assert differences(engine) == []
    engine.dispose()


def test_index_of_a_newer_version_is_refused_with_a_remedy(new_url: str) -> None:
    engine = open_engine(new_url)
    migrate(engine)
    with write(engine) as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(IndexOutdated, match=rf"'9999'.*'{SCHEMA}'.*install a newer"):
        migrate(engine)
    with pytest.raises(IndexOutdated, match="install a newer"):
        prepare(engine)
    engine.dispose()


def test_sqlite_connections_wait_and_write_ahead(own_engine: Engine) -> None:
    with read(own_engine) as connection:
        pragmas = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("busy_timeout", "journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"busy_timeout": 30000, "journal_mode": "wal", "synchronous": 1, "foreign_keys": 1}


def test_parent_folder_is_made(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/a/b 100%/index.db")
    migrate(engine)
    engine.dispose()
    assert (tmp_path / "a" / "b 100%" / "index.db").exists()


def test_database_clock_tells_the_time(engine: Engine) -> None:
    with read(engine) as connection:
        told = connection.execute(select(now())).scalar_one()
    assert told == pytest.approx(time.time(), abs=2)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/name", "'mysql' are not supported"),
        ("not a url", "is not a database URL"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
    ],
)
def test_other_urls_are_refused_with_a_remedy(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        open_engine(url)
    assert "sqlite:////path" in str(caught.value)


def test_folder_that_cannot_be_made_is_unavailable_and_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match=r"cannot create .*: File exists; set ATTRIBATCH_HOME"):
        open_engine(f"sqlite:///{tmp_path}/file/index.db")


def test_index_that_cannot_be_opened_is_unavailable_and_named(tmp_path: Path) -> None:
    (tmp_path / "index.db").mkdir()
    engine = open_engine(f"sqlite:///{tmp_path}/index.db")
    with pytest.raises(StoreUnavailable, match=r"index\.db did not answer: unable to open"):
        migrate(engine)
    engine.dispose()


def test_read_sees_one_moment_and_writers_do_not_wait_for_it(own_url: str, own_engine: Engine) -> None:
    other = open_engine(own_url)
    count = text("SELECT count(*) FROM attribatch_suspects")
    with read(own_engine) as reader:
        before = reader.execute(count).scalar()
        with write(other) as writer:
            writer.execute(text("CREATE TABLE other (x)"))
        assert reader.execute(count).scalar() == before
        assert reader.execute(text("SELECT count(*) FROM sqlite_master WHERE name = 'other'")).scalar() == 0
    other.dispose()


def test_plain_engines_are_not_changed(tmp_path: Path) -> None:
    plain = create_engine(f"sqlite:///{tmp_path}/plain.db")
    with plain.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "delete"
    plain.dispose()


def test_a_query_that_takes_too_long_is_interrupted(engine: Engine) -> None:
    """A question that takes too long is broken off and the next one is answered."""
    endless = text("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 - x FROM n) SELECT count(*) FROM n")
    started = time.monotonic()
    with pytest.raises(TimeoutError), read(engine) as connection, time_limit(connection, 0.1):
        connection.execute(endless)
    assert time.monotonic() - started < 20
    with read(engine) as connection:
        some = text(
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 300000) SELECT sum(x) FROM n"
        )
        assert connection.execute(some).scalar_one() == 300_000 * 300_001 // 2
