"""What is installed: every package on disk, three top-level names, versions without addresses."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_of_python_is_an_installed_package() -> None:
    """Every folder of python is a package and nothing else is installed."""
    assert PROJECT["tool"]["setuptools"]["packages"]["find"]["include"] == ["db*", "pipeline*", "workers*"]
    folders = {path.parent for top in ("pipeline", "workers", "db") for path in (ROOT / top).rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_files_that_are_no_python_are_package_data() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    for top in ("pipeline", "workers", "db"):
        known = {path for pattern in patterns[top] for path in (ROOT / top).glob(pattern)}
        others = {p for p in (ROOT / top).rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
        assert others == known


def test_constraints_name_exact_versions_and_no_addresses() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+(\[\w+\])?==[\w.+!]+", line) for line in lines)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *(name for extra in extras.values() for name in extra)]
    names = {re.split(r"[\[<>=]", name)[0].lower() for name in wanted} - {"attribatch"}
    assert names <= pinned


@pytest.mark.parametrize("folder", ["tests", "benchmarks"])
def test_no_module_imports_a_test(folder: str) -> None:
    """What tests share is in tests/support; benchmarks import nothing else of tests."""
    allowed = r"tests\.support\b" if folder == "benchmarks" else r"(?!.*\btest_)"
    for path in (ROOT / folder).rglob("*.py"):
        for name in re.findall(r"^\s*(?:from|import) (tests\b.*)", path.read_text(), re.MULTILINE):
            assert re.match(allowed, name), f"{path}: {name}"
