import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine

from db.ledger import Ledger
from db.session import migrate, open_engine
from tests.support.ledger_processes import pool
from tests.support.ledger_states import RUN
from tests.support.records import empty, make_drafts


@pytest.fixture(scope="session")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Four other processes, started once."""
    with pool(4) as executor:
        yield executor


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One engine for all tests: it keeps the SQL that it compiled, which is most of a test's time."""
    engine = open_engine(f"sqlite:///{tmp_path_factory.mktemp('index')}/index.db")
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


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index to copy, for tests that change the schema."""
    path = tmp_path_factory.mktemp("index") / "index.db"
    engine = open_engine(f"sqlite:///{path}")
    migrate(engine)
    engine.dispose()
    return path


@pytest.fixture
def own_engine(migrated_file: Path, tmp_path: Path) -> Iterator[Engine]:
    """Of a migrated index that no other test sees."""
    shutil.copy(migrated_file, tmp_path / "index.db")
    engine = open_engine(f"sqlite:///{tmp_path}/index.db")
    yield engine
    engine.dispose()


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    return Ledger(engine)


@pytest.fixture
def submitted(ledger: Ledger) -> Ledger:
    """A run of three units of four images."""
    ledger.submit(RUN, make_drafts(RUN))
    return ledger
