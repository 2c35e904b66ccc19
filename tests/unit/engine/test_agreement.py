"""What the index says of members and baselines is what runs of single ones say."""

from dataclasses import replace

import numpy as np
import pytest

from db.queries import iter_images
from db.records import ImageRow
from pipeline.api import Pipeline, RunRequest
from pipeline.engine.unit import Workshop
from pipeline.engine.worker import work


@pytest.mark.slow
def test_agreement_is_that_of_runs_of_single_members(pipeline: Pipeline, shop: Workshop, request_: RunRequest) -> None:
    """Agreement and sensitivity are those of runs of single members and baselines."""

    def computed(**changes: object) -> tuple[list[ImageRow], np.ndarray]:
        run = pipeline.submit(replace(request_, **{"baselines": ("black", "white"), "target": "label", **changes}))  # type: ignore[arg-type]
        work(shop, run.id)
        found = list(iter_images(shop.database, run.id))
        return found, pipeline.read_maps(found)

    every, mean = computed()
    members = np.stack([computed(models=(member,))[1] for member in request_.models])
    baselines = np.stack([computed(baselines=(one,))[1] for one in ("black", "white")])
    weight = np.abs(mean).sum((1, 2, 3))
    agreed = (np.sign(members) == np.sign(members[0])).all(0)
    expected = np.where(agreed, np.abs(mean), 0).sum((1, 2, 3)) / weight
    assert 0.2 < expected.mean() < 0.98
    np.testing.assert_allclose([row.sign_agreement for row in every], expected, atol=2e-3)
    sizes = np.abs(baselines).sum((2, 3, 4))
    expected = 2 * np.abs(baselines[0] - baselines[1]).sum((1, 2, 3)) / sizes.sum(0)
    assert expected.min() > 0.1
    np.testing.assert_allclose([row.baseline_sensitivity for row in every], expected, rtol=5e-3)
    assert {row.baseline_sensitivity for row in computed(baselines=("black",))[0]} == {None}
