"""One image and all its stored data."""

import json
from typing import Any

from fastapi import APIRouter

from db.records import ImageRow, ImageState, Run
from pipeline.formatting import number, percent, visible
from pipeline.outputs import charts
from pipeline.runs.stored import StoredRun
from pipeline.spec.run_spec import RunSpec
from pipeline.web import sentences
from pipeline.web.pages import thumbnails
from pipeline.web.pages.gallery import is_small, redacted_row
from pipeline.web.responses import CurrentRequest, View, twins

CLUSTER_IMAGES = 12
COLUMNS: dict[str, tuple[str | tuple[str, str], str]] = {  # rows of the table of figures: name, column, format
    "Probability": ("probability", "number"),
    "Output F(x)": ("output", "number"),
    "Output at the baseline F(x′)": ("baseline_output", "number"),
    "Convergence delta": ("convergence_delta", "fine"),
    "Completeness gap": ("completeness_gap", "percent"),
    "Error estimate": ("error_estimate", "percent"),
    "Gradient evaluations": ("evaluations", "whole"),
    "Member disagreement": ("member_disagreement", "number"),
    "Sign agreement of members": ("sign_agreement", "percent"),
    "Baseline sensitivity": ("baseline_sensitivity", "number"),
    "Border share": ("border_share", "percent"),
    "Positive share": ("positive_share", "percent"),
    "Center of mass (from the left, from the top)": (("center_x", "center_y"), "place"),
    "Entropy (of its maximum)": ("entropy", "number"),
    "Gini coefficient": ("gini", "number"),
}

router = APIRouter()


@twins(router, "/runs/{run}/images/{row}")
def image(request: CurrentRequest, run: str, row: thumbnails.RowNumber) -> View:
    """One image: picture, figures in words, path, provenance, other images of its cluster."""
    opened = request.open_run(run)
    stored, spec = opened.run, opened.spec
    found = thumbnails.one_row(opened, row)
    done = found.state is ImageState.DONE
    cluster = same_cluster(opened, found)
    data: dict[str, Any] = {
        "run": stored.id,
        "image": redacted_row(found, request.known_paths),
        "path": opened.curve(found) if done else None,
        "words": {
            "completeness": sentences.gap_in_words(found),
            "error": sentences.error_in_words(found),
        },
        "provenance": provenance(stored, spec, found),
        "top_classes": json.loads(found.top_classes) if found.top_classes else [],
        "neighbours": [each.key for each in cluster],
    }
    path = data["path"]
    curve = None if path is None else charts.curve(**path, target=visible(found.target))
    more = {
        "stored": stored,
        "curve": curve,
        "found": found,
        "figures": figures(found),
        "panels": panels(stored, found, spread=len(spec.models) > 1) if done else [],
        "picture": thumbnails.address(stored, found, "image", size=thumbnails.LARGE),
        "layer": thumbnails.address(stored, found, "layer", size=thumbnails.LARGE),
        "alt": sentences.finding(found, request.known_paths),
        "pixelated": is_small(spec),
        "output": spec.output.replace("_", " "),
        "before": adjacent(opened, f"row < {found.row}", "-row"),
        "after": adjacent(opened, f"row > {found.row}", "row"),
        "cluster": [(each, thumbnails.address(stored, each, "layer")) for each in cluster],
        "address": thumbnails.address,
    }
    return View("image.html", data, more, rows=[data["image"]])


def adjacent(stored: StoredRun, where: str, sort: str) -> ImageRow | None:
    """The first row that matches, in an order of rows; None if no row does."""
    found = stored.find(where=where, sort=sort, limit=1).rows
    return found[0] if found else None


def panels(run: Run, row: ImageRow, *, spread: bool) -> list[dict[str, str]]:
    """The smaller pictures of an image: name, title, alternative text and address of each."""
    shown = [
        ("image", "Image", f"{visible(row.key)}, as the models saw it"),
        ("map", "Map", f"For (red) and against (blue) {visible(row.target)}, without the image"),
        ("positive", "For", f"Evidence for {visible(row.target)}"),
        ("negative", "Against", f"Evidence against {visible(row.target)}"),
    ]
    if spread:
        shown.append(("std", "Spread over members", "Standard deviation over the members of the ensemble"))
    return [
        {"kind": kind, "title": title, "alt": alt, "src": thumbnails.address(run, row, kind)}
        for kind, title, alt in shown
    ]


def figures(row: ImageRow) -> list[tuple[str, str]]:
    """Name and value of every figure of an image."""
    return [(name, _formatted(row, column, style)) for name, (column, style) in COLUMNS.items()]


def provenance(run: Run, spec: RunSpec, row: ImageRow) -> dict[str, Any]:
    """The digests and options that identify a map, for a third party."""
    return {
        "spec_key": run.spec_key,
        "seed": spec.seed,
        "image_sha256": row.sha256,
        "version": row.version,
        "weights_sha256": [model.weights_sha256 for model in spec.models],
        "baselines": [str(baseline) for baseline in spec.baselines],
        "map_of_run": row.map_run,
        "map_row": row.map_row,
    }


def same_cluster(stored: StoredRun, row: ImageRow) -> list[ImageRow]:
    """Other images in the same cluster of the stored audit; empty if the image is in no cluster."""
    audit = stored.report("audit-predicted.json") or {}
    for cluster in audit.get("clusters", ()):
        if row.row in cluster["rows"]:
            rows = [number for number in cluster["rows"] if number != row.row][:CLUSTER_IMAGES]
            where = f"row in ({', '.join(map(str, rows))})" if rows else "row = -1"
            found = {one.row: one for one in stored.find(where=where, limit=CLUSTER_IMAGES).rows}
            return [found[number] for number in rows if number in found]
    return []


def _formatted(row: ImageRow, column: str | tuple[str, str], style: str) -> str:
    if isinstance(column, tuple):
        return ", ".join(percent(getattr(row, name)) for name in column)
    value = getattr(row, column)
    if value is None:
        return "–"
    if style == "whole":
        return f"{value:,}"
    return {"percent": percent(value), "fine": f"{value:+.4g}"}.get(style, number(value, 3))
