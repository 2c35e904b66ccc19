"""Pages of a million rows: every documented filter and sort, on SQLite and on PostgreSQL."""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, Engine, text

from db.ledger import Ledger
from db.queries import find_images
from db.records import Run
from db.session import migrate, open_engine, write
from db.tables import IMAGE_SORTS, images
from tests.support.servers import postgres

IMAGES = 1_000_000
CLASSES = 1000
PRIME = 1_000_003  # modulo this prime, the multiples of a number are spread evenly
PAGES = 40
RUN = Run("00000000000a", None, "{}", "5" * 64, "{}", "6" * 64, IMAGES, 64)
FIGURES = tuple(name for name in IMAGE_SORTS if images.c[name].type.python_type is float)
# The bounds match few, some and many of the images: one in 10,000, one in 100, one in 2.
QUESTIONS: tuple[tuple[str | None, str | None], ...] = (
    (None, None),
    ("failed", None),
    ("mispredicted", None),
    ("predicted != label", None),
    ("label = 'class-7'", None),
    ("predicted = 'class-7'", None),
    *((f"{name} > {bound}", None) for name in FIGURES for bound in ("0.9999", "0.99", "0.5")),
    *((None, f"-{name}") for name in IMAGE_SORTS),
    ("label = 'class-7'", "-error_estimate"),
    ("predicted = 'class-7'", "-member_disagreement"),
    ("mispredicted and border_share > 0.3", "-member_disagreement"),
    ("probability < 0.5", "completeness_gap"),
)


def section() -> str:
    """Markdown of this section."""
    from benchmarks.machine import table

    count = int(os.environ.get("QUERY_IMAGES", "") or IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "index.db"
        sqlite, sqlite_seconds = _measure(f"sqlite:///{file}", count)
        size = file.stat().st_size / count
    with postgres() as url:
        postgresql, postgresql_seconds = _measure(url, count)
    rows = [
        [where or "", sort or "", *one, *other]
        for (where, sort), one, other in zip(QUESTIONS, sqlite, postgresql, strict=True)
    ]
    head = ["where", "sort", "SQLite: median, ms", "p95", "slowest", "PostgreSQL: median, ms", "p95", "slowest"]
    return (
        f"## Questions\n\nPages of 100 rows out of {count:,} images of {CLASSES:,} classes, at most {PAGES} "
        "consecutive pages for each question; the first page is among the slowest. The figures are spread evenly over "
        f"0..1, so `> 0.9999` finds {count // 10_000:,} images. With all indexes an image takes {size:.0f} bytes of "
        f"SQLite's file, and a unit of 64 images is written in {1000 * sqlite_seconds:.0f} ms; in PostgreSQL in "
        f"{1000 * postgresql_seconds:.0f} ms.\n\n{table(head, rows)}"
    )


def _measure(url: str, count: int) -> tuple[list[list[str]], float]:
    """Median, 95th percentile and maximum of each question's pages in ms, and the seconds to write a unit."""
    engine = open_engine(url)
    migrate(engine)
    fill(engine, count)
    seconds = _seconds_a_unit(engine, count)
    if engine.dialect.name == "postgresql":  # as autovacuum does within a minute
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE attribatch_images"))
    found = []
    for where, sort in QUESTIONS:
        times = sorted(_pages(engine, where, sort))
        figures = (statistics.median(times), times[int(0.95 * len(times))], times[-1])
        found.append([f"{figure:.1f}" for figure in figures])
        print(f"  {engine.dialect.name}: {where or ''} by {sort or 'row'}: {found[-1]}", flush=True)
    engine.dispose()
    return found, seconds


def fill(engine: Engine, count: int) -> None:
    """Write a run of `count` images: first the rows, then the indexes, which takes a tenth of the time."""
    Ledger(engine).submit(RUN, [])
    with write(engine) as connection:
        for index in images.indexes:
            index.drop(connection)
        _write(connection, 0, count)
        for index in images.indexes:
            index.create(connection)


def _seconds_a_unit(engine: Engine, count: int) -> float:
    """Seconds to write 64 more images with all indexes, in one transaction: median of 20."""
    spent = []
    for first in range(count, count + 20 * 64, 64):
        started = time.monotonic()
        with write(engine) as connection:
            _write(connection, first, first + 64)
        spent.append(time.monotonic() - started)
    return statistics.median(spent)


def _write(connection: Connection, first: int, end: int) -> None:
    """Write rows that the database itself generates. Each figure orders them differently."""
    label = f"'class-' || (n % {CLASSES})"  # the databases disagree on the operators' precedence
    values = {
        "run_id": f"'{RUN.id}'",
        "row": "n",
        "key": f"{label} || '/' || n || '.jpg'",
        "version": "'1'",
        "state": "CASE WHEN n % 1000 = 999 THEN 'failed' ELSE 'done' END",
        "sha256": f"'{'0' * 40}' || n",
        "label": label,
        "predicted": f"CASE WHEN CAST(n AS BIGINT) * 7919 % 10007 < 1000 THEN 'class-' || (n % 7) ELSE {label} END",
        "map_run": f"'{RUN.id}'",
        "map_row": "n",
    }
    for place, name in enumerate(FIGURES):
        values[name] = f"(CAST(n AS BIGINT) * {610_639 + 2 * place} % {PRIME}) / {PRIME}.0"
    numbers = f"WITH RECURSIVE numbers(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM numbers WHERE n < {end - 1})"
    chosen = f"{numbers} SELECT {', '.join(values.values())} FROM numbers"
    connection.execute(text(f"INSERT INTO attribatch_images ({', '.join(values)}) {chosen}"))


def _pages(engine: Engine, where: str | None, sort: str | None) -> Iterator[float]:
    """Milliseconds of each page."""
    after = None
    for _ in range(PAGES):
        started = time.perf_counter()
        page = find_images(engine, RUN.id, where=where, sort=sort, limit=100, after=after)
        yield 1000 * (time.perf_counter() - started)
        after = page.next
        if after is None:
            return
