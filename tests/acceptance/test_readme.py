"""Every command and every program in README.md is executed, in order, as a reader would."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support.readme import BLOCKS, README, ROOT, make_reader

# `make test` runs this test, test_demo.py the demo, tests/browser look at what `serve` shows; `source` is the shell's.
ELSEWHERE = ("make ", "source ", ".venv/bin/attribatch demo", "attribatch serve")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reader(tmp_path_factory.mktemp("reader"))


@pytest.mark.timeout(600)
def test_every_command_and_program_runs(reader: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ATTRIBATCH_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = kept | {"PATH": path, "COLUMNS": "200"}
    ran = 0
    for kind, text in BLOCKS:
        if kind == "python":
            command = [sys.executable, "-c", text]
            found = subprocess.run(command, cwd=reader, env=environment, capture_output=True, text=True, timeout=120)
            assert found.returncode == 0, text + found.stdout + found.stderr
            ran += 1
            continue
        for line in text.splitlines():
            if not line.strip() or line.startswith(ELSEWHERE):
                continue
            found = subprocess.run(
                ["bash", "-c", line], cwd=reader, env=environment, capture_output=True, text=True, timeout=240
            )
            assert found.returncode == 0, line + "\n" + found.stdout + found.stderr
            assert "no image matches" not in found.stdout, line
            ran += 1
    assert ran >= 26
    assert (reader / "cat.png").stat().st_size > 10_000
    assert (reader / "report" / "report.html").exists()


def test_what_runs_elsewhere_exists() -> None:
    targets = re.findall(r"^make (\w+)", README, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_columns_that_readme_names_are_those_of_the_index() -> None:
    from dataclasses import fields

    from db.records import ImageRow

    named = README.split("filters and sorts by:")[1].split("## From Python")[0]
    first_cells = " ".join(line.split("|")[1] for line in named.splitlines() if line.startswith("| `"))
    columns = set(re.findall(r"`(\w+)`", first_cells))
    assert columns == {field.name for field in fields(ImageRow)} - {"run_id"}


def test_the_examples_in_sql_ask_for_runs_that_readme_makes() -> None:
    asked = set(re.findall(r"name = '(\w+)'", (ROOT / "docs" / "SQL.md").read_text()))
    assert asked
    assert asked <= set(re.findall(r"--name (\w+)", README))


def test_the_picture_at_the_top_is_there() -> None:
    for link in re.findall(r"!\[.*?\]\((.*?)\)", README):
        with Image.open(ROOT / link) as picture:
            assert picture.width >= 600
