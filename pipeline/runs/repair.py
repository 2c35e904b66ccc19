"""Rebuilds the index from object storage, where every run left its record, its manifest and the rows of its units.

Every shard is read and its digest compared: a unit whose objects are missing or damaged is queued again.
"""

import hashlib
import json
from dataclasses import dataclass

from db.ledger import Ledger
from db.objects import Objects
from db.queries import UnitRow, dangling, iter_images, iter_units, list_runs
from db.records import ImageRow, ImageState, Run, UnitState
from db.session import Engine
from pipeline.errors import MapsGone, ObjectMissing
from pipeline.runs.plan import drafts, read_manifest
from pipeline.spec.run_spec import RunSpec
from pipeline.storage import arrays
from pipeline.storage.keys import manifest_key, sidecar_key
from pipeline.storage.sidecar import read_sidecar


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was found and done."""

    runs: int
    units_intact: int
    units_restored: int  # their rows came back from their sidecars
    units_queued_again: int  # an object was missing or damaged: `attribatch run` computes them again
    damaged: tuple[str, ...]  # keys of those objects, and of records that cannot be read
    schedules_restored: int = 0


def repair(database: Engine, ledger: Ledger, objects: Objects) -> Repaired:
    """Make the index agree with object storage. Safe to run at any time, and again."""
    runs, damaged = _restored_runs(ledger, objects)  # all of them first: rows of one may show maps of another
    intact = restored = queued = 0
    for run in runs:
        for unit in iter_units(database, run.id):
            key = sidecar_key(run.id, unit.number)
            if not objects.exists(key):
                if unit.state is UnitState.DONE:
                    damaged.append(key)
                    queued += ledger.requeue(run.id, unit.number)
                continue
            bad, rows = _examined(objects, key, unit)
            if not bad and unit.state is UnitState.DONE:
                intact += 1
            elif not bad and _adopted(ledger, run, unit, rows):
                restored += 1
            else:
                damaged += bad or [key]
                for broken in {*bad, key}:
                    objects.delete(broken)
                queued += ledger.requeue(run.id, unit.number)
    lost = _without_maps(database, ledger, objects)
    return Repaired(len(runs), intact, restored, queued + len(lost), tuple(damaged + lost))


def _restored_runs(ledger: Ledger, objects: Objects) -> tuple[list[Run], list[str]]:
    """The runs that storage knows, all in the index now, and keys of the records that cannot be read."""
    runs, damaged = [], []
    for key in sorted(key for key in objects.list("runs/") if key.count("/") == 2 and key.endswith("/run.json")):
        try:
            runs.append(_restored_run(ledger, objects, key))
        except (ValueError, KeyError, TypeError, EOFError, OSError, ObjectMissing):
            damaged.append(key)  # or its manifest: this run cannot be rebuilt, the others can
    return runs, damaged


def _adopted(ledger: Ledger, run: Run, unit: UnitRow, rows: list[ImageRow]) -> bool:
    """Whether a unit's rows are in the index again. Not where they show maps of a run that is gone."""
    try:
        return ledger.adopt(run.id, unit.number, rows)
    except MapsGone:
        return False


def _without_maps(database: Engine, ledger: Ledger, objects: Objects) -> list[str]:
    """Queue units again that show a map which another unit or run has lost since. Keys of their sidecars."""
    lost = []
    for run in list_runs(database):
        for number in sorted({row // run.unit_size for row in dangling(database, run.id)}):
            objects.delete(sidecar_key(run.id, number))
            if ledger.requeue(run.id, number):
                lost.append(sidecar_key(run.id, number))
    return lost


def forget_failed(database: Engine, ledger: Ledger, objects: Objects, run: Run) -> int:
    """Queue the done units again that hold a failed image; what they stored is removed. Units queued."""
    failed = {row.row // run.unit_size for row in iter_images(database, run.id, ImageState.FAILED)}
    queued = 0
    for unit in list(iter_units(database, run.id, UnitState.DONE)):
        if unit.number in failed:
            objects.delete(sidecar_key(run.id, unit.number))  # first: without it nobody adopts the rest
            queued += ledger.requeue(run.id, unit.number)
    return queued


def _restored_run(ledger: Ledger, objects: Objects, key: str) -> Run:
    """A run as storage knows it, put into the index unless it is there, its arrays readable."""
    run = Run(**json.loads(objects.get(key)) | {"created_at": None, "submitted_at": None})
    ledger.restore(run, drafts(read_manifest(objects.get(manifest_key(run.id))), run.unit_size))
    for name, data in arrays.metadata(run.id, arrays.layout_of(run, RunSpec.from_json(run.spec))).items():
        if not objects.put_once(name, data) and objects.get(name) != data:
            objects.put(name, data)
    return run


def _examined(objects: Objects, key: str, unit: UnitRow) -> tuple[list[str], list[ImageRow]]:
    """Keys of a unit's objects that are missing or damaged, and the rows of its sidecar."""
    try:
        shards, rows = read_sidecar(objects.get(key))
        bad = [shard for shard, digest in shards.items() if _digest(objects, shard) != digest]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [key], []
    own = {entry.row for entry in unit.entries}
    # A unit all of whose maps are other units' has no shards.
    whole = len(shards) >= 3 or not any(row.map_run == row.run_id and row.map_row in own for row in rows)
    complete = whole and [row.row for row in rows] == [entry.row for entry in unit.entries]
    return (bad if complete else [key]), rows


def _digest(objects: Objects, key: str) -> str | None:
    try:
        return hashlib.sha256(objects.get(key)).hexdigest()
    except ObjectMissing:
        return None
