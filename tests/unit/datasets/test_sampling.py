"""Random samples follow from the seed and the items' identities, in whatever order the items come."""

import hashlib

import pytest

from pipeline.datasets.sampling import draw, draw_readable, hash_key, hold_out
from pipeline.errors import UnreadableImage


def key(seed: int):
    return lambda row: hash_key(seed, "samples", row)


def test_samples_are_the_same_for_the_same_seed_and_distinct() -> None:
    rows = draw(range(100), 10, key=key(0))
    assert rows == draw(reversed(range(100)), 10, key=key(0))
    assert rows != draw(range(100), 10, key=key(1))
    assert len(set(rows)) == 10
    assert len(draw(range(3), 10, key=key(0))) == 3


def test_samples_are_the_first_by_digest() -> None:
    order = sorted(range(500), key=lambda row: hashlib.sha256(f"7/samples/{row}".encode()).digest())
    assert draw(range(500), 20, key=key(7)) == order[:20]
    assert draw(range(500), 600, key=key(7)) == order


def test_unreadable_items_are_replaced_by_the_next_ones() -> None:
    def read(row: int) -> int:
        if row % 2:
            raise UnreadableImage("odd")
        return 10 * row

    order = draw(range(100), 100, key=key(0))
    sample = draw_readable(range(100), 10, key=key(0), read=read)
    assert sample.items == [row for row in order if row % 2 == 0][:10]
    assert sample.values == [10 * row for row in sample.items]
    assert sample.unreadable == [row for row in order[: order.index(sample.items[-1])] if row % 2]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9])
def test_the_same_share_of_each_group_is_held_out(share: float) -> None:
    """The same share of each group is held out and never all of it."""
    held = hold_out(range(60), share, group=lambda row: min(row // 20, 2), key=key(0))
    assert [sum(row // 20 == number for row in held) for number in range(3)] == [round(20 * share)] * 3
    assert hold_out([1], share, group=lambda row: row, key=key(0)) == set()
