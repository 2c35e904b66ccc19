"""Maps and images as pictures: colors, overlays, boxes. Arrays in, no I/O.

Images are (C, H, W) in [0, 1], C = 1 or 3; maps are (H, W), or (C, H, W) and then summed over channels. Signed maps go
from blue (against the class) over white (0) to red (for it): the two ends of ColorBrewer's RdBu (Brewer, 2003), which
people with any common color vision can distinguish. PuOr, from purple to orange, is an option. The scale is symmetric
about 0 and ends at the 99th percentile of |map|, so that a few extreme pixels do not bleach the rest; larger values
have the color of the end.
"""

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.analysis.audit.boxes import Box

Floats = NDArray[np.floating[Any]]
Bytes = NDArray[np.uint8]

Anchors = tuple[tuple[int, int, int], ...]

_SIGNED: dict[str, Anchors] = {
    "blue-red": ((5, 48, 97), (67, 147, 195), (247, 247, 247), (214, 96, 77), (103, 0, 31)),
    "purple-orange": ((45, 0, 75), (128, 115, 172), (247, 247, 247), (224, 130, 20), (127, 59, 8)),
}
_STRONG = {"blue-red": ((25, 90, 185), (190, 20, 40)), "purple-orange": ((84, 39, 136), (200, 85, 0))}
_MAGNITUDE: Anchors = ((247, 247, 247), (253, 212, 158), (252, 141, 89), (215, 48, 31), (103, 0, 13))
COLOURS = tuple(_SIGNED)  # of signed maps: against - for
LEAST_PIXELS = 160


def flat(values: Floats) -> Floats:
    """A map as (H, W): summed over channels if it has some."""
    return values.sum(axis=0) if values.ndim == 3 else values


def scale_of(values: Floats) -> float:
    """Where the colors end: the 99th percentile of |values|, or the maximum if that is 0; never 0."""
    size = np.abs(values)
    return float(np.quantile(size, 0.99)) or float(size.max()) or 1.0


def signed_colours(values: Floats, colours: str = "blue-red") -> Bytes:
    """One of `COLOURS` for a map (H, W) or (C, H, W) -> (H, W, 3) uint8; 0 is white."""
    summed = flat(values)
    return _ramp((np.clip(summed / scale_of(summed), -1, 1) + 1) / 2, _SIGNED[colours])


def one_sided_colours(values: Floats, colours: str = "blue-red", *, positive: bool = True) -> Bytes:
    """Only the evidence for (or against) the class, in that end's colors on white, (H, W, 3) uint8."""
    summed = flat(values)
    part = np.clip(summed if positive else -summed, 0, None)
    middle = len(_SIGNED[colours]) // 2
    ramp = _SIGNED[colours][middle:] if positive else _SIGNED[colours][middle::-1]
    return _ramp(np.clip(part / scale_of(part), 0, 1), ramp)


def layer(values: Floats, colours: str = "blue-red") -> Image.Image:
    """A map to be laid over its image, RGBA: the sign's color, the more opaque the larger |map|."""
    summed = flat(values)
    cover = 255 * np.clip(np.abs(summed) / scale_of(summed), 0, 1) ** 0.7
    ends = np.asarray(_STRONG[colours], np.uint8)[(summed >= 0).astype(np.intp)]  # (H, W, 3)
    return Image.fromarray(np.dstack([ends, cover.round().astype(np.uint8)]), "RGBA")


def magnitude_colours(values: Floats) -> Bytes:
    """White - orange - dark red for non-negative values (H, W) or (C, H, W) -> (H, W, 3) uint8."""
    summed = flat(values)
    return _ramp(np.clip(summed / scale_of(summed), 0, 1), _MAGNITUDE)


def overlay(image: Floats, values: Floats, opacity: float = 0.85) -> Image.Image:
    """The image in pale gray under its map: the larger |map|, the more opaque the color, up to `opacity` (0..1)."""
    summed = flat(values)
    grey = 255 * (0.5 + 0.5 * np.clip(image.mean(axis=0), 0, 1))[..., None]  # pale: black would swallow the colors
    cover = opacity * np.clip(np.abs(summed) / scale_of(summed), 0, 1)[..., None] ** 0.7
    mixed = (1 - cover) * grey + cover * _ends(summed)
    return Image.fromarray(mixed.round().astype(np.uint8))


def _ends(values: Floats) -> Floats:
    """The strong color of each pixel's sign, (H, W, 3): the opacity shows the size."""
    against, speaks_for = _STRONG["blue-red"]
    return np.where(values[..., None] >= 0, speaks_for, against).astype(np.float64)


def to_picture(image: Floats) -> Image.Image:
    """An image (C, H, W) in [0, 1] as a PIL picture in RGB; values beyond are clipped."""
    pixels = (np.clip(image, 0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))


def upscale(picture: Image.Image, least: int = LEAST_PIXELS) -> Image.Image:
    """A small picture enlarged by the smallest whole factor that makes its shorter side `least` pixels or more.

    Nearest neighbor: pixels stay squares, no pixel of the model's input is smoothed.
    """
    factor = -(-least // min(picture.size))
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Image.Resampling.NEAREST) if factor > 1 else picture


def shrink(picture: Image.Image, most: int) -> Image.Image:
    """A large picture reduced so that its longer side has at most `most` pixels."""
    factor = most / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.LANCZOS) if factor < 1 else picture


def boxed(picture: Image.Image, region: Box, size: tuple[int, int]) -> Image.Image:
    """A copy with a region's frame. `region` is in pixels of an image of `size` (height, width).

    The frame is yellow between two black lines, so that it shows on any ground. It is outside the region if there
    is room, so that it hides none of it.
    """
    across, down = picture.width / size[1], picture.height / size[0]
    width = max(3, round(min(picture.size) / 50))
    x0, y0 = region[0] * across - width, region[1] * down - width
    x1, y1 = region[2] * across + width - 1, region[3] * down + width - 1
    frame = [
        max(0, round(x0)),
        max(0, round(y0)),
        min(picture.width - 1, round(x1)),
        min(picture.height - 1, round(y1)),
    ]
    out = picture.convert("RGB")
    pen = ImageDraw.Draw(out)
    pen.rectangle(frame, outline=(0, 0, 0), width=width)
    inner = [frame[0] + 1, frame[1] + 1, frame[2] - 1, frame[3] - 1]
    pen.rectangle(inner, outline=(255, 221, 0), width=width - 2)
    return out


def shortened(text: str, most: int = 18) -> str:
    """A name that fits next to a chart: its end is replaced by an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def png_bytes(picture: Image.Image, *, fast: bool = False) -> bytes:
    """A picture as a PNG file's bytes; `fast` makes up to a seventh more of them in a quarter of the time."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=1 if fast else 6)  # Pillow's `optimize` takes 200 ms for a layer
    return buffer.getvalue()


def data_uri(picture: Image.Image) -> str:
    """A picture as a `data:` address, for a page that needs no other file."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(picture)).decode("ascii")


def _ramp(positions: Floats, anchors: Anchors) -> Bytes:
    """Colors at positions 0..1 between evenly spaced anchors, (H, W, 3)."""
    places = np.linspace(0, 1, len(anchors))
    channels = [np.interp(positions, places, [anchor[channel] for anchor in anchors]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)
