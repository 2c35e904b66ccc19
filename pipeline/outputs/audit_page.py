"""An audit as one HTML page that needs no other file: pictures are `data:` addresses, no script runs.

Names of classes, images and errors come from outside; Jinja escapes every one of them.
"""

import platform
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.analysis.audit.results import Audit
from pipeline.formatting import NONE, asked_percent, known, number, percent, unbroken
from pipeline.outputs import charts
from pipeline.outputs.illustrations import class_pages, show_finding
from pipeline.runs.view import Material
from pipeline.spec.describe import command, describe

CLASSES, CANDIDATES = 200, 20  # rows that are shown at most
PAGES = 30  # classes that are shown with their maps and clusters
PACKAGES = ("attribatch", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow")
DIGESTS = ("data set", "listing", "models", "samples")  # fields that are shown as code
NOTEWORTHY = 0.005  # part of the images from which a warning is worth a line


def render(audit: Audit, material: Material, evaluation: Mapping[str, Any] | None = None) -> str:
    """The page. Reads six images per finding and 90 of clusters, and asks the model twice per finding.

    Args:
        audit: what it says.
        material: what it was made of.
        evaluation: what `evaluation.json` holds: `metrics` (name, value, low, high, better, images, meaning),
            `baseline_sensitivity` (baseline, other, cosine, rank_correlation, distance) and `remarks`; each may be
            missing.
    """
    largest = sorted(audit.classes, key=lambda one: -one.images)
    listed = {one.class_name for one in largest[:CLASSES]}
    classes = [one for one in audit.classes if one.class_name in listed]
    detailed = {one.class_name for one in largest[:PAGES]} | {one.class_name for one in audit.findings}
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=f"Audit of {material.run.name or material.run.id}",
            audit=audit,
            spec=material.spec,
            warnings=warnings(audit),
            shown=[show_finding(finding, audit, material) for finding in audit.findings],
            classes=classes,
            pages=class_pages(audit, material, [one for one in classes if one.class_name in detailed]),
            charts=charts.draw(audit),
            candidates=audit.candidates[:CANDIDATES],
            failed_count=sum(audit.failed.values()),
            method=_method(audit, material),
            commands=_commands(audit, material),
            spec_json=material.spec.to_json(),
            evaluation=evaluation or {},
        )
    )


def warnings(audit: Audit) -> list[str]:
    """What a reader must know before trusting the figures."""
    found = []
    above, unreliable = audit.overall.error_above, audit.unreliable_gaps
    if above is not None and above >= NOTEWORTHY:
        found.append(
            f"{_of(above, audit.images)} have maps whose estimated error is above {asked_percent(audit.tolerance)} "
            f"(find them with: attribatch query {audit.run_id} --where 'error_estimate > {audit.tolerance:g}'): single "
            "pixels of theirs may still move. A larger number of steps is more exact."
        )
    if unreliable is not None and unreliable >= NOTEWORTHY:
        found.append(
            f"In {_of(unreliable, audit.images)} the output hardly differs from that of the baseline: there the "
            "completeness gap divides by almost nothing and says little. Look at the error estimate."
        )
    if failed := sum(audit.failed.values()):
        found.append(f"{failed:,} of {failed + audit.images:,} images have no map and are left out.")
    remarks = audit.remarks if audit.searched else ()  # else the summary says them
    return found + [f"{remark[:1].upper()}{remark[1:]}." for remark in remarks]


def _commands(audit: Audit, material: Material) -> list[str]:
    """The command lines that make the report again from the same images and weights."""
    again = ["attribatch", "audit", "latest", "--by", audit.by]
    return [shlex.join(command(material.run, material.spec)), shlex.join(again)]


def _method(audit: Audit, material: Material) -> list[tuple[str, str | Sequence[str]]]:
    """Name and value of everything that determines the figures; the template shows a sequence as lines of code."""
    run = material.run
    fields = describe(run, material.spec, digits=64)
    return [
        ("run", [f"{run.id}{f' ({run.name})' if run.name else ''}"]),
        ("submitted", f"{run.submitted_at:%Y-%m-%d %H:%M} UTC" if run.submitted_at else "not recorded"),
        ("spec key", [material.spec.key]),
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


def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "percent": lambda *given: unbroken(percent(*given)),
        "asked_percent": asked_percent,
        "unbroken": unbroken,
        "number": number,
        "small": lambda value: f"{value:.2g}" if known(value) else NONE,
        "figure": lambda value: f"{value:.3g}" if known(value) else NONE,
        "whole": lambda value: f"{value:,}",
        "count": lambda value: f"{value:,.0f}" if known(value) else NONE,
        "interval": lambda pair: f"{100 * pair[0]:.0f} to {100 * pair[1]:.0f}\u00a0%",
    }
    return found
