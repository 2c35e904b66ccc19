"""What must hold after every fault, whatever it was. One checker, so that no fault has laws of its own."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from db.queries import UnitRow, iter_images, iter_units
from db.records import DEATHS, ImageRow, ImageState, Run, UnitState
from pipeline.api import Pipeline
from pipeline.runs.repair import _examined
from pipeline.storage.keys import sidecar_key


@dataclass(frozen=True)
class Reference:
    """The rows and maps of a run that nothing happened to, by key of the image."""

    rows: dict[str, ImageRow]
    maps: dict[str, NDArray[np.float32]]

    @classmethod
    def of(cls, pipeline: Pipeline, run: Run) -> "Reference":
        rows = list(iter_images(pipeline.database, run.id))
        assert rows, "a reference without images proves nothing"
        assert all(row.state is ImageState.DONE for row in rows)
        keys = [row.key for row in rows]
        return cls(dict(zip(keys, rows, strict=True)), dict(zip(keys, pipeline.read_maps(rows), strict=True)))


def check_run(
    pipeline: Pipeline,
    run: Run,
    reference: Reference,
    *,
    failed: Collection[str] = (),
    failed_units: int = 0,
    recomputed: int = 0,
    notes: Path | None = None,
) -> list[ImageRow]:
    """The laws. Returns the rows.

    Args:
        pipeline: where the run is.
        run: over the images of the reference, and perhaps others.
        reference: rows and maps of the run without faults.
        failed: keys of the images that must be failed with a reason; all others must be done.
        failed_units: units that must be failed with a reason; their images have no row.
        in_vain: computations at most that the fault may have cost beyond one for each unit.
        notes: where the processes noted each computation as it began, see `tests.support.workers`.
    """
    units = list(iter_units(pipeline.database, run.id))
    rows = list(iter_images(pipeline.database, run.id))
    _one_row_each(pipeline, run, units, rows, set(failed), failed_units)
    _maps_alike(pipeline, rows, reference)
    assert failed_units or set(reference.rows) <= {row.key for row in rows}
    _stored_alike(pipeline, run, units, rows)
    allowed = pipeline.settings.max_attempts + DEATHS * len(failed)
    assert all(unit.attempt <= allowed for unit in units), [unit.attempt for unit in units]
    if notes is not None:
        computed = Counter(number for run_id, number in computed_units(notes) if run_id == run.id)
        assert set(computed) == {unit.number for unit in units}, "every unit was computed by somebody"
        assert max(computed.values()) <= allowed, computed
        assert sum(computed.values()) - len(units) <= recomputed, computed
    return rows


def _one_row_each(
    pipeline: Pipeline, run: Run, units: list[UnitRow], rows: list[ImageRow], failed: set[str], failed_units: int
) -> None:
    """Every image has exactly one row, done or failed with a reason."""
    progress = pipeline.status(run.id)
    assert progress.over, progress
    broken = [unit for unit in units if unit.state is UnitState.FAILED]
    assert len(broken) == failed_units, [unit.error for unit in broken]
    assert all(unit.error for unit in broken), "a unit failed without a reason"
    assert all(unit.state is UnitState.DONE for unit in units if unit not in broken)
    without = [entry.row for unit in broken for entry in unit.entries]
    assert sorted([row.row for row in rows] + without) == list(range(run.image_count))
    assert {row.key for row in rows if row.state is ImageState.FAILED} == failed
    assert all(row.error for row in rows if row.state is ImageState.FAILED), "an image failed without a reason"
    assert (progress.images_done, progress.images_failed) == (len(rows) - len(failed), len(failed))


def _maps_alike(pipeline: Pipeline, rows: list[ImageRow], reference: Reference) -> None:
    """Every done row's map is readable and that of the reference; so are its figures."""
    done = [row for row in rows if row.state is ImageState.DONE]
    for row, one in zip(done, pipeline.read_maps(done) if done else [], strict=True):
        assert np.isfinite(one).all(), row.key
        if (expected := reference.rows.get(row.key)) is not None:
            assert (row.sha256, row.predicted, row.target) == (expected.sha256, expected.predicted, expected.target)
            np.testing.assert_allclose(one, reference.maps[row.key], rtol=2e-3, atol=1e-5, err_msg=row.key)


def _stored_alike(pipeline: Pipeline, run: Run, units: list[UnitRow], rows: list[ImageRow]) -> None:
    """What is stored stands for itself: sidecars hold the rows, and the digests of the shards beside them."""
    for unit in units:
        if unit.state is UnitState.DONE:
            damaged, told = _examined(pipeline.objects, sidecar_key(run.id, unit.number), unit)
            assert not damaged, f"unit {unit.number}: {damaged}"
            assert told == [row for row in rows if row.row in {entry.row for entry in unit.entries}]


def computed_units(notes: Path) -> list[tuple[str, int]]:
    """Run and number of the unit of each computation that began."""
    lines = notes.read_text().splitlines() if notes.exists() else []
    return [(run_id, int(number)) for run_id, number, *_ in map(str.split, lines)]
