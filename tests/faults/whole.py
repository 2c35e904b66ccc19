"""What must hold after every fault, whatever it was. One checker, so that no fault has laws of its own."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from db.ledger import DEATHS
from db.queries import iter_images, iter_units
from db.records import ImageRow, ImageState, Run, UnitState
from pipeline.api import Pipeline
from pipeline.repair import _examined
from pipeline.storing import read_sidecar, sidecar_key


@dataclass(frozen=True)
class Undisturbed:
    """The rows and maps of a run that nothing happened to, by key of the image."""

    rows: dict[str, ImageRow]
    maps: dict[str, NDArray[np.float32]]

    @classmethod
    def of(cls, pipeline: Pipeline, run: Run) -> "Undisturbed":
        rows = list(iter_images(pipeline.database, run.id))
        assert rows, "a reference without images proves nothing"
        assert all(row.state is ImageState.DONE for row in rows)
        keys = [row.key for row in rows]
        return cls(dict(zip(keys, rows, strict=True)), dict(zip(keys, pipeline.maps(rows), strict=True)))


def whole(
    pipeline: Pipeline,
    run: Run,
    undisturbed: Undisturbed,
    *,
    failed: Collection[str] = (),
    failed_units: int = 0,
    in_vain: int = 0,
    notes: Path | None = None,
) -> list[ImageRow]:
    """The laws. Returns the rows.

    Args:
        pipeline: where the run is.
        run: over the images of the reference, and perhaps others.
        undisturbed: the reference.
        failed: keys of the images that must be failed with a reason; all others must be done.
        failed_units: units that must be failed with a reason; their images have no row.
        in_vain: computations at most that the fault may have cost beyond one for each unit.
        notes: where the processes noted each computation as it began, see `tests.faults.hands`.
    """
    progress = pipeline.status(run.id)
    assert progress.over, progress
    units = list(iter_units(pipeline.database, run.id))
    rows = list(iter_images(pipeline.database, run.id))

    # Every image exactly one row, done or failed with a reason.
    broken = [unit for unit in units if unit.state is UnitState.FAILED]
    assert len(broken) == failed_units, [unit.error for unit in broken]
    assert all(unit.error for unit in broken), "a unit failed without a reason"
    assert all(unit.state is UnitState.DONE for unit in units if unit not in broken)
    without = {entry.row for unit in broken for entry in unit.entries}
    assert sorted([row.row for row in rows] + list(without)) == list(range(run.image_count))
    assert {row.key for row in rows if row.state is ImageState.FAILED} == set(failed)
    assert all(row.error for row in rows if row.state is ImageState.FAILED), "an image failed without a reason"
    done = [row for row in rows if row.state is ImageState.DONE]
    assert progress.images_done == len(done)
    assert progress.images_failed == len(failed)

    # Every done row's map is readable and that of the undisturbed run; so are its figures.
    maps = pipeline.maps(done) if done else []
    for row, one in zip(done, maps, strict=True):
        assert np.isfinite(one).all(), row.key
        if (expected := undisturbed.rows.get(row.key)) is not None:
            assert (row.sha256, row.predicted, row.target) == (expected.sha256, expected.predicted, expected.target)
            np.testing.assert_allclose(one, undisturbed.maps[row.key], rtol=2e-3, atol=1e-5, err_msg=row.key)
    assert set(undisturbed.rows) <= {row.key for row in rows} or without

    # What is stored stands for itself: sidecars hold the rows, and the digests of the shards beside them.
    for unit in units:
        if unit.state is UnitState.DONE:
            key = sidecar_key(run.id, unit.number)
            damaged, told = _examined(pipeline.objects, key, unit)
            assert not damaged, f"unit {unit.number}: {damaged}"
            assert told == [row for row in rows if row.row in {entry.row for entry in unit.entries}]
            assert read_sidecar(pipeline.objects.get(key))[1] == told

    # No unit was computed more often than attempts allow, nor more often than the fault explains.
    allowed = pipeline.settings.max_attempts + DEATHS * len(failed)
    assert all(unit.attempt <= allowed for unit in units), [unit.attempt for unit in units]
    if notes is not None:
        computed = Counter(number for run_id, number in noted(notes) if run_id == run.id)
        assert set(computed) == {unit.number for unit in units}, "every unit was computed by somebody"
        assert max(computed.values()) <= allowed, computed
        assert sum(computed.values()) - len(units) <= in_vain, computed
    return rows


def noted(notes: Path) -> list[tuple[str, int]]:
    """Run and number of the unit of each computation that began."""
    lines = notes.read_text().splitlines() if notes.exists() else []
    return [(run_id, int(number)) for run_id, number, *_ in map(str.split, lines)]
