"""Pictures of the page for the documentation: `make screenshots` runs the demo in a folder of its own and looks at it.

`python -m tests.browser.screenshots HOME` takes a home in which the demo has been run already.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

from pipeline.api import Pipeline
from pipeline.spec.request import repeat
from tests.support.browser import WANTED, start, stop

DOCS = Path(__file__).parents[2] / "docs"
WIDTH, HEIGHT = 1280, 860
PROGRAM = [sys.executable, "-c", "from pipeline.cli.app import main; main()"]


def main() -> None:
    """Take all of them."""
    if WANTED is None:
        sys.exit("no Chromium on PATH: apt-get install chromium, or name one in ATTRIBATCH_CHROMIUM")
    with tempfile.TemporaryDirectory(prefix="attribatch-screenshots-") as folder:
        home = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder)
        if len(sys.argv) == 1:
            subprocess.run([*PROGRAM, "demo"], env=os.environ | {"ATTRIBATCH_HOME": str(home)}, check=True)
        first, second = _prepared(home)
        server = start(home)
        try:
            _look(server.url, first, second, home / "reports" / first / "report.html")
        finally:
            stop(server)


def _prepared(home: Path) -> tuple[str, str]:
    """The demo's run and one of other baselines to compare it with."""
    with Pipeline.open(home) as pipeline:
        run = next(each for each in pipeline.runs() if (each.name or "").startswith("demo-mark"))
        request = replace(repeat(run), baselines=("white",), name="white-baseline")
        other = pipeline.submit(request)
        pipeline.work(other, workers=2)
        return run.id, other.id


def _look(url: str, first: str, second: str, report: Path) -> None:
    pages = {
        "gallery": f"/runs/{first}/images?where=border_share+%3E+0.4&sort=-border_share",
        "image": f"/runs/{first}/images/160",
        "audit": f"/runs/{first}/audit",
        "compare": f"/compare?a={first}&b={second}",
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=WANTED, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        for name, path in pages.items():
            page.set_viewport_size({"width": WIDTH, "height": 1160 if name == "compare" else HEIGHT})
            answer = page.goto(url + path, wait_until="networkidle")
            assert answer is not None
            assert answer.ok, f"{path}: {page.inner_text('main')}"
            _take(page, DOCS / f"web-{name}.png")
        page.set_viewport_size({"width": 900, "height": HEIGHT})
        page.goto(report.as_uri())
        _take(page.locator(".finding").first, DOCS / "finding.png")
        browser.close()


def _take(page: Page | Locator, path: Path) -> None:
    page.screenshot(path=path)
    with Image.open(path) as picture:  # a palette: a third of the size, and nobody sees the difference
        picture.convert("RGB").quantize(200).save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main()
