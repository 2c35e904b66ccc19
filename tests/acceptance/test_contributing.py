"""CONTRIBUTING.md is true: changes name files that exist, and its examples work in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

import pytest

from db.session import SCHEMA

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
CHANGES = {
    change: re.findall(r"`(.+?)`", files)
    for change, files in re.findall(r"^\| (a new .+?) \| (.+) \|$", PAGE, re.MULTILINE)
}
EXAMPLES = {
    title.lower(): re.findall(r"```(python|diff)\n(?:# |\+\+\+ )(\S+)\n(.*?)```", text, re.DOTALL)
    for title, text in re.findall(r"^### (A new .+?)\n(.*?)(?=^###? |\Z)", PAGE, re.MULTILINE | re.DOTALL)
}
WANTED = (
    "source",
    "baseline",
    "column",
    "metric",
    "chart",
    "page",
    "option",
    "object-store",
    "step",
    "setting",
    "export",
)
TOOLS = ("Makefile", "pyproject.toml", "README.md")
NUMBERS = {"NNNN": f"{int(SCHEMA) + 1:04}", "LAST": SCHEMA}


def test_the_changes_are_named() -> None:
    assert [change.removeprefix("a new ").split()[0] for change in CHANGES] == list(WANTED)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_names_at_most_three_files(change: str) -> None:
    assert 1 <= len(CHANGES[change]) <= 3
    for path in CHANGES[change]:
        exists = (ROOT / path).is_file()
        assert exists or (re.search(r"NAME|COMMAND", path) and (ROOT / path).parent.is_dir()), path


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_touches_only_the_files_of_its_change(example: str) -> None:
    (change,) = [change for change in CHANGES if change.startswith(example)]
    patterns = [re.sub(r"NAME|NNNN|COMMAND", "*", path) for path in CHANGES[change]]
    touched = {path for _, path, _ in EXAMPLES[example] if not path.startswith("tests/")}
    assert touched
    for path in touched:
        assert any(fnmatch(path, pattern) for pattern in patterns), path


def test_every_room_has_its_tests() -> None:
    rooms = [f"pipeline/{path.parent.name}/" for path in (ROOT / "pipeline").glob("*/__init__.py")]
    for room in [*rooms, "db/", "workers/"]:
        assert f"\n| `{room}` | `tests/" in PAGE, room


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A copy of the repository with all examples applied, and the files that they touched."""
    copy = tmp_path_factory.mktemp("copy")
    for folder in ("db", "pipeline", "tests", "workers"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in TOOLS:
        shutil.copy(ROOT / name, copy / name)
    touched = []
    for kind, path, body in (block for blocks in EXAMPLES.values() for block in blocks):
        file = copy / _numbered(path)
        if kind == "diff":
            file.write_text(_applied(file.read_text(), body, path))
        else:
            assert not file.exists(), path
            file.write_text(_numbered(body))
        touched.append(_numbered(path))
    return copy, touched


@pytest.mark.timeout(300)
def test_the_tests_of_the_examples_pass_in_a_copy(changed: tuple[Path, list[str]]) -> None:
    copy, touched = changed
    tests = [path for path in touched if path.startswith("tests/")]
    assert len(tests) == len(EXAMPLES)
    _run(copy, "pytest", "-q", "-p", "no:cacheprovider", *tests)


def test_the_examples_pass_the_linter(changed: tuple[Path, list[str]]) -> None:
    copy, touched = changed
    _run(copy, "ruff", "check", "--no-cache", *touched)
    _run(copy, "ruff", "format", "--no-cache", "--check", *touched)


def _run(folder: Path, *command: str, environment: Mapping[str, str] = os.environ) -> None:
    kept = {name: value for name, value in environment.items() if not name.startswith("ATTRIBATCH_")}
    program = [sys.executable, "-m", *command]
    found = subprocess.run(program, cwd=folder, env={**kept, "PYTHONPATH": str(folder)}, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def _applied(text: str, body: str, path: str) -> str:
    """A file after a diff: lines with '-' or ' ' must be there once, and lines with '+' or ' ' replace them."""
    for place in body.split("@@\n"):
        lines = place.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in "- ")
        after = "".join(line[1:] for line in lines if line[0] in "+ ")
        assert text.count(before) == 1, f"{path} does not have these lines once:\n{before}"
        text = text.replace(before, after)
    return text


def _numbered(text: str) -> str:
    for word, number in NUMBERS.items():
        text = text.replace(word, number)
    return text
