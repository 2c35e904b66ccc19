"""An export replaces only what an export wrote, and says of its target why it cannot be written."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.api import Pipeline
from pipeline.errors import UsageError
from pipeline.outputs.export import npz
from pipeline.storage.files import new_file, new_folder

FOREIGN: dict[str, Callable[[Path], object]] = {
    "source.py": lambda path: path.write_text("print('mine')\n"),
    "empty": lambda path: path.touch(),
    "truncated": lambda path: path.write_bytes(b"PAR1" + bytes(64) + b"PAR1"),
    "foreign.npz": lambda path: np.savez(path, maps=np.zeros(3)),
    "foreign.parquet": lambda path: pq.write_table(pa.table({"row": [1]}), path),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("format_name", ["parquet", "npz"])
def test_a_file_that_no_export_wrote_is_never_replaced(
    opened: Pipeline, tmp_path: Path, format_name: str, name: str
) -> None:
    path = tmp_path / name
    FOREIGN[name](path)
    before = path.read_bytes()
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=f"{re.escape(str(path))} is not an earlier export of this format"):
            opened.export("first", format=format_name, out=path, overwrite=overwrite)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_links_and_devices_are_never_replaced(opened: Pipeline, tmp_path: Path) -> None:
    opened.export("first", format="npz", out=tmp_path / "maps.npz", limit=1)
    (tmp_path / "link").symlink_to(tmp_path / "maps.npz")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe")
    names = sorted(path.name for path in tmp_path.iterdir())
    for name in ("link", "dangling", "pipe"):
        with pytest.raises(UsageError, match=f"{name} is a link or a device"):
            opened.export("first", format="npz", out=tmp_path / name, overwrite=True)
    for name in ("dangling", "pipe", "maps.npz"):
        with pytest.raises(UsageError, match=f"{name} is not a folder"):
            opened.export("first", format="png", out=tmp_path / name, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_what_appears_while_an_export_is_written_stays(tmp_path: Path) -> None:
    path, folder = tmp_path / "maps.npz", tmp_path / "maps"

    def write_file() -> None:
        with new_file(path, overwrite=True, is_export=npz.is_export) as part:
            part.touch()
            path.write_text("mine")

    def write_folder() -> None:
        with new_folder(folder, overwrite=True):
            folder.mkdir()
            (folder / "thesis.tex").touch()

    with pytest.raises(UsageError, match=re.escape(str(path))):
        write_file()
    with pytest.raises(UsageError, match=re.escape(str(folder))):
        write_folder()
    assert path.read_text() == "mine"
    assert sorted(tmp_path.rglob("*")) == [folder, folder / "thesis.tex", path]


def test_a_link_to_an_empty_folder_leads_to_the_export(opened: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "overlays"
    link.symlink_to(tmp_path / "disk", target_is_directory=True)
    opened.export("first", format="png", out=link, limit=2)
    assert opened.export("first", format="png", out=link, limit=1, overwrite=True).images == 1
    assert link.is_symlink()
    assert len(list((tmp_path / "disk").glob("*.png"))) == 1
    assert sorted(tmp_path.iterdir()) == [tmp_path / "disk", link]


def test_a_mount_point_is_refused_before_the_work() -> None:
    with pytest.raises(UsageError, match="/proc is a mount point"), new_folder(Path("/proc"), overwrite=True):
        pytest.fail("the work has begun")


@pytest.mark.parametrize("format_name", ["parquet", "png"])
def test_an_unwritable_target_is_named_with_the_reason(opened: Pipeline, tmp_path: Path, format_name: str) -> None:
    """A target that cannot be written is named with the reason."""
    (tmp_path / "file.py").touch()
    for path in (Path("/proc/x"), tmp_path / "file.py" / "x", tmp_path / "file.py" / "x" / "y", tmp_path / ("x" * 256)):
        with pytest.raises(UsageError) as caught:
            opened.export("first", format=format_name, out=path)
        reason = r"(No such file or directory|Not a directory|File name too long)"
        assert re.fullmatch(
            rf"{re.escape(str(path))} cannot be written \({reason}\); choose another path", str(caught.value)
        )
    assert opened.export("first", format=format_name, out=tmp_path / ("x" * 244), limit=1).images == 1


def test_an_export_has_the_usual_permissions(opened: Pipeline, tmp_path: Path) -> None:
    opened.export("first", format="npz", out=tmp_path / "maps.npz", limit=1)
    (tmp_path / "plain").touch()
    assert (tmp_path / "maps.npz").stat().st_mode == (tmp_path / "plain").stat().st_mode
