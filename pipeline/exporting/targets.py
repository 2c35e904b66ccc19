"""Where an export is written: beside its place first, and moved there when it is whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import UsageError

MARK = ".attribatch-export"  # in each folder that an export made: no other folder is ever removed


@contextmanager
def new_file(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A file to write, which becomes `path` unless an exception leaves the block.

    Raises:
        UsageError: `path` is a folder, or there and not to be overwritten.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file with --out")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is there already; give --overwrite to replace it, or another --out")
    part = _beside(path)
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """An empty folder to fill, which becomes `path` unless an exception leaves the block.

    Raises:
        UsageError: `path` is a file, or a folder that is not empty and not to be overwritten or not an export's.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file; name a folder with --out")
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise UsageError(f"{path} is not empty; give --overwrite to replace an earlier export, or another --out")
        if not (path / MARK).exists():
            raise UsageError(f"{path} was not made by an export, so it is not overwritten; give another --out")
    part = _beside(path)
    part.mkdir()
    (part / MARK).touch()
    try:
        yield part
        if path.exists():
            shutil.rmtree(path)
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.part")
