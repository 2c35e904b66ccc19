"""One evaluation, start to end: members and nodes of the run, the sample in parts, every measure, intervals.

Memory does not grow with the data set: the pixels of the sample, and the tensors of one part of it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from db.records import Entry, ImageRow, ImageState
from pipeline.analysis.evaluation.baseline_dependence import AVERAGED
from pipeline.analysis.evaluation.measures import MEASURES, Measured, skip_reason
from pipeline.analysis.evaluation.results import MEANINGS, BaselinePair, ClassAgreement, Curve, Evaluation, Metric
from pipeline.analysis.evaluation.subject import RunEngine, Subject
from pipeline.analysis.statistics import bootstrap_mean
from pipeline.attribution import Profile
from pipeline.datasets.decoder import Picture
from pipeline.datasets.sampling import Sample, draw_readable, hash_key
from pipeline.engine.unit import load_members, must_take_turns
from pipeline.errors import UsageError
from pipeline.runs.stored import StoredRun
from pipeline.storage.arrays import Floats as Pixels

Drawn: TypeAlias = Sample[ImageRow, Pixels]

_PART, _PART_OF_LARGE = 64, 16  # images that are computed together, and images of more than 96 x 96 pixels


@dataclass(frozen=True)
class EvaluationRequest:
    """Size and seed of the sample, and the measures."""

    images: int = 32  # largest size of the sample; all images if the run has fewer
    seed: int = 0  # determines the sample and all random draws
    measures: Sequence[str] = ()  # names in MEASURES; empty for all


def evaluate(
    stored: StoredRun, request: EvaluationRequest, *, on_progress: Callable[[str], None] = lambda _: None
) -> Evaluation:
    """Measure a random sample of a run's maps, with the run's own members.

    Args:
        stored: a run with at least one map.
        request: the sample and the measures.
        on_progress: receives a line before each measure of each part.

    Raises:
        UsageError: an unknown measure, no map yet, or no image that can still be read.
        ModelBroken: a member raised.
        ObjectMissing: a stored map is gone.
    """
    measures = _checked(request)
    drawn = draw(stored.rows(ImageState.DONE), request.images + AVERAGED, request.seed, stored.image)
    if not drawn.items:
        why = "none of its images can be read any more" if drawn.unreadable else "it has no map yet"
        raise UsageError(f"run {stored.run.id} cannot be evaluated: {why}; see `attribatch status {stored.run.id}`")
    engine = _engine(stored, request, drawn)
    reasons = {name: skip_reason(name, engine.spec) for name in measures}
    found, rows = Measured(), drawn.items[: request.images]
    height, width = engine.spec.preprocess.height, engine.spec.preprocess.width
    size = _PART if height * width <= 96 * 96 else _PART_OF_LARGE
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        subject = _subject(engine, part, drawn.values[start : start + len(part)], stored.read_maps(part), request.seed)
        for name in (name for name, reason in reasons.items() if reason is None):
            on_progress(f"{name}: images {start + 1} to {start + len(part)} of {len(rows)}")
            found.merge(MEASURES[name](subject))
    return Evaluation(
        run_id=stored.run.id,
        images=len(rows),
        seed=request.seed,
        metrics=_metrics(found, request.seed),
        curves=_curves(found),
        baseline_sensitivity=_pairs(found),
        sign_agreement=_agreement(found, rows, request.seed),
        remarks=tuple(_remarks(stored, request, drawn, reasons)),
    )


def _checked(request: EvaluationRequest) -> Sequence[str]:
    if request.images < 1:
        raise UsageError(f"{request.images} images cannot be evaluated; choose at least 1")
    if unknown := [name for name in request.measures if name not in MEASURES]:
        raise UsageError(f"metric {unknown[0]!r} is not one of: {', '.join(MEASURES)}")
    return [name for name in MEASURES if name in (request.measures or MEASURES)]


def draw(rows: Iterable[ImageRow], wanted: int, seed: int, read: Callable[[ImageRow], Pixels]) -> Drawn:
    """A random sample of rows and their pixels (C, H, W).

    Args:
        rows: rows with a map.
        wanted: largest size of the sample.
        seed: equal seeds give equal samples; images with the same bytes are ordered by their row.
        read: reads the pixels of a row; a row whose image is unreadable is replaced by another one.
    """
    return draw_readable(
        rows,
        wanted,
        key=lambda row: hash_key(seed, "evaluate", row.sha256, row.key) + row.row.to_bytes(8, "big"),
        read=read,
    )


def _engine(stored: StoredRun, request: EvaluationRequest, drawn: Drawn) -> RunEngine:
    spec, device, samples = stored.spec, stored.device(), stored.samples()
    take_turns = must_take_turns(spec, device)
    others = drawn.values[request.images :]  # to average over; with too few, images of the sample
    return RunEngine(
        spec=spec,
        members=load_members(spec, "cpu" if take_turns else device, stored.settings.allowed_modules),
        samples=np.stack(others if len(others) > 1 else drawn.values[:AVERAGED]) if samples is None else samples,
        profiles={name: Profile(tuple(knots)) for name, knots in stored.knots().items()},
        device=device,
        take_turns=take_turns,
    )


def _subject(engine: RunEngine, rows: Sequence[ImageRow], pixels: Sequence[Pixels], maps: Pixels, seed: int) -> Subject:
    return Subject(
        engine=engine,
        pictures=[
            Picture(Entry(row.row, row.key, row.version, row.label), row.sha256 or "", own)
            for row, own in zip(rows, pixels, strict=True)
        ],
        targets=torch.tensor([row.target_index or 0 for row in rows], device=engine.device),
        maps=torch.from_numpy(maps).to(engine.device),
        seed=seed,
    )


def _remarks(
    stored: StoredRun, request: EvaluationRequest, drawn: Drawn, reasons: Mapping[str, str | None]
) -> Iterator[str]:
    images = min(len(drawn.items), request.images)
    if not stored.progress().over:
        yield "the run is not finished: the sample is drawn from the images that are done so far"
    if images < request.images:
        yield f"the sample has all {images} of the run's images, fewer than the {request.images} requested"
    if drawn.unreadable:
        few = ", ".join(row.key for row in drawn.unreadable[:3]) + (", ..." if len(drawn.unreadable) > 3 else "")
        yield f"{len(drawn.unreadable)} sampled images are gone or have changed since the run, and were left out: {few}"
    yield from (f"{name} was left out: {reason}" for name, reason in reasons.items() if reason)


def _metrics(found: Measured, seed: int) -> tuple[Metric, ...]:
    metrics = []
    for name, (better, meaning) in MEANINGS.items():
        if name in found.values:
            known = bootstrap_mean(found.values[name], found.weights.get(name), seed=seed)
            if np.isnan(known.value):
                continue
            metrics.append(Metric(name, known.value, known.low, known.high, better, known.images, meaning))
    return tuple(metrics)


def _curves(found: Measured) -> tuple[Curve, ...]:
    return tuple(
        Curve(name, *found.axes[name], y=tuple(np.nanmean(values, axis=0).tolist()))
        for name, values in found.curves.items()
        if not np.isnan(values).all()
    )


def _pairs(found: Measured) -> tuple[BaselinePair, ...]:
    pairs = []
    for (one, other), values in found.pairs.items():
        known = values[~np.isnan(values).any(axis=1)]
        if len(known):
            low, high = np.percentile(known, [10, 90], axis=0)
            figures = np.stack([known.mean(axis=0), low, high], axis=1).ravel().tolist()
            pairs.append(BaselinePair(one, other, len(known), *figures))
    return tuple(pairs)


def _agreement(found: Measured, rows: Sequence[ImageRow], seed: int) -> tuple[ClassAgreement, ...]:
    if "sign_agreement_all" not in found.values:
        return ()
    groups: dict[str, list[int]] = defaultdict(list)
    for position, row in enumerate(rows):
        groups[row.target or ""].append(position)

    def known(name: str, members: list[int]) -> tuple[float, float, float]:
        one = bootstrap_mean(found.values[name][members], seed=seed)
        return one.value, one.low, one.high

    return tuple(
        ClassAgreement(name, len(part), *known("sign_agreement_all", part), *known("sign_agreement_most", part))
        for name, part in sorted(groups.items())
    )
