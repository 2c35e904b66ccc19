"""What `--dry-run` says of a run's cost."""

from dataclasses import replace
from pathlib import Path

import pytest

from db.queries import iter_images
from db.records import ImageState
from pipeline.api import Pipeline, RunRequest
from pipeline.engine.unit import Workshop
from pipeline.engine.worker import work
from pipeline.errors import SpecError
from pipeline.runs import estimate


@pytest.mark.slow
def test_the_sample_stands_for_the_run(pipeline: Pipeline, shop: Workshop, request_: RunRequest) -> None:
    request = replace(request_, tolerance=0.1)
    cost = pipeline.estimate(request)
    run = pipeline.submit(request)
    work(shop, run.id)
    rows = list(iter_images(pipeline.database, run.id, ImageState.DONE))
    assert cost.images == len(rows) == 18
    assert cost.paths == len(request.models) * 3
    labels = {row.label for row in rows}
    assert {key.split("/")[0] for key in cost.sample} == labels, "all classes, not the first alone"
    taken = sum(row.evaluations or 0 for row in rows) / len(rows)
    assert cost.evaluations_per_image == pytest.approx(taken, rel=0.1)


def test_a_slow_model_is_measured_on_one_image(
    pipeline: Pipeline, request_: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "SAMPLE_SECONDS", 0.0)
    cost = pipeline.estimate(request_)
    assert len(cost.sample) == 1
    assert cost.seconds > 0


def test_images_that_cannot_be_read_are_passed_over(pipeline: Pipeline, request_: RunRequest) -> None:
    folder = Path(request_.source)
    images = sorted(folder.rglob("*.png"))
    for image in images[1:]:
        image.write_bytes(b"no image")
    assert len(pipeline.estimate(request_).sample) == 1
    images[0].write_bytes(b"no image")
    with pytest.raises(SpecError, match="none of the images can be read"):
        pipeline.estimate(request_)
