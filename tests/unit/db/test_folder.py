"""What only a folder can show: durability, leftovers of crashes, full and forbidden disks."""

import errno
import os
import time
from pathlib import Path

import pytest

from db import objects as module
from db.errors import StoreUnavailable, UsageError
from db.objects import INCOMING, S3, Folder, open_objects


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "objects")


def leftovers(folder_path: Path) -> list[Path]:
    return list((folder_path / INCOMING).iterdir())


def test_nothing_is_made_before_the_first_put(tmp_path: Path, folder: Folder) -> None:
    assert list(folder.list()) == []
    assert not (tmp_path / "objects").exists()


def test_puts_leave_no_temporary_files(tmp_path: Path, folder: Folder) -> None:
    folder.put_once("a", b"x")
    folder.put_once("a", b"y")
    folder.put("a", b"z")
    assert leftovers(tmp_path / "objects") == []


@pytest.mark.parametrize("moment", ["fsync", "link"])
def test_crash_during_a_put_leaves_no_object(
    tmp_path: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def power_cut(*_: object) -> None:
        raise KeyboardInterrupt

    folder.put("other", b"x")
    with monkeypatch.context() as patched:
        patched.setattr(os, moment, power_cut)
        patched.setattr(Path, "unlink", lambda *_, **__: None)  # the process is gone: nobody tidies up
        with pytest.raises(KeyboardInterrupt):
            folder.put_once("a/b", b"half")
    assert len(leftovers(tmp_path / "objects")) == 1
    assert list(folder.list()) == ["other"]
    assert not folder.exists("a/b")
    assert folder.put_once("a/b", b"whole")


def test_old_leftovers_are_removed_and_young_ones_are_not(tmp_path: Path, folder: Folder) -> None:
    incoming = tmp_path / "objects" / INCOMING
    incoming.mkdir(parents=True)
    (incoming / "young").touch()
    (incoming / "old").touch()
    day_ago = time.time() - module.LEFTOVER_SECONDS - 60
    os.utime(incoming / "old", (day_ago, day_ago))
    folder.put_once("a", b"x")
    assert [path.name for path in leftovers(tmp_path / "objects")] == ["young"]


def test_object_is_on_disk_before_put_once_returns(
    tmp_path: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Object and its folders are on disk before put once returns."""
    synced: list[str] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    folder.put_once("a/b/c", b"x")
    root = tmp_path / "objects"
    assert {str(root / "a" / "b"), str(root / "a"), str(root), str(tmp_path)} <= set(synced)
    content = next(i for i, path in enumerate(synced) if f"{INCOMING}/" in path)
    assert content < len(synced) - 1
    assert synced[-1] == str(root / "a" / "b")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EIO, errno.EROFS])
def test_disk_that_refuses_is_unavailable_with_path_and_reason(
    tmp_path: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreUnavailable) as caught:
        folder.put_once("a/b", b"x")
    assert str(tmp_path / "objects" / "a" / "b") in str(caught.value)
    assert os.strerror(number) in str(caught.value)
    assert leftovers(tmp_path / "objects") == []


def test_file_in_the_way_is_unavailable_not_missing(folder: Folder) -> None:
    folder.put("a", b"x")
    with pytest.raises(StoreUnavailable, match="a/b"):
        folder.put_once("a/b", b"x")


def test_readers_see_the_old_or_the_new_whole(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.put("a", b"old" * 1000)
    seen: list[bytes] = []
    replace = Path.replace

    def looking(self: Path, target: Path) -> Path:
        seen.append(folder.get("a"))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", looking)
    folder.put("a", b"new" * 2000)
    assert [*seen, folder.get("a")] == [b"old" * 1000, b"new" * 2000]


def test_relative_folder_stays_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Folder(Path("here"))
    monkeypatch.chdir("/")
    folder.put("a", b"x")
    assert (tmp_path / "here" / "a").exists()


def test_folder_url_may_hold_spaces_and_percents(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "a b%20c")
    folder.put("k", b"x")
    assert open_objects(folder.url).get("k") == b"x"


@pytest.mark.parametrize("url", ["", "folder", "/abs", "http://host/x", "file://host/x", "s3://", "s3:///x", "gs://b"])
def test_other_urls_are_refused_with_a_remedy(url: str) -> None:
    with pytest.raises(UsageError, match=r"file:///path/to/folder or s3://bucket/prefix"):
        open_objects(url)


def test_s3_url_opens_without_a_connection() -> None:
    objects = open_objects("s3://bucket/some/prefix/", s3_endpoint_url="http://127.0.0.1:1")
    assert isinstance(objects, S3)
    assert str(objects) == "s3://bucket/some/prefix"
