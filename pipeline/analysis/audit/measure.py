"""Measures the effect of a window on the model: swap it, paste it, and do the same at random places. Does not decide.

- necessity: the images of the class that lean on the window most get the same window of images of other classes; the
  rate of predictions that are lost.
- sufficiency: images of other classes get the window of those leaning images; the rate that turns into the class.
- controls: the same trials, same images and donors, with windows of that size at four random places.
- likeness: distance of the window's content in the leaning images from that in all others (d', see `appearance`), and
  the images with the largest distance: if there is a mark, they have it, and are tested by themselves.
- without: flip rate when the window comes from unmarked images of the class, that is, the object's own effect.

Content comes from other images of the data set, so that the input of the model stays near its data; a gray box would
not. Donors and receivers come from one pool of images, balanced over classes and read once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from db.records import ImageRow
from pipeline.analysis.audit.appearance import contrast, d_prime, extent, lower_end, most_alike, parted
from pipeline.analysis.audit.boxes import Box, area_of, cut, overlap, paste
from pipeline.analysis.audit.propose import Candidate
from pipeline.analysis.audit.thresholds import ALIKE, MIN_IMAGES, USE
from pipeline.analysis.statistics import Estimate, wilson
from pipeline.runs.view import Floats, RunView

LEANING = 24  # images that are swapped: with 16, a loss of 20 points would not exceed a control of 0
DONORS = 4  # donors for each swapped image
RECEIVERS = 96  # images of other classes into which the window is pasted
POOL = 192  # donors and receivers are drawn from these
COMPARED = 96  # images that lean on a used window whose content is compared
EXAMPLES = 6


@dataclass(frozen=True)
class Trial:
    """The measurements of one candidate."""

    candidate: Candidate
    necessity: Estimate
    sufficiency: Estimate
    control_necessity: Estimate
    control_sufficiency: Estimate
    likeness: float  # d' of local contrast of the tested images, or of all with a mark; for a cast, d' of casts
    examples: tuple[str, ...]  # keys of images that lean on it most; images with like content first
    compared: int | None = None  # number of images behind `likeness`, if it differs from the number swapped
    alike: tuple[str, ...] = ()  # keys of the leaning images whose content is most alike; empty for a cast
    alike_likeness: float = 0.0  # the d' of these
    bare: tuple[str, ...] = ()  # keys of the other leaning images, least alike first
    mixed: bool = False  # whether some of the tested images are in `bare`
    without: Estimate | None = None  # flip rate of the place from images of the class that are not alike
    area: float = 1.0  # share of the image that the candidate covers, 0..1; 1 for a cast
    extent: Box | None = None  # of the pixels by which the alike images differ from others: the mark, if it is one

    @property
    def worth(self) -> bool:
        """Whether its effect is that of a used place: only then is a control needed."""
        return max(self.necessity.value, self.sufficiency.value) >= USE

    @property
    def surely(self) -> float:
        """Lower end of its likeness, which is uncertain for few images."""
        return lower_end(self.likeness, self.compared or self.necessity.images)


@dataclass(frozen=True)
class Pool:
    """Images that lend and receive content."""

    pixels: Floats  # (n, C, H, W)
    predicted: NDArray[np.int64]  # (n,)
    contrast: Floats  # (n, H, W), from `appearance.contrast`


def read_available(view: RunView, rows: Sequence[ImageRow], most: int) -> tuple[list[ImageRow], Floats]:
    """The first `most` rows whose images are still available, and their pixels. No other image is read."""
    kept: list[ImageRow] = []
    for row in rows:
        if len(kept) == most:
            break
        if view.available(row):
            kept.append(row)
    return kept, view.read_images(kept)


def draw_pool(view: RunView, rows: Sequence[ImageRow], rng: np.random.Generator) -> Pool:
    """A random pool, balanced over predicted classes."""
    seen: dict[str | None, int] = {}
    turns = []
    for index in rng.permutation(len(rows)):
        name = rows[index].predicted
        turns.append((seen.setdefault(name, 0), int(index)))
        seen[name] += 1
    drawn = [rows[index] for _, index in sorted(turns, key=lambda turn: turn[0])]
    _, pixels = read_available(view, drawn, POOL)
    return Pool(pixels, view.ask(pixels), contrast(pixels))


def run_trial(
    view: RunView,
    candidate: Candidate,
    rows: Sequence[ImageRow],
    pool: Pool,
    *,
    index: int,
    seed: int,
    bare: Sequence[ImageRow] | None = None,
) -> Trial | None:
    """Measure one candidate.

    Args:
        view: reads images and runs the models.
        candidate: the place, and its images in the order of their share.
        rows: examined images of the class, to which the candidate's `order` refers.
        pool: donors and receivers.
        index: output of the class.
        seed: determines the donors, receivers and random places.
        bare: if the candidate's images are those with a mark, other images of the class that lean on the place; the
            effect of pasting from them is the object's own.

    Returns:
        The trial; None if fewer than 6 leaning images are predicted as the class, or fewer than 6 of the pool as
        another one.
    """
    rng = np.random.default_rng([seed, index, *candidate.region])
    ordered = [rows[position] for position in candidate.order]
    wanted, own = _predicted_as(index, view, ordered, min(LEANING, max(MIN_IMAGES, candidate.leaning)))
    others = np.flatnonzero(pool.predicted != index)
    if len(own) < MIN_IMAGES or len(others) < MIN_IMAGES:
        return None
    places = np.array([candidate.region, *_elsewhere(candidate.region, view.size, rng)])  # (5, 4): then controls
    images, donors = np.repeat(own, DONORS, axis=0), pool.pixels[rng.choice(others, len(own) * DONORS)]
    receivers = pool.pixels[rng.choice(others, RECEIVERS, replace=len(others) < RECEIVERS)]

    def turned(sources: Floats, control: bool) -> Estimate:
        givers = sources[rng.integers(0, len(sources), RECEIVERS)]
        answers = view.ask(paste(receivers, givers, _places(places, RECEIVERS, control=control)))
        return wilson(float((answers == index).mean()), min(RECEIVERS, len(others)))

    def measured(control: bool) -> tuple[Estimate, Estimate]:
        answers = view.ask(paste(images, donors, _places(places, len(images), control=control)))
        return wilson(float((answers != index).mean()), len(own)), turned(own, control)

    trial = conclude(candidate, measured, examples=[row.key for row in wanted])
    trial = _with_content(trial, wanted, own, pool, others, compared=len(own))
    if candidate.leaning > LEANING and (trial.worth or lower_end(trial.alike_likeness, len(trial.alike)) >= ALIKE):
        wanted, own = _predicted_as(index, view, ordered, min(COMPARED, candidate.leaning))
        compared = trial.necessity.images if bare is None else len(own)
        trial = _with_content(trial, wanted, own, pool, others, compared=compared)
    if trial.worth and bare is not None and len(bare) >= MIN_IMAGES:
        _, without = _predicted_as(index, view, bare, LEANING)
        trial = replace(trial, without=turned(without, control=False) if len(without) >= MIN_IMAGES else None)
    return trial


def _predicted_as(index: int, view: RunView, rows: Sequence[ImageRow], most: int) -> tuple[list[ImageRow], Floats]:
    """Those of the first `most` available rows that are predicted as a class, and their pixels."""
    wanted, pixels = read_available(view, rows, most)
    kept = view.ask(pixels) == index
    return [row for row, keep in zip(wanted, kept, strict=True) if keep], pixels[kept]


def _with_content(
    trial: Trial, rows: Sequence[ImageRow], own: Floats, pool: Pool, others: NDArray[np.int64], *, compared: int
) -> Trial:
    """A trial with the content of its place in the leaning images; `likeness` is of the first `compared` ones."""
    box, tested = trial.candidate.region, trial.necessity.images
    own_contrast, other_contrast = contrast(own), pool.contrast[others]
    content, elsewhere = cut(own_contrast, box), cut(other_contrast, box)
    value, part = most_alike(content, elsewhere)
    part, unlike = parted(content, elsewhere, part)
    alike = tuple(rows[i].key for i in part)
    return replace(
        trial,
        likeness=d_prime(content[:compared], elsewhere),
        compared=compared,
        area=area_of(box) / pool.pixels[0, 0].size,
        alike=alike,
        bare=tuple(rows[i].key for i in unlike),
        alike_likeness=value,
        mixed=not set(range(tested)) <= set(part.tolist()),
        extent=extent(own_contrast[part], other_contrast, box),
        examples=tuple(dict.fromkeys((*alike, *trial.examples)))[:EXAMPLES],
    )


def conclude(
    candidate: Candidate,
    measured: Callable[[bool], tuple[Estimate, Estimate]],
    *,
    examples: Sequence[str],
    likeness: float = 0.0,
) -> Trial:
    """A trial from a function that gives necessity and sufficiency, or those of the control.

    The control is measured only if one of them reaches `USE`; else its rates are NaN.

    Args:
        candidate: the place or cast.
        measured: gives necessity and sufficiency; of the control if its argument is True.
        examples: keys of images that lean on the candidate most, of which the first 6 are kept.
        likeness: d' of a cast; that of a place is added later.
    """
    unknown = Estimate(math.nan, math.nan, math.nan, 0)
    trial = Trial(candidate, *measured(False), unknown, unknown, likeness, tuple(examples[:EXAMPLES]))
    if not trial.worth:
        return trial
    necessity, sufficiency = measured(True)
    return replace(trial, control_necessity=necessity, control_sufficiency=sufficiency)


def _places(places: NDArray[np.int64], count: int, *, control: bool) -> NDArray[np.int64]:
    """Boxes of images (count, 4): always the window, or the random places in rotation."""
    return places[np.arange(count) % (len(places) - 1) + 1] if control else np.repeat(places[:1], count, axis=0)


def _elsewhere(box: Box, size: tuple[int, int], rng: np.random.Generator) -> list[Box]:
    """Four random places of the box's size that overlap it by a quarter at most (by any amount after 100 attempts)."""
    (height, width), (across, down) = size, (box[2] - box[0], box[3] - box[1])
    found: list[Box] = []
    for attempt in range(200):
        x, y = int(rng.integers(0, width - across + 1)), int(rng.integers(0, height - down + 1))
        place = (x, y, x + across, y + down)
        if attempt >= 100 or overlap(place, box) <= 0.25:
            found.append(place)
        if len(found) == 4:
            break
    return found
