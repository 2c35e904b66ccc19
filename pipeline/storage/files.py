"""Places that somebody names with --out: what the system says of them becomes a sentence with its remedy."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from pipeline.errors import UsageError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A block that writes a file or folder which somebody named.

    Raises:
        UsageError: the system refuses.
    """
    try:
        yield
    except OSError as error:
        raise refused(path, error) from error


def refused(path: Path, error: OSError) -> UsageError:
    """What to say where the system refuses to write a path."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return UsageError(f"{path} cannot be written ({reason}); give another --out")


def make_folder(path: Path) -> None:
    """Make a folder where there is none, and see that files can be written in it: before work whose results go there.

    Raises:
        UsageError: it is a file, or the system refuses.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is no folder; name one with --out")
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass


def write_file(path: Path, data: bytes) -> None:
    """Write a file, with the folders above it; one that is there is replaced.

    Raises:
        UsageError: the system refuses.
    """
    with writing(path):
        if not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
