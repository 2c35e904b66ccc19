"""Reads two runs' maps, batch by batch, and compares where their evidence lies."""

from math import prod

from db.objects import Objects
from db.queries import iter_images
from db.records import Drift, ImageState, Run
from db.session import Engine
from pipeline.audits.drift import CellSums, compare, sum_cells
from pipeline.maps import layout_of
from pipeline.reading import read_maps
from pipeline.spec import RunSpec


def drift_between(database: Engine, objects: Objects, run: Run, previous: Run) -> Drift:
    """The drift of a run against an earlier one. Memory does not grow with the number of images.

    Raises:
        ObjectMissing: a map that the index names is gone.
    """

    def cells(of: Run) -> CellSums:
        one, _ = layout_of(of, RunSpec.from_json(of.spec)).arrays()["mean"]
        rows = iter_images(database, of.id, ImageState.DONE)
        return sum_cells(rows, lambda batch: read_maps(objects, batch), prod(one))

    return compare(run.id, cells(run), previous.id, cells(previous))
