"""Frames, lazy maps, records, the documented queries, and every example of the API's docstrings."""

import inspect
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from db.records import ImageRow, ImageState
from db.session import read
from pipeline.api import Pipeline
from pipeline.runs.stored import Record

ROOT = Path(__file__).parents[3]
SQL = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "SQL.md").read_text(), re.DOTALL)
VIEWS = ("worst_gap", "mispredicted", "disagreement", "border_heavy", "class_summary")


def examples() -> list[tuple[str, str]]:
    found = []
    for owner in (Pipeline, Record):
        members = [owner, *(value for _, value in inspect.getmembers(owner) if inspect.isfunction(value))]
        for member in members:
            text = inspect.getdoc(member) or ""
            if "Example:\n" in text:
                found.append((member.__qualname__, textwrap.dedent(text.partition("Example:\n")[2])))
    return found


@pytest.mark.parametrize(("name", "code"), examples())
def test_every_example_of_the_api_runs(
    opened: Pipeline, name: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, name, "exec"), {"p": opened})


def test_there_are_examples_of_what_answers() -> None:
    assert {"Record", "Pipeline.find", "Pipeline.frame", "Pipeline.maps", "Pipeline.export"} <= set(dict(examples()))


def test_a_frame_has_a_column_for_each_field_in_its_type(opened: Pipeline) -> None:
    frame = opened.frame("first")
    assert len(frame) == 28
    kinds = {name: str(frame[name].dtype) for name in ("key", "probability", "evaluations", "converged", "state")}
    assert kinds == {
        "key": "string",
        "probability": "float64",
        "evaluations": "Int64",
        "converged": "boolean",
        "state": "string",
    }
    failed = frame[frame.state == "failed"].iloc[0]
    assert pd.isna(failed.probability)
    assert pd.isna(failed.evaluations)
    rows = opened.find("first", where="label = 'eel'", sort="-gini").rows
    assert opened.frame("first", where="label = 'eel'", sort="-gini").key.tolist() == [row.key for row in rows]
    assert opened.frame("first", where="probability > 2").dtypes.equals(frame.dtypes)


@pytest.mark.parametrize("run", ["first", "tonight"])
def test_lazy_maps_are_those_of_the_rows_wherever_they_lie(opened: Pipeline, run: str) -> None:
    rows = opened.find(run).rows
    maps = opened.maps(run)
    assert maps.attribution.dims == ("row", "channel", "y", "x")
    assert maps.key.values.tolist() == [row.key for row in rows]
    done = [index for index, row in enumerate(rows) if row.state is ImageState.DONE]
    np.testing.assert_array_equal(maps.attribution[done].values, opened.read_maps([rows[index] for index in done]))
    assert np.isnan(maps.attribution.values).all((1, 2, 3)).tolist() == [row.state is ImageState.FAILED for row in rows]
    whole = maps.attribution.values
    for index in (5, slice(3, 20, 4), [7, 2, 2], slice(None)):
        np.testing.assert_array_equal(maps.attribution[index, 0, 2:7:2, ::-1].values, whole[index][..., 0, 2:7:2, ::-1])
    np.testing.assert_array_equal(maps.attribution.sel(row=9, y=[1, 4]).values, whole[9][:, [1, 4]])
    assert (maps["std"][0].values >= 0).all()


def test_lazy_maps_read_only_the_shards_in_use(opened: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read before it is asked for and then only its shards."""
    got: list[str] = []
    get = opened.objects.get

    def watched(key: str, *bounds: int | None) -> bytes:
        got.append(key)
        return get(key, *bounds)

    monkeypatch.setattr(opened.objects, "get", watched)
    maps = opened.maps("first")
    chosen = maps.attribution[4:8][1:, 0]
    assert got == []
    assert chosen.values.shape == (3, 8, 8)
    shards = {key for key in got if "/c/" in key}
    assert shards == {f"runs/{maps.attrs['run']}/maps/{name}" for name in ("mean/c/1/0/0/0", "scale/c/1/0")}
    assert chosen.encoding["preferred_chunks"]["row"] == 4


def test_a_record_is_its_row_and_reads_its_arrays(opened: Pipeline) -> None:
    record = opened.find_image("first", "cat/1.png")
    plain = ImageRow(*(getattr(record, name) for name in ImageRow.__slots__))
    assert record == plain
    assert plain == record
    assert hash(record) == hash(plain)
    np.testing.assert_array_equal(record.map(), opened.read_maps([plain])[0])
    np.testing.assert_array_equal(record.image(), opened.read_images([plain])[0])


def test_regions_are_stored_with_each_row(opened: Pipeline) -> None:
    for record in opened.find("first", where="not failed").rows:
        share = np.abs(record.map()).sum(0) / np.abs(record.map()).sum()
        assert record.top_right_share == pytest.approx(share[:2, 6:].sum(), rel=1e-2)
        assert record.center_share == pytest.approx(share[2:6, 2:6].sum(), rel=1e-2)
        assert 1 <= (record.effective_pixels or 0) <= 64


def test_every_documented_query_and_view_answers(opened: Pipeline) -> None:
    assert len(SQL) >= 3
    with read(opened.database) as connection:
        for statement in SQL:
            assert connection.exec_driver_sql(statement).fetchall(), statement
        for view in VIEWS:
            connection.exec_driver_sql(f"SELECT * FROM attribatch_{view} LIMIT 3").fetchall()
        (summary,) = connection.exec_driver_sql(
            f"SELECT sum(images), sum(mispredicted) FROM attribatch_class_summary "
            f"WHERE run_id = '{opened.get_run('first').id}'"
        )
    assert tuple(summary) == (27, len(opened.find("first", where="mispredicted").rows))


@pytest.mark.slow
def test_datasette_serves_the_views_of_an_index(opened: Pipeline) -> None:
    path = opened.settings.home / "index.db"
    command = [sys.executable, "-m", "datasette", str(path), "--get", "/index/attribatch_worst_gap.json?_shape=array"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    gaps = [row["completeness_gap"] for row in json.loads(found.stdout)]
    assert len(gaps) > 20
    assert gaps == sorted(gaps, reverse=True)
