"""Rebuild the index from object storage, which has the record, the manifest and the rows of all units of each run.

Every shard is read and its digest compared: a unit whose objects are missing or damaged is queued again.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from db.ledger import Ledger
from db.objects import Objects
from db.queries import UnitRow, dangling, iter_images, iter_units, list_runs
from db.records import ImageRow, ImageState, Run, UnitState
from db.session import Engine
from pipeline.errors import MapsGone, ObjectMissing, RecordTooNew
from pipeline.record_format import build, is_newer, read_record
from pipeline.runs.plan import drafts, read_manifest
from pipeline.spec.run_spec import RunSpec
from pipeline.storage import arrays
from pipeline.storage.keys import manifest_key, sidecar_key
from pipeline.storage.sidecar import read_sidecar


@dataclass(frozen=True, slots=True)
class Repaired:
    """Result of a repair."""

    runs: int
    units_intact: int
    units_restored: int  # their rows came back from their sidecars
    units_queued_again: int  # an object was missing or damaged: `attribatch run` computes them again
    damaged: tuple[str, ...]  # keys of those objects, and of records that cannot be read
    newer: tuple[str, ...] = ()  # keys of records that a newer version wrote: they and their units are left alone
    schedules_restored: int = 0


def repair(database: Engine, ledger: Ledger, objects: Objects) -> Repaired:
    """Make the index agree with object storage. Safe to run at any time, and again."""
    runs, damaged, newer = _restored_runs(ledger, objects)  # all of them first: rows of one may show maps of another
    intact = restored = queued = 0
    for run in runs:
        for unit in iter_units(database, run.id):
            key = sidecar_key(run.id, unit.number)
            if not objects.exists(key):
                if unit.state is UnitState.DONE:
                    damaged.append(key)
                    queued += ledger.requeue(run.id, unit.number)
                continue
            try:
                bad, rows = _examined(objects, key, unit)
            except RecordTooNew:
                newer.append(key)
                continue
            if not bad and unit.state is UnitState.DONE:
                intact += 1
            elif not bad and _adopted(ledger, run, unit, rows):
                restored += 1
            else:
                damaged += bad or [key]
                for broken in {*bad, key}:
                    objects.delete(broken)
                queued += ledger.requeue(run.id, unit.number)
    lost = _without_maps(database, ledger, objects, newer)
    return Repaired(len(runs), intact, restored, queued + len(lost), tuple(damaged + lost), tuple(newer))


def _restored_runs(ledger: Ledger, objects: Objects) -> tuple[list[Run], list[str], list[str]]:
    """The runs of object storage, now all in the index; keys of damaged records, and of those of a newer version."""
    runs, damaged, newer = [], [], []
    for key in sorted(key for key in objects.list("runs/") if key.count("/") == 2 and key.endswith("/run.json")):
        try:
            runs.append(_restored_run(ledger, objects, key))
        except (ValueError, KeyError, TypeError, EOFError, OSError, ObjectMissing):
            damaged.append(key)  # or its manifest: this run cannot be rebuilt, the others can
        except RecordTooNew:
            newer.append(key)
    return runs, damaged, newer


def _adopted(ledger: Ledger, run: Run, unit: UnitRow, rows: list[ImageRow]) -> bool:
    """Whether a unit's rows are in the index again. Not where they show maps of a run that is gone."""
    try:
        return ledger.adopt(run.id, unit.number, rows)
    except MapsGone:
        return False


def _without_maps(database: Engine, ledger: Ledger, objects: Objects, newer: Collection[str]) -> list[str]:
    """Queue units again that show a map which another unit or run has lost since. Keys of their sidecars."""
    lost = []
    for run in list_runs(database):
        for number in sorted({row // run.unit_size for row in dangling(database, run.id)}):
            key = sidecar_key(run.id, number)
            if key in newer:
                continue
            objects.delete(key)
            if ledger.requeue(run.id, number):
                lost.append(key)
    return lost


def forget_failed(database: Engine, ledger: Ledger, objects: Objects, run: Run) -> int:
    """Queue done units with a failed image again and delete their sidecars, but not those of a newer version.

    Returns:
        Number of units queued.
    """
    failed = {row.row // run.unit_size for row in iter_images(database, run.id, ImageState.FAILED)}
    queued = 0
    for unit in list(iter_units(database, run.id, UnitState.DONE)):
        key = sidecar_key(run.id, unit.number)
        if unit.number in failed and not (objects.exists(key) and is_newer(objects.get(key))):
            objects.delete(key)  # first: without it no worker adopts the rest
            queued += ledger.requeue(run.id, unit.number)
    return queued


def _restored_run(ledger: Ledger, objects: Objects, key: str) -> Run:
    """Put a run of object storage into the index if it is missing, and make its arrays readable."""
    run = build(Run, read_record(objects.get(key), key) | {"created_at": None, "submitted_at": None})
    metadata = arrays.metadata(run.id, arrays.layout_of(run, RunSpec.from_json(run.spec)))
    ledger.restore(run, drafts(read_manifest(objects.get(manifest_key(run.id))), run.unit_size))
    for name, data in metadata.items():
        if not objects.put_once(name, data) and objects.get(name) != data:
            objects.put(name, data)
    return run


def _examined(objects: Objects, key: str, unit: UnitRow) -> tuple[list[str], list[ImageRow]]:
    """Keys of a unit's objects that are missing or damaged, and the rows of its sidecar. Raises RecordTooNew."""
    try:
        sidecar = read_sidecar(objects, key)
    except ValueError:
        return [key], []
    bad = [shard for shard, digest in sidecar.shards.items() if _digest(objects, shard) != digest]
    own = {entry.row for entry in unit.entries}
    # A unit all of whose maps are other units' has no shards.
    whole = len(sidecar.shards) >= 3 or not any(r.map_run == r.run_id and r.map_row in own for r in sidecar.rows)
    return (bad if whole and sidecar.describes(unit.entries) else [key]), sidecar.rows


def _digest(objects: Objects, key: str) -> str | None:
    try:
        return hashlib.sha256(objects.get(key)).hexdigest()
    except ObjectMissing:
        return None
