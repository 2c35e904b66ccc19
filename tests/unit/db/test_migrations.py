"""An index that an earlier version wrote is brought up to date, with all it holds."""

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect

import db.migrations
from db.ledger import Ledger
from db.queries import iter_images, list_runs, progress
from db.session import migrate, open_engine, writing
from tests.unit.db.builders import make_drafts, make_rows, make_run
from tests.unit.db.test_session import differences


@pytest.fixture
def new_url(tmp_path: Path) -> str:
    """Of a database without tables."""
    return f"sqlite:///{tmp_path}/index.db"


def test_an_index_of_the_first_version_keeps_what_it_holds(new_url: str) -> None:
    engine = open_engine(new_url)
    config = Config()
    config.set_main_option("script_location", str(Path(db.migrations.__file__).parent))
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    assert "attribatch_schedules" not in inspect(engine).get_table_names()
    ledger, run = Ledger(engine), make_run()
    ledger.submit(run, make_drafts(run))
    unit = ledger.claim("w1")
    assert unit is not None
    assert ledger.complete(unit, make_rows(unit))
    before = (list_runs(engine), progress(engine, run.id), list(iter_images(engine, run.id)))
    migrate(engine)
    assert (list_runs(engine), progress(engine, run.id), list(iter_images(engine, run.id))) == before
    assert len(before[2]) == 4
    assert differences(engine) == []
    engine.dispose()
