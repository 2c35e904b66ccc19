"""An index on SQLite and on PostgreSQL, objects in a folder and in S3. What starts a server is marked slow."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from db.ledger import Ledger
from db.objects import S3, Folder, Objects
from db.session import migrate, open_engine
from tests.support.databases import POSTGRESQL, SEAWEEDFS, remove_all
from tests.support.ledger_processes import pool
from tests.support.ledger_states import RUN
from tests.support.records import empty, make_drafts


@pytest.fixture(scope="session")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Four other processes, started once."""
    with pool(4) as executor:
        yield executor


@pytest.fixture(scope="session", params=["sqlite", POSTGRESQL])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One engine for all tests: it keeps the SQL that it compiled, which is most of a test's time."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('index')}/index.db"
    else:
        url = request.getfixturevalue("postgres_url")
    engine = open_engine(url)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(shared: Engine) -> Engine:
    """Of a migrated index without rows."""
    empty(shared)
    return shared


@pytest.fixture
def url(engine: Engine) -> str:
    """Where other processes find the index of `engine`."""
    return engine.url.render_as_string(hide_password=False)


@pytest.fixture
def new_url(shared: Engine, tmp_path: Path) -> Iterator[str]:
    """Of a database without tables."""
    if shared.dialect.name == "sqlite":
        yield f"sqlite:///{tmp_path}/index.db"
        return
    with shared.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE other"))
        yield shared.url.set(database="other").render_as_string(hide_password=False)
        connection.execute(text("DROP DATABASE other"))


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite index to copy, for tests that change the schema."""
    path = tmp_path_factory.mktemp("index") / "index.db"
    engine = open_engine(f"sqlite:///{path}")
    migrate(engine)
    engine.dispose()
    return path


@pytest.fixture
def own_engine(migrated_file: Path, tmp_path: Path) -> Iterator[Engine]:
    """Of a migrated SQLite index that no other test sees, at `own_url`."""
    shutil.copy(migrated_file, tmp_path / "index.db")
    engine = open_engine(f"sqlite:///{tmp_path}/index.db")
    yield engine
    engine.dispose()


@pytest.fixture
def own_url(tmp_path: Path) -> str:
    """Of a SQLite index that does not exist unless `own_engine` made it."""
    return f"sqlite:///{tmp_path}/index.db"


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    return Ledger(engine)


@pytest.fixture
def submitted(ledger: Ledger) -> Ledger:
    """A run of three units of four images."""
    ledger.submit(RUN, make_drafts(RUN))
    return ledger


@pytest.fixture(params=["folder", SEAWEEDFS])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    """An empty store."""
    if request.param == "folder":
        return Folder(tmp_path / "objects")
    request.getfixturevalue("s3_server")  # the keys, for processes that the test starts
    store: S3 = request.getfixturevalue("s3_store")
    remove_all(store)
    return store
