"""The page as a person uses it, in a real browser: filter, open, slide, compare, log in; names that bite nobody."""

from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import Server, start, stop
from tests.support.installation import HOSTILE, Installation


def tiles(page: Page) -> list[str]:
    return page.locator(".tile small:first-of-type").all_inner_texts()


def test_filter_sort_page_and_come_back_by_the_address(page: Page, server: Server, installation: Installation) -> None:
    page.goto(f"{server.url}/runs/{installation.run.id}/images")
    expect(page.locator(".tile")).to_have_count(14)
    page.get_by_label("Filter", exact=True).fill("label = 'cat' and not failed")
    page.get_by_label("Filter", exact=True).press("Enter")
    expect(page.locator(".tile")).to_have_count(4)
    assert all(key.startswith("cat/") for key in tiles(page))
    page.get_by_label("Sort by").select_option("-border_share")
    expect(page.locator(".sorted")).to_have_count(4)
    shares = [float(text.split()[-1]) for text in page.locator(".sorted").all_inner_texts()]
    assert shares == sorted(shares, reverse=True)
    assert "sort=-border_share" in page.url
    assert "mode=" not in page.url, "the address says what differs from the default"
    kept = tiles(page)
    page.reload()
    assert tiles(page) == kept, "the address is the view"
    page.go_back()
    expect(page.locator(".sorted")).to_have_count(0)
    page.get_by_label("Filter", exact=True).fill("bordr_share > 1")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("alert")).to_contain_text("did you mean 'border_share'")
    expect(page.locator(".tile")).to_have_count(0)


def test_the_count_and_the_whole_filter_follow_the_form(page: Page, server: Server, installation: Installation) -> None:
    page.goto(f"{server.url}/runs/{installation.run.id}/images?limit=3")
    count, effect = page.locator("#count"), page.get_by_text("Filter in effect")
    box = page.get_by_label("Filter", exact=True)
    expect(page.locator(".tile")).to_have_count(3)
    expect(count).to_have_text("")
    page.evaluate("document.getElementById('count').kept = true")
    box.fill("label = 'cat'")
    box.press("Enter")
    expect(count).to_have_text("5 images match")
    expect(effect).to_have_count(0)
    page.get_by_role("link", name="Next 3").click()
    expect(page.locator(".tile")).to_have_count(5)
    expect(count).to_have_text("5 images match")
    page.get_by_label("Border share >").fill("2")
    page.get_by_role("button", name="Show").click()
    expect(count).to_have_text("0 images match")
    expect(effect.locator("code")).to_have_text("(label = 'cat') and border_share > 2.0")
    box.fill("nonsense")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("alert")).to_contain_text("no column 'nonsense'")
    expect(count).to_have_text("")
    expect(effect).to_have_count(0)
    assert page.evaluate("document.getElementById('count').kept"), "screen readers follow an element that stays"


def test_next_pages_are_put_below(page: Page, server: Server, installation: Installation) -> None:
    page.goto(f"{server.url}/runs/{installation.run.id}/images?limit=5")
    expect(page.locator(".tile")).to_have_count(5)
    page.get_by_role("link", name="Next 5").click()
    expect(page.locator(".tile")).to_have_count(10)
    page.get_by_role("link", name="Next 5").click()
    expect(page.locator(".tile")).to_have_count(14)
    assert len(set(tiles(page))) == 14
    expect(page.get_by_role("link", name="Next 5")).to_have_count(0)


def test_the_slider_fades_maps_and_modes_change_what_is_drawn(
    page: Page, server: Server, installation: Installation
) -> None:
    page.goto(f"{server.url}/runs/{installation.run.id}/images?where=not+failed")
    layer = page.locator(".stack.two img + img").first
    assert layer.evaluate("each => getComputedStyle(each).opacity") == "0.85"
    page.get_by_label("Opacity of the map").fill("20")
    assert layer.evaluate("each => getComputedStyle(each).opacity") == "0.2"
    assert layer.evaluate("each => each.naturalWidth") == 8, "the map is there"
    page.locator("[data-opacity]").dispatch_event("change")
    assert "opacity=20" in page.url
    page.get_by_text("Positive", exact=True).click()
    expect(page.locator(".stack img[src*='positive.png']")).to_have_count(13)
    assert "mode=positive" in page.url


def test_arrow_keys_follow_the_order_of_the_gallery(page: Page, server: Server, installation: Installation) -> None:
    """An image is opened and arrows lead on in the order of the gallery."""
    page.goto(f"{server.url}/runs/{installation.run.id}/images?sort=-border_share&where=not+failed")
    links = page.locator("[data-image]")
    order = [links.nth(index).get_attribute("href") for index in range(3)]
    links.nth(0).focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.getAttribute('href')") == order[1]
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{order[1]}")
    expect(page.get_by_role("heading", name="Provenance")).to_be_visible()
    page.keyboard.press("ArrowRight")
    page.wait_for_url(f"**{order[2]}")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(f"**{order[1]}")
    page.get_by_label("Pages").get_by_role("link", name="Runs").press("ArrowLeft")
    page.wait_for_url(f"**{order[0]}")


def test_two_runs_are_compared_under_one_pointer(page: Page, server: Server, installation: Installation) -> None:
    page.goto(f"{server.url}/compare")
    page.locator("select[name=a]").select_option(installation.run.id)
    page.locator("select[name=b]").select_option(installation.other.id)
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("region", name="Differences")).to_contain_text("Baselines")
    pair = page.locator(".pair").first
    frames = pair.locator(".frame")
    box = frames.first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    places = [
        frames.nth(index).locator(".cross").evaluate("each => getComputedStyle(each, '::before').left")
        for index in (0, 1)
    ]
    assert places[0] == places[1]
    assert float(places[0].removesuffix("px")) == pytest.approx(box["width"] / 4, abs=1.5)
    expect(frames.nth(1).locator(".cross")).to_be_visible()


def test_hostile_names_are_text_everywhere(page: Page, server: Server, installation: Installation) -> None:
    run = installation.run.id
    for path in ("images", "audit", f"class?name={quote(HOSTILE)}&by=label", "images/9", "images/11"):
        page.goto(f"{server.url}/runs/{run}/{path}")
        assert page.locator("svg[onload]").count() == 0
        assert page.locator("main script").count() == 0
    page.goto(f"{server.url}/runs/{run}/class?name={quote(HOSTILE)}&by=label")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Class {HOSTILE}")


def test_a_token_is_asked_for_once(chromium: Browser, page: Page, installation: Installation) -> None:
    token = "0123456789 abcdef"
    started = start(installation.home, "--token", token)
    try:
        page.goto(f"{started.url}/runs/{installation.run.id}/images?limit=5")
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        page.get_by_label("Token").fill("something else")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_have_text("That is not the token.")
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Log in").click()
        expect(page.locator(".tile")).to_have_count(5)
        assert page.evaluate("document.cookie") == "", "scripts do not see the cookie"
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    finally:
        assert stop(started) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_at_400_pixels(
    scheme: str, chromium: Browser, server: Server, installation: Installation
) -> None:
    """Axe finds nothing serious and nothing is cut at 400 pixels."""
    run = installation.run.id
    paths = ["/runs", f"/runs/{run}", f"/runs/{run}/images", f"/runs/{run}/images/0", f"/runs/{run}/audit"]
    paths += [f"/compare?a={run}&b={installation.other.id}", "/schedules", f"/runs/{run}/class?name=cat&by=label"]
    width = 400 if scheme == "dark" else 1280
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)  # type: ignore[arg-type]
    page = context.new_page()
    for path in paths:
        page.goto(server.url + path)
        found = Axe().run(page).response["violations"]
        worst = [each for each in found if each["impact"] in ("serious", "critical")]
        serious = [(each["id"], each["nodes"][0]["html"]) for each in worst]
        assert serious == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    context.close()
