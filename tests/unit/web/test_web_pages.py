"""Pages and their twins: one handler, three forms; names escaped, paths kept, links that lead somewhere."""

import csv
import io
import json
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from urllib.parse import quote

import pytest
from fastapi import Request
from fastapi.testclient import TestClient

from db import queries
from db.records import ImageRow, ImageState
from pipeline.api import Pipeline
from pipeline.storage.keys import report_key
from pipeline.storage.reader import MapReader
from pipeline.web.pages import gallery
from pipeline.web.responses import PageRequest, View
from pipeline.web.sentences import error_in_words, finding, gap_in_words
from tests.support.installation import HOSTILE, Installation


def pages(installation: Installation) -> list[str]:
    run, other = installation.run.id, installation.other.id
    return [
        "/runs", f"/runs/{run}", f"/runs/{run}/images", f"/runs/{run}/images/0", f"/runs/{run}/audit",
        f"/runs/{run}/audit?by=label", f"/runs/{run}/class?name=cat&by=label", "/compare",
        f"/compare?a={run}&b={other}", "/schedules", f"/runs/{run}/class?name={quote(HOSTILE)}&by=label",
        f"/runs/{run}/images?only=failed", f"/runs/{other}", f"/runs/{run}/images?mode=map&colours=purple-orange",
    ]  # fmt: skip


def twin(path: str, form: str) -> str:
    place, mark, query = path.partition("?")
    return f"{place}.{form}{mark}{query}"


class Reader(HTMLParser):
    """What a page holds that a policy or a reader cares about."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.inline: list[str] = []
        self.images_without_alt = 0
        self._in_script = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._in_script = tag == "script"
        self.links |= {given[name] or "" for name in ("href", "src", "action", "hx-get") if name in given}
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        self.images_without_alt += tag == "img" and "alt" not in given

    def handle_data(self, data: str) -> None:
        if self._in_script and data.strip():
            self.inline.append(data)


def test_every_page_has_its_twins_and_none_says_where_it_lies(browser: TestClient, installation: Installation) -> None:
    for path in pages(installation):
        for form, kind in (("", "text/html"), ("json", "application/json"), ("csv", "text/csv")):
            found = browser.get(twin(path, form) if form else path)
            assert found.status_code == 200, (path, form, found.text)
            assert found.headers["content-type"].startswith(kind), (path, form)
            assert str(installation.root) not in found.text, (path, form)
            assert str(installation.home.parent.name) not in found.text, (path, form)


@pytest.mark.slow
def test_pages_hold_no_inline_script_and_no_broken_link(browser: TestClient, installation: Installation) -> None:
    """Pages hold no inline script and every link leads somewhere."""
    seen: set[str] = set()
    for path in pages(installation):
        read = Reader(browser.get(path).text)
        assert read.inline == [], path
        assert read.images_without_alt == 0, path
        seen |= {link.replace("?by=", f"/runs/{installation.run.id}/audit?by=") if link[0] == "?" else link
                 for link in read.links if not link.startswith("#")}  # fmt: skip
    assert all(link.startswith("/") and not link.startswith("//") for link in seen)
    posts = re.compile(r"/(cancel|retry|pause|resume|remove|run-now|logout)$")
    drawn = sorted(link for link in seen if ".png" in link)
    for link in {link for link in seen if ".png" not in link and not posts.search(link)}:
        assert browser.get(link).status_code == 200, link
    assert len(drawn) > 50
    for link in drawn[::10]:
        assert browser.get(link).headers["content-type"].startswith("image/"), link


@pytest.mark.slow
def test_names_from_outside_are_escaped(browser: TestClient, installation: Installation) -> None:
    for path in pages(installation):
        html = browser.get(path).text
        assert "<svg onload" not in html, path
        assert "\u202e" not in html, path
    listed = browser.get(f"/runs/{installation.run.id}/images").text
    assert "&lt;svg onload=alert(1)&gt;" in listed
    assert "\\u202egnp.txe.png" in listed


def test_the_twins_of_a_page_of_images_are_what_the_api_finds(
    browser: TestClient, opened: Pipeline, installation: Installation
) -> None:
    where, sort = "not failed and border_share > 0.1", "-border_share"
    wanted = opened.find(installation.run.id, where=where, sort=sort).rows
    address = f"/runs/{installation.run.id}/images"
    asked = {"where": where, "sort": sort, "limit": "5"}
    rows, path = [], f"{address}.json?" + "&".join(f"{k}={quote(v)}" for k, v in asked.items())
    while True:
        found = browser.get(path)
        rows += found.json()["images"]
        if found.json()["next"] is None:
            break
        assert 'rel="next"' in found.headers["link"]
        path = found.headers["link"].split(">")[0].lstrip("<")
    assert [row["key"] for row in rows] == [row.key for row in wanted]
    assert rows[0]["border_share"] == wanted[0].border_share
    table = list(csv.DictReader(io.StringIO(browser.get(f"{address}.csv", params={**asked, "limit": "100"}).text)))
    assert [row["key"] for row in table] == [row.key for row in wanted]
    assert float(table[0]["probability"]) == wanted[0].probability


def test_nan_and_infinities_are_null_in_both_twins(browser: TestClient) -> None:
    rows = [{"a": float("nan"), "b": [1.5, (float("inf"), True)], "c": {"d": ImageState.DONE}}]
    record = ImageRow("r", 0, "a.png", "1", ImageState.DONE, gini=float("-inf"))
    view = View("none.html", {"row": record, "values": rows}, rows=rows)
    page = PageRequest(Request({"type": "http"}))
    found = json.loads(page.answer(view, "json").body)
    assert (found["row"]["gini"], found["row"]["key"], found["row"]["state"]) == (None, "a.png", "done")
    assert found["values"] == [{"a": None, "b": [1.5, [None, True]], "c": {"d": "done"}}]
    (table,) = csv.DictReader(io.StringIO(bytes(page.answer(view, "csv").body).decode()))
    assert table == {"a": "", "b": "[1.5, [null, true]]", "c": '{"d": "done"}'}


def test_form_controls_and_the_text_box_are_one_filter(
    browser: TestClient, opened: Pipeline, installation: Installation
) -> None:
    asked = {"where": "row >= 0 or row < 0", "label": HOSTILE, "border_above": "0.05", "probability_below": ""}
    found = browser.get(f"/runs/{installation.run.id}/images.json", params=asked).json()
    quoted = HOSTILE.replace("'", "''")
    assert found["where"] == f"(row >= 0 or row < 0) and label = '{quoted}' and border_share > 0.05"
    assert {row["label"] for row in found["images"]} == {HOSTILE}


@pytest.mark.parametrize(
    ("asked", "known", "effect"),
    [
        ({}, "", None),
        ({"where": "label = 'cat' and not failed"}, "4 images match", None),
        ({"where": "row = 3", "only": "failed"}, "0 images match", "(row = 3) and failed"),
        ({"where": "row = 3"}, "1 image matches", None),
        ({"label": "cat", "border_above": "0"}, "4 images match", "label = 'cat' and border_share > 0.0"),
    ],
)
def test_the_gallery_shows_its_count_and_whole_filter(
    asked: dict[str, str], known: str, effect: str | None, browser: TestClient, installation: Installation
) -> None:
    """The gallery says how many match and what its whole filter is."""
    html = browser.get(f"/runs/{installation.run.id}/images", params=asked).text
    assert f'aria-live="polite">{known}</p>' in html
    shown = re.findall(r"Filter in effect: <code>(.*?)</code>", html)
    assert shown == ([] if effect is None else [escape(effect).replace("&#x27;", "&#39;")])


def test_matches_of_the_gallery_are_counted_afterwards(
    browser: TestClient, opened: Pipeline, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a page of the gallery does not show is counted afterwards."""
    run, asked = installation.run.id, {"where": "row > 0", "only": "", "border_above": "0", "limit": "2"}
    read = Reader(browser.get(f"/runs/{run}/images", params=asked).text)
    (link,) = (link for link in read.links if f"/runs/{run}/count" in link)
    total = len(opened.find(run, where="row > 0 and border_share > 0").rows)
    assert f'<span id="matches">{total} images match</span>' in browser.get(link).text
    assert browser.get(twin(link, "json")).json()["count"] == total
    monkeypatch.setattr(gallery, "COUNTED", 2)
    assert '<span id="matches">More than 2 images match</span>' in browser.get(link).text
    assert browser.get(twin(link, "json")).json() | {"where": ""} == {"where": "", "count": None, "more_than": 2}
    assert "did you mean" in browser.get(f"/runs/{run}/count", params={"where": "bordr_share > 1"}).text


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"where": "bordr_share > 0.3"}, "did you mean &#39;border_share&#39;?\n  bordr_share &gt; 0.3\n  ^^^^^^^^^^^"),
        ({"where": "probability >"}, "expected a value here"),
        ({"sort": "nonsense"}, "cannot sort by"),
        ({"after": "nonsense"}, "is not a cursor"),
    ],
)
def test_a_wrong_filter_is_shown_beneath_the_box(
    asked: dict[str, str], said: str, browser: TestClient, installation: Installation
) -> None:
    """A wrong filter is said beneath the box and points at the word."""
    found = browser.get(f"/runs/{installation.run.id}/images", params=asked)
    assert found.status_code == 400
    assert said in found.text
    assert f'value="{asked.get("where", "")}"'.replace(">", "&gt;") in found.text, "what was typed stays"


def test_the_run_page_says_progress_cost_and_why_images_failed(browser: TestClient, installation: Installation) -> None:
    found = browser.get(f"/runs/{installation.run.id}.json").json()
    assert (found["state"], found["done"], found["failed"]) == ("partial", 13, 1)
    assert 0 < found["seconds"] < 600
    assert found["cost"] == {"paths": 2, "per_image": 16.0, "measured": False}
    (reason,) = found["failures"]
    assert reason["examples"] == ["cat/broken.png"]
    assert "not an image" in reason["reason"]
    assert [model["source"] for model in found["spec"]["models"]] == ["tiny.py:make"] * 2
    assert found["source"] == {"kind": "folder", "name": "images"}
    assert "Retry failures" in browser.get(f"/runs/{installation.run.id}").text


def test_an_image_page_says_everything_that_is_stored(
    browser: TestClient, opened: Pipeline, installation: Installation
) -> None:
    row = opened.find(installation.run.id, where="label = 'cat' and not failed", limit=1).rows[0]
    assert row.state is ImageState.DONE
    found = browser.get(f"/runs/{installation.run.id}/images/{row.row}.json").json()
    assert found["image"]["key"] == row.key
    assert found["provenance"]["spec_key"] == installation.run.spec_key
    assert len(found["provenance"]["weights_sha256"]) == 2
    assert (row.map_run, row.map_row) == (installation.run.id, row.row)
    outputs, gradients = MapReader(opened.objects, row.map_run).path([row.row])[0]
    assert found["path"]["outputs"] == [pytest.approx(value) for value in outputs]
    assert found["path"]["gradients"] == [pytest.approx(value) for value in gradients]
    html = browser.get(f"/runs/{installation.run.id}/images/{row.row}").text
    assert f'alt="{escape(finding(row))}"' in html
    assert "std.png" in html
    assert 'aria-label="F along the path' in html
    assert found["top_classes"][0] == [row.predicted, pytest.approx(row.probability, abs=1e-3)]
    assert sum(probability for _, probability in found["top_classes"]) == pytest.approx(1, abs=1e-3)
    assert "Most probable classes" in html


@pytest.mark.parametrize(
    ("gap", "error", "sensitivity", "said", "unsaid"),
    [
        (0.092, 0.027, None, "from 0.123 at the baseline to 0.456 at the image", "does not add up"),
        (0.092, 0.2, None, "does not add up", "single pixels"),
        (0.092, None, None, "does not add up", "at the baseline"),
        (0.004, 0.027, None, "single pixels can be read. See below whether members agree", "baselines"),
        (0.004, 0.027, 0.5, "whether members and baselines agree", "does not add up"),
    ],
)
def test_sentences_about_a_map_agree_with_each_other(
    gap: float, error: float | None, sensitivity: float | None, said: str, unsaid: str
) -> None:
    row = ImageRow("r", 0, "a.png", "1", ImageState.DONE, completeness_gap=gap, error_estimate=error)
    row = replace(row, baseline_output=0.1234, output=0.4561, member_disagreement=1.0, baseline_sensitivity=sensitivity)
    text = f"{gap_in_words(row)} {error_in_words(row)}"
    assert said in text
    assert unsaid not in text


@pytest.mark.parametrize("column", ["gini", "sign_agreement", "error_estimate", "evaluations", "row"])
def test_tiles_show_the_figure_that_they_are_sorted_by(
    browser: TestClient, opened: Pipeline, installation: Installation, column: str
) -> None:
    html = browser.get(f"/runs/{installation.run.id}/images?sort=-{column}").text
    shown = [float(one.rsplit(" ", 1)[1].replace(",", "")) for one in re.findall(r'class="sorted">([^<]+)<', html)]
    rows = opened.find(installation.run.id, sort=f"-{column}", where="not failed").rows
    assert shown == [pytest.approx(getattr(row, column), abs=6e-4) for row in rows if getattr(row, column) is not None]
    name = re.escape(column.replace("_", " "))
    assert re.search(f'<option value="-{column}" selected>{name}, largest first<', html)


def test_the_table_of_classes_has_the_columns_that_the_audit_has(
    browser: TestClient, opened: Pipeline, installation: Installation
) -> None:
    address = f"/runs/{installation.run.id}/audit"
    key = report_key(installation.run.id, "audit-predicted.json")
    stored = opened.objects.get(key)
    known = json.loads(stored)
    try:
        for one in known["classes"]:
            one |= {"sign_agreement": 0.814, "baseline_sensitivity": None}
        opened.objects.put(key, json.dumps(known).encode())
        html = browser.get(address).text
        assert ("Sign agreement" in html, "81\u00a0%" in html, ">Baseline sensitivity</th>" in html) == (
            True,
            True,
            False,
        )
        for one in known["classes"]:
            one.pop("sign_agreement")
            one.pop("baseline_sensitivity")
        opened.objects.put(key, json.dumps(known).encode())
        assert "Sign agreement" not in browser.get(address).text
    finally:
        opened.objects.put(key, stored)
    assert "1 shortcut found: class" in browser.get(f"/runs/{installation.run.id}").text


def test_audit_and_class_pages_show_what_was_stored(browser: TestClient, installation: Installation) -> None:
    html = browser.get(f"/runs/{installation.run.id}/audit").text
    assert "Shortcut found" in html
    assert 'viewBox="0 0 8 8"' in html
    assert '<rect class="over" x="4.89" y="-0.11" width="3.22" height="3.22"/>' in html, "around x 5-8, y 0-3"
    assert "deletion" in html
    found = browser.get(f"/runs/{installation.run.id}/audit.json").json()
    assert sum(found["audit"]["overall"]["distributions"]["border_share"]["histogram"]["counts"]) == 13
    assert "No audit of this run by label is stored" in browser.get(f"/runs/{installation.run.id}/audit?by=label").text
    name = found["audit"]["classes"][0]["class"]
    png = browser.get(f"/runs/{installation.run.id}/class.png", params={"name": name})
    assert (png.status_code, png.headers["content-type"]) == (200, "image/png")
    assert browser.get(f"/runs/{installation.run.id}/class?name=nobody").status_code == 404


def test_two_runs_side_by_side(browser: TestClient, opened: Pipeline, installation: Installation) -> None:
    found = browser.get("/compare.json", params={"a": "first", "b": installation.other.id}).json()
    assert found["spec"] == [{"field": "baselines", "a": "black", "b": "white"}]
    assert found["spec"] == list(opened.compare("first", installation.other.id).to_dict()["spec"])
    assert len(found["images"]) == 13


def test_a_missing_page_is_answered_in_the_requested_format(browser: TestClient) -> None:
    """What is not there is said in the form that was asked for."""
    assert browser.get("/runs/nope").status_code == 404
    assert "no run &#39;nope&#39;" in browser.get("/runs/nope").text
    assert "no run 'nope'" in browser.get("/runs/nope.json").json()["error"]
    for path in ("/runs/first/images/999", "/runs/first/images/x", "/nothing", "/schedules/none"):
        assert browser.get(path).status_code in (404, 422), path


def test_events_read_no_specs(browser: TestClient, installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("list_runs", "get_run"):
        monkeypatch.setattr(queries, name, lambda *_, **__: pytest.fail("reads specs"))
    text = browser.get("/events").text
    assert text.count("<tr>") == 3
    assert text.endswith("event: over\ndata: over\n\n")


def test_events_of_a_run_that_is_over_show_it_and_end(browser: TestClient, installation: Installation) -> None:
    text = browser.get(f"/events/{installation.run.id}").text
    assert "<strong>13</strong> of 14 images" in text
    assert text.endswith("event: over\ndata: over\n\n")
