"""A server that listens, and a real Chromium that looks at it."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.browser import WANTED, Server, start, stop
from tests.support.installation import Installation, install


def check_browser() -> None:
    if WANTED is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium, or name one in ATTRIBATCH_CHROMIUM")


@pytest.fixture(scope="module")  # not longer: its event loop runs in this thread, and other tests want one of theirs
def chromium() -> Iterator[Browser]:
    check_browser()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=WANTED, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    check_browser()
    return install(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def server(installation: Installation) -> Iterator[Server]:
    """A page of the installation, which stands by: it computes what waits."""
    started = start(installation.home, command="up")
    yield started
    assert stop(started) == 0


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page of a browser of its own; what it complains of fails the test."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(60_000)  # the first schedule loads torch, beside other tests
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("dialog", lambda dialog: dialog.accept())
    opened.on(
        "console",
        lambda message: (
            complaints.append(message.text)
            if message.type == "error" and "status of 40" not in message.text  # pictures that are gone, wrong filters
            else None
        ),
    )
    outside: list[str] = []
    opened.on("request", lambda request: outside.append(request.url) if "127.0.0.1" not in request.url else None)
    yield opened
    context.close()
    assert complaints == []
    assert outside == [], "a request to another machine"
