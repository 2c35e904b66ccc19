"""One evaluation of a run, from the command to what is stored: the sample, remarks, errors, what is left out."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from db.records import ImageRow, ImageState, Run
from pipeline.analysis.evaluation import MEASURES
from pipeline.analysis.evaluation.baseline_dependence import plan_baselines
from pipeline.analysis.evaluation.evaluate import draw
from pipeline.analysis.evaluation.measures import skip_reason
from pipeline.api import Pipeline, RunRequest
from pipeline.engine.unit import Workshop
from pipeline.engine.worker import work
from pipeline.errors import UnreadableImage, UsageError
from pipeline.spec.choices import Baseline
from pipeline.storage.arrays import Floats
from pipeline.storage.keys import report_key
from tests.support.specs import MODEL, spec


@pytest.fixture
def run(pipeline: Pipeline, shop: Workshop, request_: RunRequest) -> Run:
    """Of 18 images, done."""
    stored = pipeline.submit(request_)
    work(shop, stored.id)
    return stored


@pytest.mark.slow
def test_everything_is_measured_stored_and_repeatable(pipeline: Pipeline, run: Run) -> None:
    said: list[str] = []
    found = pipeline.evaluate(run.id, images=6, say=said.append).to_dict()
    assert [text.split(":")[0] for text in said] == list(MEASURES)
    assert found["images"] == 6
    assert found["remarks"] == []
    assert json.loads(pipeline.objects.get(report_key(run.id, "evaluation.json"))) == found
    assert pipeline.evaluation(run.id) == found
    names = [one["name"] for one in found["metrics"]]
    assert len(names) == len(set(names)) == 18
    for one in found["metrics"]:
        assert one["low"] <= one["value"] <= one["high"], one
        assert (one["images"], one["better"] in ("lower", "higher")) == (6, True)
        assert one["meaning"].endswith(".")
    figures = {one["name"]: one["value"] for one in found["metrics"]}
    assert figures["reproduction"] < 1e-3  # what float16 takes from a map
    assert figures["sign_agreement_most"] >= figures["sign_agreement_all"] > 0.3
    assert all(len(one["x"]) == len(one["y"]) for one in found["curves"])
    assert sum(one["images"] for one in found["sign_agreement"]) == 6
    assert {"baseline", "other", "cosine", "rank_correlation", "distance"} <= found["baseline_sensitivity"][0].keys()
    again = pipeline.evaluate(run.id, images=6, metrics=["infidelity", "deletion"]).to_dict()
    assert [m for m in found["metrics"] if m["name"].startswith(("deletion", "infidelity"))] == again["metrics"]
    other = pipeline.evaluate(run.id, images=6, seed=1, metrics=["deletion"]).to_dict()
    assert other["metrics"] != again["metrics"][:3]


@pytest.mark.slow
def test_images_that_are_gone_are_left_out_and_said(pipeline: Pipeline, run: Run, dataset: Path) -> None:
    for name in ("0", "1"):
        (dataset / "cat" / f"{name}.png").unlink()
    found = pipeline.evaluate(run.id, images=50, metrics=["agreement"])
    assert found.images == 16
    assert found.metrics[0].images == 16
    assert "all 16 of the run's images, fewer than the 50 requested" in found.remarks[0]
    assert "2 sampled images are gone or have changed since the run" in found.remarks[1]
    for path in dataset.rglob("*.png"):
        path.unlink()
    with pytest.raises(UsageError, match="none of its images can be read any more"):
        pipeline.evaluate(run.id)


def test_a_run_without_maps_and_unknown_metrics_are_refused(pipeline: Pipeline, request_: RunRequest) -> None:
    run = pipeline.submit(request_)
    assert pipeline.evaluation(run.id) is None
    with pytest.raises(UsageError, match="it has no map yet; see `attribatch status"):
        pipeline.evaluate(run.id)
    with pytest.raises(UsageError, match=r"'delation'.*deletion"):
        pipeline.evaluate(run.id, metrics=["delation"])
    with pytest.raises(UsageError, match="0 images"):
        pipeline.evaluate(run.id, images=0)


@pytest.mark.parametrize("attribution", ["saliency", "input_x_gradient"])
def test_what_says_nothing_of_a_run_is_left_out_with_a_reason(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest, attribution: str
) -> None:
    run = pipeline.submit(replace(request_, attribution=attribution, models=request_.models[:1], channels="sum"))
    work(shop, run.id)
    found = pipeline.evaluate(run.id, images=4, metrics=["infidelity", "baselines", "agreement", "reproduction"])
    left_out = [remark.split(" was left out: ")[0] for remark in found.remarks]
    assert left_out == [*(["infidelity"] if attribution == "saliency" else []), "baselines", "agreement"]
    assert next(m for m in found.metrics if m.name == "reproduction").value < 1e-3


def test_one_class_has_no_probability_to_lose() -> None:
    one = replace(spec(), models=(replace(MODEL, class_names=("mark",)),))
    assert [name for name in MEASURES if skip_reason(name, one)] == ["deletion", "insertion", "road", "agreement"]


def test_a_run_with_one_baseline_is_held_against_a_standard_set() -> None:
    one = replace(spec(), baselines=(Baseline.parse("black"),))
    found = plan_baselines(one, samples=4)
    singles = ["black", "white", "mean", "blurred:sigma=1", "uniform:n=1"]
    assert list(found.variants)[:5] == singles
    assert len([pair for pair in found.pairs if set(pair) <= set(singles)]) == 10
    averages = [name for name in found.variants if name.startswith("average")]
    assert averages == ["average of 4 blurred", "average of 4 uniform noise", "average of 4 images of the data set"]
    assert all(("this run", name) in found.pairs for name in averages)
    assert ("average of 4 uniform noise", "uniform:n=1") in found.pairs
    several = plan_baselines(spec(), samples=0)
    assert several.pairs[0] == ("black", "color:0.1,0.2,0.3")
    assert ("this run", "black") in several.pairs
    assert "white" not in several.variants


def test_a_sample_is_random_seeded_and_streams() -> None:
    def rows() -> Iterator[ImageRow]:
        return (ImageRow("r", i, f"{i}.png", "v", ImageState.DONE, sha256=f"{i:064}") for i in range(1000))

    def read(row: ImageRow) -> Floats:
        if row.row % 2:
            raise UnreadableImage("gone")
        return row.row  # type: ignore[return-value]

    def keys(seed: int, **options: Any) -> list[int]:
        return [row.row for row in draw(rows(), 8, seed, lambda row: row.row, **options).items]  # type: ignore[arg-type, return-value]

    assert keys(0) == keys(0)
    assert len(set(keys(0))) == 8
    assert keys(0) != keys(1)
    assert max(keys(0)) > 300
    sample = draw(rows(), 8, 0, read)
    assert len(sample.items) == 8
    assert all(row.row % 2 == 0 for row in sample.items)
    assert sample.unreadable
