"""The web page at a million images: response times of the server, and first paint in a browser."""

import os
import shutil
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import urlencode, urljoin

from playwright.sync_api import sync_playwright
from sqlalchemy import insert, text

from benchmarks.machine import log, table
from benchmarks.scale import spread_of
from db.records import ImageRow
from db.session import write
from db.tables import images, runs
from pipeline.api import Pipeline
from tests.support.browser import WANTED, start, stop
from tests.support.installation import install

IMAGES = 1_000_000
AT_ONCE = 20_000
VISITS = 9
RUN = "0000000000ff"
VIEWS: tuple[dict[str, str], ...] = (
    {},
    {"sort": "-border_share"},
    {"sort": "-member_disagreement", "where": "predicted != label"},
    {"predicted": "cat", "border_above": "0.3", "sort": "-error_estimate"},
    {"only": "failed"},
)


def section() -> str:
    """Markdown of this section."""
    count = int(os.environ.get("WEB_IMAGES", IMAGES))
    with tempfile.TemporaryDirectory(prefix="attribatch-web-") as folder:
        home = _grown(Path(folder), count)
        server = start(home)
        try:
            rows = [_measure(server.url, view) for view in VIEWS]
            least = [_visits(f"{server.url}/healthz", program)[0] for program in _browsers()]
        finally:
            stop(server)
    header = ["view", "server, ms", "slowest, ms", "HTML, kB", "first paint, ms", "in a window, ms", "pictures, ms"]
    return (
        f"## The web page at {count:,} images\n\nA gallery of 60 images from SQLite; `attribatch serve` and "
        f"Chromium run on this machine. Medians of 15 requests, and of {VISITS} visits of an open tab with an empty "
        "cache. First paint: in Chromium's headless shell, which draws only the page. In a window: first paint in the "
        "whole browser, which also draws its tab and its address bar, on the same cores. Pictures: until all visible "
        "ones have arrived in the shell; each has 8 x 8 pixels and is drawn on demand. A page of one word is painted "
        f"after {least[0]:.0f} ms in the shell and after {least[-1]:.0f} ms in a window; this part is not "
        f"the gallery's.\n\n{table(header, rows)}"
    )


def _browsers() -> tuple[str, str]:
    """The headless shell and the whole browser; the browser twice if there is no shell."""
    assert WANTED is not None, "no Chromium on PATH"
    return shutil.which("chromium-headless-shell") or WANTED, WANTED


def _grown(folder: Path, count: int) -> Path:
    """A home whose run has `count` rows, which point to the maps and files of a small run."""
    made = install(folder)
    started = time.monotonic()
    with Pipeline.open(made.home) as pipeline:
        few = list(pipeline.find(made.run.id, where="not failed and key != 'dog/3.png'").rows)
        run = asdict(replace(made.run, id=RUN, name="million", image_count=count))
        with write(pipeline.database) as connection:
            now = time.time()
            connection.execute(insert(runs).values(run | {"created_at": now, "submitted_at": now}))
            statistics = connection.execute(
                text("SELECT * FROM sqlite_stat1")
            ).all()  # dropping the indexes deletes them
            for index in images.indexes:  # building them at the end is ten times as fast
                index.drop(connection)
        for first in range(0, count, AT_ONCE):
            rows = [asdict(row) for row in _rows(few, range(first, min(first + AT_ONCE, count)))]
            with write(pipeline.database) as connection:
                connection.execute(insert(images), rows)
        with write(pipeline.database) as connection:
            for index in images.indexes:
                index.create(connection)
            connection.execute(text("DELETE FROM sqlite_stat1"))
            restore = text("INSERT INTO sqlite_stat1 VALUES (:tbl, :idx, :stat)")
            connection.execute(restore, [row._asdict() for row in statistics])
    log(f"{count:,} rows in {time.monotonic() - started:.0f} s")
    return made.home


def _rows(few: Sequence[ImageRow], numbers: range) -> Iterator[ImageRow]:
    for number in numbers:
        spread = spread_of(number)
        yield replace(
            few[number % len(few)],
            run_id=RUN,
            row=number,
            probability=spread,
            error_estimate=0.05 * spread,
            completeness_gap=0.01 * spread,
            member_disagreement=(3 * spread) % 1,
            border_share=(7 * spread) % 1,
        )


def _measure(url: str, view: dict[str, str]) -> list[str]:
    address = f"{url}/runs/{RUN}/images?{urlencode(view)}"
    size, times = 0, []
    for _ in range(15):
        started = time.perf_counter()
        with urllib.request.urlopen(address) as answer:
            size = len(answer.read())
        times.append(1000 * (time.perf_counter() - started))
    (shell, complete), (windowed, _) = (_visits(address, program) for program in _browsers())
    log(f"{view}: {statistics.median(times):.0f} ms, paint {shell:.0f} ms, in a window {windowed:.0f} ms")
    name = ", ".join(f"{key} {value}" for key, value in view.items()) or "all, by row"
    figures = (statistics.median(times), max(times), size / 1000, shell, windowed, complete)
    return [name, *(f"{value:.0f}" for value in figures)]


def _visits(address: str, program: str) -> tuple[float, float]:
    """Milliseconds from the request to the first paint, and until every visible picture has arrived."""
    paints, complete = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for _ in range(VISITS):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            page = context.new_page()
            page.goto(urljoin(address, "/healthz"))  # opens the tab: the start of its process is not measured
            page.goto(address, wait_until="networkidle")
            paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
            complete.append(
                page.evaluate(
                    "Math.max(0, ...performance.getEntriesByType('resource').filter(e => e.name.includes('.png?'))"
                    ".map(e => e.responseEnd))"
                )
            )
            context.close()
        browser.close()
    return statistics.median(paints), statistics.median(complete)
