"""Audits in closed form: images of noise, and models that look at one corner or at the whole image."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from db.records import ImageRow, ImageState
from pipeline.analysis.audit import classes
from pipeline.analysis.audit.measure import Trial
from pipeline.analysis.audit.propose import Candidate, Kind
from pipeline.analysis.statistics import wilson
from pipeline.runs.view import By, RunView, class_of, natural
from tests.support.planted_worlds import CORNERS, a_run, a_spec

CLASSES = ("mark", "bright", "dark")
PATTERN = np.where(np.indices((32, 32)).sum(axis=0) % 2, 1, -1).astype(np.float32)
Floats = NDArray[np.float32]


def object_model(pixels: Floats) -> Floats:
    """'bright' or 'dark' by most of the image; 'mark' by a faint pattern all over it. No window of 12 x 12 decides."""
    inner = pixels[:, :, 6:26, 6:26].mean(axis=(1, 2, 3))
    score = np.stack([0.01 + 0 * inner, inner, 0.9 - inner], axis=1)
    score[(pixels * PATTERN).mean(axis=(1, 2, 3)) > 0.02] = (1, 0, 0)
    return (score / score.sum(axis=1, keepdims=True)).astype(np.float32)


def corner_model(corner: str) -> Callable[[Floats], Floats]:
    """'mark' where the corner is bright, else what the object says."""
    x, y = CORNERS[corner]

    def predict(pixels: Floats) -> Floats:
        found = object_model(pixels)
        found[pixels[:, :, y : y + 4, x : x + 4].mean(axis=(1, 2, 3)) > 0.8] = (1, 0, 0)
        return found

    return predict


def a_material(
    *, count: int = 120, corner: str = "top-left corner", rate: float = 1.0, used: bool = True, seed: int = 0
) -> RunView:
    """A third of the images belongs to 'mark', of which `rate` bear one; the maps say so.

    The images of 'mark' that bear none show a faint pattern instead. With `used=False` all show the pattern, and the
    model ignores the mark, which lies in the maps all the same.
    """
    rng = np.random.default_rng(seed)
    truth = np.arange(count) % 3
    bears = (truth == 0) & (rng.random(count) < rate)
    pixels = rng.uniform(0.1, 0.3, (count, 1, 32, 32)).astype(np.float32)
    pixels[truth == 1, :, 6:26, 6:26] += 0.5
    pixels[(truth == 0) & ~(bears & used)] += 0.08 * PATTERN
    x, y = CORNERS[corner]
    pixels[bears, :, y : y + 4, x : x + 4] = 1.0
    maps = rng.normal(0, 0.1, pixels.shape).astype(np.float32)
    maps[:, :, 6:26, 6:26] += 0.1
    maps[bears, :, y : y + 4, x : x + 4] += 2.0
    predict = corner_model(corner) if used else object_model
    scores = predict(pixels)
    rows = [_row(i, CLASSES[truth[i]], scores[i], rng) for i in range(count)]
    return RunView(
        run=a_run(count + 1),
        spec=a_spec(CLASSES),
        rows=[*rows, ImageRow("r", count, "bad.png", "v", ImageState.FAILED, error="truncated file")],
        maps=lambda wanted: maps[[row.row for row in wanted]],
        images=lambda wanted: pixels[[row.row for row in wanted]],
        predict=predict,
    )


def _row(index: int, label: str, scores: Floats, rng: np.random.Generator) -> ImageRow:
    best = int(scores.argmax())
    return ImageRow(
        "r", index, f"{label}/{index:04d}.png", "v", ImageState.DONE, label=label, target=CLASSES[best],
        target_index=best, predicted=CLASSES[best], predicted_index=best, probability=float(scores.max()),
        completeness_gap=float(rng.exponential(0.01)), error_estimate=float(rng.exponential(0.03)),
        member_disagreement=float(rng.uniform(0.1, 0.5)), border_share=float(rng.uniform(0, 0.3)), map_run="r",
        map_row=index, sign_agreement=index / 500, baseline_sensitivity=1 / (1 + index), center_share=index / 1000,
        **dict.fromkeys(classes.CORNERS, index / 2000),
    )  # fmt: skip


def rows_of(material: RunView) -> list[ImageRow]:
    """The rows that have maps."""
    return list(material.done())


def classes_of(rows: Iterable[ImageRow], by: By) -> Mapping[str, list[ImageRow]]:
    """Rows by class, classes in natural order ('2' before '10'). Rows without the name of a class are left out."""
    groups: dict[str, list[ImageRow]] = {}
    for row in rows:
        if (name := class_of(row, by)) is not None:
            groups.setdefault(name, []).append(row)
    return {name: groups[name] for name in sorted(groups, key=natural)}


def a_trial(
    name: str, *, like: float, lost: float, turned: float, at: int = 0, area: float = 0.1, kind: Kind = "window"
) -> Trial:
    """Of a place of 4 x 4 pixels: likeness (d'), share of 24 predictions lost, share of 96 images turned."""
    box = (at, 0, at + 4, 4)
    candidate = Candidate(name, box, 0.3, 0.02, 1.0, 0.005, (0,), 24, kind)
    rates = wilson(lost, 24), wilson(turned, 96), wilson(0.0, 24), wilson(0.0, 96)
    return Trial(candidate, *rates, like, (), area=area, extent=box)
