"""Local files and folders, written completely or not at all. Errors name the path and the remedy."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from pipeline.errors import UsageError

MARK = ".attribatch-export"  # file in each folder that an export made: no other folder is ever removed
_PREFIX = ".attribatch-part-"  # short: the target's own name may be as long as the file system allows


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A block that writes a file or folder that the user named.

    Raises:
        UsageError: the system refuses to write it.
    """
    try:
        yield
    except OSError as error:
        raise refused(path, error) from error


def refused(path: Path, error: OSError) -> UsageError:
    """The error for a path that the system refuses to write."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return UsageError(f"{path} cannot be written ({reason}); choose another path")


def make_folder(path: Path) -> None:
    """Make a folder if it is missing, and check that files can be written in it, before results are computed.

    Raises:
        UsageError: the path is a file, or the system refuses to write there.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is not a folder; choose another path")
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass


def write_file(path: Path, data: bytes) -> None:
    """Write a file and make the folders above it. An existing file is replaced.

    Raises:
        UsageError: the system refuses to write it.
    """
    with writing(path):
        if not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def replace_text(path: Path, text: str) -> None:
    """Write a UTF-8 file next to its place, then rename it: readers see the old file or the new one."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


@contextmanager
def new_file(path: Path, *, overwrite: bool, is_export: Callable[[Path], bool]) -> Iterator[Path]:
    """A file to write, which becomes `path` unless an exception leaves the block.

    Args:
        path: absolute path of the target.
        overwrite: replace a regular file that `is_export` accepts. Nothing else is ever replaced.
        is_export: returns whether a regular file was written by an export.

    Raises:
        UsageError: the target exists and may not be replaced, or the system refuses to write it.
    """
    with _named(path):
        _check_file(path, overwrite, is_export)
        with _beside(path) as part:
            yield part
            _check_file(path, overwrite, is_export)  # again: an export may take hours
            part.replace(path)


@contextmanager
def new_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """An empty folder to fill, which becomes `path` unless an exception leaves the block.

    A link to a folder is kept: its target folder becomes the export.

    Raises:
        UsageError: the target exists and may not be replaced, or the system refuses to make it.
    """
    with _named(path):
        _check_folder(path, overwrite)
        target = path.resolve() if path.is_symlink() else path
        with _beside(target) as part:
            part.mkdir()
            (part / MARK).touch()
            yield part
            _check_folder(path, overwrite)
            if target.exists():
                target.replace(part.with_name("earlier"))
            part.replace(target)


def _check_file(path: Path, overwrite: bool, is_export: Callable[[Path], bool]) -> None:
    mode = _mode(path)
    if mode is None:
        return
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a folder; choose a file")
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path} is a link or a device, which an export never replaces; choose another path")
    if not is_export(path):
        raise UsageError(f"{path} is not an earlier export of this format, so it is not replaced; choose another path")
    if not overwrite:
        raise UsageError(f"{path} is there already; set `overwrite` to replace it, or choose another path")


def _check_folder(path: Path, overwrite: bool) -> None:
    if _mode(path) is None:
        return
    if not path.is_dir():
        raise UsageError(f"{path} is not a folder; choose a new or an empty one")
    if path.resolve().is_mount():
        raise UsageError(f"{path} is a mount point, which cannot be replaced; choose a folder in it")
    if not any(path.iterdir()):
        return
    if not (path / MARK).exists():
        raise UsageError(f"{path} is not empty and was not made by an export; choose another path")
    if not overwrite:
        raise UsageError(f"{path} is there already; set `overwrite` to replace it, or choose another path")


def _mode(path: Path) -> int | None:
    """The mode of `path`, links not followed; None if nothing exists there."""
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A path to write in a temporary folder on the file system of `path`. The folder is removed at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=_PREFIX, dir=path.parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder) / "part"


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the target in errors of the system about the target or about a temporary part of it."""
    try:
        yield
    except OSError as error:
        named = str(error.filename or path)
        if _PREFIX not in named and not path.is_relative_to(named):
            raise
        raise refused(path, error) from error
