"""An index that any earlier version wrote is brought up to date, with all it holds."""

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, Table, inspect

import db.migrations
from db.encoding import image_values
from db.ledger import Ledger
from db.queries import iter_images, list_runs, progress
from db.session import SCHEMA, migrate, open_engine, writing
from tests.support.databases import differences
from tests.support.records import make_drafts, make_row, make_run

SCRIPTS = str(Path(db.migrations.__file__).parent)
EARLIER = [each.revision for each in ScriptDirectory(SCRIPTS).walk_revisions() if each.revision != SCHEMA]


@pytest.mark.parametrize("revision", EARLIER)
def test_an_index_of_an_earlier_version_keeps_what_it_holds(new_url: str, revision: str) -> None:
    engine = open_engine(new_url)
    config = Config()
    config.set_main_option("script_location", SCRIPTS)
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    ledger, run = Ledger(engine), make_run()
    ledger.submit(run, make_drafts(run))
    rows = [make_row(run.id, row, border_share=row / 8, predicted="dog") for row in range(4)]
    with writing(engine) as connection:
        there = Table("attribatch_images", MetaData(), autoload_with=connection)
        values = [{name: value for name, value in image_values(row).items() if name in there.c} for row in rows]
        connection.execute(there.insert(), values)
    before = (list_runs(engine), progress(engine, run.id))
    migrate(engine)
    assert (list_runs(engine), progress(engine, run.id)) == before
    assert list(iter_images(engine, run.id)) == rows
    assert differences(engine) == []
    assert "attribatch_class_summary" in inspect(engine).get_view_names()
    engine.dispose()
