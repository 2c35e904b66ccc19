"""Windows, shares, and p-values that keep their promise."""

import numpy as np
import pytest

from pipeline.analysis.audit.boxes import overlap, place_name, window_shares, windows
from pipeline.analysis.audit.propose import Candidate, Scan


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (224, 224), (24, 60), (5, 7)])
def test_windows_lie_inside_and_reach_every_corner(size: tuple[int, int]) -> None:
    boxes = windows(*size)
    height, width = size
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= width).all()
    assert (boxes[:, 3] <= height).all()
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    squares = boxes[boxes[:, 2] - boxes[:, 0] == boxes[:, 3] - boxes[:, 1]]
    for side in np.unique(squares[:, 2] - squares[:, 0]):
        same = squares[squares[:, 2] - squares[:, 0] == side]
        assert {(0, 0), (width - side, height - side)} <= {(int(x), int(y)) for x, y, _, _ in same}


def test_windows_of_32_pixels_are_a_few_hundred() -> None:
    """Windows of an image of 32 pixels are a few hundred and cover it."""
    boxes = windows(32, 32)
    square = boxes[:, 2] - boxes[:, 0] == boxes[:, 3] - boxes[:, 1]
    assert sorted(set((boxes[:, 2] - boxes[:, 0])[square])) == [4, 6, 8, 12]
    assert 300 < len(boxes) < 600
    assert ((boxes[~square] == 0) | (boxes[~square] == 32)).any(axis=1).all()  # strips lie along a border
    covered = np.zeros((32, 32), bool)
    for x0, y0, x1, y1 in boxes[boxes[:, 2] - boxes[:, 0] == 4]:
        covered[y0:y1, x0:x1] = True
    assert covered.all()


def test_shares_equal_sums_over_the_windows() -> None:
    maps = np.random.default_rng(0).normal(size=(5, 32, 32)).astype(np.float32)
    boxes = windows(32, 32)
    positive = np.clip(maps, 0, None)
    expected = [positive[:, y0:y1, x0:x1].sum(axis=(1, 2)) / positive.sum(axis=(1, 2)) for x0, y0, x1, y1 in boxes]
    np.testing.assert_allclose(window_shares(maps, boxes), np.stack(expected, axis=1), rtol=1e-4, atol=1e-6)


def test_a_map_without_positive_values_has_no_shares() -> None:
    """A map without positive attribution has no share anywhere."""
    assert not window_shares(-np.ones((1, 32, 32), np.float32), windows(32, 32)).any()


def propose(shares: dict[str, np.ndarray], boxes: np.ndarray, *, permutations: int, seed: int) -> list[Candidate]:
    return Scan(shares, boxes, permutations=permutations, seed=seed).proposed()


def noise(rng: np.random.Generator, classes: int = 4, images: int = 20, wide: int = 40) -> dict[str, np.ndarray]:
    return {str(c): rng.gamma(0.5, 0.02, (images, wide)).astype(np.float32) for c in range(classes)}


def test_p_values_on_noise_are_corrected_for_all_windows() -> None:
    """On noise a p value of 5 percent is rare though hundreds of windows are tried."""
    boxes = np.array([(i, 0, i + 1, 1) for i in range(40)])
    smallest = [
        min(one.p_value for one in propose(noise(np.random.default_rng(seed)), boxes, permutations=99, seed=seed))
        for seed in range(40)
    ]
    assert sum(p <= 0.05 for p in smallest) <= 6  # 2 expected; 7 or more has a probability of 0.3 %


def test_the_window_of_one_class_comes_first() -> None:
    """The window that one class leans on comes first with the smallest p value."""
    shares = noise(np.random.default_rng(1))
    shares["2"][:, 17] += 0.2
    boxes = np.array([(i, 0, i + 1, 1) for i in range(40)])
    best = propose(shares, boxes, permutations=99, seed=0)[0]
    assert (best.class_name, best.region, best.p_value, best.leaning) == ("2", (17, 0, 18, 1), 0.01, 20)
    assert best.share - best.share_elsewhere == pytest.approx(0.2, abs=0.02)


def test_a_window_of_some_images_of_a_class_is_proposed() -> None:
    """A window that some images of a class lean on is proposed."""
    shares = noise(np.random.default_rng(2), images=40)
    shares["1"][:8, 5] += 0.3
    boxes = np.array([(i, 0, i + 1, 1) for i in range(40)])
    found = [one for one in propose(shares, boxes, permutations=99, seed=0) if one.class_name == "1"]
    window = next(one for one in found if one.region == (5, 0, 6, 1))
    assert window.p_value <= 0.05
    assert set(window.order[:8]) == set(range(8))
    assert 8 <= window.leaning <= 16


def test_a_classes_windows_overlap_little() -> None:
    rng = np.random.default_rng(3)
    maps = {str(c): rng.uniform(0, 1, (10, 32, 32)).astype(np.float32) for c in range(3)}
    maps["0"][:, :8, :8] += 3
    boxes = windows(32, 32)
    found = propose({name: window_shares(part, boxes) for name, part in maps.items()}, boxes, permutations=9, seed=0)
    for name in maps:
        own = [one.region for one in found if one.class_name == name]
        assert 1 <= len(own) <= 5
        assert max([overlap(a, b) for a in own for b in own if a != b], default=0) <= 0.25


def test_nothing_is_proposed_where_there_is_nothing_to_compare() -> None:
    boxes = np.array([(i, 0, i + 1, 1) for i in range(40)])
    assert propose({"0": noise(np.random.default_rng(0))["0"]}, boxes, permutations=9, seed=0) == []
    assert propose({"0": np.zeros((9, 40), np.float32), "1": np.zeros((4, 40), np.float32)}, boxes, permutations=9,
                   seed=0) == []  # fmt: skip
    assert propose({name: np.zeros((9, 40), np.float32) for name in "01"}, boxes, permutations=9, seed=0) == []


@pytest.mark.parametrize(
    ("region", "name"),
    [
        ((0, 0, 4, 4), "top-left corner"), ((26, 0, 32, 6), "top-right corner"), ((0, 28, 4, 32), "bottom-left corner"),
        ((20, 20, 32, 32), "bottom-right corner"), ((0, 14, 4, 18), "left border"), ((28, 12, 32, 16), "right border"),
        ((14, 0, 18, 4), "top border"), ((14, 28, 18, 32), "bottom border"), ((12, 12, 20, 20), "center"),
        ((4, 4, 8, 8), "upper left"), ((20, 23, 26, 29), "lower right"), ((4, 14, 8, 18), "left part"),
    ],
)  # fmt: skip
def test_regions_have_names(region: tuple[int, int, int, int], name: str) -> None:
    assert place_name(region, (32, 32)) == name
