"""What an audit said of a run: verdict, findings, classes, distributions; and one class on a page of its own."""

import io
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query
from fastapi.responses import Response
from PIL import Image

from db.distributions import histograms
from db.records import ImageRow, Run
from pipeline import pictures, planning
from pipeline.errors import NotFound, ObjectMissing
from pipeline.spec import RunSpec
from pipeline.web import drawing, material, words
from pipeline.web.answers import Asked, Here, View, twins, with_query
from pipeline.web.gallery import is_small, public_row, quoted
from pipeline.web.images import like

EXAMPLES, CLASS_IMAGES, CANDIDATES = 6, 24, 50
AVERAGED = 32  # maps of a class, where the audit stored no mean
DISTRIBUTIONS = {
    "border_share": "Border share",
    "error_estimate": "Error estimate",
    "completeness_gap": "Completeness gap",
    "member_disagreement": "Member disagreement",
    "probability": "Probability",
    "gini": "Gini coefficient",
}
VERDICTS = {
    "found": "Shortcut found",
    "look": "Look for yourself",
    "none": "No shortcut found",
    "not searched": "Not searched",
}
By = Literal["predicted", "label"]
ClassName = Annotated[str, Query(max_length=500, description="of the class")]

router = APIRouter()


@twins(router, "/runs/{run}/audit")
def audit(here: Here, run: str, by: By = "predicted") -> View:
    """The last audit of a run. The CSV twin is the table of classes."""
    stored = here.pipeline.get_run(run)
    found = here.pipeline.stored_audit(stored.id, by)
    data = {
        "run": stored.id,
        "by": by,
        "audit": found,
        "evaluation": here.pipeline.stored_evaluation(stored.id),
        "distributions": histograms(here.pipeline.database, stored.id, stored.image_count, list(DISTRIBUTIONS)),
    }
    more = {
        "stored": stored,
        "names": DISTRIBUTIONS,
        "verdicts": VERDICTS,
        "findings": [_shown(here, stored, finding) for finding in (found or {}).get("findings", ())],
        "candidates": (found or {}).get("candidates", [])[:CANDIDATES],
        "size": _size(stored),
        "pixelated": is_small(stored),
        "class_map": lambda name, kind="mean": class_map_address(stored, name, by, kind),
        "class_page": lambda name: class_address(stored, name, by),
    }
    return View("audit.html", data, more, rows=(found or {}).get("classes", []))


@twins(router, "/runs/{run}/class")
def one_class(here: Here, run: str, name: ClassName, by: By = "predicted") -> View:
    """One class of a run: figures, mean maps, findings, images that need a look."""
    stored = here.pipeline.get_run(run)
    rows = here.pipeline.find(stored.id, where=f"{by} = {quoted(name)}", sort="-border_share", limit=CLASS_IMAGES).rows
    found = here.pipeline.stored_audit(stored.id, by) or {}
    figures = next((each for each in found.get("classes", ()) if each["class"] == name), None)
    if figures is None and not rows:
        raise NotFound(f"run {stored.id} has no image whose {by} is {words.visible(name)!r}")
    data: dict[str, Any] = {
        "run": stored.id,
        "class": name,
        "by": by,
        "figures": figures,
        "findings": [each for each in found.get("findings", ()) if each["class"] == name],
        "clusters": [each for each in found.get("clusters", ()) if each["class"] == name],
        "images": [public_row(row) for row in rows],
    }
    more = {
        "stored": stored,
        "name": name,
        "layers": [(row, [drawing.address(stored, row, kind) for kind in ("image", "layer")]) for row in rows],
        "groups": [(each, _pictured(here, stored, each["examples"])) for each in data["clusters"]],
        "gallery": with_query({by: name}),
        "pixelated": is_small(stored),
        "class_map": lambda kind: class_map_address(stored, name, by, kind),
    }
    return View("class.html", data, more, rows=data["images"])


@router.get("/runs/{run}/class.png", response_class=Response)
def class_map(
    here: Here,
    run: str,
    name: ClassName,
    by: By = "predicted",
    kind: Literal["mean", "absolute"] = "mean",
    colours: drawing.Colours = "blue-red",
) -> Response:
    """The mean map of a class, or the mean of its absolute values."""
    values = mean_map(here, here.pipeline.get_run(run), name, by, kind)
    drawn = pictures.signed_colours(values, colours) if kind == "mean" else pictures.magnitude_colours(values)
    picture = pictures.shrink(Image.fromarray(drawn), drawing.SMALL)
    return Response(pictures.png_bytes(picture), 200, {"Cache-Control": "private, max-age=60"}, "image/png")


def mean_map(here: Asked, run: Run, name: str, by: By, kind: str) -> material.Floats:
    """(H, W): as the audit stored it, else the mean over `AVERAGED` images of the class."""
    stored = _stored_map(here, run, name, by, "mean_absolute" if kind == "absolute" else "mean")
    if stored is not None:
        return stored
    rows = here.pipeline.find(run.id, where=f"{by} = {quoted(name)} and not failed", limit=AVERAGED).rows
    if not rows:
        raise NotFound(f"run {run.id} has no map of an image whose {by} is {words.visible(name)!r}")
    maps = material.maps_of(here.pipeline, rows).sum(axis=1)  # (n, H, W)
    return np.asarray((np.abs(maps) if kind == "absolute" else maps).mean(axis=0), np.float32)


def class_address(run: Run, name: str, by: str) -> str:
    """Where the page of a class is."""
    return f"/runs/{run.id}/class?{with_query({'name': name, 'by': by})}"


def class_map_address(run: Run, name: str, by: str, kind: str) -> str:
    """Where the mean map of a class is."""
    return f"/runs/{run.id}/class.png?{with_query({'name': name, 'by': by, 'kind': kind})}"


def _stored_map(here: Asked, run: Run, name: str, by: By, kind: str) -> material.Floats | None:
    """A map of a class as an audit left it, see `Audit.arrays`; None where it left none."""
    try:
        data = here.pipeline.objects.get(planning.report_key(run.id, f"audit-{by}.npz"))
    except ObjectMissing:
        return None
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        names = arrays["classes"].tolist() if "classes" in arrays else []
        if name not in names or kind not in arrays:
            return None
        found = np.asarray(arrays[kind][names.index(name)], np.float32)
    return found if np.isfinite(found).all() else None


def _shown(here: Asked, run: Run, finding: dict[str, Any]) -> dict[str, Any]:
    """A finding with the rows of its examples and their pictures."""
    return {**finding, "pictures": _pictured(here, run, finding.get("examples", ()))}


def _pictured(here: Asked, run: Run, keys: Sequence[str]) -> list[tuple[ImageRow, list[str]]]:
    """Some images of these keys with the layers of their pictures."""
    rows = like(here, run, "key", [quoted(key) for key in keys[:EXAMPLES]])
    return [(row, [drawing.address(run, row, kind) for kind in ("image", "layer")]) for row in rows]


def _size(run: Run) -> tuple[int, int]:
    size = RunSpec.from_json(run.spec).preprocess
    return size.height, size.width
