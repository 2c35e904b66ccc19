"""What moves while somebody looks: a run that is really computed, and a schedule that is added and run at once."""

from dataclasses import replace

from playwright.sync_api import Page, expect

from db.records import UnitState
from pipeline.api import Pipeline
from tests.support.browser import Server, wait_for
from tests.support.installation import Installation


def test_progress_moves_while_workers_compute(page: Page, server: Server, installation: Installation) -> None:
    slow = replace(installation.request, n_steps=1500, unit_size=1, name="slow", baselines=("mean",))
    with Pipeline.open(installation.home) as pipeline:
        run = pipeline.submit(slow)
        page.goto(f"{server.url}/runs/{run.id}")
        bar = page.get_by_role("progressbar", name="Images done")
        expect(page.locator(".state.running")).to_be_visible(timeout=60_000)
        page.evaluate("window.stayed = true")
        wait_for(lambda: bool(page.evaluate("document.querySelector('progress').value >= 2")))
        assert page.evaluate("window.stayed") is True, "the page was not loaded anew"
        expect(page.get_by_text("images/s")).to_be_visible()
        assert pipeline.status(run.id).units[UnitState.DONE] >= 2
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator(".state.cancelled").or_(page.locator(".state.partial"))).to_be_visible()
        expect(bar).to_be_visible()
        assert pipeline.status(run.id).over


def test_a_schedule_is_added_and_run_at_once(page: Page, server: Server, installation: Installation) -> None:
    page.goto(f"{server.url}/schedules")
    page.get_by_label("Run to repeat").select_option(installation.other.id)
    page.get_by_label("Name").fill("nightly")
    page.get_by_label("Gate (optional)").fill("drift>0.5")
    page.get_by_role("button", name="Add schedule").click()
    expect(page.get_by_role("heading", name="nightly")).to_be_visible()
    expect(page.get_by_text("It has not come due yet.")).to_be_visible()
    page.get_by_role("button", name="Run now").click()
    expect(page.get_by_role("region", name="History").get_by_text("partial")).to_be_visible(timeout=90_000)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    page.get_by_role("button", name="Remove").click()
    expect(page.get_by_text("There are no schedules yet.")).to_be_visible()
