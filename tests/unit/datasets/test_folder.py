"""A folder lists what is there and nothing else; what a file may not do is a reason, never a crash."""

import errno
import os
from dataclasses import replace

import pytest

from db.records import Entry
from pipeline.datasets import Source, list_entries, open_source, read_image
from pipeline.datasets.decoder import Decoder
from pipeline.errors import DatasetError, Retryable, SourceUnavailable, UnreadableImage
from pipeline.spec.run_spec import Preprocess
from tests.support.images import picture, read_one, reason


def test_a_tree_is_listed_in_the_order_of_keys(tmp_path):
    """A tree is listed in the order of keys with the first folder as label."""
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


def test_a_source_survives_json_as_it_always_was(tmp_path):
    picture(tmp_path / "a/1.png")
    source = open_source(str(tmp_path))
    assert Source.from_json(source.to_json()) == source
    assert source.to_json() == f'{{"kind":"folder","location":"{tmp_path}"}}'  # ids of runs are made of it
    assert "9000" not in replace(source, s3_endpoint_url="http://127.0.0.1:9000").to_json()


@pytest.mark.parametrize("location", ["gs://bucket/x", "https://key:sesame@host/x"])
def test_a_url_that_is_not_of_s3_is_refused_without_repeating_it(location):
    with pytest.raises(DatasetError, match=r"s3://") as caught:
        open_source(location)
    assert "sesame" not in str(caught.value)


def test_a_folder_that_is_away_is_no_fault_of_its_images(tmp_path):
    picture(tmp_path / "mounted/1.png")
    source = open_source(str(tmp_path / "mounted"))
    decoder = Decoder(source, Preprocess(6, 8), 1000)
    entries = [*list_entries(source), Entry(1, "gone.png", "1-1")]
    [(pictures, failed)] = decoder.ahead(entries, parts=1)
    assert ([one.entry.key for one in pictures], [one.entry.key for one in failed]) == (["1.png"], ["gone.png"])
    (tmp_path / "mounted").rename(tmp_path / "away")
    with pytest.raises(SourceUnavailable, match="is its disk mounted"):
        list(decoder.ahead(entries, parts=1))


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("data", ["does not exist", "did you mean", "date"]),
        ("no/where", ["does not exist", "nor does"]),
        ("empty", ["no image", ".png"]),
        ("date/1.png", ["not a manifest", "a folder"]),
    ],
)
def test_a_wrong_location_is_said_with_a_remedy(tmp_path, location, words):
    picture(tmp_path / "date/1.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError) as caught:
        open_source(str(tmp_path / location))
    assert all(word in str(caught.value) for word in words)


def test_a_linked_folder_is_refused_by_name(tmp_path):
    """A linked folder is named instead of followed or left out."""
    picture(tmp_path / "data/a/1.png")
    (tmp_path / "data/b").symlink_to(tmp_path / "data")
    with pytest.raises(DatasetError, match="data/b is a symbolic link"):
        list(list_entries(Source("folder", str(tmp_path / "data"))))


def test_a_name_that_is_not_utf8_is_named(tmp_path):
    picture(tmp_path / "1.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    with pytest.raises(DatasetError, match="not valid UTF-8"):
        open_source(str(tmp_path))


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


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    """A file larger than any allowed image is not read into memory."""
    with (tmp_path / "1.png").open("wb") as file:
        file.truncate(2**40)  # sparse
    assert "1,099,511,627,776 bytes" in reason(tmp_path, "1.png")
