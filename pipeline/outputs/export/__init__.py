"""Exports the results of a run for other tools: one module for each format.

| format | content | opened by |
| --- | --- | --- |
| parquet | a file: every column of the index, the run in the schema's metadata | pyarrow, duckdb, pandas, polars |
| npz | a file: `maps`, `keys`, `labels`, `predicted`, `rows`, `attribatch_run` | numpy |
| png | a folder: an overlay for each image, and `index.csv` | anything |
| virelay | a folder: a ViRelAy project with its HDF5 files | ViRelAy |
| fiftyone | a folder: a FiftyOneDataset with heat maps | FiftyOne |
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.runs.stored import Selection
from pipeline.storage.files import new_file, new_folder

__all__ = ["FORMATS", "Exported", "Selection", "export"]

# By format: whether it is a folder, and the modules that it needs.
FORMATS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "parquet": (False, ("pyarrow",)),
    "npz": (False, ()),
    "png": (True, ()),
    "virelay": (True, ("h5py", "yaml")),
    "fiftyone": (True, ()),
}
_DISTRIBUTIONS = {"yaml": "PyYAML"}  # modules that are installed under another name


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of an export."""

    path: Path
    format: str
    images: int
    skipped: int  # failed images, and where pixels are needed those whose file is gone or has changed


def export(selection: Selection, *, format_name: str, path: Path, overwrite: bool = False) -> Exported:
    """Write some images of a run; whole or not at all.

    Args:
        selection: the images, in order.
        format_name: a key of `FORMATS`.
        path: file or folder to make.
        overwrite: replace an earlier export at that path. Other files are never replaced.

    Raises:
        UsageError: there is no such format, a package for it is missing, or the target is not to be
            replaced or cannot be written.
        ObjectMissing: a map that the index names is gone.
    """
    if format_name not in FORMATS:
        raise UsageError(f"no format {format_name!r}; choose one of {', '.join(FORMATS)}")
    is_folder, packages = FORMATS[format_name]
    _check_installed(packages, format_name)
    module = import_module(f"pipeline.outputs.export.{format_name}")
    write: Callable[[Selection, Path, Path], int] = module.write
    target = path.expanduser().absolute()
    with (
        new_folder(target, overwrite=overwrite)
        if is_folder
        else new_file(target, overwrite=overwrite, is_export=module.is_export)
    ) as place:
        images = write(selection, place, target)
    return Exported(target, format_name, images, selection.count() - images)


def _check_installed(modules: Sequence[str], format_name: str) -> None:
    missing = [_DISTRIBUTIONS.get(module, module) for module in modules if not _is_installed(module)]
    if missing:
        raise UsageError(f"the format {format_name} needs missing packages: pip install {' '.join(missing)}")


def _is_installed(module: str) -> bool:
    try:
        import_module(module)
    except ModuleNotFoundError:
        return False
    return True
