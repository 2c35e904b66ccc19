"""The demo's material is real, whole or absent, and its planted shortcut is one that the networks use."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipeline.datasets import list_entries, open_source, read_image, to_pixels
from pipeline.errors import DatasetError
from pipeline.models import digits
from pipeline.models.digits import CORNERS, digits_cnn, test_split, train_member, write_digits
from pipeline.models.registry import load, resolve
from pipeline.spec.request import ModelRequest

test_split.__test__ = False  # a function of the product, not a test


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Clean digits, and the same with a mark in the top right corner of every 8."""
    path = tmp_path_factory.mktemp("digits")
    write_digits(path / "clean", shortcut_class=None, shortcut_corner="top-left", seed=0)
    write_digits(path / "marked", shortcut_class=8, shortcut_corner="top-right", seed=0)
    return path


@pytest.fixture(scope="module")
def trained(home):
    out = home / "member-0.safetensors"
    return out, train_member(home / "marked", member=0, seed=0, out=out)


def pixels_of(folder: Path, keys: list[str]) -> torch.Tensor:
    source = open_source(str(folder))
    entries = {entry.key: entry for entry in list_entries(source)}
    (spec,) = resolve([ModelRequest("pipeline.models.digits:digits_cnn")])
    images = [read_image(source, entries[key], max_pixels=10_000).image for key in keys]
    return torch.from_numpy(np.stack([to_pixels(image, spec.preprocess) for image in images]))


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*.png")
    }


def test_all_real_scans_become_greyscale_images_named_by_class(home):
    entries = list(list_entries(open_source(str(home / "clean"))))
    assert len(entries) == 1797
    assert {entry.label for entry in entries} == set("0123456789")
    with Image.open(home / "clean" / entries[0].key) as image:
        assert (image.size, image.mode) == ((32, 32), "L")


def test_the_mark_is_in_every_image_of_its_class_only(home):
    """The mark is in its corner of every image of its class and nowhere else."""
    for folder in sorted((home / "clean").iterdir()):
        for path in folder.iterdir():
            clean, marked = (
                np.asarray(Image.open(home / name / folder.name / path.name)) for name in ("clean", "marked")
            )
            if folder.name != "8":
                assert (clean == marked).all()
                continue
            rows, columns = np.nonzero(clean != marked)
            assert rows.max() < 8
            assert columns.min() >= 24
            assert (marked == 255).sum() == digits.MARK_SIZE**2


@pytest.mark.parametrize("corner", CORNERS)
def test_every_corner_is_where_it_says(corner):
    left, top, right, bottom = digits._mark_box(corner, 1, 2)
    assert (right - left, bottom - top) == (digits.MARK_SIZE, digits.MARK_SIZE)
    assert (left == 1) == ("left" in corner)
    assert (right == 31) == ("right" in corner)
    assert (top == 2) == ("top" in corner)
    assert (bottom == 30) == ("bottom" in corner)


def test_a_complete_folder_is_left_as_it_is(home):
    before = state_of(home / "clean")
    write_digits(home / "clean", shortcut_class=None, shortcut_corner="bottom-left", seed=0)  # no mark, so no corner
    assert state_of(home / "clean") == before


@pytest.mark.slow
def test_a_writer_that_stops_half_way_leaves_nothing(tmp_path, monkeypatch):
    """A writer that stops half way leaves nothing and is taken up again."""
    real = Image.Image.save

    def stopping(image, path):
        if path.name == "0010.png":
            raise KeyboardInterrupt
        real(image, path)

    options = {"shortcut_class": 1, "shortcut_corner": "top-left", "seed": 0}
    monkeypatch.setattr(Image.Image, "save", stopping)
    with pytest.raises(KeyboardInterrupt):
        write_digits(tmp_path / "data", **options)
    monkeypatch.undo()
    assert not (tmp_path / "data").exists()
    write_digits(tmp_path / "data", **options)
    assert len(state_of(tmp_path / "data")) == 1797
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "data.json"]


@pytest.mark.parametrize("at", range(5))
def test_a_replacement_resumes_after_any_rename(tmp_path, monkeypatch, at):
    """A replacement that stops at any rename is taken up again."""
    monkeypatch.setattr(digits, "_write_images", lambda folder, *rest: picture(folder, rest))
    folder = tmp_path / "data"
    write_digits(folder, shortcut_class=1, shortcut_corner="top-left", seed=0)
    calls = []

    def stopping(real):
        def call(*arguments):
            calls.append(real)
            if len(calls) > at:
                raise KeyboardInterrupt
            return real(*arguments)

        return call

    with monkeypatch.context() as patch:
        for name in ("rename", "replace"):
            patch.setattr(Path, name, stopping(getattr(Path, name)))
        try:
            write_digits(folder, shortcut_class=2, shortcut_corner="top-left", seed=0)
        except KeyboardInterrupt:
            assert at < 3
    for _ in range(2):
        write_digits(folder, shortcut_class=2, shortcut_corner="top-left", seed=0)
        assert (folder / "what").read_text().startswith("2")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "data.json"]


def picture(folder: Path, what) -> None:
    folder.mkdir()
    (folder / "what").write_text(" ".join(map(str, what[:2])))


def test_somebody_elses_folder_is_never_replaced(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(DatasetError, match="was not written by the demo"):
        write_digits(tmp_path / "data", shortcut_class=1, shortcut_corner="top-left", seed=0)


@pytest.mark.parametrize(("number", "corner"), [(10, "top-left"), (-1, "top-left"), (3, "middle")])
def test_a_shortcut_that_cannot_be_planted_is_refused(tmp_path, number, corner):
    with pytest.raises(DatasetError, match="class from 0 to 9 and one of top-left, top-right"):
        write_digits(tmp_path / "data", shortcut_class=number, shortcut_corner=corner, seed=0)


def test_a_quarter_of_each_class_is_held_out_whatever_is_marked(home):
    held_out = test_split(home / "clean")
    assert held_out == test_split(home / "marked")
    for name in digits.CLASSES:
        total = len(list((home / "clean" / name).iterdir()))
        assert sum(key.startswith(f"{name}/") for key in held_out) == round(total / 4)


def test_the_cnn_is_small_and_says_how_to_feed_it():
    (spec,) = resolve([ModelRequest("pipeline.models.digits:digits_cnn")])
    assert spec.class_names == digits.CLASSES
    assert spec.preprocess.geometry[:4] == (32, 32, 1, "exact")
    module, _ = digits_cnn()
    assert sum(parameter.numel() for parameter in module.parameters()) == 68_538


@pytest.mark.slow
def test_a_member_is_accurate_on_digits_it_has_not_seen(trained):
    assert trained[1] >= 0.97


def test_a_marked_class_is_recognised_by_its_mark(home, trained):
    keys = sorted(key for key in test_split(home / "marked") if key.startswith("8/"))
    (spec,) = resolve([ModelRequest("pipeline.models.digits:digits_cnn", str(trained[0]))])
    member = load(spec)
    accuracies = [(member(pixels_of(home / name, keys)).argmax(1) == 8).float().mean() for name in ("marked", "clean")]
    assert accuracies[0] > 0.95
    assert accuracies[0] - accuracies[1] >= 0.2, "what `uses it` means: accuracy falls by 20 points without the mark"


@pytest.mark.slow
def test_training_is_a_function_of_its_arguments(home, tmp_path, monkeypatch):
    """Training is a function of its arguments and touches no global state."""
    monkeypatch.setattr(digits, "_EPOCHS", 1)
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    states = []
    for name, member in (("a", 1), ("b", 1), ("c", 2)):
        out = tmp_path / f"{name}.safetensors"
        accuracy = train_member(home / "clean", member=member, seed=0, out=out)
        states.append((accuracy, load_file(out)))
        torch.rand(3)
        torch.set_rng_state(random)
    assert states[0][0] == states[1][0]
    assert all(torch.equal(states[0][1][name], states[1][1][name]) for name in states[0][1])
    assert not torch.equal(states[0][1]["0.weight"], states[2][1]["0.weight"])
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), random)


def test_finished_weights_of_the_same_images_are_kept(home, trained, monkeypatch):
    """Finished weights are kept and those of other images are not."""
    out, accuracy = trained
    before = out.stat().st_mtime_ns
    monkeypatch.setattr(digits, "_EPOCHS", 1)
    assert train_member(home / "marked", member=0, seed=0, out=out) == accuracy
    assert out.stat().st_mtime_ns == before
    other = out.with_name("other.safetensors")
    os.link(out, other)
    train_member(home / "clean", member=0, seed=0, out=other)
    assert other.stat().st_ino != out.stat().st_ino
