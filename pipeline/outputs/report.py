"""Stores the results of an audit: JSON, maps, an HTML report.

Each audit replaces the stored objects of the one before (`pipeline.storage.keys.report_key`):

    audit-<by>.json  `Audit.to_dict`        audit-<by>.npz  `Audit.arrays`: maps of the classes
    audit-<by>.html  the report             evaluation.json shown in the report where `evaluate` has put it
"""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np

from db.objects import Objects
from pipeline.analysis.audit import Audit, By, Material, audit
from pipeline.analysis.audit.audit import Tell
from pipeline.outputs.audit_page import render
from pipeline.storage.files import make_folder, write_file
from pipeline.storage.keys import report_key
from pipeline.storage.reports import read_report


def write_report(
    material: Material, objects: Objects, *, by: By, folder: Path, on_progress: Tell = lambda *_: None
) -> Audit:
    """Audit a run; store JSON, maps and report as objects, and write them into a folder too.

    A stored audit that is complete is not replaced by one that is not (images are gone since).
    The folder gets `audit.json`, `audit.npz` and `report.html`.

    Raises:
        UsageError: the folder cannot be written. Raised before anything is computed, as the next.
        RecordTooNew: a newer version stored the run's audit or evaluation.
    """
    make_folder(folder)
    before = read_report(objects, material.run.id, f"audit-{by}.json") or {}
    evaluation = read_report(objects, material.run.id, "evaluation.json")
    result = audit(material, by=by, on_progress=on_progress)
    if kept := before.get("complete", False) and not result.complete:
        remark = "the stored audit, which is complete, is kept: this one stands in its folder alone"
        result = replace(result, remarks=(*result.remarks, remark))
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
