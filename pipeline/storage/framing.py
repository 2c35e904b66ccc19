"""Rows of the index as a pandas DataFrame, a column for each field, of the field's type whatever is missing."""

from collections.abc import Iterable
from itertools import islice

import pandas as pd

from db.encoding import IMAGE_TYPES
from db.records import ImageRow

BATCH = 10_000  # rows held as Python objects at a time: they take ten times the memory of the frame
_DTYPES = {str: "string", int: "Int64", float: "float64", bool: "boolean"}


def frame_of(rows: Iterable[ImageRow]) -> pd.DataFrame:
    """Texts are `string`, integers `Int64`, figures `float64`, flags `boolean`; NA or NaN is missing."""
    left = iter(rows)
    parts = [_part([])]
    while batch := list(islice(left, BATCH)):
        parts.append(_part(batch))
    return pd.concat(parts, ignore_index=True)


def _part(rows: list[ImageRow]) -> pd.DataFrame:
    columns = {
        name: pd.array([getattr(row, name) for row in rows], dtype=_DTYPES[kind]) for name, kind in IMAGE_TYPES.items()
    }
    return pd.DataFrame(columns)
