"""Seeded random samples: items are ordered by the SHA-256 of the seed, the purpose and their identity.

So a sample does not depend on the order in which items come, a smaller sample is part of a larger one, and samples for
different purposes are independent.
"""

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.errors import UnreadableImage

Item = TypeVar("Item")
Value = TypeVar("Value")

_TRIES = 4  # items drawn for each readable one that is wanted


@dataclass(frozen=True)
class Sample(Generic[Item, Value]):
    """Items that could be read, in random order."""

    items: Sequence[Item]
    values: Sequence[Value]  # result of `read` for each item
    unreadable: Sequence[Item]  # drawn before the sample was complete


def hash_key(*parts: object) -> bytes:
    """SHA-256 of the parts joined by "/": 32 bytes to sort by."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).digest()


def draw(items: Iterable[Item], wanted: int, *, key: Callable[[Item], bytes]) -> list[Item]:
    """The `wanted` items with the smallest keys, in order of their keys; all if there are fewer."""
    return heapq.nsmallest(wanted, items, key=key)


def draw_readable(
    items: Iterable[Item], wanted: int, *, key: Callable[[Item], bytes], read: Callable[[Item], Value]
) -> Sample[Item, Value]:
    """Read items in order of their keys until `wanted` could be read; at most `4 * wanted` are tried.

    Args:
        items: read once; only those drawn are held in memory.
        wanted: size of the sample, 1 or more. It is smaller if there are fewer readable items.
        key: usually `hash_key` of the seed, the purpose and the item's identity.
        read: returns the value of an item, or raises UnreadableImage.
    """
    kept, values, unreadable = list[Item](), list[Value](), list[Item]()
    for item in draw(items, _TRIES * wanted, key=key):
        try:
            values.append(read(item))
        except UnreadableImage:
            unreadable.append(item)
            continue
        kept.append(item)
        if len(kept) == wanted:
            break
    return Sample(kept, values, unreadable)


def hold_out(
    items: Iterable[Item], share: float, *, group: Callable[[Item], object], key: Callable[[Item], bytes]
) -> set[Item]:
    """Draw the same share of each group, rounded, but never a whole group.

    Args:
        items: distinct and hashable.
        share: 0 to below 1.
        group: for example the class of an image.
        key: usually `hash_key` of the seed and the item's identity.
    """
    groups: dict[object, list[Item]] = defaultdict(list)
    for item in items:
        groups[group(item)].append(item)
    held: set[Item] = set()
    for members in groups.values():
        held.update(draw(members, min(round(share * len(members)), len(members) - 1), key=key))
    return held
