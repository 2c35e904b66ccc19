"""Rebuilds the index from object storage, where every run left its record, its manifest and the rows of its units.

Every shard is read and its digest compared: a unit whose objects are missing or damaged is queued again.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from db.ledger import Ledger
from db.objects import Objects
from db.queries import iter_units
from db.records import Run, UnitState
from db.session import Engine
from pipeline.engine import read_sidecar, sidecar_key
from pipeline.errors import ObjectMissing
from pipeline.planning import drafts, manifest_key, read_manifest, run_key


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was found and done."""

    runs: int
    units_intact: int
    units_restored: int  # their rows came back from their sidecars
    units_queued_again: int  # an object was missing or damaged: `attribatch run` computes them again
    damaged: tuple[str, ...]  # keys of those objects


def repair(database: Engine, ledger: Ledger, objects: Objects) -> Repaired:
    """Make the index agree with object storage. Safe to run at any time, and again."""
    runs = intact = restored = queued = 0
    damaged: list[str] = []
    for run in _stored_runs(objects):
        runs += 1
        ledger.submit(run, drafts(read_manifest(objects.get(manifest_key(run.id))), run.unit_size))
        for unit in iter_units(database, run.id):
            key = sidecar_key(run.id, unit.number)
            if not objects.exists(key):
                if unit.state is UnitState.DONE:
                    damaged.append(key)
                    queued += ledger.requeue(run.id, unit.number)
                continue
            bad = _damaged_objects(objects, key)
            if bad:
                damaged += bad
                for broken in (*bad, key):
                    objects.delete(broken)
                queued += ledger.requeue(run.id, unit.number)
            elif unit.state is UnitState.DONE:
                intact += 1
            else:
                restored += ledger.adopt(run.id, unit.number, read_sidecar(objects.get(key))[1])
    return Repaired(runs, intact, restored, queued, tuple(damaged))


def _stored_runs(objects: Objects) -> Iterator[Run]:
    for key in objects.list("runs/"):
        if key.count("/") == 2 and key == run_key(key.split("/")[1]):
            yield Run(**json.loads(objects.get(key)) | {"created_at": None, "submitted_at": None})


def _damaged_objects(objects: Objects, key: str) -> list[str]:
    """Keys of a sidecar's objects that are missing or do not have their digest."""
    try:
        shards, _ = read_sidecar(objects.get(key))
    except (ValueError, KeyError, TypeError):
        return [key]
    return [shard for shard, digest in shards.items() if _digest(objects, shard) != digest]


def _digest(objects: Objects, key: str) -> str | None:
    try:
        return hashlib.sha256(objects.get(key)).hexdigest()
    except ObjectMissing:
        return None
