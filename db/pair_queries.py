"""Queries over two runs: images that have a map in both, matched by key.

The rows of the first run are streamed in order, so that its shards are read one after the other. The rows of the second
run are looked up by key. The queries do not depend on the order of keys, because PostgreSQL sorts them by its locale.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

from sqlalchemy import Engine, exists, func, select

from db.encoding import IMAGE_FIELDS, image_from_row
from db.queries import iter_images
from db.records import ImageRow, ImageState
from db.session import read
from db.tables import images

AT_ONCE = 500  # keys per statement: older versions of SQLite accept 999 parameters

_IMAGE = [images.c[name] for name in IMAGE_FIELDS]
_DONE = images.c.state == ImageState.DONE


def iter_pairs(engine: Engine, run_id: str, other_id: str) -> Iterator[tuple[ImageRow, ImageRow]]:
    """Yield pairs of rows with the same key and a map in both runs, in the order of the first run.

    If the second run contains a key twice, its first row is used.
    """
    rows = iter_images(engine, run_id, ImageState.DONE)
    while batch := list(islice(rows, AT_ONCE)):
        others = done_by_key(engine, other_id, [row.key for row in batch])
        yield from ((row, others[row.key]) for row in batch if row.key in others)


def count_unmatched(engine: Engine, run_id: str, other_id: str) -> int:
    """Count the images that have a map in run `run_id` but not in run `other_id`."""
    there = images.alias("there")
    matched = exists().where(
        there.c.run_id == other_id, there.c.key == images.c.key, there.c.state == ImageState.DONE.value
    )
    query = select(func.count()).select_from(images).where(images.c.run_id == run_id, _DONE, ~matched)
    with read(engine) as connection:
        return int(connection.execute(query).scalar_one())


def done_by_key(engine: Engine, run_id: str, keys: Sequence[str]) -> dict[str, ImageRow]:
    """Return the first row with a map for each of these keys, at most `AT_ONCE` of them, by key."""
    wanted = select(*_IMAGE).where(images.c.run_id == run_id, images.c.key.in_(keys), _DONE)
    found: dict[str, ImageRow] = {}
    with read(engine) as connection:
        for row in connection.execute(wanted.order_by(images.c.row)):
            found.setdefault(row.key, image_from_row(row))
    return found
