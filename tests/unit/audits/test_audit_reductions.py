"""Figures per class, read in batches, equal numpy on the whole array."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.audits import audit
from pipeline.audits.material import batches, classes_of
from pipeline.audits.reductions import MapSums, accuracy
from tests.unit.audits.closed import a_material, rows_of


@pytest.mark.parametrize("size", [1, 7, 100])
def test_mean_maps_do_not_depend_on_the_batches_and_equal_numpy(size: int) -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(60, 9, 11)).astype(np.float32)
    names = [("a", "b", None)[i % 3] for i in range(60)]
    sums = MapSums(["a", "b"], (9, 11))
    for start in range(0, 60, size):
        sums.add(names[start : start + size], maps[start : start + size])
    for index, name in enumerate("ab"):
        own = maps[index::3].astype(np.float64)
        mean, absolute = sums.means(name)
        np.testing.assert_allclose(mean, own.mean(axis=0), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(absolute, np.abs(own).mean(axis=0), rtol=1e-6)


def test_class_figures_equal_numpy_on_the_rows() -> None:
    material = a_material(count=80)
    found = {one.class_name: one for one in audit(material).classes}
    for name, rows in classes_of(material.done(), "predicted").items():
        errors = [row.error_estimate for row in rows]
        assert found[name].images == len(rows)
        assert found[name].completeness_gap == pytest.approx(np.median([row.completeness_gap for row in rows]))
        assert found[name].error_estimate == pytest.approx(np.median(errors))
        assert found[name].error_estimate_p90 == pytest.approx(np.quantile(errors, 0.9))
        assert found[name].border_share == pytest.approx(np.mean([row.border_share for row in rows]))
        assert found[name].member_disagreement == pytest.approx(np.median([row.member_disagreement for row in rows]))
        assert found[name].accuracy == pytest.approx(np.mean([row.label == row.predicted for row in rows]))
        maps = material.maps(rows).sum(axis=1)
        np.testing.assert_allclose(found[name].mean_map, maps.mean(axis=0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found[name].mean_absolute_map, np.abs(maps).mean(axis=0), rtol=1e-5)


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
    assert {(one.accuracy, one.completeness_gap, one.error_estimate_p90) for one in result.classes} == {(None,) * 3}
    assert accuracy([]) is None


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
    assert [len(part) for part in batches(list(material.done()), 3)] == [3, 3, 2]
