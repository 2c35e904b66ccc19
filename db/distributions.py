"""Histograms of a run's columns, from evenly spaced rows instead of a full scan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, select

from db.session import read
from db.tables import images

SAMPLE, AT_ONCE = 4000, 500  # rows in all, and per statement
BINS = 24


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts in bins of equal width between `low` and `high`, and the median of the sampled values."""

    low: float
    high: float
    median: float
    counts: tuple[int, ...]


def histograms(engine: Engine, run_id: str, image_count: int, columns: Sequence[str]) -> Mapping[str, Histogram]:
    """Compute the histograms of some columns from at most `SAMPLE` rows.

    Args:
        engine: the index, from `db.session.open_engine`.
        run_id: the full id, 12 hex digits.
        image_count: number of rows of the run; determines the distance between sampled rows.
        columns: numeric fields of `db.records.ImageRow`.

    Returns:
        A histogram by column. Columns without a value in the sample are missing.
    """
    stride = max(-(-image_count // SAMPLE), 1)
    rows = range(0, image_count, stride)
    wanted = [images.c[name] for name in columns]
    found: list[Sequence[float | None]] = []
    with read(engine) as connection:
        for start in range(0, len(rows), AT_ONCE):
            some = images.c.row.in_(rows[start : start + AT_ONCE])
            found += [tuple(row) for row in connection.execute(select(*wanted).where(images.c.run_id == run_id, some))]
    known = {name: sorted(v for row in found if (v := row[at]) is not None) for at, name in enumerate(columns)}
    return {name: _histogram(values) for name, values in known.items() if values}


def _histogram(values: Sequence[float]) -> Histogram:
    """Bin sorted values. The range begins at 0 unless a value is negative, so that charts of shares begin at 0."""
    low, high = min(values[0], 0.0), values[-1]
    width = (high - low) / BINS or 1.0
    counts = [0] * BINS
    for value in values:
        counts[min(int((value - low) / width), BINS - 1)] += 1
    return Histogram(low, high, values[len(values) // 2], tuple(counts))
