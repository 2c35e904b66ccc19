"""`import attribatch`: the public names, what it loads, and what it says beside foreign packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import attribatch

ROOT = Path(attribatch.__file__).parent


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{folder}:{ROOT}"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_every_public_name_is_there() -> None:
    from pipeline.api import Pipeline
    from pipeline.attribution import integrated_gradients

    for name in attribatch.__all__:
        assert getattr(attribatch, name) is not None
    assert attribatch.Pipeline is Pipeline
    assert attribatch.integrated_gradients is integrated_gradients
    assert set(attribatch.__all__) == set(dir(attribatch))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"'Pipelin'.*Pipeline"):
        _ = attribatch.Pipelin


@pytest.mark.slow
def test_importing_it_loads_no_torch(tmp_path: Path) -> None:
    code = "import attribatch, sys; attribatch.RunRequest; print({'torch', 'matplotlib'} & set(sys.modules))"
    done = run(code, tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "set()"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pipeline", "db", "workers"])
@pytest.mark.parametrize("kind", ["file", "package", "folder"])
def test_a_foreign_package_in_the_way_is_named(tmp_path: Path, name: str, kind: str) -> None:
    culprit = tmp_path / f"{name}.py" if kind == "file" else tmp_path / name / "__init__.py"
    culprit.parent.mkdir(exist_ok=True)
    if kind != "folder":
        culprit.write_text("")
    done = run("import attribatch", tmp_path)
    if kind == "folder":  # a folder without __init__.py is found after a real package
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode != 0
    assert f"own package '{name}'" in done.stderr
    assert str(culprit) in done.stderr
