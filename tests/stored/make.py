"""Writes a small home with one of each stored record, by the command line of whichever version is on the path.

    PYTHONPATH=CHECKOUT python tests/stored/make.py tests/stored/vVERSION.tar.xz

It is built in `PLACE`: the absolute paths in the records begin so.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

PLACE = Path("/tmp/attribatch-stored")
MODIFIED = 1_700_000_000  # seconds since 1970, of each image: a part of its version
CLASSES, SIDE, EACH, LATER = ("cat", "dog", "eel"), 16, 12, 2
FACTORY = f"""from torch import nn


def make(num_classes: int = 3) -> tuple[nn.Module, dict]:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 8 * 8, num_classes)
    )
    return model, {{"input_size": {SIDE}, "channels": 1, "mean": 0.5, "std": 0.25, "classes": {list(CLASSES)!r}}}
"""
MODEL = ["--ensemble", "ensemble", "--baseline", "black", "--baseline", "uniform:n=2", "--unit-size", "20"]
TOLERANCE = [*MODEL, "--tolerance", "0.05", "--precision", "auto"]


def main() -> None:
    """Make it, and pack it into the file that the command line names."""
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir()
    random = np.random.default_rng(0)
    for number in range(EACH):
        write_images(number, random)
    broken = PLACE / "images" / "dog" / "broken.png"
    broken.write_bytes(b"not an image")
    os.utime(broken, (MODIFIED, MODIFIED))
    (PLACE / "tiny.py").write_text(FACTORY)
    attribatch("ensemble", "train", "--data", "images", "--arch", "tiny.py:make", "--members", "2", "--epochs", "15",
               "--lr", "0.01", "--out", "ensemble", "--workers", "1")  # fmt: skip
    attribatch("run", "images", *TOLERANCE, "--name", "first", code=3)
    attribatch("audit", "first", "--out", "report")
    attribatch("schedule", "add", "nightly", "images", *TOLERANCE, "--cron", "0 2 * * *", "--timezone", "Europe/Berlin",
               "--fail-on", "class_drift>0.9")  # fmt: skip
    attribatch("schedule", "add", "paused", "images", *MODEL, "--n-steps", "8", "--cron", "0 3 * * 1")
    attribatch("schedule", "pause", "paused")
    attribatch("schedule", "run-now", "nightly", code=3)
    for number in range(EACH, EACH + LATER):
        write_images(number, random)
    attribatch("schedule", "run-now", "nightly", code=3)
    attribatch("run", "images", *MODEL, "--n-steps", "320", "--name", "fitted", code=3)
    attribatch("evaluate", "nightly", "--images", "6")
    attribatch("compare", "fitted", "nightly")
    attribatch("export", "fitted", "--format", "png", "--limit", "1", "--out", "overlays")
    shutil.rmtree(PLACE / "report")  # a copy of what is stored as objects
    for path in PLACE.glob("home/objects/runs/*/reports/*.html"):
        path.unlink()  # most of the size, and read by browsers only
    with tarfile.open(sys.argv[1], "w:xz", preset=9) as archive:
        archive.add(PLACE, PLACE.name, filter=anonymous)


def write_images(number: int, random: np.random.Generator) -> None:
    """One noisy image of each class: a bar whose direction is that of the class, for 'eel' a mark in a corner too."""
    for index, name in enumerate(CLASSES):
        pixels = random.integers(0, 110, (SIDE, SIDE), dtype=np.uint8)
        if index == 0:
            pixels[6:10] += 90
        elif index == 1:
            pixels[:, 6:10] += 90
        else:
            pixels[1:5, 11:15] = 255
        path = PLACE / "images" / name / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        os.utime(path, (MODIFIED, MODIFIED))


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out who made a file, and what Python compiled."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return None if "__pycache__" in member.name else member


def attribatch(*arguments: str, code: int = 0) -> None:
    """Run one command in `PLACE`; `code` is the exit code that it must have."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ATTRIBATCH_")}
    environment |= {"ATTRIBATCH_HOME": str(PLACE / "home"), "ATTRIBATCH_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([Path(sys.executable).with_name("attribatch"), *arguments], cwd=PLACE, env=environment)
    if done.returncode != code:
        raise SystemExit(f"attribatch {' '.join(arguments)}: exit code {done.returncode}, not {code}")


if __name__ == "__main__":
    main()
