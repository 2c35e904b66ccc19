"""Two runs side by side: differences of their specs, the images that changed most, and pairs of pictures."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query

from db.records import ImageRow, Run
from pipeline.api import PAIRS
from pipeline.errors import Permanent, UsageError
from pipeline.runs.stored import StoredRun
from pipeline.spec.describe import differences
from pipeline.web.pages import thumbnails
from pipeline.web.pages.gallery import is_small
from pipeline.web.redaction import base_name
from pipeline.web.responses import CurrentRequest, PageRequest, View, twins, with_query

AT_ONCE = 2000  # runs with up to this many images are compared while the visitor waits
CHOICES = 200  # runs in the form
Ref = Annotated[str, Query(max_length=200, description="id, prefix of an id, name, or latest")]

router = APIRouter()


@twins(router, "/compare")
def compare(
    request: CurrentRequest,
    a: Ref = "",
    b: Ref = "",
    after: Annotated[str, Query(max_length=2000)] = "",
    measure: Annotated[bool, Query(description="compare every map, even of large runs")] = False,
) -> View:
    """Two runs, or the form to choose them. The CSV twin is the table of images."""
    runs = request.pipeline.runs(limit=CHOICES)
    if not (a and b):
        return View("compare.html", {"a": a or None, "b": b or None, "comparison": None}, {"runs": runs, "pairs": None})
    opened = request.open_run(a), request.open_run(b)
    one, other = (each.run for each in opened)
    few = min(one.image_count, other.image_count) <= AT_ONCE
    # Another site must not make a browser start a comparison of a million maps.
    measure = measure and request.http.headers.get("sec-fetch-site") != "cross-site"
    comparison, reason = measured(request, one, other, compute=few or measure)
    pairs, following = paired(*opened, comparison, after or None)
    next_query = with_query({"a": one.id, "b": other.id, "after": following}) if following else None
    listed = [_plain_pair(pair) for pair in pairs]
    data = {
        "a": one.id,
        "b": other.id,
        "spec": [asdict(each) for each in differences(one, other, place=base_name)],
        "comparison": comparison,
        "reason": reason,
        "images": listed,
        "next": following,
    }
    more = {
        "runs": runs,
        "one": one,
        "other": other,
        "pairs": pairs,
        "few": few,
        "next_query": next_query,
        "pixelated": is_small(opened[0].spec),
        "measure_query": with_query({"a": one.id, "b": other.id, "measure": "true"}),
    }
    return View("compare.html", data, more, rows=listed, next=next_query)


def measured(request: PageRequest, one: Run, other: Run, *, compute: bool) -> tuple[dict[str, Any] | None, str | None]:
    """The comparison of two runs, stored or computed now, and None; or None and the reason why there is none."""
    found = request.pipeline.stored_comparison(one.id, other.id)
    if found is None and compute:
        try:
            found = request.pipeline.compare(one.id, other.id, limit=PAIRS).to_dict()
        except (Permanent, UsageError) as error:
            return None, request.redact(str(error), one, other)
    if found is not None:
        found.pop("spec", None)  # it contains folders of this machine; `compare` lists the differences without them
    return found, None


def paired(
    one: StoredRun, other: StoredRun, comparison: dict[str, Any] | None, after: str | None
) -> tuple[list[dict[str, Any]], str | None]:
    """Pairs of images with the same key.

    Args:
        one: the run whose order counts.
        other: the run of the partners.
        comparison: if it lists the images that changed most, these are the pairs.
        after: cursor of a page; used for pairs in the order of rows.

    Returns:
        The pairs, and the cursor of the next page; None on the last page and for images that changed most.
    """
    if comparison is not None and comparison.get("changed"):
        changed = comparison["changed"][:PAIRS]
        keys, following = [each["key"] for each in changed], None
        figures = {each["key"]: each for each in changed}
        rows = one.by_keys(keys)
    else:
        page = one.find(where="not failed", limit=PAIRS, after=after)
        rows, following, figures = list(page.rows), page.next, {}
    partners = {row.key: row for row in other.by_keys([row.key for row in rows])}
    return [
        _pair(one.run, other.run, row, partners[row.key], figures.get(row.key, {}))
        for row in rows
        if row.key in partners
    ], following


def _pair(one: Run, other: Run, row: ImageRow, partner: ImageRow, figures: dict[str, Any]) -> dict[str, Any]:
    return {
        "key": row.key,
        "a": row,
        "b": partner,
        "layers_a": thumbnails.layers(one, row),
        "layers_b": thumbnails.layers(other, partner),
        "cosine": figures.get("cosine"),
        "rank_correlation": figures.get("rank_correlation"),
    }


def _plain_pair(pair: dict[str, Any]) -> dict[str, Any]:
    a, b = pair["a"], pair["b"]
    return {
        "key": pair["key"],
        "row_a": a.row,
        "row_b": b.row,
        "predicted_a": a.predicted,
        "predicted_b": b.predicted,
        "border_share_a": a.border_share,
        "border_share_b": b.border_share,
        "cosine": pair["cosine"],
        "rank_correlation": pair["rank_correlation"],
    }
