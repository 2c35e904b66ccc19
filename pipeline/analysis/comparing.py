"""Reads two runs' maps, batch by batch, and compares where their evidence lies."""

from itertools import islice
from math import prod

from db.objects import Objects
from db.pair_queries import count_unmatched, iter_pairs
from db.queries import iter_images
from db.records import Drift, ImageState, Run
from db.session import Engine
from pipeline.analysis import drift
from pipeline.analysis.comparison import Comparison, Sums, batch_size
from pipeline.errors import UsageError
from pipeline.runs.view import By
from pipeline.spec.describe import differences
from pipeline.spec.run_spec import RunSpec
from pipeline.storage.arrays import layout_of
from pipeline.storage.reader import read_maps


def drift_between(database: Engine, objects: Objects, run: Run, previous: Run) -> Drift:
    """The drift of a run against an earlier one. Memory does not grow with the number of images.

    Raises:
        ObjectMissing: a map that the index names is gone.
    """

    def cells(of: Run) -> drift.CellSums:
        one, _ = layout_of(of, RunSpec.from_json(of.spec)).arrays()["mean"]
        rows = iter_images(database, of.id, ImageState.DONE)
        return drift.sum_cells(rows, lambda batch: read_maps(objects, batch), prod(one))

    return drift.compare(run.id, cells(run), previous.id, cells(previous))


def compare(database: Engine, objects: Objects, a: Run, b: Run, *, by: By = "predicted", limit: int = 20) -> Comparison:
    """What differs between two runs, image by image. Memory does not grow with the number of images.

    Args:
        database: the index.
        objects: where the maps are.
        a: the run that is compared with.
        b: the other one.
        by: classes are the ones that A has predicted, or those of its labels.
        limit: images to list.

    Raises:
        UsageError: no image has a map in both, or the maps have another height and width.
        ObjectMissing: a map that the index names is gone.
    """
    spec_a, spec_b = RunSpec.from_json(a.spec), RunSpec.from_json(b.spec)
    values = _values_of_a_map(a, spec_a, b, spec_b)
    sums, pairs = Sums(by, limit), iter_pairs(database, a.id, b.id)
    while batch := list(islice(pairs, batch_size(values))):
        sums.add(batch, read_maps(objects, [row for row, _ in batch]), read_maps(objects, [row for _, row in batch]))
    if not sums.images:
        raise UsageError(f"runs {a.id} and {b.id} have no image in common that both have a map of; keys are compared")
    moved = sums.drift(a.id, b.id)
    return Comparison(
        run_a=a.id,
        run_b=b.id,
        by=by,
        spec=differences(a, b),
        shared_images=sums.images,
        only_a=count_unmatched(database, a.id, b.id),
        only_b=count_unmatched(database, b.id, a.id),
        changed_files=sums.changed_files,
        flips=sums.flips,
        cosine=sums.quantiles("cosine"),
        rank_correlation=sums.quantiles("rank_correlation"),
        distance=sums.quantiles("distance"),
        drift=moved.drift,
        ndcg=moved.ndcg,
        class_drift=moved.class_drift,
        classes=sums.classes(moved),
        changed=tuple(sums.changed),
    )


def _values_of_a_map(a: Run, spec_a: RunSpec, b: Run, spec_b: RunSpec) -> int:
    """Numbers in the larger of two maps."""
    one, other = layout_of(a, spec_a), layout_of(b, spec_b)
    if (one.height, one.width) != (other.height, other.width):
        raise UsageError(
            f"maps of run {a.id} are {one.height} x {one.width} (height x width), those of run {b.id} "
            f"{other.height} x {other.width}: compare runs whose models take the same input, see --input-size"
        )
    return max(one.channels, other.channels) * one.height * one.width
