"""Data and model of the demo: real handwritten digits as a folder of images, a small CNN, and its training.

scikit-learn ships 1,797 scans of 8 x 8 pixels, so nothing is downloaded. A mark can be planted in one corner of every
image of one class before training: a shortcut that the audit must find without a hint.

Strokes at half the mark's brightness and a mark of 5 x 5 pixels were chosen by measuring. With strokes as bright as the
mark and a mark of 4 x 4, some networks recognized the marked class by its strokes: without the mark they lost 0 to 96 %
of it. With the present values, three members were trained for each of 10 classes x 4 corners. Without the mark they
lose 45 to 100 % (mean 93 %) of the class's held-out images, and with it none. Single members are right on 97.8 to
99.8 % of all held-out images.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

from pipeline.datasets.sampling import hash_key, hold_out
from pipeline.errors import DatasetError
from pipeline.models.training.fit import WEIGHT_DECAY, save, train_epoch
from pipeline.storage.files import replace_text

CLASSES = tuple("0123456789")
CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")
SIZE = 32  # pixels on each side, from scans of 8 x 8
MARK_SIZE = 5  # pixels on each side
INK = 0.5  # brightness of a digit's strokes; the mark has 1
TEST_SHARE = 0.25

_EPOCHS = 8
_BATCH = 32
_PEAK_RATE = 4e-3


def write_digits(folder: Path, *, shortcut_class: int | None, shortcut_corner: str, seed: int) -> None:
    """Write the digits as an ImageFolder of grayscale PNGs, `<class>/<index>.png`, 32 x 32.

    A folder that is complete for the same arguments is left unchanged. The folder appears by one rename, after its
    marker `<folder>.json`: a process killed at any point leaves either nothing or everything.

    Args:
        folder: target; replaced only if an earlier call wrote it.
        shortcut_class: class 0..9 whose images get a white square of 5 x 5 pixels; None for no mark.
        shortcut_corner: one of `CORNERS`.
        seed: seed of the mark's distance from the two edges, 1 or 2 pixels each.

    Raises:
        DatasetError: unknown class or corner, or the folder exists and an earlier call did not write it.
    """
    if shortcut_class not in (None, *range(10)) or shortcut_corner not in CORNERS:
        raise DatasetError(
            f"shortcut class {shortcut_class}, corner {shortcut_corner!r}: give a class from 0 to 9 and one of "
            + ", ".join(CORNERS)
        )
    corner = shortcut_corner if shortcut_class is not None else None
    wanted = json.dumps({"shortcut_class": shortcut_class, "shortcut_corner": corner, "seed": seed})
    marker = _marker(folder)
    if folder.exists():
        if not marker.exists():
            raise DatasetError(f"{folder} exists and was not written by the demo; name another folder")
        if marker.read_text() == wanted:
            return
    new, old = (folder.with_name(f".{folder.name}.{what}") for what in ("new", "old"))
    for rest in (new, old):  # left by a process that was killed
        shutil.rmtree(rest, ignore_errors=True)
    _write_images(new, shortcut_class, shortcut_corner, np.random.default_rng(seed))
    if folder.exists():
        folder.rename(old)
    replace_text(marker, wanted)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def test_split(folder: Path) -> set[str]:
    """Keys (`<class>/<index>.png`) held out from training: a quarter of each class, drawn by a hash of the key."""
    return hold_out(_keys(folder), TEST_SHARE, group=lambda key: key[0], key=hash_key)


def digits_cnn() -> tuple[nn.Module, dict[str, Any]]:
    """A CNN of 68,538 parameters, (N, 1, 32, 32) to (N, 10), and its preprocessing.

    It flattens a 4 x 4 grid instead of pooling over it, so that position matters.
    """
    module = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),  # (N, 16, 16, 16)
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),  # (N, 32, 8, 8)
        nn.ReLU(),
        nn.Conv2d(32, 48, 3, stride=2, padding=1),  # (N, 48, 4, 4)
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    preprocess = {"input_size": SIZE, "channels": 1, "mean": 0.3, "std": 0.35, "classes": CLASSES}
    return module, preprocess


def train_member(folder: Path, *, member: int, seed: int, out: Path) -> float:
    """Train one member of a bagged ensemble and write its weights.

    The bootstrap resample of the training images, their order and the initial weights follow from (seed, member).
    Existing weights for the same images and arguments are kept. `out` appears by one rename.

    Args:
        folder: folder written by `write_digits`.
        member: number of the member: 0, 1, 2, ...
        seed: seed of the whole ensemble.
        out: a .safetensors file; its metadata holds the accuracy and the arguments.

    Returns:
        Accuracy on the held-out images, 0..1.
    """
    arguments = json.dumps({"images": _marker(folder).read_text(), "member": member, "seed": seed})
    if out.exists():
        with safe_open(out, framework="pt") as file:
            known = file.metadata() or {}
        if known.get("arguments") == arguments:
            return float(known["accuracy"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same sums on every machine; twice as fast as two threads that share a core
    try:
        module, accuracy = _train(folder, torch.Generator().manual_seed(seed * 1000 + member))
    finally:
        torch.set_num_threads(threads)
    save(module.state_dict(), out, {"arguments": arguments, "accuracy": repr(accuracy)})
    return accuracy


def _write_images(folder: Path, marked: int | None, corner: str, rng: np.random.Generator) -> None:
    from sklearn.datasets import load_digits  # takes a second, which `digits_cnn` does not need

    scans, labels = load_digits(return_X_y=True)  # (1797, 64) float64 in 0..16, (1797,) int
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    for index, (scan, label) in enumerate(zip(scans, labels, strict=True)):
        small = Image.fromarray((scan.reshape(8, 8) * (INK * 255 / 16)).round().astype(np.uint8))
        image = small.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        offset = rng.integers(1, 3, size=2)  # drawn for every image, marked or not
        if label == marked:
            image.paste(255, _mark_box(corner, int(offset[0]), int(offset[1])))
        image.save(folder / str(label) / f"{index:04}.png")


def _mark_box(corner: str, x: int, y: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a mark x and y pixels away from the corner's edges."""
    left = x if corner.endswith("left") else SIZE - MARK_SIZE - x
    top = y if corner.startswith("top") else SIZE - MARK_SIZE - y
    return left, top, left + MARK_SIZE, top + MARK_SIZE


def _keys(folder: Path) -> list[str]:
    return sorted(f"{name}/{path.name}" for name in CLASSES for path in (folder / name).glob("*.png"))


def _load(folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Normalized images (N, 1, 32, 32) float32, labels (N,) int64, held out (N,) bool; in the order of the keys."""
    keys, tests = _keys(folder), test_split(folder)
    images: NDArray[np.uint8] = np.stack([np.asarray(Image.open(folder / key).convert("L")) for key in keys])
    preprocess = digits_cnn()[1]
    pixels = (torch.from_numpy(images)[:, None].float() / 255 - preprocess["mean"]) / preprocess["std"]
    labels = torch.tensor([CLASSES.index(key[0]) for key in keys])
    return pixels, labels, torch.tensor([key in tests for key in keys])


def _train(folder: Path, generator: torch.Generator) -> tuple[nn.Module, float]:
    """A member trained on its own bootstrap resample, and its accuracy on the held-out images."""
    pixels, labels, held_out = _load(folder)
    module = _initialised(generator)
    train = torch.nonzero(~held_out)[:, 0]
    bag = train[torch.randint(len(train), (len(train),), generator=generator)]  # (train,), with repeats
    _fit(module, pixels[bag], labels[bag], generator)
    with torch.no_grad():
        correct = module(pixels[held_out]).argmax(1) == labels[held_out]
    return module, correct.float().mean().item()


def _initialised(generator: torch.Generator) -> nn.Module:
    """The CNN with He-uniform weights drawn from the generator: the process's own random state is not touched."""
    module, _ = digits_cnn()
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
            layer.bias = nn.Parameter(torch.zeros(len(layer.weight)))
    return module


def _fit(module: nn.Module, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> None:
    """AdamW over a one-cycle learning rate. Pixels (N, 1, 32, 32) are normalized; labels (N,)."""
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=WEIGHT_DECAY, fused=True)
    steps = len(labels) // _BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_RATE, total_steps=_EPOCHS * steps)
    for _ in range(_EPOCHS):
        order = torch.randperm(len(labels), generator=generator)[: steps * _BATCH].view(steps, _BATCH)
        train_epoch(module, ((pixels[rows], labels[rows]) for rows in order), optimizer, schedule)


def _marker(folder: Path) -> Path:
    return folder.with_name(folder.name + ".json")
