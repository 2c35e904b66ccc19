"""Maps, keys and labels as one .npz file, written map by map: it may be larger than memory."""

from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from pipeline.runs.stored import Selection
from pipeline.storage.arrays import layout_of

_RUN = "attribatch_run.npy"


def is_export(path: Path) -> bool:
    """Whether `write` wrote the file."""
    try:
        with ZipFile(path) as archive:
            return _RUN in archive.namelist()
    except BadZipFile:
        return False


def write(selection: Selection, place: Path, _target: Path) -> int:
    """Write `maps` (n, C, H, W) float32 and by image `keys`, `labels`, `predicted` ("" if missing), `rows`.

    `attribatch_run` () is the id of the run. Failed images are left out. Images written.
    """
    named = [(row.row, row.key, row.label or "", row.predicted or "") for row in selection.done()]
    layout = layout_of(selection.run, selection.spec)
    with ZipFile(place, "w", ZIP_STORED, allowZip64=True) as archive:
        with archive.open(_RUN, "w") as file:
            _write_array(file, np.array(selection.run.id))
        for index, name in enumerate(("rows", "keys", "labels", "predicted")):
            kind: Any = np.int64 if name == "rows" else np.str_
            with archive.open(f"{name}.npy", "w") as file:
                _write_array(file, np.array([each[index] for each in named], dtype=kind))
        with archive.open("maps.npy", "w", force_zip64=True) as file:
            shape = (len(named), layout.channels, layout.height, layout.width)
            np.lib.format.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            for _, maps in selection.with_maps():
                file.write(maps.astype("<f4").tobytes())
    return len(named)


def _write_array(file: IO[bytes], values: NDArray[Any]) -> None:
    np.lib.format.write_array(file, values, allow_pickle=False)
