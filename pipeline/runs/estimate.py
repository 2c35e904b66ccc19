"""Estimate the cost of a run: compute a few of its images and store nothing."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from db.records import Entry
from pipeline.datasets.decoder import Picture
from pipeline.engine.explainer import Explainer
from pipeline.engine.unit import load_members
from pipeline.errors import SpecError, UnreadableImage
from pipeline.runs.stored import Floats, StoredRun

SAMPLE_IMAGES = 16  # at most, spread over the manifest: images differ in the steps that a tolerance takes
SAMPLE_SECONDS = 20.0  # that the sample may take; one image is timed even if it takes longer


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of a run, from a measured sample."""

    images: int
    paths: int  # members x baselines
    evaluations_per_image: float  # gradient evaluations; with a tolerance the sample's mean
    seconds: float  # on this machine, one worker
    sample: tuple[str, ...]  # keys of the images that were computed for it


def measure_cost(planned: StoredRun, entries: Iterable[Entry]) -> Cost:
    """Time some readable images of a planned run, spread over its manifest.

    Args:
        planned: the run, with its readers; nothing of it need be stored.
        entries: its manifest, in order.

    Raises:
        SpecError: no image can be read.
    """
    run, spec, device = planned.run, planned.spec, planned.device()
    pictures = _spread(entries, run.image_count, planned.pixels)
    if not pictures:
        raise SpecError("none of the images can be read; `attribatch run` records the reason for each")
    explainer = Explainer(spec, load_members(spec, device), samples=planned.samples(), device=device)
    explainer.compute(pictures[:1])  # the first pass also chooses kernels and touches memory
    evaluations, seconds, timed = 0.0, 0.0, list[Picture]()
    pictures = [
        picture for start in range(4) for picture in pictures[start::4]
    ]  # the time may end before all are timed
    while pictures and seconds * 2 <= SAMPLE_SECONDS:  # the next group doubles the time
        group, pictures = pictures[: len(timed) or 1], pictures[len(timed) or 1 :]
        started = time.monotonic()
        evaluations += float(explainer.compute(group).found.evaluations.double().sum())
        seconds += time.monotonic() - started
        timed += group
    paths = len(spec.models) * sum(baseline.n for baseline in spec.baselines)
    keys = tuple(picture.entry.key for picture in timed)
    return Cost(run.image_count, paths, evaluations / len(timed), seconds / len(timed) * run.image_count, keys)


def _spread(entries: Iterable[Entry], count: int, pixels: Callable[[Entry], Floats]) -> list[Picture]:
    """At most `SAMPLE_IMAGES` readable images, at even distances among `count` entries."""
    found: list[Picture] = []
    due = 0
    for row, entry in enumerate(entries):
        if row * SAMPLE_IMAGES < due * count:
            continue
        try:
            found.append(Picture(entry, entry.key, pixels(entry)))
        except UnreadableImage:
            continue
        due = row * SAMPLE_IMAGES // count + 1
    return found
