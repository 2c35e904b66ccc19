"""Delete runs by name, and stored objects that no run needs.

Objects from which `repair` could rebuild a run are deleted only when that run is removed by name. A removal deletes the
rows first, then `run.json`, then the other objects. If it is interrupted, either the run is complete in storage and can
be removed again by its id, or its `run.json` is gone and `collect` deletes the rest. The folder store itself removes
temporary files that are older than a day.
"""

import time
from collections import defaultdict
from dataclasses import dataclass

from db.ledger import Ledger
from db.objects import Objects
from db.queries import get_run, list_runs
from db.session import Engine
from pipeline.errors import NotFound, ObjectMissing
from pipeline.storage.keys import manifest_key, run_key

GRACE_SECONDS = 3600.0  # younger objects may belong to a run that is being written


@dataclass(frozen=True, slots=True)
class Collected:
    """Result of `gc`."""

    deleted: tuple[str, ...]  # keys; with `dry_run` the keys that it would delete
    rebuildable: tuple[str, ...]  # runs in storage without a row in the index: kept, `attribatch repair` restores them


def find_run(database: Engine, objects: Objects, ref: str) -> tuple[str, bool]:
    """The id of a run that can be removed, and whether it is in the index. A run only in storage needs its full id.

    Raises:
        NotFound: no such run.
    """
    try:
        return get_run(database, ref).id, True
    except NotFound:
        if "/" in ref or not ref or not objects.exists(run_key(ref)):
            raise
        return ref, False


def remove(database: Engine, ledger: Ledger, objects: Objects, ref: str) -> int:
    """Remove a run from the index and from storage.

    Args:
        database: index that may have the run.
        ledger: ledger over the same index; it refuses runs that are in use.
        objects: object store of the runs.
        ref: id, prefix of an id, name, or `latest`; the full id for a run that is only in storage.

    Returns:
        Number of objects deleted.

    Raises:
        NotFound: no such run.
        UsageError: a unit of it is being computed, or another run shows its maps.
    """
    run_id, is_indexed = find_run(database, objects, ref)
    if is_indexed:
        ledger.remove(run_id)
    keys = list(objects.list(f"runs/{run_id}/"))
    for key in sorted(keys, key=lambda key: key != run_key(run_id)):
        objects.delete(key)
    return len(keys)


def collect(database: Engine, objects: Objects, *, dry_run: bool, now: float | None = None) -> Collected:
    """Delete objects without a run: leftovers of interrupted removals, of fenced workers and of `doctor`.

    Args:
        database: index of the runs to keep.
        objects: object store of the runs.
        dry_run: list the keys and delete nothing.
        now: seconds since 1970; the current time by default.
    """
    by_owner: dict[str, list[str]] = defaultdict(list)
    for key in objects.list():
        parts = key.split("/")
        if parts[0] in ("runs", "doctor") and len(parts) > 1:  # attribatch writes nothing else that `gc` may delete
            by_owner["/".join(parts[:2])].append(key)
    known = {f"runs/{run.id}" for run in list_runs(database)}  # after the listing: a run's rows precede its objects
    deleted: list[str] = []
    rebuildable: list[str] = []
    before = (time.time() if now is None else now) - GRACE_SECONDS
    for owner, keys in by_owner.items():
        run_id = owner.removeprefix("runs/")
        if owner in known:
            continue
        if {run_key(run_id), manifest_key(run_id)} <= set(keys):
            rebuildable.append(run_id)
        elif all(_is_older(objects, key, before) for key in keys):
            deleted += keys
    for key in () if dry_run else deleted:
        objects.delete(key)
    return Collected(tuple(deleted), tuple(rebuildable))


def _is_older(objects: Objects, key: str, before: float) -> bool:
    try:
        return objects.modified(key) < before
    except ObjectMissing:  # another process deleted it
        return True
