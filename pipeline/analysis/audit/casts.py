"""Color casts: does a class depend on the colors of the whole image? No window can show that.

An image's cast is the median of each channel in its outer eighth, where objects are rare, and which a mark does not
change. A candidate is a class of which all or some images have a cast that other classes do not have. The permutation
test is that of `propose`, with its own draws; for RGB it is of luminance, red against green, and yellow against blue.
A cast is tested as a window is. Its images are shifted to the cast of other classes (necessity), and images of other
classes to theirs (sufficiency). The control shifts as far in other channels, or backwards if there is one channel.

At most 960 images of the 120 largest classes are read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from db.records import ImageRow
from pipeline.analysis.audit.appearance import d_prime
from pipeline.analysis.audit.measure import DONORS, LEANING, RECEIVERS, Pool, Trial, conclude, read_available
from pipeline.analysis.audit.propose import Candidate, permuted
from pipeline.analysis.audit.thresholds import MIN_IMAGES
from pipeline.analysis.statistics import Estimate, wilson
from pipeline.runs.view import Floats, RunView

IN_ALL, PER_CLASS, LEAST_EACH = 960, 48, 8
_OPPONENT = np.array([[1 / 3, 1 / 3, 1 / 3], [0.5, -0.5, 0], [0.25, 0.25, -0.5]], np.float32)


@dataclass(frozen=True)
class Palette:
    """The casts of a few images of each class."""

    rows: Mapping[str, Sequence[ImageRow]]
    colours: Mapping[str, Floats]  # (n, C) each


def cast_of(pixels: Floats) -> Floats:
    """Median of each channel in the outer eighth on each side, (n, C, H, W) -> (n, C)."""
    height, width = pixels.shape[2:]
    h, w = max(1, height // 8), max(1, width // 8)
    ring = np.ones((height, width), bool)
    ring[h : height - h, w : width - w] = False
    return np.asarray(np.median(pixels[:, :, ring], axis=2), np.float32)


def opponent(casts: Floats) -> Floats:
    """Casts (n, 3) as luminance, red against green, yellow against blue; those of one channel unchanged."""
    return casts @ _OPPONENT.T if casts.shape[1] == 3 else casts


def shift(images: Floats, sources: Floats, turn: int = 0) -> Floats:
    """Images (n, C, H, W) with the cast of others, clipped to [0, 1].

    `turn` > 0 is the control: the shift of each channel happens `turn` channels further, or backwards for one channel.
    """
    change = cast_of(sources) - cast_of(images)
    if turn:
        change = np.roll(change, turn, axis=1) if images.shape[1] > 1 else -change
    found: Floats = np.clip(images + change[:, :, None, None], 0, 1).astype(np.float32)
    return found


def read_palette(view: RunView, examined: Mapping[str, Sequence[ImageRow]]) -> Palette:
    """The casts of a few images of each class, the largest classes first."""
    most = max(LEAST_EACH, min(PER_CLASS, IN_ALL // max(1, len(examined))))
    largest = sorted(examined, key=lambda name: -len(examined[name]))[: IN_ALL // most]
    rows: dict[str, Sequence[ImageRow]] = {}
    colours: dict[str, Floats] = {}
    for name in (name for name in examined if name in set(largest)):
        kept, pixels = read_available(view, examined[name], most)
        if len(kept) >= MIN_IMAGES:
            rows[name], colours[name] = kept, opponent(cast_of(pixels))
    return Palette(rows, colours)


def propose_colours(palette: Palette, size: tuple[int, int], *, permutations: int, seed: int) -> list[Candidate]:
    """One candidate per class: the cast by which its images, or some of them, differ most from others.

    Args:
        palette: casts of two classes or more; none are proposed for fewer.
        size: height and width of the images, in pixels.
        permutations: number of random assignments of images to classes.
        seed: determines the permutations.

    Returns:
        Candidates, largest score first.
    """
    if len(palette.colours) < 2:
        return []
    table = np.concatenate(list(palette.colours.values()))  # (N, C)
    both = np.concatenate([table, -table], axis=1)
    columns = np.clip((both - np.median(both, axis=0)) / (both.std(axis=0) + 1e-6), 0, None).astype(np.float32)
    counts = np.array([len(part) for part in palette.colours.values()])
    limits, scores = permuted(columns, counts, permutations, np.random.default_rng([seed, 2]))
    ends, found = np.cumsum(counts), []
    for index, name in enumerate(palette.colours):
        column = int(scores[index].argmax())
        part = np.s_[ends[index] - counts[index] : ends[index]]
        own, others = columns[part, column], np.delete(columns[:, column], part)
        found.append(
            Candidate(
                class_name=name,
                region=(0, 0, size[1], size[0]),
                share=1.0,
                share_elsewhere=1.0,
                score=float(scores[index, column]),
                p_value=(1 + int((limits >= scores[index, column]).sum())) / (1 + permutations),
                order=tuple(int(place) for place in np.argsort(-own, kind="stable")),
                leaning=int((own > np.quantile(others, 0.95)).sum()),
                kind="colour",
            )
        )
    return sorted(found, key=lambda one: -one.score)


def run_colour_trial(
    view: RunView, candidate: Candidate, palette: Palette, pool: Pool, *, index: int, seed: int
) -> Trial | None:
    """Measure one cast.

    Args:
        view: reads images and runs the models.
        candidate: a class and its images in the order of their cast, from `propose_colours`.
        palette: the casts of all classes.
        pool: donors and receivers.
        index: output of the candidate's class.
        seed: determines the donors and receivers.

    Returns:
        The trial; None if fewer than 6 images with the cast are predicted as the class, or fewer than 6 of the pool as
        another one.
    """
    rng = np.random.default_rng([seed, index, 3])
    leaning = candidate.order[: min(LEANING, max(MIN_IMAGES, candidate.leaning))]
    wanted = [palette.rows[candidate.class_name][place] for place in leaning]
    pixels = view.read_images(wanted)
    kept = view.ask(pixels) == index
    others = np.flatnonzero(pool.predicted != index)
    if kept.sum() < MIN_IMAGES or len(others) < MIN_IMAGES:
        return None
    own = pixels[kept]
    images, donors = np.repeat(own, DONORS, axis=0), pool.pixels[rng.choice(others, len(own) * DONORS)]
    receivers = pool.pixels[rng.choice(others, RECEIVERS, replace=len(others) < RECEIVERS)]
    givers = own[rng.integers(0, len(own), RECEIVERS)]

    def measured(control: bool) -> tuple[Estimate, Estimate]:
        lost = (view.ask(shift(images, donors, int(control))) != index).mean()
        turned = (view.ask(shift(receivers, givers, int(control))) == index).mean()
        return wilson(float(lost), len(own)), wilson(float(turned), min(RECEIVERS, len(others)))

    return conclude(
        candidate,
        measured,
        likeness=d_prime(cast_of(own), cast_of(pool.pixels[others])),
        examples=[row.key for row, keep in zip(wanted, kept, strict=True) if keep],
    )
