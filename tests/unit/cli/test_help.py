"""`attribatch --help`: every command under one heading, with a line of its own that is not cut."""

from collections import Counter
from dataclasses import fields

import pytest
from typer.main import get_group
from typer.testing import CliRunner

from db.records import ImageRow
from pipeline.cli.app import HEADINGS, app

GROUPS = {"": get_group(app)} | {
    name: command for name, command in get_group(app).commands.items() if hasattr(command, "commands")
}


def test_every_command_stands_under_one_heading() -> None:
    listed = Counter(name for names in HEADINGS.values() for name in names)
    assert listed == Counter(list(GROUPS[""].commands))


@pytest.mark.parametrize("group", GROUPS)
def test_the_line_of_every_command_fits_80_columns(group: str) -> None:
    arguments = [group, "--help"] if group else ["--help"]
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "80"}).stdout
    lines = shown.splitlines()[1:]  # after the usage, which may end with its dots
    assert [line for line in lines if line.endswith("...") or len(line) > 80] == []
    for name in GROUPS[group].commands:
        assert [line for line in lines if line.startswith(f"  {name} ")], name


def test_the_help_of_query_names_every_column() -> None:
    shown = CliRunner().invoke(app, ["query", "--help"]).stdout.replace("*", "").split()
    assert {field.name for field in fields(ImageRow)} - {"run_id"} <= set(shown)
