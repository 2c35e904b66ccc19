"""Figures per class, read in batches, equal numpy on the whole array."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from pipeline.analysis.audit import Audit, audit
from pipeline.analysis.audit.classes import CORNERS, MEDIAN_OF, ClassSums, block_step, blocks
from pipeline.analysis.audit.survey import IN_ALL, PER_CLASS, survey
from pipeline.analysis.statistics import Sketch
from pipeline.runs.view import RunView, batches
from tests.support.synthetic_audit import a_material, classes_of, rows_of


@pytest.mark.parametrize("size", [1, 7, 100])
def test_maps_of_a_class_equal_numpy_for_any_batches(size: int) -> None:
    """Maps of a class do not depend on the batches and equal numpy."""
    rng = np.random.default_rng(0)
    maps, spreads = rng.normal(3, 1, (2, 60, 9, 11)).astype(np.float32)
    sums = ClassSums(step=1, tolerance=0.05)
    for start in range(0, 60, size):
        keep = [place < MEDIAN_OF for place in range(start, min(60, start + size))]
        sums.add_maps(maps[start : start + size], spreads[start : start + size], keep)
    found, exact = sums.maps(), maps.astype(np.float64)
    assert found is not None
    assert found.median_images == 32
    np.testing.assert_allclose(found.mean, exact.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.mean_absolute, np.abs(exact).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.std, exact.std(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.median, np.median(maps[:32], axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.member_std, spreads.mean(axis=0), rtol=1e-6)


def test_maps_of_many_large_classes_are_kept_at_a_coarser_grid() -> None:
    assert (block_step(10, 224, 224), block_step(100, 224, 224), block_step(1000, 224, 224)) == (1, 2, 4)
    maps = np.arange(2 * 5 * 7, dtype=np.float32).reshape(2, 5, 7)
    small = blocks(maps, 3)
    assert small.shape == (2, 2, 3)
    assert small[1, 0, 0] == maps[1, :3, :3].mean()
    assert small[1, 1, 2] == maps[1, 3:, 6:].mean()


@pytest.mark.parametrize("draw", ["exponential", "lognormal", "uniform"])
def test_quantiles_are_within_half_a_percent_of_numpys(draw: str) -> None:
    """Quantiles are within half a percent of numpys and the histogram counts all."""
    values = getattr(np.random.default_rng(0), draw)(size=5000)
    sketch = Sketch(limit=0.5)
    for part in np.array_split(values, 7):
        sketch.add([*part, None, float("nan")])
    for q in (0.05, 0.5, 0.9, 0.95):
        assert sketch.quantile(q) == pytest.approx(np.quantile(values, q), rel=0.0051)
    assert sketch.mean == pytest.approx(values.mean())
    assert sketch.share_above == (values > 0.5).mean()
    found = sketch.to_dict()["histogram"]
    edges, counts = np.array(found["edges"]), np.array(found["counts"])
    assert counts.sum() == 5000
    assert len(edges) == len(counts) + 1
    assert np.abs(np.cumsum(counts)[-8:] / 5000 - [(values < edge).mean() for edge in edges[-8:]]).max() < 0.02


def test_values_at_a_limit_are_not_above_it() -> None:
    """Values at a limit are not above it and no bar of the histogram spans it."""
    sketch = Sketch(limit=0.05)
    sketch.add([0.04999, 0.05, 0.0499985, 0.03])
    assert sketch.share_above == 0
    sketch.add([np.nextafter(0.05, 1)])
    assert sketch.share_above == 0.2
    found = sketch.to_dict()["histogram"]
    assert 0.05 in found["edges"]
    assert sum(found["counts"][: found["edges"].index(0.05)]) == 4


def test_a_narrow_distribution_has_bars_enough_to_be_seen() -> None:
    sketch = Sketch()
    sketch.add(np.random.default_rng(0).uniform(0.9, 1.1, 400).tolist())
    assert 9 <= len(sketch.to_dict()["histogram"]["counts"]) <= 24


def test_a_sketch_of_nothing_or_of_zeros() -> None:
    assert (Sketch().quantile(0.5), Sketch().mean, Sketch().to_dict()["histogram"]["counts"]) == (None, None, [])
    sketch = Sketch()
    sketch.add([0.0, 0.0, 1e-9])
    assert (sketch.quantile(0.9), sketch.to_dict()["histogram"]["counts"]) == (0.0, [3])


def with_centres(material: RunView) -> RunView:
    rng = np.random.default_rng(1)
    rows = [
        replace(row, **dict(zip(("center_x", "center_y", "entropy", "gini"), rng.random(4), strict=True)))
        if row.error is None else row for row in material.rows
    ]  # fmt: skip
    return replace(material, rows=rows, spreads=lambda wanted: np.abs(material.maps(wanted)) / 2)


@pytest.fixture(scope="module")
def audited() -> tuple[RunView, Audit]:
    material = with_centres(a_material(count=80))
    return material, audit(material)


def test_class_figures_equal_numpy_on_the_rows(audited: tuple[RunView, Audit]) -> None:
    material, result = audited
    found = {one.class_name: one for one in result.classes}
    for name, rows in classes_of(material.done(), "predicted").items():
        errors = [row.error_estimate for row in rows]
        one = found[name]
        assert one.images == len(rows)
        assert one.completeness_gap == pytest.approx(np.median([row.completeness_gap for row in rows]), rel=0.01)
        assert one.error_estimate == pytest.approx(np.median(errors), rel=0.01)
        assert one.error_estimate_p90 == pytest.approx(np.quantile(errors, 0.9), rel=0.01)
        assert one.error_above == pytest.approx((np.array(errors) > 0.1).mean(), abs=0.04)
        assert one.border_share == pytest.approx(np.mean([row.border_share for row in rows]))
        assert one.center_share == pytest.approx(np.mean([row.center_share for row in rows]))
        corners = [[getattr(row, name) for row in rows] for name in CORNERS]
        assert one.corner_shares == pytest.approx(np.mean(corners, axis=1))
        assert one.member_disagreement == pytest.approx(np.median([row.member_disagreement for row in rows]), rel=0.01)
        assert one.sign_agreement == pytest.approx(np.mean([row.sign_agreement for row in rows]))
        sensitivities = [row.baseline_sensitivity for row in rows]
        assert one.baseline_sensitivity == pytest.approx(np.median(sensitivities), rel=0.01)
        assert one.accuracy == pytest.approx(np.mean([row.label == row.predicted for row in rows]))
        centres = np.array([(row.center_x, row.center_y) for row in rows])
        assert one.center == pytest.approx(centres.mean(axis=0))
        assert one.center_spread == pytest.approx(np.hypot(*centres.std(axis=0)))
        assert one.entropy == pytest.approx(np.mean([row.entropy for row in rows]))
        assert one.gini == pytest.approx(np.mean([row.gini for row in rows]))
        assert one.effective_pixels == pytest.approx(1024**one.entropy)


def test_class_maps_equal_numpy_on_the_full_array(audited: tuple[RunView, Audit]) -> None:
    material, result = audited
    arrays = result.arrays()
    assert arrays["classes"].tolist() == [one.class_name for one in result.classes]
    for index, rows in enumerate(classes_of(material.done(), "predicted").values()):
        maps = material.maps(rows).sum(axis=1)
        assert len(maps) <= MEDIAN_OF  # so that the median is exact
        np.testing.assert_allclose(arrays["mean"][index], maps.mean(axis=0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(arrays["mean_absolute"][index], np.abs(maps).mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(arrays["std"][index], maps.std(axis=0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(arrays["median"][index], np.median(maps, axis=0), rtol=1e-5)
        np.testing.assert_allclose(arrays["member_std"][index], np.abs(maps).mean(axis=0) / 2, rtol=1e-5)


def test_a_sample_does_not_depend_on_the_order_and_is_bounded() -> None:
    material = a_material(count=60)
    many = [replace(row, row=i, predicted=str(i % 100), target=str(i % 100)) for i, row in
            enumerate(rows_of(material) * 100)]  # fmt: skip
    found = survey(many, "predicted", 0)
    again = survey(many[::-1], "predicted", 0)
    assert found.sample == again.sample == found.explained
    assert IN_ALL // 100 > 60
    assert Counter(len(part) for part in found.sample.values()) == {60: 100}
    assert survey(many, "predicted", 1).sample != found.sample
    crowded = survey([replace(row, predicted="a") for row in many], "predicted", 0)
    assert len(crowded.sample["a"]) == PER_CLASS


def test_classes_can_be_the_labels_and_come_in_natural_order() -> None:
    rows = [replace(row, label=str(11 - i % 12)) for i, row in enumerate(rows_of(a_material(count=24)))]
    assert list(classes_of(rows, "label")) == [str(i) for i in range(12)]
    assert audit(a_material(count=60), by="label").by == "label"


def test_figures_without_data_are_none() -> None:
    material = a_material(count=40)
    bare = [
        replace(row, label=None, completeness_gap=None, error_estimate=None, member_disagreement=None)
        for row in material.rows
    ]
    result = audit(replace(material, rows=bare))
    assert result.accuracy is None
    assert result.unreliable_gaps is None
    assert {(one.accuracy, one.completeness_gap, one.error_estimate_p90) for one in result.classes} == {(None,) * 3}
    assert audit(replace(material, rows=[])).accuracy is None


def test_maps_are_read_in_batches_and_each_map_once() -> None:
    asked: list[int] = []
    material = a_material(count=600)
    read = material.maps

    def counted(rows):
        asked.append(len(rows))
        return read(rows)

    audit(replace(material, maps=counted))
    assert sum(asked) == 600
    assert max(asked) <= material.batch < 600


def test_a_batch_of_large_images_is_small() -> None:
    material = a_material(count=8)
    large = replace(material.spec.models[0].preprocess, height=1024, width=1024, channels=3)
    models = tuple(replace(model, preprocess=large) for model in material.spec.models)
    assert replace(material, spec=replace(material.spec, models=models)).batch == 2
    assert [len(part) for part in batches(material.done(), 3)] == [3, 3, 2]
