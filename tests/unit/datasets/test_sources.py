"""The laws of trees of images and of shards, in a folder and on a real S3."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.api import Pipeline, RunRequest
from pipeline.datasets import is_unchanged, list_entries, read_image
from pipeline.datasets.sources import opened
from pipeline.errors import DatasetError, UnreadableImage
from tests.support.shards import assert_same_maps, png, shard
from tests.support.trees import Tree


def test_images_of_a_tree_are_listed_once_each_with_labels(tree: Tree) -> None:
    keys = [f"{'cat' if number % 2 else 'dog'}/{number:04}.png" for number in range(9)]
    for key in [*keys, "readme.txt", ".hidden.png", ".thumbs/1.png", "top.PNG"]:
        tree.put(key, key.encode())
    source = tree.source()
    entries = list(list_entries(source))
    assert [entry.row for entry in entries] == list(range(10))
    assert {entry.key for entry in entries} == {*keys, "top.PNG"}
    assert all(entry.label == (entry.key.split("/")[0] if "/" in entry.key else None) for entry in entries)
    assert list(list_entries(source)) == entries


def test_changed_missing_and_large_files_fail_their_image(tree: Tree) -> None:
    """A changed a missing and a large file are failures of their image."""
    for name in ("changed", "gone", "same"):
        tree.put(f"{name}.png", png(1))
    tree.put_large("large.png")
    source = tree.source()
    entries = {entry.key: entry for entry in list_entries(source)}
    tree.put("changed.png", png(2))
    tree.delete("gone.png")
    assert read_image(source, entries["same.png"], max_pixels=100).image.getpixel((0, 0)) == 1
    for key, words in (
        ("changed", "changed after .*; run again"),
        ("gone", "is missing"),
        ("large", "70,000,000 bytes"),
    ):
        with pytest.raises(UnreadableImage, match=f"^{key}.png: .*{words}"):
            read_image(source, entries[f"{key}.png"], max_pixels=100)
    unchanged = {key for key, entry in entries.items() if is_unchanged(source, key, entry.version)}
    assert unchanged == {"same.png", "large.png"}


def test_a_tree_without_images_is_refused(tree: Tree) -> None:
    tree.put("empty/notes.md", b"x")
    with pytest.raises(DatasetError, match="no image"):
        tree.source("empty")


@pytest.mark.slow
def test_a_run_equals_the_run_over_the_folder(
    tree: Tree, dataset: Path, pipeline: Pipeline, request_: RunRequest
) -> None:
    tree.copy(dataset)
    assert_same_maps(pipeline, request_, tree.location)


@pytest.mark.slow
def test_a_run_over_shards_equals_the_run_over_the_folder(
    tree: Tree, tmp_path: Path, dataset: Path, pipeline: Pipeline, request_: RunRequest
) -> None:
    files = [
        (f"{label}-{n}.{suffix}", (dataset / label / f"{n}.png").read_bytes() if suffix == "png" else label.encode())
        for label in ("cat", "dog", "eel")
        for n in range(6)
        for suffix in ("cls", "png")
    ]
    shard(tmp_path / "up/s-0.tar", files[:14])
    shard(tmp_path / "up/s-1.tar", files[14:])
    tree.copy(tmp_path / "up")
    assert_same_maps(pipeline, request_, tree.location)
    assert_same_maps(pipeline, request_, f"{tree.location}/s-{{0..1}}.tar")


def test_a_changed_and_a_damaged_shard_are_named(tree: Tree, tmp_path: Path) -> None:
    for number in range(2):
        path = shard(tmp_path / f"s-{number}.tar", [(f"{number}.png", png(number))])
        tree.put(path.name, path.read_bytes())
    source = tree.source()
    entries = list(list_entries(source))
    assert [entry.key for entry in entries] == ["s-0.tar/0.png", "s-1.tar/1.png"]
    tree.put("s-1.tar", b"another")
    with pytest.raises(UnreadableImage, match=r"changed after .*; run again"):
        read_image(source, entries[-1], max_pixels=100)
    with pytest.raises(DatasetError, match=r"shard s-1.tar: damaged or cut off before byte 7"):
        list(list_entries(source))


def test_a_shard_of_many_blocks_is_read_in_blocks_and_ranges(tree: Tree, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    files = [(f"{n}.png", random.bytes(700_000)) for n in range(14)]
    tree.put("0.tar", shard(tmp_path / "big/0.tar", files).read_bytes())
    source = tree.source("0.tar")
    entries = list(list_entries(source))
    assert [entry.key for entry in entries] == [f"0.tar/{name}" for name, _ in files]
    assert [opened(source).read(entry, max_bytes=10**6) for entry in entries] == [data for _, data in files]
