"""Set up once for all tests: a small data set, a small model, a pipeline in a folder of its own."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.api import Pipeline, RunRequest
from pipeline.spec.request import ModelRequest
from tests.support.servers import S3Server, postgres, seaweedfs
from tests.support.tiny_model import FACTORY, make_members

# The tests' networks are small: a second thread costs them more than it brings.
torch.set_num_threads(1)


SLOW_FOLDERS = {"acceptance", "browser", "faults", "services"}
SLOW_FIXTURES = {"trained", "processes", "postgres_url", "seaweed"}  # train networks, start processes or servers


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow by its folder or by a fixture; other slow tests carry the marker themselves."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in SLOW_FOLDERS or SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A tree of 3 classes with 6 greyscale images of 8 x 8 each."""
    root = tmp_path / "images"
    random = np.random.default_rng(0)
    for name in ("cat", "dog", "eel"):
        (root / name).mkdir(parents=True)
        for index in range(6):
            Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(root / name / f"{index}.png")
    return root


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    """A file whose `make` builds a ReLU network for that data set."""
    path = tmp_path / "tiny.py"
    path.write_text(FACTORY)
    return path


@pytest.fixture
def members(tmp_path: Path, factory: Path) -> tuple[ModelRequest, ...]:
    """An ensemble of two of these networks."""
    return make_members(tmp_path, factory)


@pytest.fixture
def request_(dataset: Path, members: tuple[ModelRequest, ...]) -> RunRequest:
    """A run over that data set by that ensemble, in units of 4 images."""
    return RunRequest(str(dataset), members, baselines=("black", "uniform:n=2"), n_steps=8, unit_size=4)


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    """A pipeline whose home is a new folder."""
    for name in ("DATABASE_URL", "OBJECTS_URL", "BROKER_URL", "DEVICE"):
        monkeypatch.delenv(f"ATTRIBATCH_{name}", raising=False)
    with Pipeline.open(tmp_path / "home") as opened:
        yield opened


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL of this process, started when the first test asks for it."""
    with postgres() as url:
        yield url


@pytest.fixture(scope="session")
def seaweed() -> Iterator[S3Server]:
    """A SeaweedFS of this process with one bucket, started when the first test asks for it."""
    with seaweedfs() as server:
        yield server


@pytest.fixture
def s3_server(seaweed: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The SeaweedFS, its keys in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
    return seaweed
