"""Sources of images: from a folder or a manifest file to frozen entries, and from hostile bytes to pixels.

Listing reads names and `stat` only, never image bytes. Decoding trusts nothing: the path must stay below the root, the
header's size is checked before a pixel is decoded, the format is taken from the content, and whatever is wrong with
one image is said in one `UnreadableImage`. Knows nothing of models, units or storage.
"""

import csv
import difflib
import errno
import hashlib
import io
import json
import os
import stat
import textwrap
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from PIL import Image, ImageOps, UnidentifiedImageError

from db.records import Entry
from pipeline.errors import DatasetError, Retryable, UnreadableImage
from pipeline.spec import Preprocess

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # by content, whatever the suffix says
MISSING = "missing"  # version of a manifest's entry that has no file

_MANIFEST_SUFFIXES = (".csv", ".jsonl", ".ndjson")
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_MAX_RESIZED_PIXELS = 100_000_000  # a 1 x 1,000,000 strip, shorter side resized to 256, would have 65 billion
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN)
_real_folder = lru_cache(maxsize=1024)(os.path.realpath)
_header_lock = threading.Lock()  # Pillow's pixel limit is one module global


@dataclass(frozen=True, slots=True)
class Source:
    """Where images come from. `location` is absolute: the folder, or the manifest file."""

    kind: Literal["folder", "manifest"]
    location: str

    @property
    def root(self) -> str:
        """The folder that every key is relative to, and that no image may lie outside of."""
        return self.location if self.kind == "folder" else str(Path(self.location).parent)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Decoded:
    """One decoded image: mode "L" or "RGB", 8 bits a channel, upright, and the digest of the file's bytes."""

    image: Image.Image
    sha256: str


def open_source(location: str) -> Source:
    """The source at a path: a folder of images, or a CSV or JSONL manifest (`file_name`, optional `label`).

    A manifest is parsed to its end, so that a wrong line is said before a run is planned.

    Raises:
        DatasetError: nothing is there, the folder has no image, or a line of the manifest does not parse.
    """
    path = Path(location).expanduser().absolute()
    if path.is_dir():
        source = Source("folder", str(path.resolve()))
        if next(_walk(source.location, ""), None) is None:
            raise DatasetError(f"folder {path} holds no image; known are {' '.join(SUFFIXES)}")
        return source
    if not path.exists():
        raise DatasetError(f"{path} does not exist{_near_miss(path)}; give a folder of images or a manifest")
    if path.suffix.lower() not in _MANIFEST_SUFFIXES:
        raise DatasetError(f"{path} is no manifest ({' '.join(_MANIFEST_SUFFIXES)}); give one, or a folder of images")
    source = Source("manifest", str(path.parent.resolve() / path.name))
    if next(iter(deque(_manifest_lines(source), maxlen=1)), None) is None:
        raise DatasetError(f"manifest {path} lists no image; add a line for each, with its file_name")
    return source


def list_entries(source: Source) -> Iterator[Entry]:
    """The entries of a source, numbered from 0: a folder's sorted by key, a manifest's in the file's order.

    Memory holds one directory at a time. The version is `{size}-{mtime_ns}`, or `missing` where nothing is there (the
    row will be failed, its neighbours go on).

    Raises:
        DatasetError: a manifest line does not parse or leads out of the manifest's folder (with the line), a
            directory cannot be read or is a symbolic link, or a name is not valid UTF-8.
    """
    if source.kind == "folder":
        for row, (key, version) in enumerate(_walk(source.location, "")):
            yield Entry(row, key, version, key.split("/")[0] if "/" in key else None)
        return
    root = source.root
    for row, (line, key, label) in enumerate(_manifest_lines(source)):
        path = f"{root}/{key}"
        parent, _, name = path.rpartition("/")
        real = f"{_real_folder(parent)}/{name}"
        if not _is_below(os.path.realpath(real) if os.path.islink(real) else real, root):  # noqa: PTH114
            where = f"manifest {source.location}: line {line}"
            raise DatasetError(f"{where}: {key!r} is a link that leads out of {root}; copy the file there")
        yield Entry(row, key, _version(path), label)


def is_unchanged(source: Source, key: str, version: str) -> bool:
    """Whether a file is still the one that was listed: a `stat`, no read."""
    return _version(f"{source.root}/{key}") == version


def read_image(source: Source, entry: Entry, *, max_pixels: int) -> Decoded:
    """Read and decode one image, trusting nothing about it.

    The first frame of an animation; EXIF orientation applied; 16-bit greyscale scaled (not clipped) to 8
    bits, 16-bit colour cut to its high byte; alpha composited over black; palettes and CMYK converted.

    Args:
        source: where the entry was listed.
        entry: its version must still be that of the file.
        max_pixels: width x height above this is refused from the header alone (ATTRIBATCH_MAX_PIXELS).

    Raises:
        UnreadableImage: this image cannot be used; the message names it and the reason.
        Retryable: the machine, not the image, is at fault (too many open files, a stale mount).
    """
    try:
        # 8 bytes: the largest pixel, RGBA of 16 bits
        data = _read_bytes(source, entry, max_bytes=8 * max_pixels + 2**26)
        return Decoded(_decode(data, max_pixels), hashlib.sha256(data).hexdigest())
    except (UnreadableImage, Retryable) as error:
        raise type(error)(f"{entry.key}: {error}") from error.__cause__


def to_pixels(image: Image.Image, preprocess: Preprocess, *, key: str = "image") -> "NDArray[np.float32]":
    """The pixels that a model explains: float32 (C, H, W) in [0, 1], not yet normalised.

    `fit="crop"` gives bit for bit what torchvision's Resize(resize_to), CenterCrop give on a PIL image.

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
        raise UnreadableImage(f"{key}: {sizes}; pass --resize to resize every image")
    pixels = np.asarray(image, dtype=np.float32) / np.float32(255)  # (H, W) or (H, W, 3)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, str]]:
    """(key, version) of the images below a folder, sorted by key.

    A directory sorted by name, a slash after each folder's, is in the order of whole keys ("a-b/x" < "a/x").
    """
    try:
        with os.scandir(folder) as found:
            children = [child for child in found if not child.name.startswith(".")]
    except OSError as error:
        raise DatasetError(f"folder {folder} cannot be listed: {error.strerror}; check permissions") from None
    for child in sorted(children, key=lambda child: child.name + "/" if child.is_dir() else child.name):
        key = prefix + child.name
        if child.is_dir():
            if child.is_symlink():  # it may lead out of the data set, or in a circle
                raise DatasetError(f"folder {child.path} is a symbolic link; copy it there, or remove it")
            yield from _walk(child.path, key + "/")
        elif child.name.lower().endswith(SUFFIXES) and (version := _version(child.path)):
            if not _is_utf8(key):
                raise DatasetError(f"folder {folder}: the name {key!a} is not valid UTF-8; rename the file")
            yield key, version


def _is_utf8(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


def _version(path: str) -> str:
    """`{size}-{mtime_ns}`, "missing" where nothing is there, "" for no regular file (a pipe, a device)."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a million of these
    except OSError:
        return MISSING
    return _version_of(found) if stat.S_ISREG(found.st_mode) else ""


def _version_of(found: os.stat_result) -> str:
    return f"{found.st_size}-{found.st_mtime_ns}"


def _is_below(real: str, root: str) -> bool:
    """Whether a path without links lies below the root."""
    return real.startswith(root.rstrip("/") + "/")


def _manifest_lines(source: Source) -> Iterator[tuple[int, str, str | None]]:
    """(line number, key, label) of a manifest's lines, each key relative and free of `..`."""
    path = Path(source.location)
    read = _csv_lines if path.suffix.lower() == ".csv" else _json_lines
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line, name, label in read(file):
                yield line, _relative(name, line), label
    except UnicodeDecodeError:
        raise DatasetError(f"manifest {path}: after line {line}, not UTF-8 text; save it as UTF-8") from None
    except ValueError as error:
        raise DatasetError(f"manifest {path}: {error}") from None
    except OSError as error:
        raise DatasetError(f"manifest {path} cannot be read: {error.strerror}") from None


def _relative(name: str, line: int) -> str:
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        raise ValueError(f"line {line}: {name!r} leads out of the manifest's folder; use a path below it")
    key = "/".join(part for part in parts if part not in ("", "."))
    if not key or "\0" in key or not _is_utf8(key):
        raise ValueError(f"line {line}: file_name is {name!r}, which is no path below the manifest's folder")
    return key


def _csv_lines(file: Iterable[str]) -> Iterator[tuple[int, str, str | None]]:
    reader = csv.reader(file, strict=True)
    try:
        header = [column.strip() for column in next(reader, [])]
        if "file_name" not in header:
            raise ValueError(f"line 1: no column file_name{_column_hint(header)}")
        for values in reader:
            if values and len(values) != len(header):
                raise ValueError(f"line {reader.line_num}: {len(values)} values for {len(header)} columns")
            if values:
                row = dict(zip(header, values, strict=True))
                yield reader.line_num, row["file_name"], row.get("label") or None
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: not valid CSV ({error})") from None


def _json_lines(file: Iterable[str]) -> Iterator[tuple[int, str, str | None]]:
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {line}: not valid JSON ({_short(error)}); one object per line") from None
        name, label = (data.get("file_name"), data.get("label")) if isinstance(data, dict) else (None, None)
        if not isinstance(name, str):
            hint = _column_hint(list(data)) if isinstance(data, dict) else "; write one object per line"
            raise ValueError(f"line {line}: no text field file_name{hint}")  # noqa: TRY004
        yield line, name, None if label in (None, "") else str(label)


def _column_hint(names: list[str]) -> str:
    meant = [name for name in names if name.lower().strip() in ("filename", "file", "path", "image")]
    hint = f"; rename {meant[0]!r} to file_name" if meant else "; name one of them file_name"
    return f" (found: {', '.join(names[:6])}){hint}"


def _near_miss(path: Path) -> str:
    """A sibling of nearly the same name, or the parent that is missing too."""
    if not path.parent.is_dir():
        return f" (nor does {path.parent})"
    close = difflib.get_close_matches(path.name, [child.name for child in path.parent.iterdir()], n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def _read_bytes(source: Source, entry: Entry, *, max_bytes: int) -> bytes:
    """The bytes of an entry's file, unchanged since it was listed."""
    path = os.path.realpath(f"{source.root}/{entry.key}")
    if not _is_below(path, source.root):
        raise UnreadableImage(f"a path or link that leads out of {source.root}; copy the file there")
    try:
        # O_NONBLOCK: a named pipe called x.png would otherwise wait for ever
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(handle)
            _check_file(found, entry, max_bytes)
            with os.fdopen(handle, "rb", closefd=False) as file:
                return file.read(found.st_size)
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise UnreadableImage("the file is missing") from None
    except PermissionError:
        raise UnreadableImage("no permission to read the file") from None
    except OSError as error:
        kind = Retryable if error.errno in _PASSING else UnreadableImage
        raise kind(f"cannot be read ({error.strerror})") from error


def _check_file(found: os.stat_result, entry: Entry, max_bytes: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableImage("not a regular file")
    if _version_of(found) != entry.version:
        raise UnreadableImage("the file changed after the run was planned; run again to take it in")
    if found.st_size == 0:
        raise UnreadableImage("empty file (0 bytes)")
    if found.st_size > max_bytes:
        raise UnreadableImage(f"{found.st_size:,} bytes, more than ATTRIBATCH_MAX_PIXELS pixels can take")


def _decode(data: bytes, max_pixels: int) -> Image.Image:
    """The upright first frame, mode "L" or "RGB"."""
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
        raise UnreadableImage(f"truncated or damaged ({_short(error)})") from error


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
    """Resize the shorter side to `resize_to`, cut out the centre; rounded as torchvision rounds."""
    shorter = preprocess.resize_to or min(preprocess.width, preprocess.height)
    longer = int(shorter * max(image.size) / min(image.size))
    if shorter * longer > _MAX_RESIZED_PIXELS:
        raise UnreadableImage(f"{key}: {image.width} x {image.height} pixels, too long to resize; crop it")
    size = (shorter, longer) if image.width <= image.height else (longer, shorter)
    image = image.resize(size, _RESAMPLING[preprocess.interpolation])
    left, top = round((size[0] - preprocess.width) / 2.0), round((size[1] - preprocess.height) / 2.0)
    return image.crop((left, top, left + preprocess.width, top + preprocess.height))


def _short(error: BaseException) -> str:
    return textwrap.shorten(str(error) or type(error).__name__, 120, placeholder="...")
