"""Drift between two runs, read in batches, equals numpy on the whole array and scikit-learn's nDCG."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from pipeline.analysis.drift import BATCH_BYTES, CELLS, MIN_CLASS_IMAGES, CellSums, drift_of, ndcg, sum_cells
from pipeline.analysis.statistics import cosine_distance
from tests.support.records import make_row

NAMES = ("cat", "dog", "eel")


def maps_of(seed: int, count: int = 60, size: tuple[int, int] = (16, 24)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, 3, *size)) * rng.gamma(0.5, size=size)).astype(np.float32)


def rows_of(count: int = 60) -> list:
    return [replace(make_row("0" * 12, row), predicted=NAMES[row % 3]) for row in range(count)]


def cells_of(maps: np.ndarray) -> np.ndarray:
    """(64,) of maps whose sides are multiples of 8: a reshape instead of weights."""
    n, _, h, w = maps.shape
    summed = np.abs(maps.sum(axis=1)).astype(np.float64)
    return summed.reshape(n, CELLS, h // CELLS, CELLS, w // CELLS).mean(axis=(2, 4)).mean(axis=0).ravel()


def summed(maps: np.ndarray, rows: list) -> CellSums:
    return sum_cells(rows, lambda batch: maps[[row.row for row in batch]], int(np.prod(maps.shape[1:])))


def test_drift_equals_numpy_and_scikit_learn_on_the_whole_arrays() -> None:
    before, after, rows = maps_of(0), maps_of(1), rows_of()
    found = drift_of("b", summed(after, rows), "a", summed(before, rows))
    one, other = cells_of(before), cells_of(after)
    assert found.drift == pytest.approx(1 - one @ other / np.linalg.norm(one) / np.linalg.norm(other), rel=1e-6)
    assert found.ndcg == pytest.approx(ndcg_score(one[None], other[None]), rel=1e-6)
    assert 0.01 < found.drift < 0.9
    for index, each in enumerate(found.classes):
        one, other = cells_of(before[index::3]), cells_of(after[index::3])
        assert (each.class_name, each.images, each.images_before) == (NAMES[index], 20, 20)
        assert each.drift == pytest.approx(1 - one @ other / np.linalg.norm(one) / np.linalg.norm(other), rel=1e-6)
        assert each.ndcg == pytest.approx(ndcg_score(one[None], other[None]), rel=1e-6)
    assert found.class_drift == max(each.drift for each in found.classes if each.drift is not None)


@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=64).flatmap(
        lambda one: st.tuples(st.just(one), st.lists(st.integers(0, 3), min_size=len(one), max_size=len(one)))
    )
)
def test_ndcg_is_that_of_its_definition_with_ties_everywhere(both: tuple[list[int], list[int]]) -> None:
    """Linear gain, log2 discount, the gains of tied scores averaged (McSherry and Najork 2008)."""
    relevance, scores = (np.array(each, float) for each in both)
    discount = 1 / np.log2(np.arange(2, len(relevance) + 2))
    _, group, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    so_far, ends = np.concatenate([[0], np.cumsum(discount)]), np.cumsum(counts)
    gains = np.bincount(group, weights=relevance) / counts * (so_far[ends] - so_far[ends - counts])
    ideal = np.sort(relevance)[::-1] @ discount
    assert ndcg(relevance, scores) == pytest.approx(gains.sum() / ideal if ideal else float(not scores.any()))


def test_the_same_maps_have_not_drifted() -> None:
    """The same maps have not drifted whatever their size and sign."""
    maps, rows = maps_of(0), rows_of()
    found = drift_of("b", summed(-7 * maps, rows), "a", summed(maps, rows))
    assert found.drift == pytest.approx(0, abs=1e-12)
    assert found.class_drift == pytest.approx(0, abs=1e-12)
    assert found.ndcg == pytest.approx(1)


def test_evidence_that_moved_to_another_corner_is_a_drift_of_one() -> None:
    before, after, rows = np.zeros((9, 1, 16, 16), np.float32), np.zeros((9, 1, 16, 16), np.float32), rows_of(9)
    before[:, :, :2, :2], after[:, :, 14:, 14:] = 1, -1
    found = drift_of("b", summed(after, rows), "a", summed(before, rows))
    assert found.drift == 1
    assert 0 < found.ndcg < 0.4


def test_a_class_of_few_images_does_not_count() -> None:
    """A class moves by itself and a class of few images does not count."""
    before, rows = maps_of(0), rows_of()
    after = before.copy()
    after[1::3] = after[1::3, :, ::-1]
    found = drift_of("b", summed(after, rows), "a", summed(before, rows))
    moved = {each.class_name: each.drift for each in found.classes}
    assert moved["cat"] == pytest.approx(0, abs=1e-12)
    assert moved["dog"] is not None
    assert moved["dog"] == found.class_drift
    assert moved["dog"] > found.drift > 0
    turned = before.copy()
    turned[2::3] = turned[2::3, :, ::-1]
    few = rows[: 3 * MIN_CLASS_IMAGES - 1]  # of the class that moved one image less than counts
    found = drift_of("b", summed(turned, few), "a", summed(before, few))
    assert found.class_drift == pytest.approx(0, abs=1e-12)
    assert found.drift > 0.001
    two = rows[:2]
    assert drift_of("b", summed(after, two), "a", summed(before, two)).class_drift is None


def test_a_class_of_one_run_alone_is_listed_without_a_drift() -> None:
    maps, rows = maps_of(0), rows_of()
    others = [replace(row, predicted="ant" if row.predicted == "cat" else row.predicted) for row in rows]
    found = {each.class_name: each for each in drift_of("b", summed(maps, others), "a", summed(maps, rows)).classes}
    assert (found["ant"].images, found["ant"].images_before, found["ant"].drift, found["ant"].ndcg) == (
        20,
        0,
        None,
        None,
    )
    assert (found["cat"].images, found["cat"].images_before, found["cat"].drift) == (0, 20, None)


@pytest.mark.parametrize("size", [(5, 3), (8, 8), (13, 50)])
def test_cells_of_any_size_hold_the_whole_map(size: tuple[int, int]) -> None:
    maps = maps_of(0, 12, size)
    sums = summed(maps, rows_of(12))
    assert sums.total.sum() == pytest.approx(np.abs(maps.sum(axis=1)).sum(), rel=1e-5)
    assert sum(sums.by_class.values()) == pytest.approx(sums.total)


def test_batches_of_maps_have_a_bounded_size() -> None:
    """Maps are read in batches whose size follows that of a map."""
    asked: list[int] = []

    def read(batch: list) -> np.ndarray:
        asked.append(len(batch))
        return np.ones((len(batch), 1, 8, 8), np.float32)

    sum_cells((row for row in rows_of(600)), read, BATCH_BYTES // 4 // 7)
    assert set(asked) == {7, 600 % 7}
    asked.clear()
    sum_cells(rows_of(600), read, 64)
    assert asked == [256, 256, 88]


def test_nothing_against_nothing_is_the_same() -> None:
    nothing, something = np.zeros(64), np.arange(64.0)
    assert (cosine_distance(nothing, nothing), ndcg(nothing, nothing)) == (0, 1)
    assert (cosine_distance(nothing, something), ndcg(nothing, something)) == (1, 0)
    assert (cosine_distance(something, nothing), ndcg(something, something)) == (1, pytest.approx(1))
