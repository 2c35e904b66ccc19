"""Schedules from the page: made of a run that was done, listed with what became of them."""

import re

import pytest
from fastapi.testclient import TestClient

from pipeline.api import Pipeline
from pipeline.outputs.charts import drift
from pipeline.spec.request import RunRequest, repeat
from tests.support.installation import Installation


def test_the_request_of_a_stored_run_is_that_run_again(opened: Pipeline, installation: Installation) -> None:
    request = repeat(installation.run)
    assert request == RunRequest.from_json(request.to_json())
    again = opened.submit(request)
    assert again.spec_key == installation.run.spec_key
    opened.remove(again.id)


def test_a_schedule_is_added_paused_resumed_and_removed(
    browser: TestClient, form_token: str, installation: Installation
) -> None:
    form = {"form_token": form_token, "run": installation.other.id, "name": "nightly", "cron": "0 2 * * *"}
    added = browser.post("/schedules", data={**form, "timezone": "Europe/Berlin", "fail_on": "drift>0.1"})
    assert (added.status_code, added.headers["location"]) == (303, "/schedules/nightly")
    (listed,) = browser.get("/schedules.json").json()["schedules"]
    assert (listed["cron"], listed["timezone"], listed["paused"]) == ("0 2 * * *", "Europe/Berlin", False)
    assert (listed["source"], listed["models"]) == ("images", ["tiny.py:make"] * 2)
    for address in ("/schedules", "/schedules/nightly"):
        assert re.search(r"\d{4}-\d\d-\d\d 0[23]:00 CES?T", browser.get(address).text), "on its own clock"
    for form_of in ("", ".json", ".csv"):
        text = browser.get(f"/schedules/nightly{form_of}").text
        assert str(installation.root) not in text
    assert "It has not come due yet" in browser.get("/schedules/nightly").text
    twice = browser.post("/schedules", data=form)
    assert twice.status_code == 400
    assert "nightly" in twice.text
    for what, paused in (("pause", True), ("resume", False)):
        assert browser.post(f"/schedules/nightly/{what}", data={"form_token": form_token}).status_code == 303
        assert browser.get("/schedules/nightly.json").json()["schedule"]["paused"] is paused
    browser.post("/schedules/nightly/remove", data={"form_token": form_token})
    assert browser.get("/schedules.json").json()["schedules"] == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"cron": "every day"}, "2 fields, not five"),
        ({"timezone": "Mars"}, "time zone &#39;Mars&#39; is not known"),
        ({"fail_on": "drift=1"}, "gate &#39;drift=1&#39;"),
        ({"name": "a b"}, "schedule name"),
        ({"run": "nope"}, "no run &#39;nope&#39;"),
    ],
)
def test_a_wrong_schedule_keeps_the_values_of_the_form(
    wrong: dict[str, str], said: str, browser: TestClient, form_token: str, installation: Installation
) -> None:
    """A wrong schedule is said above the form which keeps what was typed."""
    form = {"form_token": form_token, "run": installation.run.id, "name": "n", "cron": "0 2 * * *", "timezone": "UTC"}
    found = browser.post("/schedules", data={**form, **wrong})
    assert found.status_code == 400
    assert said in found.text
    kept = {**form, **wrong}["cron"]
    assert f'value="{kept}"' in found.text


def test_the_drift_curve_marks_every_turn_and_the_gate() -> None:
    turns = [(f"2026-01-0{day} 00:00 UTC", value) for day, value in ((1, 0.0), (2, 0.2), (3, 0.1))]
    svg = drift(turns, 0.15)
    assert svg.count("<circle") == 3
    assert "gate 0.15" in svg
    assert "2026-01-02 00:00 UTC: 0.2000" in svg
    heights = [float(part.split('"')[0]) for part in svg.split('cy="')[1:]]
    assert heights[1] < heights[2] < heights[0], "a larger drift stands higher"
    assert "<circle" in drift(turns[:1], None)
