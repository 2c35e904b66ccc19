"""A home that an earlier version wrote, unpacked."""

import sqlite3
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.api import Pipeline

ARCHIVES = sorted(Path(__file__).parent.glob("v*.tar.xz"))
PLACE = "/tmp/attribatch-stored"  # in every path of a record


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive unpacked, its paths those of the new place."""
    for name in ("DATABASE_URL", "OBJECTS_URL", "BROKER_URL"):
        monkeypatch.delenv(f"ATTRIBATCH_{name}", raising=False)
    monkeypatch.setenv("ATTRIBATCH_DEVICE", "cpu")
    with tarfile.open(request.param) as archive:
        archive.extraction_filter = lambda member, _: member  # our own file
        archive.extractall(tmp_path)
    unpacked = tmp_path / Path(PLACE).name
    for record in (*unpacked.glob("ensemble/*.json"), *unpacked.glob("home/objects/*/**/*.json")):
        if record.parent.name in ("ensemble", "schedules") or record.name == "run.json":
            record.write_text(record.read_text().replace(PLACE, str(unpacked)))
    with sqlite3.connect(unpacked / "home" / "index.db") as index:
        for table, column in (("runs", "spec"), ("runs", "source"), ("schedules", "request")):
            index.execute(f"UPDATE attribatch_{table} SET {column} = replace({column}, ?, ?)", (PLACE, str(unpacked)))
    index.close()
    return unpacked


@pytest.fixture
def home(root: Path) -> Iterator[Pipeline]:
    with Pipeline.open(root / "home") as opened:
        yield opened
