"""The audit of a run: verdict, findings, classes, distributions. Each class has its own page."""

import io
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query
from fastapi.responses import Response
from PIL import Image

from db.records import ImageRow, Progress, Run
from pipeline.errors import NotFound, ObjectMissing
from pipeline.formatting import plural, visible
from pipeline.outputs import charts, pictures
from pipeline.outputs.report import measured
from pipeline.runs.stored import Floats, StoredRun
from pipeline.storage.keys import report_key
from pipeline.web import sentences
from pipeline.web.pages import thumbnails
from pipeline.web.pages.gallery import is_small, quoted, redacted_row
from pipeline.web.responses import CurrentRequest, View, twins, with_query

EXAMPLES, CLASS_IMAGES, CANDIDATES = 6, 24, 50
AVERAGED = 32  # maps that are averaged for a class if the audit stored no mean
By = Literal["predicted", "label"]
MapKind = Literal["mean", "absolute", "median", "std", "member_std"]
CLASS_MAPS: dict[MapKind, str] = {
    "mean": "Mean",
    "absolute": "Mean of absolute values",
    "median": "Median of a sample",
    "std": "Spread over images",
    "member_std": "Spread over members",
}
ClassName = Annotated[str, Query(max_length=500, description="name of the class")]

router = APIRouter()


@twins(router, "/runs/{run}/audit")
def audit(request: CurrentRequest, run: str, by: By = "predicted") -> View:
    """The last audit of a run. The CSV twin is the table of classes."""
    opened = request.open_run(run)
    stored, size = opened.run, opened.spec.preprocess
    found = opened.report(f"audit-{by}.json")
    note = None if found is None else outgrown(found, opened.progress())
    data = {
        "run": stored.id,
        "by": by,
        "audit": found,
        "stale": None if found is None else note is not None,
        "evaluation": opened.report("evaluation.json"),
    }
    more = {
        "stored": stored,
        "note": note,
        "distributions": charts.of_audit(found) if found else [],
        "verdicts": sentences.VERDICTS,
        "findings": [_with_pictures(opened, finding) for finding in (found or {}).get("findings", ())],
        "candidates": (found or {}).get("candidates", [])[:CANDIDATES],
        "measured": measured(found) if found else set(),
        "size": (size.height, size.width),
        "pixelated": is_small(opened.spec),
        "class_map": lambda name, kind="mean": class_map_address(stored, name, by, kind),
        "class_page": lambda name: class_address(stored, name, by),
    }
    return View("audit.html", data, more, rows=(found or {}).get("classes", []))


def outgrown(audit: dict[str, Any], now: Progress) -> str | None:
    """A note if a run has more images, or other failures, than its audit saw; None if the audit is current."""
    seen, failed = audit["images"], audit["failed_images"]
    if (seen, failed) == (now.images_done, now.images_failed):
        return None
    if seen < now.images_done:
        return f"This audit saw {seen:,} of the {plural(now.images_done, 'image')} that are done now"
    then = f"{plural(seen, 'image')} with a map and {failed:,} failed"
    return f"This audit saw {then}; now {now.images_done:,} are done and {now.images_failed:,} failed"


@twins(router, "/runs/{run}/class")
def one_class(request: CurrentRequest, run: str, name: ClassName, by: By = "predicted") -> View:
    """One class of a run: figures, mean maps, findings, clusters, and images with most evidence on the border."""
    opened = request.open_run(run)
    stored = opened.run
    rows = opened.find(where=f"{by} = {quoted(name)}", sort="-border_share", limit=CLASS_IMAGES).rows
    found = opened.report(f"audit-{by}.json") or {}
    figures = next((each for each in found.get("classes", ()) if each["class"] == name), None)
    if figures is None and not rows:
        raise NotFound(f"run {stored.id} has no image whose {by} is {visible(name)!r}")
    kept = _stored_maps(opened, name, by)
    data: dict[str, Any] = {
        "run": stored.id,
        "class": name,
        "by": by,
        "figures": figures,
        "findings": [each for each in found.get("findings", ()) if each["class"] == name],
        "images": [redacted_row(row, request.known_paths) for row in rows],
    }
    more = {
        "stored": stored,
        "name": name,
        "layers": [(row, thumbnails.layers(stored, row)) for row in rows],
        "groups": [
            (cluster, _pictured(opened, cluster["examples"]))
            for cluster in found.get("clusters", ())
            if cluster["class"] == name
        ],
        "gallery": with_query({by: name}),
        "pixelated": is_small(opened.spec),
        "maps": {
            kind: (title, class_map_address(stored, name, by, kind))
            for kind, title in CLASS_MAPS.items()
            if kind in ("mean", "absolute") or kind in kept
        },
    }
    return View("class.html", data, more, rows=data["images"])


@router.get("/runs/{run}/class.png", response_class=Response)
def class_map(
    request: CurrentRequest,
    run: str,
    name: ClassName,
    by: By = "predicted",
    kind: MapKind = "mean",
    colours: thumbnails.Colours = "blue-red",
) -> Response:
    """One of the maps of a class, as PNG: mean, absolute, median, std or member_std."""
    values = mean_map(request.open_run(run), name, by, kind)
    drawn = (
        pictures.signed_colours(values, colours) if kind in ("mean", "median") else pictures.magnitude_colours(values)
    )
    picture = pictures.shrink(Image.fromarray(drawn), thumbnails.SMALL)
    return Response(pictures.png_bytes(picture, fast=True), 200, {"Cache-Control": "private, max-age=60"}, "image/png")


def mean_map(stored: StoredRun, name: str, by: By, kind: MapKind) -> Floats:
    """A map of a class, (H, W): from the stored audit, else the mean over up to `AVERAGED` images.

    Args:
        stored: a run, with or without a stored audit.
        name: name of the class.
        by: whether images count for their predicted class or for their label.
        kind: a key of `CLASS_MAPS`; without an audit only mean and absolute exist.

    Raises:
        NotFound: the class has no image with a map, or no map of this kind.
    """
    found = _stored_maps(stored, name, by).get(kind)
    if found is not None:
        return found
    rows = stored.find(where=f"{by} = {quoted(name)} and not failed", limit=AVERAGED).rows
    if not rows or kind not in ("mean", "absolute"):
        raise NotFound(f"run {stored.run.id} has no map {kind!r} of images whose {by} is {visible(name)!r}")
    maps = stored.read_maps(rows).sum(axis=1)  # (n, H, W)
    return np.asarray((np.abs(maps) if kind == "absolute" else maps).mean(axis=0), np.float32)


def class_address(run: Run, name: str, by: str) -> str:
    """Address of the page of a class."""
    return f"/runs/{run.id}/class?{with_query({'name': name, 'by': by})}"


def class_map_address(run: Run, name: str, by: str, kind: str) -> str:
    """Address of a map of a class. `by` and `kind` as for `mean_map`."""
    return f"/runs/{run.id}/class.png?{with_query({'name': name, 'by': by, 'kind': kind})}"


def _stored_maps(stored: StoredRun, name: str, by: By) -> dict[MapKind, Floats]:
    """The maps (H, W) of a class in the arrays of the stored audit, see `Audit.arrays`."""
    try:
        data = stored.stores.objects.get(report_key(stored.run.id, f"audit-{by}.npz"))
    except ObjectMissing:
        return {}
    found: dict[MapKind, Floats] = {}
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        names = list(arrays["classes"])
        for kind in CLASS_MAPS if name in names else ():
            key = "mean_absolute" if kind == "absolute" else kind
            one = np.asarray(arrays[key][names.index(name)], np.float32)
            if not np.isnan(one).all():
                found[kind] = one
    return found


def _with_pictures(stored: StoredRun, finding: dict[str, Any]) -> dict[str, Any]:
    """A finding, with the rows of its examples and the addresses of their pictures."""
    return {**finding, "pictures": _pictured(stored, finding["examples"])}


def _pictured(stored: StoredRun, keys: Sequence[str]) -> list[tuple[ImageRow, list[str]]]:
    return [(row, thumbnails.layers(stored.run, row)) for row in stored.by_keys(keys[:EXAMPLES])]
