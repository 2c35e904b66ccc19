"""Pictures on demand: an image, its map, parts of the map, and the map as an array.

The address of a picture contains a digest of its content, so that browsers can cache it forever.
"""

import hashlib
import io
import textwrap
from typing import Annotated, Literal
from xml.sax.saxutils import escape

import numpy as np
from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from PIL import Image

from db.records import ImageRow, Run
from pipeline.errors import NotFound, ObjectMissing, Retryable, UnreadableImage, UsageError
from pipeline.formatting import visible
from pipeline.outputs import pictures
from pipeline.runs.stored import StoredRun
from pipeline.web.responses import CurrentRequest, with_query

Kind = Literal["image", "layer", "map", "positive", "negative", "std"]
Colours = Literal["blue-red", "purple-orange"]
RowNumber = Annotated[int, Path(ge=0, le=2**31 - 1)]
DRAWN_AS = "1"  # increase it when the same data is drawn differently
SMALL, LARGE = 224, 896  # maximum length of a picture's longer side, pixels
MODES: dict[str, tuple[Kind, ...]] = {  # layers of each mode, the lowest first
    "overlay": ("image", "layer"),
    "image": ("image",),
    "map": ("map",),
    "positive": ("positive",),
    "negative": ("negative",),
}
FOREVER = "private, max-age=31536000, immutable"

router = APIRouter()


def one_row(stored: StoredRun, number: int) -> ImageRow:
    """The image of a row. Raises NotFound."""
    found = stored.find(where=f"row = {number}", limit=1).rows
    if not found:
        raise NotFound(f"run {stored.run.id} has no recorded image {number}")
    return found[0]


def content_key(run: Run, row: ImageRow) -> str:
    """A digest of the data and the drawing code of an image's pictures; kind, colors and size are not part of it."""
    parts = (DRAWN_AS, run.spec_key, row.sha256, row.version, row.map_run, row.map_row)
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:16]


def address(run: Run, row: ImageRow, kind: str, *, colors: str = "blue-red", size: int = SMALL) -> str:
    """Content-addressed URL of a picture.

    Args:
        run: the run of the row.
        row: an image, done or failed.
        kind: image, layer, map, positive, negative or std.
        colors: scale of signed maps, blue-red or purple-orange.
        size: maximum length of the longer side, 16 to 896 pixels.
    """
    query = with_query({"colours": colors, "size": size, "key": content_key(run, row)})
    return f"/runs/{run.id}/images/{row.row}/{kind}.png?{query}"


def layers(run: Run, row: ImageRow) -> list[str]:
    """URLs of the pictures of an overlay, the lowest first."""
    return [address(run, row, kind) for kind in MODES["overlay"]]


@router.get("/runs/{run}/images/{row}/map.npy", response_class=Response)
def numbers(request: CurrentRequest, run: str, row: RowNumber) -> Response:
    """The map as stored, (C, H, W) float32."""
    stored = request.open_run(run)
    found = one_row(stored, row)
    buffer = io.BytesIO()
    np.save(buffer, stored.map(found))
    disposition = f'attachment; filename="{found.run_id}-{found.row}-map.npy"'
    return Response(buffer.getvalue(), 200, {"Content-Disposition": disposition}, "application/octet-stream")


@router.get("/runs/{run}/images/{row}/overlay.png", response_class=Response)
def overlay(request: CurrentRequest, run: str, row: RowNumber) -> Response:
    """The map over its image as one PNG, for download."""
    stored = request.open_run(run)
    found = one_row(stored, row)
    drawn = pictures.overlay(stored.image(found), stored.map(found))
    disposition = f'attachment; filename="{found.run_id}-{found.row}-overlay.png"'
    return Response(pictures.png_bytes(pictures.upscale(drawn)), 200, {"Content-Disposition": disposition}, "image/png")


@router.get("/runs/{run}/images/{row}/{kind}.png", response_class=Response)
def picture(
    request: CurrentRequest,
    run: str,
    row: RowNumber,
    kind: Kind,
    colours: Colours = "blue-red",
    size: Annotated[int, Query(ge=16, le=LARGE)] = SMALL,
    key: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """One picture as PNG. If its file or its map is gone: 404, with a drawing that contains the reason."""
    stored = request.open_run(run)
    found = one_row(stored, row)
    content = content_key(stored.run, found)
    tag = f'"{content}-{kind}-{colours}-{size}"'
    headers = {"ETag": tag, "Cache-Control": FOREVER if key == content else "private, no-cache"}
    if tag in request.http.headers.get("if-none-match", ""):
        return Response(None, 304, headers)
    try:
        drawn = pictures.shrink(_draw(stored, found, kind, colours), size)
    except (UnreadableImage, ObjectMissing, UsageError) as error:
        return _placeholder(request.redact(str(error)), 404)
    except Retryable as error:
        return _placeholder(request.redact(str(error)), 503)
    return Response(pictures.png_bytes(drawn, fast=True), 200, headers, "image/png")


def _draw(stored: StoredRun, row: ImageRow, kind: Kind, colours: str) -> Image.Image:
    if kind == "image":
        return pictures.to_picture(stored.image(row))
    if kind == "std":
        spread = stored.spread(row)
        if spread is None:
            raise UsageError("a single member has no spread")
        return Image.fromarray(pictures.magnitude_colours(spread))
    values = stored.map(row)
    if kind == "layer":
        return pictures.layer(values, colours)
    if kind == "map":
        return Image.fromarray(pictures.signed_colours(values, colours))
    return Image.fromarray(pictures.one_sided_colours(values, colours, positive=kind == "positive"))


def _placeholder(reason: str, status: int) -> Response:
    """A gray square with the reason, in place of a picture."""
    lines = textwrap.wrap(visible(reason), 30)[:8]
    text = "".join(
        f'<text x="112" y="{118 - 9 * len(lines) + 18 * number}" text-anchor="middle">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    body = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="224" height="224" viewBox="0 0 224 224" '
        'font-family="sans-serif" font-size="12" fill="#4a4d52">'
        f'<rect width="224" height="224" fill="#e6e7e9"/>{text}</svg>'
    )
    return Response(body, status, {"Cache-Control": "no-store"}, "image/svg+xml")
