"""Two runs of one pipeline, compared: what was asked differently, matched images, and the same figures as numpy's."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sqlalchemy import insert
from typer.testing import CliRunner

from db.encoding import image_values
from db.pair_queries import count_unmatched, iter_pairs
from db.records import Run
from db.session import write
from db.tables import images
from pipeline.analysis import comparison
from pipeline.analysis.comparison import alike
from pipeline.api import Pipeline, RunRequest
from pipeline.cli.app import app
from pipeline.engine.unit import Workshop
from pipeline.engine.worker import begin, work
from pipeline.errors import UsageError
from pipeline.spec.request import ModelRequest
from tests.support.records import make_row, make_run


def computed(pipeline: Pipeline, shop: Workshop, request: RunRequest) -> Run:
    run = pipeline.submit(request)
    work(shop, run.id)
    return run


@pytest.fixture
def one(pipeline: Pipeline, shop: Workshop, request_: RunRequest) -> Run:
    return computed(pipeline, shop, replace(request_, baselines=("black",), name="one"))


def fields_of(found: object) -> dict[str, tuple[str, str]]:
    return {each.field: (each.a, each.b) for each in found.spec}  # type: ignore[attr-defined]


@pytest.mark.slow
def test_one_baseline_against_many_and_one_model_of_two(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest, one: Run
) -> None:
    """One baseline against many and one model against the ensemble."""
    many = computed(pipeline, shop, replace(request_, baselines=("black", "white", "uniform:n=4"), name="many"))
    single = computed(
        pipeline, shop, replace(request_, baselines=("black",), models=request_.models[:1], name="single")
    )
    found = pipeline.compare("one", "many")
    assert (found.run_a, found.run_b) == (one.id, many.id)
    assert fields_of(found) == {"baselines": ("black", "black; white; uniform:n=4")}
    assert (found.shared_images, found.only_a, found.only_b, found.flips, found.changed_files) == (18, 0, 0, 0, 0)
    rows = pipeline.find(one.id).rows
    full = alike(pipeline.read_maps(rows), pipeline.read_maps(pipeline.find(many.id).rows))
    assert [each.key for each in found.changed] == [rows[i].key for i in np.argsort(full.cosine)][:20]
    assert found.cosine.median == pytest.approx(np.quantile(full.cosine, 0.5, method="inverted_cdf"), abs=1e-4)
    assert found.cosine.median < 0.99
    stored = json.loads(pipeline.objects.get(f"runs/{one.id}/reports/compare-{many.id}-predicted.json"))
    assert stored == json.loads(json.dumps(found.to_dict())) | {"done_a": 18, "done_b": 18}
    assert set(stored["classes"][0]) == {"class", "images", "drift", "ndcg", "cosine"}

    alone = pipeline.compare("single", "one", by="label", limit=2)
    assert set(fields_of(alone)) == {"models"}
    assert fields_of(alone)["models"][1].count("tiny.py:make, weights sha256 ") == 2
    assert alone.run_a == single.id
    assert len(alone.changed) == 2
    kept = pipeline.stored_comparison("single", "one", by="label")
    assert kept is not None
    assert len(kept["changed"]) == 18, "what somebody lists does not decide what the page shows"
    flips = [a.predicted != b.predicted for a, b in iter_pairs(pipeline.database, single.id, one.id)]
    assert alone.flips == sum(flips)
    assert {c.class_name: c.images for c in alone.classes} == {"cat": 6, "dog": 6, "eel": 6}


@pytest.mark.slow
def test_what_is_compared_before_the_end_is_not_kept(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest, one: Run
) -> None:
    waiting = pipeline.submit(replace(request_, baselines=("white",), unit_size=6, name="waiting"))
    unit = shop.ledger.claim("by hand", run_id=waiting.id)
    assert unit is not None
    begin(shop, unit)
    shop.finish()
    assert not pipeline.status(waiting.id).over
    assert 0 < pipeline.compare("one", "waiting").shared_images < 18
    assert pipeline.stored_comparison("one", "waiting") is None
    env = {"ATTRIBATCH_HOME": str(pipeline.settings.home)}
    for asked in (["compare", "one", "waiting"], ["export", "waiting", "--out", str(pipeline.settings.home / "w.npz")]):
        said = CliRunner().invoke(app, asked, env=env)
        assert (said.exit_code, said.stderr.count("is not finished: 6 of 18 images are done")) == (0, 1), said.output
    work(shop, waiting.id)
    assert pipeline.compare("one", "waiting").shared_images == 18
    kept = pipeline.stored_comparison("one", "waiting")
    assert kept is not None
    assert (kept["done_a"], kept["done_b"]) == (18, 18)
    key = f"runs/{one.id}/reports/compare-{waiting.id}-predicted.json"
    pipeline.objects.put(key, json.dumps(kept | {"done_b": 17}).encode())
    assert pipeline.stored_comparison("one", "waiting") is None, "the run has changed since"


def test_a_run_is_like_itself(pipeline: Pipeline, one: Run) -> None:
    found = pipeline.compare("one", one.id)
    assert (found.spec, found.cosine.p10, found.rank_correlation.p10) == ((), pytest.approx(1), pytest.approx(1))
    assert (found.distance.p90, found.drift, found.flips) == (0, 0, 0)


@pytest.mark.slow
def test_last_night_against_tonight(
    dataset: Path, pipeline: Pipeline, shop: Workshop, request_: RunRequest, one: Run
) -> None:
    (dataset / "cat" / "0.png").unlink()
    for name in ("dog/1.png", "eel/new.png"):
        Image.fromarray(np.full((8, 8), 250, np.uint8)).save(dataset / name)
    (dataset / "eel" / "5.png").write_text("no image")
    tonight = computed(pipeline, shop, replace(request_, baselines=("black",), channels="sum", name="tonight"))
    found = pipeline.compare("one", "tonight")
    assert (found.shared_images, found.only_a, found.only_b, found.changed_files) == (16, 2, 1, 1)
    assert found.changed[0].key == "dog/1.png"
    assert found.changed[1].cosine > 0.999
    assert fields_of(found)["stored channels"] == ("keep", "sum")
    assert fields_of(found)["listing"][1].startswith("18 images, sha256 ")
    assert count_unmatched(pipeline.database, tonight.id, one.id) == 1


@pytest.mark.slow
def test_runs_that_cannot_be_compared_say_why(
    tmp_path: Path, pipeline: Pipeline, shop: Workshop, request_: RunRequest, one: Run
) -> None:
    other = tmp_path / "others"
    other.mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(other / "alone.png")
    elsewhere = computed(pipeline, shop, replace(request_, source=str(other)))
    with pytest.raises(UsageError, match=rf"runs {one.id} and {elsewhere.id} share no image that has a map in both"):
        pipeline.compare(one.id, elsewhere.id)
    wide = tmp_path / "wide.py"
    wide.write_text(
        "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(256, 3)), "
        "{'input_size': 16, 'channels': 1, 'resize': True}\n"
    )
    torch.save({"1.weight": torch.ones(3, 256), "1.bias": torch.zeros(3)}, tmp_path / "wide.pt")
    large = pipeline.submit(
        replace(request_, models=(ModelRequest(f"{wide}:make", weights=str(tmp_path / "wide.pt")),), name="large")
    )
    with pytest.raises(UsageError, match=rf"maps of run {one.id} are 8 x 8 .* those of run {large.id} 16 x 16"):
        pipeline.compare("one", "large")
    with pytest.raises(UsageError, match="choose predicted or label"):
        pipeline.compare("one", "one", by="size")


@pytest.fixture
def many_rows(pipeline: Pipeline) -> tuple[Run, Run]:
    runs = [make_run(digit * 12, image_count=6_000) for digit in "ab"]
    for shift, run in enumerate(runs):
        pipeline.ledger.submit(run, [])
        rows = [make_row(run.id, row, map_run=run.id, map_row=row, predicted="cat") for row in range(6_000)]
        rows = rows[::-1] if shift else rows
        values = [image_values(replace(each, row=row)) for row, each in enumerate(rows) if row % 10]
        with write(pipeline.database) as connection:
            connection.execute(insert(images), values)
    return runs[0], runs[1]


@pytest.mark.slow
def test_pairs_are_streamed_in_flat_memory(
    pipeline: Pipeline, many_rows: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = many_rows
    missing = count_unmatched(pipeline.database, one.id, other.id)
    maps = np.random.default_rng(0).normal(size=(6_000, 1, 4, 4)).astype(np.float32)
    monkeypatch.setattr(comparison, "read_maps", lambda _, rows: maps[[row.map_row for row in rows]])
    monkeypatch.setattr(comparison, "_values_of_a_map", lambda *_: 16)
    monkeypatch.setattr(comparison, "differences", lambda *_: ())
    monkeypatch.setattr(comparison.RunSpec, "from_json", lambda _: None)
    tracemalloc.start()
    found = comparison.compare(pipeline.database, pipeline.objects, one, other, limit=5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shared_images + missing == 5_400
    assert found.only_a == found.only_b == missing > 0
    assert peak < 9e6, "the rows of both runs would be more"


@pytest.mark.slow
def test_the_command_prints_and_its_gate_ends_with_code_4(
    pipeline: Pipeline,
    shop: Workshop,
    request_: RunRequest,
    one: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    computed(pipeline, shop, replace(request_, baselines=("white",), name="white"))
    monkeypatch.setenv("ATTRIBATCH_HOME", str(pipeline.settings.home))

    def call(*more: str) -> tuple[int, str]:
        code = app(["compare", "one", "white", *more], standalone_mode=False)
        return code or 0, capsys.readouterr().out

    code, text = call("--fail-on", "cosine<0.99")
    assert code == 4
    assert "18 images with a map in both" in text
    assert "GATE EXCEEDED" in text
    app(["compare", "one", one.id, "--limit", "1"], standalone_mode=False)
    assert "the same run, so nothing differs" in capsys.readouterr().out
    code, text = call("--json", "--fail-on", "flip_share>0.5")
    assert (code, json.loads(text)["exceeded"]) == (0, False)
    assert json.loads(text)["spec"] == [{"field": "baselines", "a": "black", "b": "white"}]
    monkeypatch.setattr(
        "pipeline.analysis.drift.MIN_CLASS_IMAGES", 100
    )  # images of a class: in none is the drift known then
    code, text = call("--json", "--fail-on", "class_drift>0.9")
    assert (code, json.loads(text)["exceeded"], json.loads(text)["class_drift"]) == (4, True, None)
    with pytest.raises(UsageError, match="has no figure 'cosinus'; did you mean 'cosine'"):
        call("--fail-on", "cosinus<0.9")
