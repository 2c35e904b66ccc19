"""Tar shards list every image or say why not; one image is one ranged read."""

import gzip
import json
import os
import tarfile
from pathlib import Path

import pytest

from db.records import Entry
from pipeline.datasets import Source, is_unchanged, list_entries, open_source, read_image
from pipeline.datasets.folder import Folder
from pipeline.errors import DatasetError, UnreadableImage
from tests.support.shards import png, shard, special


def listed(location: Path) -> list[Entry]:
    return list(list_entries(open_source(str(location))))


def refusal(location: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        listed(location)
    return str(caught.value)


def test_samples_of_shards_are_read_with_one_read_each(tmp_path, monkeypatch):
    """Samples of all shards are listed with their labels and read with one read."""
    shard(tmp_path / "s/b.tar", [("0.png", png(7))])
    shard(
        tmp_path / "s/a.tar",
        [
            ("./x/1.cls", b"cat\n"),
            ("./x/1.png", png(1)),
            ("2.left.png", png(2)),
            ("2.right.png", png(3)),
            ("2.json", json.dumps({"label": 4, "more": [1]}).encode()),
            ("3.jpg", png(4)),
            ("3.txt", b"dog"),
            ("3.cls", b"5"),
            ("4.png", png(5)),
            ("4.txt", b"a caption\nof two lines"),
            ("5.meta.json", b'{"label": "not a label of 5"}'),
            ("5.PNG", png(6)),
            ("notes.md", b"nothing"),
        ],
    )
    source = open_source(str(tmp_path / "s"))
    entries = list(list_entries(source))
    assert [(entry.row, entry.key, entry.label) for entry in entries] == [
        (0, "a.tar/x/1.png", "cat"),
        (1, "a.tar/2.left.png", "4"),
        (2, "a.tar/2.right.png", "4"),
        (3, "a.tar/3.jpg", "5"),
        (4, "a.tar/4.png", None),
        (5, "a.tar/5.PNG", None),
        (6, "b.tar/0.png", None),
    ]
    reads, read = [], Folder.read

    def counting(self, key, version, **options):
        reads.append((key, options["length"]))
        return read(self, key, version, **options)

    monkeypatch.setattr(Folder, "read", counting)
    assert [read_image(source, one, max_pixels=100).image.getpixel((0, 0)) for one in entries] == [1, 2, 3, 4, 5, 6, 7]
    assert reads == [(entry.key.split("/")[0], len(png(value))) for value, entry in enumerate(entries, start=1)]


def test_listing_reads_headers_and_labels_only(tmp_path, monkeypatch):
    path = shard(tmp_path / "a.tar", [(f"{n}.png", bytes(10**6)) for n in range(20)])
    got, read = [], Folder.read

    def counting(self, key, version, **options):
        got.append(read(self, key, version, **options))
        return got[-1]

    monkeypatch.setattr(Folder, "read", counting)
    assert len(listed(path)) == 20
    assert sum(map(len, got)) < path.stat().st_size / 10  # twice: one image is looked for, then all are listed


def test_a_range_in_braces_a_single_shard_and_folders_of_shards(tmp_path):
    for number in range(9, 12):
        shard(tmp_path / f"in/t-{number:03}.tar", [("0.png", png())])
    keys = [entry.key for entry in listed(tmp_path / "in/t-{009..011}.tar")]
    assert keys == ["t-009.tar/0.png", "t-010.tar/0.png", "t-011.tar/0.png"]
    assert [entry.key for entry in listed(tmp_path / "in/t-010.tar")] == ["t-010.tar/0.png"]
    assert [entry.key for entry in listed(tmp_path)] == [f"in/{key}" for key in keys]
    assert "t-012.tar: the file is missing" in refusal(tmp_path / "in/t-{009..012}.tar")
    assert "backwards" in refusal(tmp_path / "in/t-{011..009}.tar")
    assert "shard-{000..127}.tar" in refusal(tmp_path / "in/t-{a,b}.tar")


def test_tars_beside_images_are_left_alone(tmp_path):
    shard(tmp_path / "a.tar", [("0.png", png())])
    (tmp_path / "1.png").write_bytes(png())
    assert open_source(str(tmp_path)).kind == "folder"
    assert [entry.key for entry in listed(tmp_path)] == ["1.png"]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_names_beyond_ascii_are_whole(tmp_path, form):
    names = ["d" * 90 + "/" + "f" * 150 + ".png", "\u00e9\u4e2d.png"]
    path = shard(tmp_path / "a.tar", [(name, png(n)) for n, name in enumerate(names)], format=form)
    entries = listed(path)
    assert [entry.key for entry in entries] == [f"a.tar/{name}" for name in names]
    for value, entry in enumerate(entries):
        assert read_image(open_source(str(path)), entry, max_pixels=100).image.getpixel((0, 0)) == value


def test_directories_devices_and_hidden_files_are_passed_over(tmp_path):
    files = [
        (special("d.png", tarfile.DIRTYPE), b""),
        (special("pipe.png", tarfile.FIFOTYPE), b""),
        (special("disk.png", tarfile.BLKTYPE), b""),
        ("._0.png", png()),
        (".thumbs/0.png", png()),
        ("0.png", png()),
    ]
    assert [entry.key for entry in listed(shard(tmp_path / "a.tar", files))] == ["a.tar/0.png"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([("../0.png", png())], ["'../0.png' leads out"]),
        ([("a/../../0.png", png())], ["leads out"]),
        ([("/etc/0.png", png())], ["'/etc/0.png' leads out"]),
        ([("\udcff.png", png())], ["not a path"]),
        ([(special("0.png", tarfile.SYMTYPE, "/etc/passwd"), b"")], ["0.png is a link", "--dereference"]),
        ([("1.png", png()), (special("0.png", tarfile.LNKTYPE, "1.png"), b"")], ["0.png is a link"]),
        ([("0.png", png(1)), ("1.png", png(2)), ("0.png", png(3))], ["0.png is in it twice"]),
        ([("0.png", png()), ("1.png", png()), ("0.cls", b"3")], ["0.cls is apart from its image", "--sort=name"]),
        ([("0.json", b"{"), ("0.png", png())], ["0.json cannot be read"]),
        ([("0.json", b'{"label": {}}'), ("0.png", png())], ["0.json", "not a name or number"]),
        ([("0.cls", b"\xff"), ("0.png", png())], ["0.cls cannot be read"]),
        ([("0.cls", b"a\nb"), ("0.png", png())], ["0.cls is not an index or name"]),
        ([("0.json", bytes(2**20 + 1)), ("0.png", png())], ["0.json", "1,048,577 bytes"]),
    ],
)
def test_what_cannot_be_taken_in_whole_is_refused_by_name(tmp_path, files, words):
    text = refusal(shard(tmp_path / "bad.tar", [("00.png", png()), *files]))
    assert all(word in text for word in ["shard bad.tar", *words]), text


def test_a_truncated_shard_is_refused_with_the_place(tmp_path):
    """A shard cut anywhere is refused with the place and never listed short."""
    whole = shard(tmp_path / "whole.tar", [(f"{n}.png", png(n)) for n in range(3)]).read_bytes()
    end = whole.rindex(b"IEND")
    for size in [*range(1, end, 97), 512, 1024, 1536, 3072]:  # the last: exactly between two images
        (tmp_path / "cut.tar").write_bytes(whole[:size])
        text = refusal(tmp_path / "cut.tar")
        assert "shard cut.tar: damaged or cut off before byte" in text
        place = int(text.split("byte ")[1].split()[0].replace(",", ""))
        assert 0 <= place - size < 1024 or size < 512, "the end of the file or image that is not whole"


def test_a_flipped_byte_never_shortens_a_listing(tmp_path):
    """A flipped byte in a header never shortens the listing silently."""
    files = [(f"{n}.png", png(n)) for n in range(3)]
    whole = shard(tmp_path / "whole.tar", files, format=tarfile.PAX_FORMAT).read_bytes()
    second = whole.index(b"1.png")
    for at in range(second, second + 257, 8):
        bad = bytearray(whole)
        bad[at] ^= 0x41
        (tmp_path / "bad.tar").write_bytes(bad)
        assert "damaged" in refusal(tmp_path / "bad.tar")


def test_forged_sizes_are_damage(tmp_path):
    """Sizes made to lead backwards or to fill memory are damage."""
    for size in (-1024, 2**40, 2**70):
        info = special("././@LongLink", tarfile.GNUTYPE_LONGNAME)
        info.size = size
        header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        first = shard(tmp_path / "bad.tar", [("0.png", png())]).read_bytes()[:1024]
        (tmp_path / "bad.tar").write_bytes(first + header + bytes(4096))
        assert "damaged or cut off" in refusal(tmp_path / "bad.tar")


def test_compressed_shards_are_refused_with_the_remedy(tmp_path):
    plain = shard(tmp_path / "plain/a.tar", [("0.png", png())]).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(plain))
    (tmp_path / "named.tar").write_bytes(gzip.compress(plain))
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed/a.tar").write_bytes(plain)
    (tmp_path / "mixed/b.tgz").write_bytes(b"")
    for name, words in (("a.tar.gz", "compressed"), ("named.tar", "compressed by gzip"), ("mixed", "b.tgz is compres")):
        text = refusal(tmp_path / name)
        assert words in text
        assert "unpack it to a plain .tar" in text


def test_no_image_no_shard_and_a_folder_named_like_one_are_said(tmp_path):
    assert "no image" in refusal(shard(tmp_path / "a.tar", [("notes.md", b"x")]))
    assert "does not exist" in refusal(tmp_path / "b.tar")
    shard(tmp_path / "in/x.tar/real.tar", [("0.png", png())])
    assert "named like a shard" in refusal(tmp_path / "in")
    assert "named like a shard" in refusal(tmp_path / "in/x.tar")


def test_a_changed_shard_is_not_attributed_to_the_old_listing(tmp_path):
    path = shard(tmp_path / "a.tar", [("0.png", png())])
    source = open_source(str(path))
    (entry,) = list_entries(source)
    assert is_unchanged(source, entry.key, entry.version)
    os.utime(path, ns=(1, 1))
    with pytest.raises(UnreadableImage, match=r"^a.tar/0.png: the file changed after the run was planned; run again"):
        read_image(source, entry, max_pixels=100)
    again = Source(source.kind, source.location, "http://another")  # asked anew: answers are shared for seconds
    assert not is_unchanged(again, entry.key, entry.version)


def test_an_image_that_is_too_large_is_not_read(tmp_path):
    """An image larger than any allowed one is not read into memory."""
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("0.png")
    info.size = 2**32
    with path.open("wb") as file:  # sparse
        file.write(info.tobuf())
        file.truncate(512 + 2**32 + 1024)
    source = open_source(str(path))
    (entry,) = list_entries(source)
    with pytest.raises(UnreadableImage, match="4,294,967,296 bytes"):
        read_image(source, entry, max_pixels=100)
