"""Hostile files become reasons, never crashes; what is decoded is what the model was made for."""

import contextlib
import hashlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from pipeline import datasets
from pipeline.datasets import to_pixels
from pipeline.errors import UnreadableImage
from pipeline.spec.run_spec import Preprocess
from tests.support.images import RED, noise, picture, png_header, read_one, reason


def test_the_format_comes_from_the_content(tmp_path):
    """The digest is of the bytes and the format comes from the content."""
    picture(tmp_path / "1.png")
    (tmp_path / "1.png").rename(tmp_path / "really-a-png.jpg")
    decoded = read_one(tmp_path, "really-a-png.jpg")
    assert decoded.sha256 == hashlib.sha256((tmp_path / "really-a-png.jpg").read_bytes()).hexdigest()
    assert (decoded.image.mode, decoded.image.size, decoded.image.getpixel((0, 0))) == ("RGB", (8, 6), RED)


def test_an_exif_rotated_jpeg_comes_out_upright(tmp_path):
    image = Image.new("RGB", (40, 20), RED)
    image.paste((0, 0, 255), (0, 0, 20, 20))  # blue left half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.save(tmp_path / "1.jpg", exif=exif, quality=95)
    upright = read_one(tmp_path, "1.jpg").image
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5))[2] > 200  # blue is on top
    assert upright.getpixel((10, 35))[0] > 200


def test_a_cmyk_jpeg_becomes_rgb(tmp_path):
    picture(tmp_path / "1.jpg", mode="CMYK", color=(0, 255, 255, 0))
    image = read_one(tmp_path, "1.jpg").image
    assert image.mode == "RGB"
    assert np.abs(np.subtract(image.getpixel((3, 3)), RED)).max() < 12


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    for name in ("1.png", "1.tif"):
        Image.fromarray(values).save(tmp_path / name)
        image = read_one(tmp_path, name).image
        assert image.mode == "L"
        assert np.asarray(image).tolist() == [[0, 1, 128, 255]]


def test_alpha_is_composited_over_black(tmp_path):
    picture(tmp_path / "rgba.png", mode="RGBA", color=(200, 100, 0, 128))
    picture(tmp_path / "la.png", mode="LA", color=(200, 0))
    assert read_one(tmp_path, "rgba.png").image.getpixel((0, 0)) == (100, 50, 0)
    assert read_one(tmp_path, "la.png").image.getpixel((0, 0)) == 0


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])])
def test_a_transparent_palette_shows_black(tmp_path, transparency):
    """A palette with transparency shows black where it is transparent."""
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, 0, 255, 0])
    image.putdata([0, 1])
    image.save(tmp_path / "1.png", transparency=transparency)
    decoded = read_one(tmp_path, "1.png").image
    assert [decoded.getpixel((x, 0)) for x in (0, 1)] == [RED, (0, 0, 0)]


@pytest.mark.parametrize("name", ["1.gif", "1.webp"])
def test_an_animation_gives_its_first_frame(tmp_path, name):
    frames = [Image.new("RGB", (16, 16), color) for color in (RED, (0, 255, 0), (0, 0, 255))]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=40)
    assert np.abs(np.subtract(read_one(tmp_path, name).image.getpixel((8, 8)), RED)).max() < 12


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_every_format_of_the_list_is_read(tmp_path, mode):
    for suffix in datasets.SUFFIXES:
        if (mode, suffix) != ("1", ".webp"):
            picture(tmp_path / f"1{suffix}", mode=mode, color="white")
            values = np.asarray(read_one(tmp_path, f"1{suffix}").image)
            assert values.min() >= 250


def test_a_header_of_fifty_thousand_squared_is_refused_undecoded(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_header(50_000, 50_000))
    text = reason(tmp_path, "bomb.png")
    assert "50000 x 50000" in text
    assert "1,000,000" in text
    assert "ATTRIBATCH_MAX_PIXELS" in text


def test_the_pixel_limit_is_ours_not_pillows(tmp_path, monkeypatch):
    picture(tmp_path / "1.png", size=(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert read_one(tmp_path, "1.png", max_pixels=10_000).image.size == (100, 100)
    assert "100 x 100" in reason(tmp_path, "1.png", max_pixels=9_999)
    assert Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif", ".gif"])
def test_half_an_image_is_truncated_and_never_half_decoded(tmp_path, suffix):
    path = tmp_path / f"1{suffix}"
    noise(64, 64).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert re.search("truncated|damaged", reason(tmp_path, path.name))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (b"this is a text\n", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "not an image|damaged"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (os.urandom(500), "not an image"),
    ],
)
def test_what_is_no_image_is_said(tmp_path, content, words):
    (tmp_path / "1.png").write_bytes(content)
    with pytest.raises(UnreadableImage, match=words):
        read_one(tmp_path, "1.png")


def test_flipped_bytes_never_raise_anything_but_unreadable(tmp_path):
    rng = np.random.default_rng(1)
    noise(16, 16).save(tmp_path / "1.png")
    for suffix in (".png", ".jpg", ".webp", ".bmp", ".tif", ".gif"):
        path = tmp_path / f"1{suffix}"
        noise(16, 16).save(path)
        good = path.read_bytes()
        for _ in range(60):
            bad = bytearray(good)
            for at in rng.integers(0, min(len(bad), 200), 3):
                bad[at] = rng.integers(0, 256)
            path.write_bytes(bad)
            with contextlib.suppress(UnreadableImage):
                assert read_one(tmp_path, path.name).image.mode in ("L", "RGB")


def test_pixels_without_a_range_are_refused(tmp_path):
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(tmp_path / "1.tif")
    assert "8 or 16 bits" in reason(tmp_path, "1.tif")


@pytest.mark.parametrize("size", [(300, 200), (200, 301), (97, 131), (64, 64), (33, 500), (256, 257)])
@pytest.mark.parametrize(("short", "crop"), [(64, 56), (57, 56), (72, 65), (56, 56)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_crop_equals_torchvision(size, short, crop, interpolation):
    image = noise(size[1], size[0])
    expected = transforms.Compose(
        [
            transforms.Resize(short, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(crop),
            transforms.ToTensor(),
        ]
    )(image)
    preprocess = Preprocess(crop, crop, fit="crop", resize_to=short, interpolation=interpolation)
    pixels = torch.from_numpy(to_pixels(image, preprocess))
    assert torch.equal(pixels, expected)


def test_pixels_are_float32_in_zero_one_with_the_asked_channels():
    for channels in (1, 3):
        for image in (noise(6, 8), noise(6, 8, channels=1)):
            pixels = to_pixels(image, Preprocess(6, 8, channels=channels))
            assert pixels.shape == (channels, 6, 8)
            assert pixels.dtype == np.float32
            assert pixels.flags.c_contiguous
            assert 0 <= pixels.min() < pixels.max() <= 1
    white = Image.new("L", (8, 6), 255)
    assert (to_pixels(white, Preprocess(6, 8)) == 1).all()


def test_stretch_gives_the_size_whatever_the_shape():
    assert to_pixels(noise(31, 77), Preprocess(12, 10, fit="stretch")).shape == (3, 12, 10)


def test_another_size_than_the_models_names_both_and_the_remedy():
    with pytest.raises(UnreadableImage, match=r"k.png: 77 x 31 .* 10 x 12; set `ModelRequest.resize`"):
        to_pixels(noise(31, 77), Preprocess(12, 10), key="k.png")


def test_a_strip_whose_resized_side_would_fill_memory_is_refused():
    with pytest.raises(UnreadableImage, match="1 x 1000000"):
        to_pixels(Image.new("L", (1, 1_000_000)), Preprocess(224, 224, fit="crop", resize_to=256))


@pytest.mark.slow
def test_importing_datasets_imports_neither_torch_nor_numpy():
    code = "import sys, pipeline.datasets; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
