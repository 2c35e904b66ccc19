"""Manifests list in the order of the file; what does not parse or leads out is said with its line."""

import json

import pytest

from pipeline.datasets import list_entries, open_source, read_image
from pipeline.errors import DatasetError, UnreadableImage
from tests.support.images import picture


def test_csv_and_jsonl_manifests_list_the_same(tmp_path):
    """Csv and jsonl manifests list the same in the order of the file."""
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


def test_a_missing_listed_file_is_a_failed_image(tmp_path):
    """A listed file that is missing is a failed image not a failed manifest."""
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
        ("m.jsonl", '{"file_name": "a\\u0000.png"}\n', ["line 1", "not a path"]),
        ("m.jsonl", '{"file_name": "."}\n', ["line 1", "not a path"]),
        ("m.jsonl", "[" * 100_000, ["line 1", "not valid JSON"]),
        ("m.csv", "file_name\ns3://key:sesame@bucket/a.png\n", ["line 2", "is a URL", "as the source"]),
        ("m.csv", b"file_name\n\xff\xfe.png\n", ["not UTF-8"]),
    ],
)
def test_a_manifest_that_does_not_parse_is_said_with_its_line(tmp_path, name, text, words):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DatasetError) as caught:
        open_source(str(tmp_path / name))
    assert all(word in str(caught.value) for word in [name, *words]), caught.value


@pytest.mark.parametrize("linked", ["link.png", "folder/secret.png"])
def test_a_line_that_leaves_the_root_by_a_link_is_refused(tmp_path, linked):
    """A manifest line that leaves the root by a link is said with its line."""
    picture(tmp_path / "outside/secret.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/link.png").symlink_to(tmp_path / "outside/secret.png")
    (tmp_path / "data/folder").symlink_to(tmp_path / "outside")
    (tmp_path / "data/m.csv").write_text(f"file_name\n{linked}\n")
    with pytest.raises(DatasetError, match=r"line 2: .* leads out of"):
        list(list_entries(open_source(str(tmp_path / "data/m.csv"))))
