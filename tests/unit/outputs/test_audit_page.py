"""The report is one page that stands alone, can be read by anyone, and tells what it was made of."""

import re
from dataclasses import replace
from functools import lru_cache
from html.parser import HTMLParser

import pytest

from db.records import ImageState
from pipeline.analysis.audit import Audit, audit
from pipeline.formatting import unbroken
from pipeline.outputs.report import render
from pipeline.runs.view import RunView
from tests.support.synthetic_audit import a_material

HOSTILE = "<script>alert('x')</script>&\"'>"
VOID = {"meta", "img", "br", "link", "input", "hr"}


@lru_cache
def planted() -> tuple[RunView, Audit, str]:
    material = a_material()
    result = audit(material)
    return material, result, render(result, material)


class Page(HTMLParser):
    """Collects tags, and checks that they close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.slow
def test_the_page_is_well_formed_and_asks_for_nothing_else() -> None:
    html = planted()[2]
    page = Page(html)
    assert not {tag for tag, _ in page.seen} & {"script", "link", "iframe", "object", "form"}
    for _, attributes in page.seen:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:image/png;base64,").startswith("data:image/png;base64,")
    assert not re.search(r"url\(|@import|https?://", html)


def test_the_finding_is_the_first_thing_that_is_read() -> None:
    _, result, html = planted()
    text = Page(html).text
    assert "1 shortcut found: class “mark” leans on the top-left corner." in re.sub(r"\s+", " ", text)
    places = [text.index(one) for one in (unbroken(result.findings[0].sentence), "Classes", "Tested, not confirmed")]
    assert places == sorted(places)


def test_every_picture_has_an_alternative_text() -> None:
    """Every picture has an alternative text and the map tells the finding."""
    _, result, html = planted()
    alts = [attributes["alt"] for tag, attributes in Page(html).seen if tag == "img"]
    assert all(alts)
    assert any(result.findings[0].sentence in (alt or "") for alt in alts)
    assert sum("of another class: predicted" in (alt or "") for alt in alts) == 6


def test_the_examples_show_what_they_become_without_the_mark() -> None:
    assert re.search(r'class="changed">now (bright|dark)<', planted()[2])


@pytest.mark.slow
def test_a_clean_audit_says_so() -> None:
    material = a_material(used=False)
    text = re.sub(r"\s+", " ", Page(render(audit(material), material)).text)
    assert "No shortcut found." in text
    assert "shortcut that has no fixed place can be missed" in text


def test_why_shortcuts_were_not_searched_for_is_said_once() -> None:
    material = a_material(count=12)
    few = replace(material, rows=[row for row in material.rows if row.predicted == "mark"][:4])
    few = replace(few, rows=[*few.rows, *(row for row in material.rows if row.predicted == "dark")])
    result = audit(few)
    why = "two classes with 6 images or more whose map explains the class, and none of 2 has them (fewer: dark, mark)"
    assert why in result.summary
    assert Page(render(result, few)).text.count(why) == 1


@pytest.mark.slow
def test_names_from_outside_are_escaped() -> None:
    material = a_material()
    names = tuple(HOSTILE if name == "mark" else name for name in material.spec.class_names)
    models = tuple(replace(model, class_names=names, source=HOSTILE) for model in material.spec.models)
    rows = [
        replace(row, **{
            field: HOSTILE for field in ("label", "predicted", "target") if getattr(row, field) == "mark"
        }, key=f"{HOSTILE}{row.row}", error=HOSTILE)
        for row in material.rows
    ]  # fmt: skip
    hostile = replace(
        material, rows=rows, spec=replace(material.spec, models=models), run=replace(material.run, name=HOSTILE)
    )
    html = render(audit(hostile), hostile)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert any(one.class_name == HOSTILE for one in audit(hostile).findings)
    Page(html)


def test_a_third_party_learns_how_to_repeat_it() -> None:
    material, _, html = planted()
    text = Page(html).text
    spec = material.spec
    wanted = [material.run.id, spec.key, material.run.manifest_digest, spec.method, f"steps{spec.n_steps}"]
    wanted += [model.weights_sha256 for model in spec.models] + [str(baseline) for baseline in spec.baselines]
    wanted += [spec.to_json(), "Python 3.", "numpy "]
    assert [one for one in wanted if one not in text] == []


@pytest.mark.slow
def test_the_first_20_failed_images_are_listed() -> None:
    """The first 20 failed images are listed and all are counted."""
    material = a_material()
    bad = [
        replace(material.rows[0], row=1000 + i, key=f"bad-{i:02d}.png", state=ImageState.FAILED, error="truncated")
        for i in range(30)
    ]
    broken = replace(material, rows=[*material.done(), *bad])
    text = Page(render(audit(broken), broken)).text
    assert "bad-19.png" in text
    assert "bad-20.png" not in text
    assert "30 of 150 images have no map" in text


@pytest.mark.slow
def test_a_run_without_any_figures_can_be_rendered() -> None:
    material = a_material()
    bare = [replace(row, completeness_gap=None, error_estimate=None, label=None) for row in material.rows]
    empty = replace(material, rows=[])
    Page(render(audit(replace(material, rows=bare)), replace(material, rows=bare)))
    Page(render(audit(empty), empty))


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(2 * c for c in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1, 2], ids=["light", "dark", "print"])
def test_text_has_the_contrast_that_wcag_aa_asks_for(theme: int) -> None:
    blocks = [
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6})", b)) for b in re.findall(r":root \{([^}]*)\}", planted()[2])
    ]
    colours = blocks[theme]
    pairs = [(ink, ground) for ink in ("ink", "soft", "alarm", "link") for ground in ("ground", "panel")]
    for ink, ground in [*pairs, ("alarm", "alarm-ground"), ("calm", "calm-ground"), ("ink", "alarm-ground")]:
        light, dark = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)
