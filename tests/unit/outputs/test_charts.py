"""Axes of the report's histograms can be read whatever the values are."""

from collections.abc import Iterator
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

from pipeline.analysis.statistics import Sketch
from pipeline.outputs import charts

CHARACTER = 6.8  # mean width of a character of 12 px, in px
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
def test_an_axis_has_three_ticks_that_do_not_touch(name: str, limit: float | None) -> None:
    """Three ticks at least lie within the axis and none touches another."""
    sketch = Sketch(limit or 1.0)
    sketch.add(VALUES[name].tolist())
    chart = charts.histogram("error", sketch.to_dict(), limit)
    texts = list(ElementTree.fromstring(chart.svg).iter("text"))
    foot = charts.HISTOGRAM.height - charts.HISTOGRAM.bottom + 16
    ticks = [(float(one.attrib["x"]), one.text or "") for one in texts if float(one.attrib["y"]) == foot]
    assert len(ticks) >= 3
    boxes = [(x - CHARACTER * len(text) / 2, x + CHARACTER * len(text) / 2) for x, text in sorted(ticks)]
    assert all(right[0] - left[1] > 4 for left, right in pairwise(boxes))
    assert boxes[0][0] > 0
    assert boxes[-1][1] < charts.HISTOGRAM.width
    assert {"error", "images"} <= {one.text for one in texts}, "axes are named"


def all_charts() -> Iterator[str]:
    sketch = Sketch()
    sketch.add(VALUES["a decade"].tolist())
    yield charts.histogram("error", sketch.to_dict(), 0.05).svg
    shares = {"border_share": 0.9, "center_share": 0.1, "corner_shares": [0.2, None, 0.1, 0]}
    yield charts.class_shares([{"class": "<b>" * 20, **shares}, {"class": "b", **shares}]).svg
    yield charts.curve([0, 0.5, 1], [0.1, 0.4, 2.2], [1, 2, 0.5], "<cat>")
    yield charts.drift([("2026-01-01 00:00", 0.1), ("2026-01-02 00:00", 0.2)], 0.15)


@pytest.mark.parametrize("svg", list(all_charts()))
def test_every_chart_is_well_formed_and_in_its_box(svg: str) -> None:
    """Every chart is well formed stays in its box and has a sentence."""
    chart = ElementTree.fromstring(svg)
    assert (chart.attrib["role"], len(chart.attrib["aria-label"]) > 20) == ("img", True)
    width, height = map(float, chart.attrib["viewBox"].split()[2:])
    for one in chart.iter("text"):
        if "transform" in one.attrib:
            continue
        start = (
            float(one.attrib["x"])
            - CHARACTER * len(one.text or "") * {"start": 0, "middle": 0.5, "end": 1}[one.attrib["text-anchor"]]
        )
        assert start >= 0, one.text
        assert start + CHARACTER * len(one.text or "") <= width, one.text
        assert 10 <= float(one.attrib["y"]) <= height
    for one in chart.iter("rect"):
        assert float(one.attrib["x"]) >= 0
        assert float(one.attrib["x"]) + float(one.attrib["width"]) <= width


@pytest.mark.parametrize(
    "name", [name for name in VALUES if name != "all there is"]
)  # larger ones count as the largest
def test_the_bound_in_the_caption_is_true(name: str) -> None:
    sketch = Sketch()
    sketch.add(VALUES[name].tolist())
    quantile, bound = np.quantile(VALUES[name], 0.95), float(charts.at_most(sketch.quantile(0.95) or 0))
    assert quantile <= bound <= 1.02 * quantile
