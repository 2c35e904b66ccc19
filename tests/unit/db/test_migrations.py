"""An index that any earlier version wrote is brought up to date, with all it holds."""

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, MetaData, Table, inspect

import db.migrations
from db.encoding import image_values
from db.errors import IndexOutdated
from db.ledger import Ledger
from db.queries import iter_images, list_runs, progress
from db.session import SCHEMA, inspect_schema, migrate, open_engine, prepare, write
from tests.support.databases import differences, on_postgresql, on_sqlite
from tests.support.records import make_drafts, make_row, make_run

SCRIPTS = str(Path(db.migrations.__file__).parent)
EARLIER = [each.revision for each in ScriptDirectory(SCRIPTS).walk_revisions() if each.revision != SCHEMA]


def upgrade_to(engine: Engine, revision: str) -> None:
    """Make the schema of an earlier version."""
    config = Config()
    config.set_main_option("script_location", SCRIPTS)
    with write(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


@on_sqlite
@pytest.mark.parametrize("revision", [None, EARLIER[0]])
def test_opening_upgrades_an_index_of_ones_own(new_url: str, revision: str | None) -> None:
    engine = open_engine(new_url)
    if revision is not None:
        upgrade_to(engine, revision)
    prepare(engine)
    assert inspect_schema(engine).revision == SCHEMA
    engine.dispose()


@on_postgresql
@pytest.mark.parametrize("revision", [None, EARLIER[0]])
def test_only_migrate_changes_the_schema_of_a_server(new_url: str, revision: str | None) -> None:
    engine = open_engine(new_url)
    if revision is not None:
        upgrade_to(engine, revision)
    found = "no schema yet" if revision is None else f"schema '{revision}'"
    with pytest.raises(IndexOutdated, match=f"has {found}, this version needs '{SCHEMA}': run `attribatch migrate`"):
        prepare(engine)
    assert inspect_schema(engine).revision == revision
    migrate(engine)
    prepare(engine)
    engine.dispose()


@pytest.mark.parametrize("revision", EARLIER)
def test_an_index_of_an_earlier_version_keeps_what_it_holds(new_url: str, revision: str) -> None:
    engine = open_engine(new_url)
    upgrade_to(engine, revision)
    ledger, run = Ledger(engine), make_run()
    ledger.submit(run, make_drafts(run))
    rows = [make_row(run.id, row, border_share=row / 8, predicted="dog") for row in range(4)]
    with write(engine) as connection:
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
