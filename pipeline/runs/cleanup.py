"""Deletes runs that somebody removes, and objects that nobody needs.

What `repair` could rebuild a run from goes only when that run is removed by name. Removing takes the rows first, then
`run.json`, then the rest: interrupted in between, the run is whole in storage and can be removed again by its id, or it
is no run any more and `collect` takes what is left. Temporary files of a folder are not its business: the store removes
those that are a day old.
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

GRACE_SECONDS = 3600.0  # somebody may be writing what is younger


@dataclass(frozen=True, slots=True)
class Collected:
    """What `gc` found."""

    deleted: tuple[str, ...]  # keys; with `dry_run` those that it would delete
    rebuildable: tuple[str, ...]  # runs that only storage knows: kept, `attribatch repair` brings them back


def find_run(database: Engine, objects: Objects, ref: str) -> tuple[str, bool]:
    """The id of a run that can be removed, and whether the index knows it; else storage alone does, by its full id.

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
    """Remove a run, or what storage has of one that the index does not know. Objects deleted.

    Args:
        database: the index.
        ledger: over it.
        objects: where the maps are.
        ref: as everywhere; a run that only storage knows by its full id.

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
    """Delete what belongs to no run: left by a removal that was interrupted, by a worker that was fenced, by `doctor`.

    Args:
        database: the index.
        objects: where the maps are.
        dry_run: only say what would go.
        now: seconds since 1970; the current time by default.
    """
    by_owner: dict[str, list[str]] = defaultdict(list)
    for key in objects.list():
        parts = key.split("/")
        if parts[0] in ("runs", "doctor") and len(parts) > 1:  # nothing else is ours
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
    except ObjectMissing:  # somebody else deletes as well
        return True
