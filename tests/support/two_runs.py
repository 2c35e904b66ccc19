"""One small run, computed once, that all exports and reads are made from."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.api import Pipeline, RunRequest
from pipeline.engine.worker import open_workshop, work
from pipeline.settings import Settings
from tests.support.tiny_model import FACTORY, make_members

HOSTILE = "'; DROP TABLE x -- <b>&\u00fc$(id).png"


@contextmanager
def two_runs(folder: Path) -> Iterator[Pipeline]:
    """A pipeline with the runs `first` (28 images of three classes, one broken, one of a hostile name) and `tonight`.

    `tonight` has one image more, so that its other rows show the maps of `first`.
    """
    random = np.random.default_rng(0)
    for name in ("cat", "dog", "eel"):
        (folder / "images" / name).mkdir(parents=True)
        for index in range(9):
            _draw(folder / "images" / name / f"{index}.png", random)
    _draw(folder / "images" / "cat" / HOSTILE, random)
    (folder / "images" / "dog" / "3.png").write_bytes(b"")
    (folder / "tiny.py").write_text(FACTORY)
    settings = replace(Settings.from_env({"ATTRIBATCH_HOME": str(folder / "home")}), device="cpu")
    with Pipeline(settings) as pipeline:
        shop = open_workshop(settings)
        request = RunRequest(
            str(folder / "images"),
            make_members(folder, folder / "tiny.py"),
            n_steps=4,
            unit_size=4,
            name="first",
            nodes="uniform",
        )
        work(shop, pipeline.submit(request).id)
        _draw(folder / "images" / "cat" / "0-new.png", random)
        work(shop, pipeline.submit(replace(request, name="tonight")).id)
        shop.database.dispose()
        yield pipeline


def _draw(path: Path, random: np.random.Generator) -> None:
    Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
