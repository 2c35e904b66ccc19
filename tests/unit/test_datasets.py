"""Sources list what is there and nothing else; hostile files become reasons, never crashes."""

import contextlib
import errno
import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from db.records import Entry
from pipeline import datasets
from pipeline.datasets import Source, list_entries, open_source, read_image, to_pixels
from pipeline.errors import DatasetError, Retryable, UnreadableImage
from pipeline.spec import Preprocess

RED = (255, 0, 0)


def picture(path: Path, size=(8, 6), color=RED, mode="RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path, **options)
    return path


def noise(height: int, width: int, channels: int = 3) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values[:, :, 0] if channels == 1 else values)


def read_one(folder: Path, key: str, max_pixels: int = 1_000_000) -> datasets.Decoded:
    source = Source("folder", str(folder.resolve()))
    entry = next(entry for entry in list_entries(source) if entry.key == key)
    return read_image(source, entry, max_pixels=max_pixels)


def reason(folder: Path, key: str, max_pixels: int = 1_000_000) -> str:
    with pytest.raises(UnreadableImage) as caught:
        read_one(folder, key, max_pixels)
    assert str(caught.value).startswith(f"{key}: ")
    return str(caught.value)


# Listing


def test_a_tree_is_listed_in_the_order_of_keys_with_the_first_folder_as_label(tmp_path):
    for key in ("b/2.png", "b/10.JPG", "a/deep/1.png", "a-b/x.png", "Z/1.tif"):
        picture(tmp_path / key)
    entries = list(list_entries(open_source(str(tmp_path))))
    keys = [entry.key for entry in entries]
    assert keys == sorted(keys) == ["Z/1.tif", "a-b/x.png", "a/deep/1.png", "b/10.JPG", "b/2.png"]
    assert [entry.label for entry in entries] == ["Z", "a-b", "a", "b", "b"]
    assert [entry.row for entry in entries] == [0, 1, 2, 3, 4]
    found = (tmp_path / "Z/1.tif").stat()
    assert entries[0].version == f"{found.st_size}-{found.st_mtime_ns}"


def test_a_flat_folder_has_no_labels(tmp_path):
    picture(tmp_path / "1.png")
    assert [entry.label for entry in list_entries(open_source(str(tmp_path)))] == [None]


def test_hidden_files_other_suffixes_and_pipes_are_skipped(tmp_path):
    picture(tmp_path / "1.png")
    picture(tmp_path / ".2.png")
    picture(tmp_path / ".thumbs/3.png")
    (tmp_path / "labels.txt").write_text("x")
    os.mkfifo(tmp_path / "pipe.png")
    assert [entry.key for entry in list_entries(open_source(str(tmp_path)))] == ["1.png"]


def test_listing_never_opens_an_image(tmp_path, monkeypatch):
    (tmp_path / "1.png").write_bytes(b"not an image")
    monkeypatch.setattr(os, "open", None)
    assert len(list(list_entries(open_source(str(tmp_path))))) == 1


def test_a_source_survives_json(tmp_path):
    picture(tmp_path / "a/1.png")
    source = open_source(str(tmp_path))
    assert Source.from_json(source.to_json()) == source


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("data", ["does not exist", "did you mean", "date"]),
        ("no/where", ["does not exist", "nor does"]),
        ("empty", ["no image", ".png"]),
        ("date/1.png", ["no manifest", "a folder"]),
    ],
)
def test_a_wrong_location_is_said_with_a_remedy(tmp_path, location, words):
    picture(tmp_path / "date/1.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError) as caught:
        open_source(str(tmp_path / location))
    assert all(word in str(caught.value) for word in words)


def test_a_linked_folder_is_named_instead_of_followed_or_left_out(tmp_path):
    picture(tmp_path / "data/a/1.png")
    (tmp_path / "data/b").symlink_to(tmp_path / "data")
    with pytest.raises(DatasetError, match="data/b is a symbolic link"):
        list(list_entries(Source("folder", str(tmp_path / "data"))))


def test_a_name_that_is_not_utf8_is_named(tmp_path):
    picture(tmp_path / "1.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    with pytest.raises(DatasetError, match="not valid UTF-8"):
        open_source(str(tmp_path))


# Manifests


def test_csv_and_jsonl_manifests_list_the_same_in_the_order_of_the_file(tmp_path):
    for name in ("b.png", "a/1.png"):
        picture(tmp_path / name)
    (tmp_path / "m.csv").write_text('label,file_name,extra\ncat,b.png,1\n"d,og",./a/1.png,2\n,gone.png,\n')
    lines = [
        {"file_name": "b.png", "label": "cat"},
        {"file_name": "a/1.png", "label": "d,og"},
        {"file_name": "gone.png"},
    ]
    (tmp_path / "m.jsonl").write_text("\n\n".join(json.dumps(line) for line in lines))
    listed = [list(list_entries(open_source(str(tmp_path / name)))) for name in ("m.csv", "m.jsonl")]
    assert listed[0] == listed[1]
    assert [(entry.key, entry.label) for entry in listed[0]] == [
        ("b.png", "cat"),
        ("a/1.png", "d,og"),
        ("gone.png", None),
    ]
    assert listed[0][2].version == "missing"


def test_a_listed_file_that_is_missing_is_a_failed_image_not_a_failed_manifest(tmp_path):
    (tmp_path / "m.csv").write_text("file_name\ngone.png\n")
    source = open_source(str(tmp_path / "m.csv"))
    (entry,) = list_entries(source)
    with pytest.raises(UnreadableImage, match=r"^gone.png: the file is missing"):
        read_image(source, entry, max_pixels=100)
    picture(tmp_path / "gone.png")
    with pytest.raises(UnreadableImage, match="changed after the run was planned"):
        read_image(source, entry, max_pixels=100)


def test_whole_numbers_are_labels_too(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"file_name": "a.png", "label": 0}\n')
    assert [entry.label for entry in list_entries(open_source(str(tmp_path / "m.jsonl")))] == ["0"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("m.csv", "", ["line 1", "file_name"]),
        ("m.csv", "file_name\n", ["lists no image"]),
        ("m.csv", "filename,label\na.png,x\n", ["line 1", "rename 'filename' to file_name"]),
        ("m.csv", "file_name,label\na.png,x\nb.png\n", ["line 3", "1 values for 2 columns"]),
        ("m.csv", 'file_name\n"a.png\n', ["line 2", "not valid CSV"]),
        ("m.csv", "file_name\na.png\n../b.png\n", ["line 3", "leads out"]),
        ("m.csv", "file_name\n/etc/passwd\n", ["line 2", "leads out"]),
        ("m.csv", "file_name\na/../../b.png\n", ["line 2", "leads out"]),
        ("m.jsonl", '{"file_name": "a.png"}\n{"file_name": \n', ["line 2", "not valid JSON"]),
        ("m.jsonl", '{"file_name": "a.png"}\n["b.png"]\n', ["line 2", "file_name"]),
        ("m.jsonl", '{"file": "a.png"}\n', ["line 1", "rename 'file' to file_name"]),
        ("m.jsonl", '{"file_name": "a\\u0000.png"}\n', ["line 1", "no path"]),
        ("m.jsonl", '{"file_name": "."}\n', ["line 1", "no path"]),
        ("m.jsonl", "[" * 100_000, ["line 1", "not valid JSON"]),
        ("m.csv", b"file_name\n\xff\xfe.png\n", ["not UTF-8"]),
    ],
)
def test_a_manifest_that_does_not_parse_is_said_with_its_line(tmp_path, name, text, words):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DatasetError) as caught:
        open_source(str(tmp_path / name))
    assert all(word in str(caught.value) for word in [name, *words]), caught.value


@pytest.mark.parametrize("linked", ["link.png", "folder/secret.png"])
def test_a_manifest_line_that_leaves_the_root_by_a_link_is_said_with_its_line(tmp_path, linked):
    picture(tmp_path / "outside/secret.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/link.png").symlink_to(tmp_path / "outside/secret.png")
    (tmp_path / "data/folder").symlink_to(tmp_path / "outside")
    (tmp_path / "data/m.csv").write_text(f"file_name\n{linked}\n")
    with pytest.raises(DatasetError, match=r"line 2: .* leads out of"):
        list(list_entries(open_source(str(tmp_path / "data/m.csv"))))


# Decoding


def test_the_digest_is_of_the_bytes_and_the_format_comes_from_the_content(tmp_path):
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
def test_a_palette_with_transparency_shows_black_where_it_is_transparent(tmp_path, transparency):
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


def test_a_link_that_leaves_the_root_is_not_read(tmp_path):
    picture(tmp_path / "secret.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/link.png").symlink_to("../secret.png")
    assert "leads out of" in reason(tmp_path / "data", "link.png")
    source = Source("folder", str((tmp_path / "data").resolve()))
    with pytest.raises(UnreadableImage, match="leads out of"):
        read_image(source, Entry(0, "../secret.png", "1-1"), max_pixels=100)


def test_a_link_within_the_root_is_read(tmp_path):
    picture(tmp_path / "1.png")
    (tmp_path / "2.png").symlink_to("1.png")
    assert read_one(tmp_path, "2.png").sha256 == read_one(tmp_path, "1.png").sha256


def test_a_changed_file_is_not_attributed_to_the_old_listing(tmp_path):
    path = picture(tmp_path / "1.png")
    source = open_source(str(tmp_path))
    (entry,) = list_entries(source)
    os.utime(path, ns=(1, 1))
    with pytest.raises(UnreadableImage, match="changed after the run was planned; run again"):
        read_image(source, entry, max_pixels=100)


def test_pipes_folders_and_permissions_are_reasons(tmp_path, monkeypatch):
    source = Source("folder", str(tmp_path.resolve()))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for key in ("pipe.png", "folder.png"):
        with pytest.raises(UnreadableImage, match="not a regular file"):
            read_image(source, Entry(0, key, "0-0"), max_pixels=100)

    def denied(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", denied)  # the tests may run as root, who may read everything
    with pytest.raises(UnreadableImage, match="no permission"):
        read_image(source, Entry(0, "1.png", "0-0"), max_pixels=100)


def test_too_many_open_files_is_no_fault_of_the_image(tmp_path, monkeypatch):
    def exhausted(*arguments):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", exhausted)
    with pytest.raises(Retryable, match=r"1\.png"):
        read_image(Source("folder", str(tmp_path.resolve())), Entry(0, "1.png", "0-0"), max_pixels=100)


def test_a_file_larger_than_any_allowed_image_is_not_read_into_memory(tmp_path):
    with (tmp_path / "1.png").open("wb") as file:
        file.truncate(2**40)  # sparse
    assert "1,099,511,627,776 bytes" in reason(tmp_path, "1.png")


# Pixels


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
    with pytest.raises(UnreadableImage, match=r"k.png: 77 x 31 .* 10 x 12; pass --resize"):
        to_pixels(noise(31, 77), Preprocess(12, 10), key="k.png")


def test_a_strip_whose_resized_side_would_fill_memory_is_refused():
    with pytest.raises(UnreadableImage, match="1 x 1000000"):
        to_pixels(Image.new("L", (1, 1_000_000)), Preprocess(224, 224, fit="crop", resize_to=256))


def test_importing_datasets_imports_neither_torch_nor_numpy():
    code = "import sys, pipeline.datasets; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has almost no data."""

    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = block(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + block(b"IDAT", zlib.compress(bytes(100))) + block(b"IEND", b"")
