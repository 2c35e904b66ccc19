"""Reads of two runs side by side: the images that both have a map of, matched by key.

Rows of one run are streamed in order, so that its shards are read one after the other; the other run's are looked up by
their keys. No order of keys is relied upon: PostgreSQL sorts them by its locale.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

from sqlalchemy import Engine, exists, func, select

from db.encoding import IMAGE_FIELDS, image_from_row
from db.queries import iter_images
from db.records import ImageRow, ImageState
from db.session import reading
from db.tables import images

AT_ONCE = 500  # keys that are looked up together: SQLite once took 999 parameters at most

_IMAGE = [images.c[name] for name in IMAGE_FIELDS]
_DONE = images.c.state == ImageState.DONE


def iter_pairs(engine: Engine, run_id: str, other_id: str) -> Iterator[tuple[ImageRow, ImageRow]]:
    """Rows of two runs with the same key, both with a map, in the order of the first run's rows.

    Where the second run lists a key twice, its first row stands for it.
    """
    rows = iter_images(engine, run_id, ImageState.DONE)
    while batch := list(islice(rows, AT_ONCE)):
        others = done_by_key(engine, other_id, [row.key for row in batch])
        yield from ((row, others[row.key]) for row in batch if row.key in others)


def count_unmatched(engine: Engine, run_id: str, other_id: str) -> int:
    """Images that one run has a map of, and the other has not."""
    there = images.alias("there")
    matched = exists().where(
        there.c.run_id == other_id, there.c.key == images.c.key, there.c.state == ImageState.DONE.value
    )
    query = select(func.count()).select_from(images).where(images.c.run_id == run_id, _DONE, ~matched)
    with reading(engine) as connection:
        return int(connection.execute(query).scalar_one())


def done_by_key(engine: Engine, run_id: str, keys: Sequence[str]) -> dict[str, ImageRow]:
    """Rows of a run that have one of these keys and a map: at most `AT_ONCE` keys, of any length; the first of each."""
    wanted = select(*_IMAGE).where(images.c.run_id == run_id, images.c.key.in_(keys), _DONE)
    found: dict[str, ImageRow] = {}
    with reading(engine) as connection:
        for row in connection.execute(wanted.order_by(images.c.row)):
            found.setdefault(row.key, image_from_row(row))
    return found
