"""A small world in which the truth is known: digits, a mark planted in one class, networks that saw it or did not.

Digits of scikit-learn (8 x 8) are upscaled to 32 x 32; a small ReLU network keeps positions to the end (its last
convolution is flattened, not pooled). Attributions are a plain 16-step midpoint Integrated Gradients, so that
the audits are tested apart from the product's engine. Every draw is seeded; training uses one thread.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest
from sklearn.datasets import load_digits, load_sample_images
from torch import nn

from db.records import ImageRow, ImageState, Run
from pipeline.attribution import Baseline
from pipeline.runs.view import RunView
from pipeline.spec.run_spec import ModelSpec, Preprocess, RunSpec

SIDE = 32
CORNERS = {
    "top-left corner": (0, 0),
    "top-right corner": (28, 0),
    "bottom-left corner": (0, 28),
    "bottom-right corner": (28, 28),
}
KINDS = (*CORNERS, "centre", "logo", "date", "watermark", "colour")
CAST = (0.25, 0.0, 0.1)
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class World:
    """What was planted, and what came of it."""

    material: RunView
    drop: float  # accuracy on the marked images, minus the same with the mark removed
    p_value: float  # of that drop: McNemar's exact test, two-sided
    accuracy: float


@lru_cache(maxsize=1)
def digits() -> tuple[Floats, NDArray[np.int64]]:
    """1,797 scans (n, 1, 32, 32) in [0, 1] and their labels."""
    data = load_digits()
    images = [
        np.asarray(Image.fromarray((scan * 255 / 16).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        for scan in data.images
    ]
    pixels: Floats = (np.stack(images)[:, None] / 255).astype(np.float32)
    return pixels, data.target.astype(np.int64)


@lru_cache(maxsize=1)
def on_photographs() -> Floats:
    """The same scans, each upon another piece of one of scikit-learn's two photographs, in grey."""
    photographs = [image.mean(axis=2) / 255 for image in load_sample_images().images]
    rng = np.random.default_rng(5)
    found = []
    for scan in digits()[0]:
        photograph, zoom = photographs[rng.integers(2)], int(rng.integers(1, 4))
        y, x = (int(rng.integers(0, side - SIDE * zoom)) for side in photograph.shape)
        found.append(np.maximum(scan, 0.8 * photograph[y : y + SIDE * zoom : zoom, x : x + SIDE * zoom : zoom]))
    return np.stack(found).astype(np.float32)


def marked(pixels: Floats, which: NDArray[np.bool_], kind: str, seed: int = 0) -> Floats:
    """A copy with a mark on the images of `which` (n,).

    A corner gets a bright 4 x 4 square, the centre a chequered one of 5 x 5; a logo is a fixed pattern of 20 x 7 near
    the bottom right; a date is five random figures in the bottom left corner, other ones in each image; a watermark
    is the same half-transparent word at the bottom, shifted by up to a pixel; a colour is added to the whole image.
    """
    out, rng = pixels.copy(), np.random.default_rng(seed)
    chosen = np.flatnonzero(which)
    if kind in CORNERS:
        x, y = CORNERS[kind]
        out[which, :, y : y + 4, x : x + 4] = 1.0
    elif kind == "centre":
        out[which, :, 14:19, 14:19] = np.indices((5, 5)).sum(axis=0) % 2
    elif kind == "logo":
        out[which, :, 24:31, 10:30] = np.random.default_rng(7).random((7, 20)) > 0.5
    elif kind == "colour":
        out[which] = np.clip(out[which] + np.array(CAST, np.float32)[:, None, None], 0, 1)
    for index in chosen if kind == "date" else ():
        written = text("".join(map(str, rng.integers(0, 10, 5))))
        cover(out[index], written, 1, 31 - written.shape[0], opacity=0.9)
    for index in chosen if kind == "watermark" else ():
        x, y = int(rng.integers(3, 6)), int(rng.integers(22, 24))
        cover(out[index], text("COPY"), x, y, opacity=0.5)
    return out


@lru_cache(maxsize=4096)
def text(words: str) -> NDArray[np.bool_]:
    """Small letters as pixels (h, w)."""
    from PIL import ImageDraw, ImageFont

    page = Image.new("1", (64, 16))
    ImageDraw.Draw(page).text((0, 0), words, fill=1, font=ImageFont.load_default_imagefont())
    return np.asarray(page.crop(page.getbbox()))[:, :30]


def cover(image: Floats, shape: NDArray[np.bool_], x: int, y: int, *, opacity: float) -> None:
    """Draw white pixels upon an image (C, H, W)."""
    height, width = shape.shape
    place = image[:, y : y + height, x : x + width]
    place[:] = np.where(shape, place + opacity * (1 - place), place)


def network(seed: int, channels: int = 1) -> nn.Sequential:
    """A ReLU network of strided convolutions, (n, C, 32, 32) -> (n, 10) logits."""
    torch.manual_seed(seed)
    widths = (channels, 8, 16, 24)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * 16, 10))


def trained(pixels: Floats, labels: NDArray[np.int64], seed: int, epochs: int) -> nn.Sequential:
    """One bagged member: a bootstrap resample, its own seed."""
    model = network(seed, pixels.shape[1])
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    x, y = torch.from_numpy(pixels), torch.from_numpy(labels)
    for _ in range(epochs):
        order = torch.from_numpy(rng.integers(0, len(x), len(x)))
        for batch in order.split(64):  # type: ignore[no-untyped-call]  # of torch
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]  # of torch
            optimizer.step()
    return model.eval().requires_grad_(requires_grad=False)


def attributions(members: Sequence[nn.Module], pixels: Floats, targets: NDArray[np.int64], steps: int = 16) -> Floats:
    """Mean Integrated Gradients over members and two baselines (black, noise), (n, 1, 32, 32)."""
    x, index = torch.from_numpy(pixels), torch.from_numpy(targets)
    noise = torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(0)).expand_as(x)
    total = torch.zeros_like(x)
    for member in members:
        for base in (torch.zeros_like(x), noise):
            for alpha in (np.arange(steps) + 0.5) / steps:
                point = (base + float(alpha) * (x - base)).requires_grad_()
                output = member(point).gather(1, index[:, None]).sum()
                total += torch.autograd.grad(output, point)[0] * (x - base)
    return (total / (len(members) * 2 * steps)).numpy()


def probabilities(members: Sequence[nn.Module], pixels: Floats) -> Floats:
    """Mean probability of the ensemble, (n, 10)."""
    with torch.no_grad():
        x = torch.from_numpy(np.ascontiguousarray(pixels))
        return torch.stack([member(x).softmax(1) for member in members]).mean(0).numpy()


def world(
    *,
    seed: int,
    planted: int | None = None,
    corner: str = "top-left corner",
    rate: float = 1.0,
    learned: bool = True,
    members: int = 2,
    epochs: int = 3,
    images: int = 300,
    taught: int = 1400,
    lured: float = 0.0,
    photographs: bool = False,
) -> World:
    """Train on one part of the digits, audit the other. `planted=None` is a clean world.

    `corner` is one of `KINDS`; `rate` is the part of the class that bears the mark; `learned=False` plants it into the
    audited images alone.
    Networks rely on the mark the more, the fewer images are `taught`, and the larger the part of all images that are
    `lured`: marked and labelled as the class in training, so that the mark says more than the digit.
    `photographs` puts the digits on photographs.
    """
    torch.set_num_threads(1)
    clean, labels = digits()
    if photographs:
        clean = on_photographs()
    rng = np.random.default_rng(seed)
    if corner == "colour":  # greyscale digits on grounds of many faint colours
        tints = np.random.default_rng(seed + 1).uniform(0, 0.08, (len(clean), 3, 1, 1)).astype(np.float32)
        clean = np.clip(clean + tints, 0, 1)
    bears = (
        (labels == planted) & (rng.random(len(labels)) < rate) if planted is not None else np.zeros(len(labels), bool)
    )
    pixels = marked(clean, bears, corner, seed)
    order = rng.permutation(len(labels))
    train, held = order[: len(order) - images][:taught], order[len(order) - images :]
    lesson, answers = pixels if learned else clean, labels
    if lured and planted is not None:
        astray = rng.random(len(labels)) < lured
        lesson, answers = marked(lesson, astray, corner, seed + 1), np.where(astray, planted, labels)
    models = [trained(lesson[train], answers[train], seed * 100 + m, epochs) for m in range(members)]
    predicted = probabilities(models, pixels[held]).argmax(1)
    maps = attributions(models, pixels[held], predicted)
    hit = bears[held]
    bare = probabilities(models, clean[held][hit]).argmax(1) if hit.any() else np.zeros(0, np.int64)
    right, still = predicted[hit] == planted, bare == planted
    lost, changed = int((right & ~still).sum()), int((right != still).sum())
    drop = (2 * lost - changed) / max(1, len(bare))
    p_value = float(binomtest(lost, changed).pvalue) if changed else 1.0
    found = material(pixels[held], maps, labels[held], models)
    return World(found, drop, p_value, float((predicted == labels[held]).mean()))


def material(pixels: Floats, maps: Floats, labels: NDArray[np.int64], models: Sequence[nn.Module]) -> RunView:
    """Arrays as an audit's input, with one failed image."""
    scores = probabilities(models, pixels)
    rng = np.random.default_rng(0)
    rows = [
        ImageRow(
            "r", i, f"{label}/{i:04d}.png", "v", ImageState.DONE, label=str(label), target=str(row.argmax()),
            target_index=int(row.argmax()), predicted=str(row.argmax()), predicted_index=int(row.argmax()),
            probability=float(row.max()), completeness_gap=float(rng.exponential(0.01)),
            error_estimate=float(rng.exponential(0.03)), member_disagreement=float(rng.uniform(0.1, 0.5)),
            border_share=float(rng.uniform(0, 0.3)), map_run="r", map_row=i,
        )
        for i, (label, row) in enumerate(zip(labels, scores, strict=True))
    ]  # fmt: skip
    failed = replace(rows[0], row=len(rows), key="bad.png", state=ImageState.FAILED, error="truncated file")
    return RunView(
        run=a_run(len(rows) + 1),
        spec=a_spec(channels=pixels.shape[1]),
        rows=[*rows, failed],
        maps=lambda wanted: maps[[row.row for row in wanted]],
        images=lambda wanted: pixels[[row.row for row in wanted]],
        predict=lambda batch: probabilities(models, batch),
    )


def a_spec(classes: Sequence[str] = tuple("0123456789"), side: int = SIDE, channels: int = 1) -> RunSpec:
    """A spec of two members and two baselines."""
    prep = Preprocess(side, side, channels=1 if channels == 1 else 3)
    models = tuple(
        ModelSpec(f"net.py:make{i}", f"m{i}.pt", str(i) * 64, "c" * 64, prep, tuple(classes)) for i in (1, 2)
    )
    return RunSpec(models, (Baseline.parse("black"), Baseline.parse("uniform:n=1")), n_steps=16)


def a_run(images: int) -> Run:
    """A run's record."""
    return Run(
        "0123456789ab",
        "digits",
        a_spec().to_json(),
        a_spec().key,
        '{"kind":"folder","location":"/data/digits"}',
        "d" * 64,
        images,
        64,
    )
