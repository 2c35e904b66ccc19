"""The objects of a unit: its map shards, then the sidecar with all its rows and the digests of the shards.

Each is put once, the sidecar last: if a sidecar exists, so do the shards that it was written with.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from db.objects import Objects
from db.records import Entry, ImageRow, Run, Unit
from pipeline.errors import ObjectMissing
from pipeline.record_format import build, numbered, read_record
from pipeline.storage import arrays
from pipeline.storage.keys import sidecar_key


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The parts of a sidecar that are read."""

    shards: dict[str, str]  # SHA-256 of each shard, by key
    rows: list[ImageRow]

    def describes(self, entries: Sequence[Entry]) -> bool:
        """Whether its rows are those of the images of a unit, in order."""
        return [row.row for row in self.rows] == [entry.row for entry in entries]


@dataclass(frozen=True, slots=True)
class ImageResult:
    """The row, maps and path of one image. If its row is failed, the maps are NaN."""

    row: ImageRow
    mean: arrays.Floats  # (C, H, W), C = 1 if channels are summed
    std: arrays.Floats | None  # (C, H, W) over members
    path: arrays.Floats  # (2, PATH_POINTS) F(alpha) and mean absolute gradient


def encode_sidecar(
    run: Run, number: int, shards: Mapping[str, bytes], rows: Sequence[ImageRow], made_on: Mapping[str, Any]
) -> bytes:
    """Encode the sidecar of a unit.

    Args:
        run: the run that owns the unit.
        number: position of the unit in the run, from 0.
        shards: encoded shards by key.
        rows: one row for each image of the unit, in order.
        made_on: device and versions of the computation, for reproduction.

    Returns:
        JSON with a format number.
    """
    sidecar = {
        "run": run.id,
        "unit": number,
        "spec_key": run.spec_key,
        "made_on": made_on,
        "shards": {key: hashlib.sha256(data).hexdigest() for key, data in shards.items()},
        "rows": [asdict(row) for row in rows],
    }
    return json.dumps(numbered(sidecar), separators=(",", ":")).encode()


def read_sidecar(objects: Objects, key: str) -> Sidecar:
    """The sidecar of a unit.

    Raises:
        ObjectMissing: the unit has none.
        RecordTooNew: a newer version wrote it.
        ValueError: it is damaged.
    """
    return build(Sidecar, read_record(objects.get(key), key))


def stored_rows(objects: Objects, unit: Unit) -> list[ImageRow] | None:
    """The rows of an attempt that stored everything; None if there was none. Raises RecordTooNew."""
    try:
        sidecar = read_sidecar(objects, sidecar_key(unit.run_id, unit.number))
    except ObjectMissing:
        return None
    complete = all(objects.exists(key) for key in sidecar.shards)
    return sidecar.rows if complete and sidecar.describes(unit.entries) else None


def encode_maps(run: Run, layout: arrays.Layout, unit: Unit, explained: Sequence[ImageResult]) -> dict[str, bytes]:
    """Encode the shards of a unit.

    Args:
        run: the run that owns the unit.
        layout: shapes of the run's arrays.
        unit: its entries give the rows.
        explained: results of some of its images; the other rows are NaN.

    Returns:
        Encoded shards by key.
    """
    first, n = unit.entries[0].row, len(unit.entries)
    mean = np.full((n, layout.channels, layout.height, layout.width), np.nan, np.float32)
    std = np.full_like(mean, np.nan) if layout.spread else None
    path = np.full((n, 2, arrays.PATH_POINTS), np.nan, np.float32)
    for one in explained:
        mean[one.row.row - first], path[one.row.row - first] = one.mean, one.path
        if std is not None and one.std is not None:
            std[one.row.row - first] = one.std
    return arrays.encode(run.id, layout, first, arrays.UnitMaps(mean, std, path))
