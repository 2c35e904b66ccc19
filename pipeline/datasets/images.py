"""From the bytes of one image to pixels, trusting nothing.

The header's size is checked before a pixel is decoded, and the format is taken from the content. All errors of an image
become `UnreadableImage`.
"""

import hashlib
import io
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageOps, UnidentifiedImageError

from db.records import Entry
from pipeline.datasets.base import short
from pipeline.datasets.sources import Source, opened
from pipeline.errors import Retryable, UnreadableImage
from pipeline.spec.run_spec import Preprocess

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # recognized by content, not by suffix

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_MAX_RESIZED_PIXELS = 100_000_000  # a 1 x 1,000,000 strip, shorter side resized to 256, would have 65 billion
_header_lock = threading.Lock()  # Pillow's pixel limit is one module global


@dataclass(frozen=True, slots=True)
class Decoded:
    """One decoded image: mode "L" or "RGB", 8 bits a channel, upright, and the digest of the file's bytes."""

    image: Image.Image
    sha256: str


def read_image(source: Source, entry: Entry, *, max_pixels: int) -> Decoded:
    """Read and decode one image, trusting nothing about it.

    The first frame of an animation is used, and its EXIF orientation applied. 16-bit grayscale is scaled (not clipped)
    to 8 bits, 16-bit color is cut to its high byte. Alpha is composited over black; palettes and CMYK are converted.

    Args:
        source: source that listed the entry.
        entry: its version must still be that of the file.
        max_pixels: an image with more pixels (width x height) is refused before decoding (ATTRIBATCH_MAX_PIXELS).

    Raises:
        UnreadableImage: this image cannot be used; the message names it and the reason.
        Retryable: the machine or the source is at fault, not the image (too many open files, a bucket that is away).
    """
    try:
        # 8 bytes: the largest pixel, RGBA of 16 bits
        data = opened(source).read(entry, max_bytes=8 * max_pixels + 2**26)
        return Decoded(_decode(data, max_pixels), hashlib.sha256(data).hexdigest())
    except (UnreadableImage, Retryable) as error:
        raise type(error)(f"{entry.key}: {error}") from error.__cause__


def to_pixels(image: Image.Image, preprocess: Preprocess, *, key: str = "image") -> "NDArray[np.float32]":
    """The pixels of an image for a model: float32 (C, H, W) in [0, 1], not yet normalized.

    `fit="crop"` equals, bit for bit, torchvision's Resize(resize_to) and CenterCrop of a PIL image.

    Args:
        image: mode "L" or "RGB".
        preprocess: its geometry is used; mean and std belong to the model.
        key: names the image in messages.

    Raises:
        UnreadableImage: the size differs and `fit` is "exact", or the image is too elongated to be resized.
    """
    import numpy as np  # 0.2 s that `attribatch --help` must not pay

    image = image.convert("L" if preprocess.channels == 1 else "RGB")
    size = (preprocess.width, preprocess.height)
    if preprocess.fit == "crop":
        image = _crop(image, preprocess, key)
    elif image.size != size and preprocess.fit == "stretch":
        image = image.resize(size, _RESAMPLING[preprocess.interpolation])
    elif image.size != size:
        sizes = f"{image.width} x {image.height} pixels (width x height), the model takes {size[0]} x {size[1]}"
        raise UnreadableImage(f"{key}: {sizes}; set `ModelRequest.resize` to stretch every image")
    pixels = np.asarray(image, dtype=np.float32) / np.float32(255)  # (H, W) or (H, W, 3)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def _decode(data: bytes, max_pixels: int) -> Image.Image:
    """The upright first frame, mode "L" or "RGB"."""
    if not data:
        raise UnreadableImage("empty file (0 bytes)")
    try:
        with _open_header(io.BytesIO(data), max_pixels) as image:
            image.load()  # verify() would pass half a JPEG
            return _eight_bits(ImageOps.exif_transpose(image))
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage(f"not an image of {', '.join(FORMATS)}, or its header is damaged") from None
    except MemoryError:
        raise UnreadableImage("not enough memory to decode it; lower ATTRIBATCH_MAX_PIXELS") from None
    except Exception as error:  # a decoder fed with hostile bytes may raise anything
        raise UnreadableImage(f"truncated or damaged ({short(error)})") from error


def _open_header(data: io.BytesIO, max_pixels: int) -> Image.Image:
    """Open without decoding. Pillow's own limit (a global, 89 megapixels) gives way to ours."""
    with _header_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(data, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    if image.width * image.height > max_pixels:
        size = f"{image.width} x {image.height} pixels"
        raise UnreadableImage(f"{size}, the limit is {max_pixels:,}; raise ATTRIBATCH_MAX_PIXELS to allow it")
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Mode "L" or "RGB"."""
    if image.mode.startswith("I;16"):
        import numpy as np

        values = np.asarray(image).astype(np.uint32)  # (H, W) in 0..65535
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UnreadableImage("32-bit or signed pixels have no known range; convert it to 8 or 16 bits")
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert(mode)


def _crop(image: Image.Image, preprocess: Preprocess, key: str) -> Image.Image:
    """Resize the shorter side to `resize_to` and cut out the center, rounded as in torchvision."""
    shorter = preprocess.resize_to or min(preprocess.width, preprocess.height)
    longer = int(shorter * max(image.size) / min(image.size))
    if shorter * longer > _MAX_RESIZED_PIXELS:
        raise UnreadableImage(f"{key}: {image.width} x {image.height} pixels, too long to resize; crop it")
    size = (shorter, longer) if image.width <= image.height else (longer, shorter)
    image = image.resize(size, _RESAMPLING[preprocess.interpolation])
    left, top = round((size[0] - preprocess.width) / 2.0), round((size[1] - preprocess.height) / 2.0)
    return image.crop((left, top, left + preprocess.width, top + preprocess.height))
