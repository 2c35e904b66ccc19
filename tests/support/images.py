"""Small images, and how they are read from a folder."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.datasets import Decoded, Source, list_entries, read_image
from pipeline.errors import UnreadableImage

RED = (255, 0, 0)


def picture(path: Path, size=(8, 6), color=RED, mode="RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path, **options)
    return path


def noise(height: int, width: int, channels: int = 3) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values[:, :, 0] if channels == 1 else values)


def read_one(folder: Path, key: str, max_pixels: int = 1_000_000) -> Decoded:
    source = Source("folder", str(folder.resolve()))
    entry = next(entry for entry in list_entries(source) if entry.key == key)
    return read_image(source, entry, max_pixels=max_pixels)


def reason(folder: Path, key: str, max_pixels: int = 1_000_000) -> str:
    with pytest.raises(UnreadableImage) as caught:
        read_one(folder, key, max_pixels)
    assert str(caught.value).startswith(f"{key}: ")
    return str(caught.value)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has almost no data."""

    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = block(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + block(b"IDAT", zlib.compress(bytes(100))) + block(b"IEND", b"")
