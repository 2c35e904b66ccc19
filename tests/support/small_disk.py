"""Runs on a disk that fills up: a real one, or, where no process may mount one, calls that fail as if it were full."""

import ctypes
import errno
import multiprocessing
import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch
from sqlalchemy import event
from sqlalchemy.pool import Pool

from db.records import UnitState
from pipeline.api import Pipeline
from pipeline.engine import unit
from pipeline.errors import StoreFull
from pipeline.runs.submit import RunRequest
from pipeline.settings import Settings
from tests.support import workers
from tests.support.cluster import finish
from tests.support.invariants import Reference, check_run

DISK_BYTES = 4 << 20
_NEW_MOUNTS, _NEW_USER = 0x20000, 0x10000000
_PRIVATE = 1 << 18 | 1 << 14


class Disk(Protocol):
    """One that can be filled to the brim and emptied again."""

    def fill(self) -> None: ...

    def free(self) -> None: ...


class Tmpfs:
    """A real disk of 4 MiB, seen by this process alone."""

    def __init__(self, folder: Path) -> None:
        libc, ids = ctypes.CDLL(None, use_errno=True), (os.getuid(), os.getgid())
        _checked(libc.unshare(_NEW_MOUNTS if ids[0] == 0 else _NEW_MOUNTS | _NEW_USER))
        if ids[0] != 0:
            Path("/proc/self/setgroups").write_text("deny")
            for name, number in zip(("uid_map", "gid_map"), ids, strict=True):
                Path(f"/proc/self/{name}").write_text(f"{number} {number} 1")
        _checked(libc.mount(b"none", b"/", None, _PRIVATE, None))
        size = f"size={DISK_BYTES}".encode()
        _checked(libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, size))
        self._filler = folder / "filler"

    def fill(self) -> None:
        with self._filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        self._filler.unlink()


class SimulatedDisk:
    """Says ENOSPC where objects are written and SQLITE_FULL where the index grows, while it is full."""

    def __init__(self, folder: Path) -> None:
        self._full = False
        link = os.link

        def refuse(*args: object, **options: object) -> None:
            if self._full and str(args[1]).startswith(str(folder)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            link(*args, **options)  # type: ignore[arg-type]

        os.link = refuse  # type: ignore[assignment]

        @event.listens_for(Pool, "checkout")
        def limit(connection: sqlite3.Connection, *_: object) -> None:
            within = str(folder) in connection.execute("PRAGMA database_list").fetchone()[2]
            pages = 1 if self._full and within else 1 << 30
            connection.execute(f"PRAGMA max_page_count = {pages}")

    def fill(self) -> None:
        self._full = True

    def free(self) -> None:
        self._full = False


def _checked(result: int) -> None:
    if result != 0:
        raise PermissionError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def run(request: RunRequest, reference: Reference, folder: Path, what: str, *, simulate: bool = False) -> int:
    """The exit code of a process that fills the disk of the maps or of the index in the middle of a run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([workers.__name__])
    process = context.Process(target=_live, args=(request, reference, folder, what, simulate))
    process.start()
    process.join(100)
    if process.is_alive():
        process.kill()
    return process.exitcode or 0


def _live(request: RunRequest, reference: Reference, folder: Path, what: str, simulate: bool) -> None:
    with (folder / "said").open("wb") as log:
        os.dup2(log.fileno(), 2)
    small, other = folder / "small", folder / "other"
    small.mkdir(parents=True)
    disk: Disk
    try:
        disk = SimulatedDisk(small) if simulate else Tmpfs(small)
    except OSError as error:
        sys.stderr.write(f"no disk may be mounted here ({error}): one is pretended\n")
        disk = SimulatedDisk(small)
    torch.set_num_threads(1)
    unit.RETRY_SECONDS = workers.RETRY_SECONDS
    homes = {"maps": (other, small), "index": (small, other)}[what]
    settings = Settings.from_env(
        {
            "ATTRIBATCH_HOME": str(other),
            "ATTRIBATCH_DATABASE_URL": f"sqlite:///{homes[0] / 'index.db'}",
            "ATTRIBATCH_OBJECTS_URL": (homes[1] / "objects").as_uri(),
            "ATTRIBATCH_DEVICE": "cpu",
            "ATTRIBATCH_LEASE_SECONDS": "1",
            "ATTRIBATCH_MAX_ATTEMPTS": "2",
        }
    )
    with Pipeline(settings) as pipeline:
        {"maps": _maps, "index": _index}[what](pipeline, request, reference, disk, folder)


def _maps(pipeline: Pipeline, request: RunRequest, reference: Reference, disk: Disk, folder: Path) -> None:
    stored = pipeline.submit(request)
    disk.fill()
    finish(pipeline, stored)
    status = pipeline.status(stored.id)
    broken = status.units[UnitState.FAILED]
    assert broken > 0, "the disk was not full"
    assert any("No space left on device" in error for error in status.errors), status.errors
    check_run(pipeline, stored, reference, failed_units=broken)
    disk.free()
    assert pipeline.retry(stored.id) == broken
    finish(pipeline, stored)
    check_run(pipeline, stored, reference)


def _index(pipeline: Pipeline, request: RunRequest, reference: Reference, disk: Disk, folder: Path) -> None:
    stored = pipeline.submit(request)
    disk.fill()
    with suppress(StoreFull):  # or units are failed, where that can be recorded
        finish(pipeline, stored)
    assert pipeline.status(stored.id).images_done < stored.image_count, "the disk was not full"
    disk.free()
    _again(lambda: pipeline.retry(stored.id))
    finish(pipeline, stored)
    check_run(pipeline, stored, reference)


def _again(step: Callable[[], object]) -> None:
    with suppress(StoreFull):  # a connection may remember once that the disk was full
        step()
