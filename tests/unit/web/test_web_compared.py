"""Answers that grow old: comparisons and audits of runs that have changed, and runs that cannot be compared."""

import json
from collections.abc import Iterator
from dataclasses import replace
from html import unescape

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from db.session import write
from db.tables import images
from pipeline.api import Pipeline
from pipeline.storage.keys import report_key
from pipeline.web.pages import compare
from pipeline.web.pages.image import figures
from tests.support.installation import Installation


@pytest.fixture
def alone(opened: Pipeline, installation: Installation) -> Iterator[str]:
    """A run of the same images that nobody has computed."""
    run = opened.submit(replace(installation.request, baselines=("opposite",), name="alone"))
    yield run.id
    opened.cancel(run.id)
    opened.remove(run.id)


def test_why_two_runs_were_not_compared_stands_on_the_page(
    browser: TestClient, installation: Installation, alone: str
) -> None:
    asked = {"a": installation.run.id, "b": alone}
    found = browser.get("/compare.json", params=asked).json()
    assert found["comparison"] is None
    assert installation.run.id in found["reason"]
    assert alone in found["reason"]
    assert found["reason"] in unescape(browser.get("/compare", params=asked).text)
    assert browser.get("/compare.json", params={"a": "first", "b": "first"}).json()["reason"] is None


def test_no_other_site_makes_a_browser_compare_every_map(
    browser: TestClient, opened: Pipeline, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "AT_ONCE", 0)
    asked = {"a": installation.other.id, "b": installation.run.id, "measure": "true"}
    found = browser.get("/compare.json", params=asked, headers={"sec-fetch-site": "cross-site"})
    assert (found.status_code, found.json()["comparison"]) == (200, None)
    assert opened.stored_comparison(installation.other.id, installation.run.id) is None
    assert browser.get("/compare.json", params=asked).json()["comparison"]["shared_images"] == 13


def test_what_is_stored_names_no_place_of_the_machine(
    browser: TestClient, opened: Pipeline, installation: Installation
) -> None:
    one, other = installation.run.id, installation.other.id
    opened.compare(one, other, limit=1)
    assert "spec" in (opened.stored_comparison(one, other) or {})
    found = browser.get("/compare.json", params={"a": one, "b": other}).json()
    assert "spec" not in found["comparison"]
    assert len(found["images"]) == 13


def test_keys_of_any_length_are_paired(browser: TestClient, opened: Pipeline, installation: Installation) -> None:
    rows = opened.find(installation.run.id, where="not failed", limit=8).rows
    long = [f"{row.row}{'k' * 900}.png" for row in rows]
    with write(opened.database) as connection:
        for run in (installation.run, installation.other):
            for row, key in zip(rows, long, strict=True):
                changed = update(images).where(images.c.run_id == run.id, images.c.row == row.row)
                connection.execute(changed.values(key=key))
    kept = report_key(installation.run.id, f"compare-{installation.other.id}-predicted.json")
    opened.objects.put(kept, b"{}")
    try:
        found = browser.get("/compare.json", params={"a": installation.run.id, "b": installation.other.id})
        assert found.status_code == 200
        assert set(long) <= {each["key"] for each in found.json()["images"]}
    finally:
        opened.objects.put(kept, b"{}")
        with write(opened.database) as connection:
            for run in (installation.run, installation.other):
                for row in rows:
                    back = update(images).where(images.c.run_id == run.id, images.c.row == row.row)
                    connection.execute(back.values(key=row.key))


@pytest.mark.parametrize(
    ("images_seen", "failed", "said"),
    [
        (6, 1, "This audit saw 6 of the 13 images that are done now; audit again: <code>attribatch audit "),
        (13, 2, "This audit saw 13 images with a map and 2 failed; now 13 are done and 1 failed; audit again: <code>"),
        (13, 1, None),
    ],
)
def test_an_audit_that_its_run_has_outgrown_says_so(
    images_seen: int, failed: int, said: str | None, browser: TestClient, opened: Pipeline, installation: Installation
) -> None:
    run = installation.run.id
    key, audit = report_key(run, "audit-predicted.json"), opened.stored_audit(run)
    assert audit is not None
    opened.objects.put(key, json.dumps(audit | {"images": images_seen, "failed_images": failed}).encode())
    try:
        html = browser.get(f"/runs/{run}/audit").text
        assert browser.get(f"/runs/{run}/audit.json").json()["stale"] is (said is not None)
    finally:
        opened.objects.put(key, json.dumps(audit).encode())
    assert (said or "Shortcut found") in html
    assert ("This audit saw" in html) is (said is not None)


def test_a_disagreement_of_zero_is_shown_and_none_is_not(opened: Pipeline, installation: Installation) -> None:
    row = opened.find(installation.run.id, where="not failed", limit=1).rows[0]
    for value, shown in ((None, "–"), (0.0, "0.000")):
        assert dict(figures(replace(row, member_disagreement=value)))["Member disagreement"] == shown
