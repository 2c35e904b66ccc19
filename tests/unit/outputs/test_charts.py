"""Axes of the report's histograms can be read whatever the values are."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from pipeline.analysis.statistics import Sketch
from pipeline.outputs import charts

DRAWS = np.random.default_rng(0)
VALUES = {
    "narrow": DRAWS.uniform(0.97, 1.01, 200),
    "a factor of two": DRAWS.uniform(0.9, 2, 200),
    "a decade": DRAWS.uniform(0.1, 1.3, 200),
    "four decades": 10 ** DRAWS.uniform(-4, 0, 200),
    "all there is": 10 ** DRAWS.uniform(-7, 5, 200),
    "all equal": np.ones(20),
    "tiny": DRAWS.uniform(1.1e-5, 3e-5, 200),
    "one image": np.array([0.0034]),
}


@pytest.mark.parametrize("limit", [None, 0.05])
@pytest.mark.parametrize("name", VALUES)
def test_three_ticks_at_least_lie_within_the_axis_and_none_touches_another(
    name: str, limit: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sketch = Sketch(limit or 1.0)
    sketch.add(VALUES[name].tolist())
    pages = []
    monkeypatch.setattr(charts, "_saved", lambda page: pages.append(page) or "")
    charts._histogram("error", sketch.to_dict(), limit)
    (page,) = pages
    axes, canvas = page.axes[0], FigureCanvasAgg(page)
    canvas.draw()
    low, high = axes.get_xlim()
    labels = [
        one for one in axes.get_xticklabels(which="both") if one.get_text() and low <= one.get_position()[0] <= high
    ]
    boxes = [one.get_window_extent(canvas.get_renderer()) for one in labels]
    assert len(boxes) >= 3
    assert all(right.x0 - left.x1 > 4 for left, right in pairwise(boxes))


@pytest.mark.parametrize(
    "name", [name for name in VALUES if name != "all there is"]
)  # larger ones count as the largest
def test_the_bound_in_the_caption_is_true(name: str) -> None:
    sketch = Sketch()
    sketch.add(VALUES[name].tolist())
    quantile, bound = np.quantile(VALUES[name], 0.95), float(charts.at_most(sketch.quantile(0.95) or 0))
    assert quantile <= bound <= 1.02 * quantile
