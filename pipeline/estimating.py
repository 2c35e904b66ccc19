"""What a run would take: computes a few of its images and stores nothing."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from db.records import Entry, Run
from pipeline.engine import load_members
from pipeline.errors import SpecError, UnreadableImage
from pipeline.explaining import Explainer, Picture
from pipeline.maps import Floats
from pipeline.spec import RunSpec

SAMPLE_IMAGES = 2


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run would take, from a measured sample."""

    images: int
    paths: int  # members x baselines
    evaluations_per_image: float  # gradient evaluations; with a tolerance the sample's mean
    seconds: float  # on this machine, one worker
    sample: tuple[str, ...]  # keys of the images that were computed for it


def measure_cost(
    run: Run,
    spec: RunSpec,
    entries: Iterable[Entry],
    *,
    pixels: Callable[[Entry], Floats],
    samples: Floats | None,
    device: str,
) -> Cost:
    """Time the first readable images of a run.

    Args:
        run: planned, not stored.
        spec: of the run.
        entries: of its manifest.
        pixels: reads one image, (C, H, W) in [0, 1]; may raise UnreadableImage.
        samples: of the `samples` baselines.
        device: where to compute.

    Raises:
        SpecError: no image can be read.
    """
    pictures: list[Picture] = []
    for entry in entries:
        try:
            pictures.append(Picture(entry, entry.key, pixels(entry)))
        except UnreadableImage:
            continue
        if len(pictures) == SAMPLE_IMAGES + 1:
            break
    if not pictures:
        raise SpecError("none of the images can be read; `attribatch run` says why for each")
    explainer = Explainer(spec, load_members(spec, device), samples=samples, device=device)
    explainer.compute(pictures[:1])  # the first pass also chooses kernels and touches memory
    started, timed = time.monotonic(), pictures[1:] or pictures
    evaluations = float(explainer.compute(timed).found.evaluations.double().mean())
    seconds = (time.monotonic() - started) / len(timed)
    paths = len(spec.models) * sum(baseline.n for baseline in spec.baselines)
    keys = tuple(picture.entry.key for picture in timed)
    return Cost(run.image_count, paths, evaluations, seconds * run.image_count, keys)
