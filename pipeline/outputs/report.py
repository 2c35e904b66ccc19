"""The report of an audit: one HTML page that needs no other file, stored with the audit's JSON and maps.

Pictures are `data:` addresses, charts are inline SVG, no script runs. Each audit replaces the stored objects of the one
before (`pipeline.storage.keys.report_key`):

    audit-<by>.json  `Audit.to_dict`        audit-<by>.npz  `Audit.arrays`: maps of the classes
    audit-<by>.html  the report             evaluation.json from `evaluate`, shown in the report if it is stored
"""

import io
import platform
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from db.objects import Objects
from pipeline.analysis.audit import Audit, By, audit, thresholds
from pipeline.analysis.audit.audit import OnProgress
from pipeline.formatting import asked_percent
from pipeline.outputs import charts
from pipeline.outputs.illustrations import class_pages, show_finding
from pipeline.outputs.page import environment
from pipeline.runs.view import RunView
from pipeline.spec.describe import command, describe
from pipeline.storage.files import make_folder, write_file
from pipeline.storage.keys import report_key
from pipeline.storage.reports import read_report

CLASSES, CANDIDATES = 200, 20  # rows of these tables, at most
PAGES = 30  # classes whose maps and clusters are shown
PACKAGES = ("attribatch", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow")
DIGESTS = ("data set", "listing", "models", "samples")  # fields that are shown as code
NOTEWORTHY = 0.005  # share of the images from which a caveat is shown


def write_report(
    view: RunView, objects: Objects, *, by: By, folder: Path, on_progress: OnProgress = lambda *_: None
) -> Audit:
    """Audit a run; store JSON, maps and report as objects, and write them into a folder too.

    A stored complete audit is not replaced by an incomplete one (images are gone since).

    Args:
        view: reads the run's rows, maps and images, and runs its models.
        objects: receives the results under `report_key`.
        by: classes are the predicted ones, or the labels.
        folder: receives `audit.json`, `audit.npz` and `report.html`.
        on_progress: receives a stage ("maps" or "places"), the number done, and the total.

    Raises:
        UsageError: the folder cannot be written. Raised before anything is computed, as the next.
        RecordTooNew: a newer version stored the run's audit or evaluation.
    """
    make_folder(folder)
    before = read_report(objects, view.run.id, f"audit-{by}.json") or {}
    evaluation = read_report(objects, view.run.id, "evaluation.json")
    result = audit(view, by=by, on_progress=on_progress)
    if kept := before.get("complete", False) and not result.complete:
        remark = "the stored audit is complete and is kept: this one is only in its folder"
        result = replace(result, remarks=(*result.remarks, remark))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **result.arrays())
    files = {
        "audit.json": result.to_json().encode(),
        "audit.npz": buffer.getvalue(),
        "report.html": render(result, view, evaluation).encode(),
    }
    for name, data in files.items():
        suffix = name.rpartition(".")[2]
        if not kept:
            objects.put(report_key(view.run.id, f"audit-{by}.{suffix}"), data)
        write_file(folder / name, data)
    return result


def render(audit: Audit, view: RunView, evaluation: Mapping[str, Any] | None = None) -> str:
    """The HTML page. Reads six images per finding and 90 of clusters, and runs the models twice per finding.

    Args:
        audit: the results that the page shows.
        view: the run they are of.
        evaluation: the content of `evaluation.json`: `metrics` (name, value, low, high, better, images, meaning),
            `baseline_sensitivity` (baseline, other, cosine, rank_correlation, distance) and `remarks`; each may be
            missing.
    """
    largest = sorted(audit.classes, key=lambda one: -one.images)
    listed = {one.class_name for one in largest[:CLASSES]}
    detailed = {one.class_name for one in largest[:PAGES]} | {one.class_name for one in audit.findings}
    plain = audit.to_dict()
    return (
        environment()
        .get_template("report.html")
        .render(
            title=f"Audit of {view.run.name or view.run.id}",
            audit=plain,
            spec=view.spec,
            warnings=warnings(audit),
            shown=[show_finding(finding, audit, view) for finding in audit.findings],
            classes=[one for one in plain["classes"] if one["class"] in listed],
            measured=measured(plain),
            share=charts.share,
            pages=class_pages(audit, view, [one for one in audit.classes if one.class_name in listed & detailed]),
            charts=charts.of_audit(plain),
            candidates=plain["candidates"][:CANDIDATES],
            failures=audit.failures,
            rule=thresholds,
            method=_method(audit, view),
            commands=_commands(audit, view),
            spec_json=view.spec.to_json(),
            evaluation=evaluation or {},
        )
    )


def measured(audit: Mapping[str, Any]) -> set[str]:
    """Names of the figures that at least one class has."""
    return {name for each in audit["classes"] for name, value in each.items() if value is not None}


def warnings(audit: Audit) -> list[str]:
    """The caveats that a reader must know before trusting the figures."""
    found = []
    above, unreliable = audit.overall.error_above, audit.unreliable_gaps
    if above is not None and above >= NOTEWORTHY:
        found.append(
            f"{_of(above, audit.images)} have maps whose estimated error is above {asked_percent(audit.tolerance)} "
            f"(find them with: attribatch query {audit.run_id} --where 'error_estimate > {audit.tolerance:g}'): their "
            "single pixels may still change. A larger --n-steps or --max-steps is more exact."
        )
    if unreliable is not None and unreliable >= NOTEWORTHY:
        found.append(
            f"In {_of(unreliable, audit.images)} the output hardly differs from that of the baseline: the completeness "
            "gap divides by almost nothing there and is not informative. Use the error estimate."
        )
    if failed := sum(audit.failed.values()):
        found.append(f"{failed:,} of {failed + audit.images:,} images have no map and are left out.")
    remarks = audit.remarks if audit.searched else ()  # else the summary has them
    return found + [f"{remark[:1].upper()}{remark[1:]}." for remark in remarks]


def _commands(audit: Audit, view: RunView) -> list[str]:
    """The command lines that make the report again from the same images and weights."""
    again = ["attribatch", "audit", "latest", "--by", audit.by]
    return [shlex.join(command(view.run, view.spec)), shlex.join(again)]


def _method(audit: Audit, view: RunView) -> list[tuple[str, str | Sequence[str]]]:
    """Name and value of everything that determines the figures; the template shows a sequence as lines of code."""
    run = view.run
    fields = describe(run, view.spec, digits=64)
    return [
        ("run", [f"{run.id}{f' ({run.name})' if run.name else ''}"]),
        ("submitted", f"{run.submitted_at:%Y-%m-%d %H:%M} UTC" if run.submitted_at else "not recorded"),
        ("spec key", [view.spec.key]),
        *((name, lines if name in DIGESTS else "; ".join(lines)) for name, lines in fields.items()),
        ("seed of the audit", str(audit.seed)),
        ("classes by", audit.by),
        ("versions", ", ".join(f"{name} {found}" for name, found in _versions().items())),
    ]


def _versions() -> Mapping[str, str]:
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _of(part: float, images: int) -> str:
    return f"{round(part * images):,} of {images:,} images"
