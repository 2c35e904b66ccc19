"""Each export is opened by the tool that it is made for."""

import csv
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import duckdb
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from db.records import ImageRow
from pipeline.analysis.audit import audit, clusters
from pipeline.analysis.audit.boxes import grid_shares
from pipeline.api import Pipeline
from pipeline.errors import ObjectMissing, UsageError
from pipeline.outputs.export import virelay
from pipeline.runs.view import RunView
from tests.support.synthetic_audit import CLASSES, a_material
from tests.support.two_runs import HOSTILE


def test_parquet_is_the_index_to_pyarrow_and_duckdb(opened: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "index.parquet"
    found = opened.export("first", format="parquet", out=path)
    assert (found.images, found.skipped) == (28, 0)
    table = pq.read_table(path)
    assert table.column_names == [field.name for field in fields(ImageRow)]
    rows = opened.find("first").rows
    assert table["key"].to_pylist() == [row.key for row in rows]
    assert table["top_left_share"].to_pylist() == [row.top_left_share for row in rows]
    assert table.schema.metadata[b"attribatch.id"].decode() == opened.get_run("first").id
    query = f"SELECT key, error FROM '{path}' WHERE state = 'failed'"
    assert [key for key, _ in duckdb.sql(query).fetchall()] == ["dog/3.png"]


def test_npz_holds_maps_beside_keys_and_labels(opened: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "maps.npz"
    found = opened.export("tonight", format="npz", out=path, where="label = 'cat'", sort="-probability")
    rows = opened.find("tonight", where="label = 'cat'", sort="-probability").rows
    assert found.images == len(rows) == 11
    with np.load(path) as arrays:
        np.testing.assert_array_equal(arrays["maps"], opened.read_maps(rows))
        assert arrays["keys"].tolist() == [row.key for row in rows]
        assert set(arrays["labels"]) == {"cat"}
        assert arrays["rows"].tolist() == [row.row for row in rows]
        assert str(arrays["attribatch_run"]) == opened.get_run("tonight").id


def test_png_overlays_have_safe_names_and_a_table(opened: Pipeline, tmp_path: Path) -> None:
    found = opened.export("first", format="png", out=tmp_path / "overlays", limit=10)
    assert (found.images, found.skipped) == (10, 0)
    with (tmp_path / "overlays" / "index.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert f"cat/{HOSTILE}" in [line["key"] for line in table]
    for line in table:
        assert re.fullmatch(r"[A-Za-z0-9._-]+\.png", line["file"])
        with Image.open(tmp_path / "overlays" / line["file"]) as picture:
            assert picture.size == (160, 160)


def test_virelay_project_has_the_layout_of_its_documentation(opened: Pipeline, tmp_path: Path) -> None:
    found = opened.export("first", format="virelay", out=tmp_path / "project")
    assert (found.images, found.skipped) == (27, 1)
    project = yaml.safe_load((tmp_path / "project" / "project.yaml").read_text())["project"]
    labels = json.loads((tmp_path / "project" / project["label_map"]).read_text())
    assert [label["name"] for label in labels] == ["cat", "dog", "eel"]
    rows = opened.find("first", where="not failed").rows
    with h5py.File(tmp_path / "project" / project["dataset"]["path"]) as dataset:
        assert dataset["data"].shape == (27, 3, 8, 8)
        np.testing.assert_array_equal(dataset["data"][:, :1], opened.read_images(rows))
        assert [labels[index]["name"] for index in dataset["label"]] == [row.label for row in rows]
    with h5py.File(tmp_path / "project" / project["attributions"]["sources"][0]) as attribution:
        summed = attribution["attribution"][:].sum(axis=1, keepdims=True)
        np.testing.assert_allclose(summed, opened.read_maps(rows), rtol=1e-5, atol=1e-8)
        assert attribution["prediction"][:].argmax(1).tolist() == [row.predicted_index for row in rows]
    with h5py.File(tmp_path / "project" / project["analyses"][0]["sources"][0]) as analysis:
        assert len(analysis)
        for category, group in analysis.items():
            index = group["index"][:]
            assert {rows[place].predicted for place in index} == {labels[int(category)]["name"]}
            assert (
                len(group["embedding/spectral"])
                == len(group["cluster/spectral"])
                == len(index)
                >= clusters.MIN_EMBEDDED
            )
            assert group["embedding/spectral"].attrs["eigenvalue"][0] == pytest.approx(0, abs=1e-5)


def test_two_ways_of_deciding_are_two_clusters() -> None:
    maps = np.zeros((24, 32, 32), np.float32)
    maps[:12, :8, :8] = 1
    maps[12:, 24:, 24:] = 1
    maps += np.random.default_rng(0).normal(0, 0.05, maps.shape).astype(np.float32)
    found = clusters.embed(grid_shares(maps, 1), seed=0)
    assert (found.eigenvalues[:2] < 0.2).all()
    assert found.eigenvalues[2] > 0.5
    assert found.clusters.tolist() in ([0] * 12 + [1] * 12, [1] * 12 + [0] * 12)


@dataclass
class Exportable:
    """Every image of a synthetic run, as an export reads them."""

    view: RunView

    def __post_init__(self) -> None:
        self.run, self.spec, self.done = self.view.run, self.view.spec, self.view.done

    def with_images(self) -> Iterator[tuple[ImageRow, np.ndarray, np.ndarray]]:
        for row in self.done():
            yield row, self.view.maps([row])[0], self.view.images([row])[0]


def test_virelay_shows_the_clusters_of_the_audit(tmp_path: Path) -> None:
    view = a_material(rate=0.5)
    found = audit(view).clusters
    assert {one.class_name for one in found} == set(CLASSES)
    virelay.write(Exportable(view), tmp_path, tmp_path)
    rows = list(view.done())
    with h5py.File(tmp_path / "analysis.h5") as analysis:
        exported = {
            (view.spec.class_names[int(category)], label): {
                rows[position].row for position in group["index"][:][group["cluster/spectral"][:] == label]
            }
            for category, group in analysis.items()
            for label in set(group["cluster/spectral"][:].tolist())
        }
    assert exported == {(one.class_name, one.cluster): set(one.rows) for one in found}
    assert len(exported) > len(CLASSES)


def test_fiftyone_folder_has_samples_with_heat_maps(opened: Pipeline, tmp_path: Path) -> None:
    opened.export("first", format="fiftyone", out=tmp_path / "dataset", where="label = 'cat'")
    samples = json.loads((tmp_path / "dataset" / "samples.json").read_text())["samples"]
    assert "version" not in json.loads((tmp_path / "dataset" / "metadata.json").read_text())
    assert len(samples) == 10
    for sample in samples:
        assert sample["ground_truth"]["label"] == "cat"
        with Image.open(tmp_path / "dataset" / sample["filepath"]) as picture:
            assert picture.mode == "RGB"
        with Image.open(sample["attribution"]["map_path"]) as heat:
            assert heat.mode == "L"
            assert heat.getextrema()[1] == 255


def test_only_an_earlier_export_is_replaced(opened: Pipeline, tmp_path: Path) -> None:
    """Nothing is replaced but an earlier export that is asked for."""
    path, folder = tmp_path / "index.parquet", tmp_path / "overlays"
    for format_name, out in (("parquet", path), ("npz", tmp_path / "maps.npz"), ("png", folder)):
        opened.export("first", format=format_name, out=out, limit=2)
        with pytest.raises(UsageError, match="set `overwrite`"):
            opened.export("first", format=format_name, out=out, limit=1)
        assert opened.export("first", format=format_name, out=out, limit=1, overwrite=True).images == 1
    assert len(list(folder.glob("*.png"))) == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="was not made by an export"):
        opened.export("first", format="png", out=tmp_path / "mine", overwrite=True)
    with pytest.raises(UsageError, match="is a folder"):
        opened.export("first", format="npz", out=folder, overwrite=True)


def test_a_failing_export_leaves_nothing(opened: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no column 'lable'"):
        opened.export("first", format="png", out=tmp_path / "overlays", where="lable = 'cat'")
    monkeypatch.setattr(opened.objects, "get", _missing)
    with pytest.raises(ObjectMissing):
        opened.export("first", format="npz", out=tmp_path / "maps.npz")
    assert list(tmp_path.iterdir()) == []


def _missing(key: str, *_: object) -> bytes:
    raise ObjectMissing(f"no object {key}")


def test_what_is_missing_is_named_with_its_remedy(
    opened: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="choose one of parquet, npz, png, virelay, fiftyone"):
        opened.export("first", format="gif", out=tmp_path / "x")
    for module in ("pyarrow", "h5py", "yaml"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=r"parquet.*: pip install pyarrow$"):
        opened.export("first", format="parquet", out=tmp_path / "x")
    with pytest.raises(UsageError, match=r"virelay.*: pip install h5py PyYAML$"):
        opened.export("first", format="virelay", out=tmp_path / "x")
