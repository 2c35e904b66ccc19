"""Tar shards, and runs over other places of the same images."""

import io
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from db.queries import iter_images
from db.records import ImageRow
from pipeline.api import Pipeline, RunRequest
from pipeline.engine.worker import open_workshop, work


def png(value: int = 0, side: int = 8) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((side, side), value, np.uint8)).save(out, "PNG")
    return out.getvalue()


def shard(path: Path, files: Iterable[tuple[str | tarfile.TarInfo, bytes]], **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def assert_same_maps(pipeline: Pipeline, request_: RunRequest, location: str) -> None:
    """A run over another place of the same images, in the same order, equals that over the folder."""
    shop = open_workshop(replace(pipeline.settings, device="cpu"))
    found: list[list[ImageRow]] = []
    for source in (request_.source, location):
        run = pipeline.submit(replace(request_, source=source, reuse=False, target="label"))
        work(shop, run.id)
        found.append(list(iter_images(pipeline.database, run.id)))
    shop.database.dispose()
    folder, other = found
    assert [row.state for row in other] == ["done"] * 18
    for name in ("row", "sha256", "label", "target", "output", "error_estimate"):
        assert [getattr(row, name) for row in other] == [getattr(row, name) for row in folder], name
    np.testing.assert_array_equal(pipeline.read_maps(other), pipeline.read_maps(folder))
