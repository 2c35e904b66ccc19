"""ViRelAy itself opens an exported project: in an environment of its own, because it pins an older Pillow."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.api import Pipeline
from tests.support.two_runs import two_runs

VERSION = "0.6.1"
LOOK = """
import json, sys
from virelay.model import Project
project = Project(sys.argv[1])
attribution = project.get_attribution(0)
found = {
    "image": project.get_sample(0).data.shape,
    "heat": attribution.render_heatmap("gray-red").shape,
    "label": attribution.labels[0].name,
    "analyses": {},
}
for method in project.get_analysis_methods():
    for category in project.get_analysis_categories(method):
        analysis = project.get_analysis(method, category.name, "spectral", "spectral")
        found["analyses"][category.human_readable_name] = [len(analysis.embedding), len(analysis.eigenvalues)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def virelay(pytestconfig: pytest.Config) -> Path:
    """The Python of an environment that has ViRelAy, made once and kept in pytest's cache."""
    cache = pytestconfig.cache
    assert cache is not None
    python = cache.mkdir(f"virelay-{VERSION}") / "environment" / "bin" / "python"
    if not (python.parent / "virelay").exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True, timeout=120)
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"virelay=={VERSION}"]
        made = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if made.returncode:
            pytest.skip(f"ViRelAy cannot be installed here: {made.stderr.strip().splitlines()[-1]}")
    return python


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Pipeline]:
    with two_runs(tmp_path) as pipeline:
        yield pipeline


def test_virelay_opens_an_exported_project(virelay: Path, opened: Pipeline, tmp_path: Path) -> None:
    opened.export("first", format="virelay", out=tmp_path / "project")
    command = [str(virelay), "-c", LOOK, str(tmp_path / "project" / "project.yaml")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    first = opened.find("first", where="not failed", limit=1).rows[0]
    assert found["image"] == found["heat"] == [8, 8, 3]
    assert found["label"] == first.label
    for name, (images, eigenvalues) in found["analyses"].items():
        assert images == len(opened.find("first", where=f"predicted = '{name}'").rows)
        assert eigenvalues == 7
    assert found["analyses"]
