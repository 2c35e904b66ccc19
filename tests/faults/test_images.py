"""Files that are no images, too large, cut short, or of an unusual kind, in the middle of a data set."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.cluster import Cluster, finish
from tests.support.images import png_header
from tests.support.invariants import check_run


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(9).integers(0, 256, shape, dtype=np.uint8)


HOSTILE = ("truncated.jpg", "truncated.png", "zero.png", "huge.png", "text.png")
UNUSUAL = ("cmyk.jpg", "deep.png", "palette.png", "animated.gif")


@pytest.fixture
def images(cluster: Cluster, tmp_path: Path) -> Path:
    """Those of the reference, and among them one of each."""
    folder = tmp_path / "images"
    shutil.copytree(cluster.data.images, folder)
    dog = folder / "dog"
    for name in HOSTILE[:2]:
        Image.fromarray(noise(64, 64)).save(dog / name)
        (dog / name).write_bytes((dog / name).read_bytes()[:1500])
    (dog / "zero.png").touch()
    (dog / "huge.png").write_bytes(png_header(50_000, 50_000))
    (dog / "text.png").write_text("an image is worth a thousand of these\n" * 30)
    Image.fromarray(noise(8, 8, 4), "CMYK").save(dog / "cmyk.jpg")
    Image.fromarray(noise(8, 8).astype(np.uint16) * 257).save(dog / "deep.png")
    Image.fromarray(noise(8, 8)).convert("P").save(dog / "palette.png")
    first, *others = (Image.fromarray(noise(8, 8) // (frame + 1)) for frame in range(3))
    first.save(dog / "animated.gif", save_all=True, append_images=others)
    return folder


def test_hostile_images_fail_and_all_others_are_done(cluster: Cluster, images: Path) -> None:
    run = cluster.pipeline.submit(replace(cluster.new_request(), source=str(images)))
    finish(cluster.pipeline, run)
    failed = {f"dog/{name}" for name in HOSTILE}
    rows = {
        row.key: row for row in check_run(cluster.pipeline, run, cluster.reference, failed=failed, notes=cluster.notes)
    }
    assert len(rows) == len(cluster.reference.rows) + len(HOSTILE) + len(UNUSUAL)
    said = {name: str(rows[f"dog/{name}"].error) for name in HOSTILE}
    assert "empty" in said["zero.png"]
    assert "50000 x 50000" in said["huge.png"]
    assert all(name in text for name, text in said.items()), "the culprit is named"
