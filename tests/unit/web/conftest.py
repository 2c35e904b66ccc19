"""One installation for all tests of the page, and a server of it in this process."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from pipeline.api import Pipeline
from pipeline.web.app import create_app
from tests.support.installation import Installation, install

BASE = "http://127.0.0.1:8077"
HTML = {"accept": "text/html"}


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return install(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def opened(installation: Installation) -> Iterator[Pipeline]:
    with Pipeline.open(installation.home) as pipeline:
        yield pipeline


@pytest.fixture(scope="session")
def browser(opened: Pipeline) -> Iterator[TestClient]:
    """A client of the page as it listens on 127.0.0.1."""
    with TestClient(create_app(opened), base_url=BASE, headers=HTML, follow_redirects=False) as client:
        yield client


@pytest.fixture(scope="session")
def form_token(browser: TestClient) -> str:
    return browser.app.state.site.guard.form_token  # type: ignore[attr-defined]
