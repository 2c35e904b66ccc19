"""Gives an audit its material from what is stored, and stores what it says: JSON, maps, an HTML report.

Stored as objects, written anew by each audit, so that every machine reads the same (`planning.report_key`):

    audit-<by>.json  `Audit.to_dict`        audit-<by>.npz  `Audit.arrays`: maps of the classes
    audit-<by>.html  the report             evaluation.json shown in the report where `evaluate` has put it
"""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from db import queries
from db.objects import Objects
from db.records import ImageRow, Run
from db.session import Engine
from pipeline.analysis.audit import Audit, By, Material, audit
from pipeline.analysis.audit.audit import Tell
from pipeline.attribution.batch import default_batch_size
from pipeline.attribution.ensemble import predict
from pipeline.engine.unit import load_members
from pipeline.errors import ObjectMissing
from pipeline.outputs.audit_page import render
from pipeline.spec.run_spec import RunSpec
from pipeline.storage.arrays import Floats
from pipeline.storage.files import make_folder, write_file
from pipeline.storage.keys import report_key
from pipeline.storage.reader import read_maps, read_spreads

Reader = Callable[[Sequence[ImageRow]], Floats]


@dataclass(frozen=True)
class StoredRows:
    """The rows of a run, read anew from the index, a few thousand at a time, whenever they are walked through."""

    database: Engine
    run_id: str

    def __iter__(self) -> Iterator[ImageRow]:
        return queries.iter_images(self.database, self.run_id)


def material_of(
    run: Run,
    database: Engine,
    objects: Objects,
    *,
    images: Reader,
    available: Callable[[ImageRow], bool],
    device: str,
    allowed_modules: Sequence[str] = (),
) -> Material:
    """A run as audits see it; models are loaded when they are first asked.

    Args:
        run: what is audited.
        database: where its rows are.
        objects: where its maps are.
        images: gives the pixels of the model's input (n, C, H, W).
        available: whether the file of a row is still the one that was attributed.
        device: where the models run.
        allowed_modules: prefixes of importable models.
    """
    spec = RunSpec.from_json(run.spec)

    def ask(pixels: Floats) -> Floats:
        dtype = torch.float64 if spec.precision == "float64" else torch.float32
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(device, dtype)
        found = predict(load_members(spec, device, allowed_modules), batch, batch_size=default_batch_size(batch))
        return np.asarray(found.float().cpu().numpy(), np.float32)

    return Material(
        run=run,
        spec=spec,
        rows=StoredRows(database, run.id),
        maps=lambda rows: read_maps(objects, rows),
        spreads=(lambda rows: read_spreads(objects, rows)) if len(spec.models) > 1 else None,
        images=images,
        predict=ask,
        available=available,
    )


def write_report(
    material: Material, objects: Objects, *, by: By, folder: Path, on_progress: Tell = lambda *_: None
) -> Audit:
    """Audit a run; store JSON, maps and report as objects, and write them into a folder too.

    A stored audit that is complete is not replaced by one that is not (images are gone since).
    The folder gets `audit.json`, `audit.npz` and `report.html`.

    Raises:
        UsageError: the folder cannot be written; said before anything is computed.
    """
    make_folder(folder)
    result = audit(material, by=by, on_progress=on_progress)
    before = stored_report(objects, material.run.id, f"audit-{by}.json") or {}
    if kept := before.get("complete", False) and not result.complete:
        remark = "the stored audit, which is complete, is kept: this one stands in its folder alone"
        result = replace(result, remarks=(*result.remarks, remark))
    evaluation = stored_report(objects, material.run.id, "evaluation.json")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **result.arrays())
    files = {
        "audit.json": result.to_json().encode(),
        "audit.npz": buffer.getvalue(),
        "report.html": render(result, material, evaluation).encode(),
    }
    for name, data in files.items():
        suffix = name.rpartition(".")[2]
        if not kept:
            objects.put(report_key(material.run.id, f"audit-{by}.{suffix}"), data)
        write_file(folder / name, data)
    return result


def stored_report(objects: Objects, run_id: str, name: str) -> dict[str, Any] | None:
    """A stored JSON report of a run; None where there is none."""
    try:
        found: dict[str, Any] = json.loads(objects.get(report_key(run_id, name)))
    except ObjectMissing:
        return None
    return found
