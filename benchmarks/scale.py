"""The ledger at scale: more images than ImageNet, planned and completed by 64 workers that compute nothing."""

import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from benchmarks.peaks import peak
from db.ledger import Ledger
from db.queries import find_images
from db.records import Entry, ImageRow, ImageState, Run, Unit
from db.session import migrate, open_engine
from pipeline.runs.plan import drafts
from tests.support.servers import postgres

IMAGES = (10_000, 128_000, 1_280_000)
UNIT = 64
PROCESSES, THREADS = 8, 8
FILTERS = (
    ("predicted != label", None),
    ("label = 'class-7'", "-error_estimate"),
    ("predicted = 'class-7'", "-member_disagreement"),
    ("mispredicted and border_share > 0.3", "-member_disagreement"),
    ("probability < 0.5", "completeness_gap"),
    (None, "-completeness_gap"),
    (None, "-error_estimate"),
    (None, "-border_share"),
    ("failed", None),
)


def section() -> str:
    """Markdown of this section."""
    from benchmarks.machine import table  # imports torch, which the workers must not; they import this module

    counts = [int(count) for count in os.environ.get("SCALE_IMAGES", "").split()] or list(IMAGES)
    rows = []
    with postgres("shared_buffers=1GB", "max_wal_size=4GB") as url:
        for number, count in enumerate(counts):
            rows.append(_measure(url, count, f"{number:012x}"))
            print(f"  {count:,} images: {rows[-1]}", flush=True)
        pages = _pages(url, f"{len(counts) - 1:012x}")
    header = ["images", "planned, s", "completed, s", "units/s", "us an image", "producer, MB", "worker, MB"]
    return (
        "## The ledger at scale\n\nPostgreSQL with `shared_buffers=1GB` and `fsync=off`, "
        f"{PROCESSES} processes of {THREADS} threads, each thread a worker that claims, renews and completes units of "
        f"{UNIT} images and computes nothing. Peak memory is that of whole processes.\n\n{table(header, rows)}\n\n"
        f"### Pages of 100 rows at {counts[-1]:,} rows\n\nPostgreSQL, 40 consecutive pages of each.\n\n"
        f"{table(['where', 'sort', 'median, ms', 'p95, ms'], pages)}"
    )


def _measure(url: str, count: int, run_id: str) -> list[str]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        planned, producer = pool.submit(_produce, url, count, run_id).result()
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        spans = list(pool.map(_work, [url] * PROCESSES, [run_id] * PROCESSES))
    seconds = max(end for _, end, _ in spans) - min(start for start, _, _ in spans)
    units, worker = -(-count // UNIT), max(peak for _, _, peak in spans)
    figures = [f"{planned:.1f}", f"{seconds:.1f}", f"{units / seconds:.0f}", f"{1e6 * seconds / count:.0f}"]
    return [f"{count:,}", *figures, f"{producer}", f"{worker}"]


def _produce(url: str, count: int, run_id: str) -> tuple[float, int]:
    """Seconds to plan the run, and peak memory in MB."""
    engine = open_engine(url)
    migrate(engine)
    started = time.monotonic()
    run = Run(run_id, None, "{}", run_id * 5, "{}", run_id, count, UNIT)
    Ledger(engine).submit(run, drafts(entries(count), UNIT))
    seconds = time.monotonic() - started
    engine.dispose()
    return seconds, peak()


def entries(count: int) -> Iterator[Entry]:
    return (Entry(row, f"class-{row % 1000}/{row:08}.jpg", f"{row}-1", f"class-{row % 1000}") for row in range(count))


def _work(url: str, run_id: str) -> tuple[float, float, int]:
    """Times of the first claim and of the last completion (monotonic clock), and peak memory in MB."""
    engine = open_engine(url)
    ledger, started = Ledger(engine), time.monotonic()
    threads = [threading.Thread(target=_complete_all, args=(ledger, run_id, index)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended = time.monotonic()
    engine.dispose()
    return started, ended, peak()


def _complete_all(ledger: Ledger, run_id: str, index: int) -> None:
    while (unit := ledger.claim(f"worker-{os.getpid()}-{index}", run_id=run_id)) is not None:
        assert ledger.renew(unit)
        assert ledger.complete(unit, [_row(unit, entry) for entry in unit.entries])


def spread_of(row: int) -> float:
    """A value for each row, always the same; the values are spread evenly over 0..1."""
    return (row * 2_654_435_761 % 2**32) / 2**32


def _row(unit: Unit, entry: Entry) -> ImageRow:
    if entry.row % 1000 == 999:
        return ImageRow(
            unit.run_id, entry.row, entry.key, entry.version, ImageState.FAILED, entry.label, "the file is empty"
        )
    spread = spread_of(entry.row)
    return ImageRow(
        unit.run_id,
        entry.row,
        entry.key,
        entry.version,
        ImageState.DONE,
        entry.label,
        sha256=f"{entry.row:064x}",
        target=entry.label,
        predicted=entry.label if spread < 0.9 else "class-0",
        probability=spread,
        output=8 * spread,
        baseline_output=0.1,
        convergence_delta=0.01 * spread,
        completeness_gap=0.01 * spread,
        error_estimate=0.05 * spread,
        evaluations=50,
        member_disagreement=spread,
        border_share=(7 * spread) % 1,
        center_x=spread,
        center_y=spread,
        entropy=spread,
        gini=spread,
        positive_share=spread,
        map_run=unit.run_id,
        map_row=entry.row,
    )


def _pages(url: str, run_id: str) -> list[list[str]]:
    engine = open_engine(url)
    rows = []
    for where, sort in FILTERS:
        times, after = [], None
        for _ in range(40):
            started = time.perf_counter()
            page = find_images(engine, run_id, where=where, sort=sort, limit=100, after=after)
            times.append(1000 * (time.perf_counter() - started))
            after = page.next
        p95 = sorted(times)[int(0.95 * len(times))]
        rows.append([where or "", sort or "row", f"{statistics.median(times):.1f}", f"{p95:.1f}"])
    engine.dispose()
    return rows
