"""Shortcuts are found where a model uses them, at the right class and place, and nowhere else.

The 20 clean networks and the other worlds of `benchmarks.shortcuts` take minutes; a few of each run here.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from db.records import ImageRow
from pipeline.analysis.audit import Audit, audit
from pipeline.analysis.audit.boxes import Box
from pipeline.analysis.audit.decide import decide
from pipeline.analysis.audit.gate_figures import MEANINGS, exceeded, figures_of, parse_gates
from pipeline.analysis.audit.results import LIKE_OBJECT
from pipeline.analysis.statistics import wilson
from pipeline.errors import SpecError
from tests.support.planted_worlds import CORNERS, World, a_run, world
from tests.support.synthetic_audit import a_material, a_trial


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_a_mark_that_decides_is_found_in_its_corner(corner: str, rate: float) -> None:
    found = audit(a_material(corner=corner, rate=rate, count=180)).findings
    assert [(one.class_name, one.place, one.kind) for one in found] == [("mark", corner, "window")]
    assert found[0].necessity > 0.9
    assert found[0].sufficiency > 0.9
    assert found[0].p_value <= 0.05
    x0, y0, x1, y1 = found[0].region
    x, y = CORNERS[corner]
    assert x0 <= x + 2 <= x1
    assert y0 <= y + 2 <= y1


def test_a_mark_that_the_model_ignores_is_not_confirmed() -> None:
    """A mark that the model ignores is looked at and not confirmed."""
    result = audit(a_material(used=False, count=180))
    assert result.findings == ()
    looked_at = next(one for one in result.candidates if one.region == (0, 0, 4, 4))
    assert (looked_at.used, looked_at.necessity, looked_at.sufficiency) == (False, 0, 0)


def test_an_audit_is_determined_by_its_seed() -> None:
    material = a_material(rate=0.5)
    assert audit(material, seed=3).to_json() == audit(material, seed=3).to_json()
    assert audit(material, seed=3).to_json() != audit(material, seed=4).to_json()


def test_the_json_has_the_layout_that_others_read() -> None:
    found = json.loads(audit(a_material()).to_json())
    wanted = {"class", "kind", "region", "images", "share", "necessity", "sufficiency", "p_value", "examples"}
    assert wanted <= found["findings"][0].keys()
    assert found["findings"][0]["region"] == [0, 0, 4, 4]
    assert found["findings"][0]["sentence"] in found["summary"]
    assert {"class", "kind", "region", "reason"} <= found["candidates"][0].keys()
    assert [one["class"] for one in found["classes"]] == ["bright", "dark", "mark"]
    assert found["failed"] == {"truncated file": 1}


def test_a_finding_has_its_rates_with_their_intervals() -> None:
    (found,) = audit(a_material()).findings
    assert found.images >= 0.9 * found.examined
    assert found.necessity_interval == pytest.approx((0.86, 1.0), abs=0.005)
    assert (found.necessity, found.sufficiency) == (1, 1)
    assert (found.control_necessity, found.control_sufficiency) == (0, 0)
    part = audit(a_material(rate=0.5, count=180)).findings[0]
    assert part.images < 0.9 * part.examined


def test_a_class_with_maps_of_another_is_not_searched() -> None:
    """A class whose maps explain another class is not searched."""
    material = a_material()
    other = [replace(row, target="dark") if row.predicted == "mark" else row for row in material.rows]
    result = audit(replace(material, rows=other))
    assert result.findings == ()
    assert any("mark" in remark for remark in result.remarks)


def test_a_run_of_one_class_is_audited_without_a_search() -> None:
    """A run of one class or of none is audited without a search."""
    material = a_material()
    one = [row for row in material.rows if row.predicted == "mark"]
    assert audit(replace(material, rows=one)).findings == ()
    nothing = audit(replace(material, rows=[]))
    assert (nothing.images, nothing.classes, nothing.candidates) == (0, (), ())
    assert any("two classes" in remark for remark in nothing.remarks)


@pytest.mark.slow
def test_missing_images_are_left_out() -> None:
    """Images that are gone are left out and only those that are read are asked for."""
    asked: list[int] = []

    def there(row: ImageRow) -> bool:
        asked.append(row.row)
        return row.row % 3 > 0 or row.row < 60

    material = replace(a_material(count=900), available=there)
    result = audit(material)
    assert [one.class_name for one in result.findings] == ["mark"]
    assert any("are gone or have changed" in remark for remark in result.remarks)
    assert len(asked) == len(set(asked)) < 3 * 256  # fewer than were sampled
    gone = audit(replace(material, available=lambda row: False))
    assert (gone.verdict, gone.findings) == ("not searched", ())
    assert len(gone.classes) == 3


@pytest.mark.parametrize(
    ("gate", "over"),
    [("findings>0", True), ("findings>=2", False), ("border_share<0.9", True), ("accuracy<0.5", False),
     ("failed_images>0", True), ("member_disagreement>0.9", False)],
)  # fmt: skip
def test_gates_compare_figures_of_the_audit(gate: str, over: bool) -> None:
    (parsed,) = parse_gates([gate])
    assert bool(exceeded(planted_audit(), [parsed])) is over
    assert set(figures_of(planted_audit())) == set(MEANINGS)


def test_a_gate_on_what_was_not_measured_is_not_passed() -> None:
    unlabelled = replace(planted_audit(), overall=replace(planted_audit().overall, accuracy=None))
    assert exceeded(unlabelled, parse_gates(["accuracy<0.9"])) == ["accuracy<0.9 (not measured)"]


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        ({"available": lambda row: False}, "are gone or have changed"),
        ({"available": lambda row: row.predicted != "dark"}, "which were not tested: dark"),
        ({"run": a_run(1000)}, "of 1000 images are done, and the audit covers these"),
    ],
    ids=["no image left", "a class without images", "unfinished"],
)
def test_an_incomplete_search_passes_no_gate(change: dict[str, Any], remark: str) -> None:
    """That nothing was found passes no gate where not all was searched."""
    clean, gates = a_material(used=False, rate=0.0), parse_gates(["findings>0"])
    assert exceeded(audit(clean), gates) == []
    result = audit(replace(clean, **change))
    assert any(remark in said for said in result.remarks)
    assert result.to_dict()["complete"] is False
    assert exceeded(result, gates) == ["findings>0 (not measured)"]


@pytest.mark.parametrize("text", ["beauty>1", "findings", "findings>", "findings>-1", "border_share=0.3"])
def test_a_gate_that_does_not_parse_is_refused(text: str) -> None:
    """A gate that does not parse is refused with the names that are known."""
    with pytest.raises(SpecError, match=r"findings, doubtful, .*'findings>0'"):
        parse_gates([text])


@lru_cache
def planted_audit() -> Audit:
    return audit(a_material())


def test_two_marks_in_two_classes_do_not_hide_each_other() -> None:
    marks = [a_trial("a", like=50, lost=0.8, turned=0.2), a_trial("b", like=50, lost=0.8, turned=0.2, at=28)]
    objects = [a_trial(name, like=2, lost=0.5, turned=0.02, at=12) for name in "cde"]
    kept, rejected = decide(marks + objects)
    assert {one.candidate.class_name for one in kept} == {"a", "b"}
    assert [trial for trial, _ in rejected] == objects
    assert all(reason.startswith(LIKE_OBJECT) for _, reason in rejected)


def test_a_mark_must_stand_out_from_constant_content() -> None:
    """Where every class has constant content a mark must stand out."""
    alike = [
        a_trial(name, like=7, lost=0.4, turned=0.2, at=at) for name, at in zip("abcd", (0, 8, 16, 24), strict=True)
    ]
    assert decide(alike)[0] == []
    assert decide([*alike, a_trial("e", like=17, lost=0.4, turned=0.2, at=28)])[0][0].candidate.class_name == "e"


def test_a_faint_mark_must_stand_out_from_other_classes() -> None:
    """A mark that is hard to see must stand out from all other classes but one."""
    hard = a_trial("a", like=4.5, lost=0.4, turned=0.5)  # of 24 images: at least 3.1
    objects = [a_trial(name, like=1.2, lost=0.5, turned=0.1, at=12) for name in "bcde"]  # at least 0.7
    assert decide([hard, *objects])[0] == []  # too few to compare with
    objects.append(a_trial("g", like=6, lost=0.4, turned=0.05, at=24))
    assert decide([hard, *objects])[0] == [hard]
    objects.append(a_trial("f", like=2.2, lost=0.4, turned=0.05, at=24))
    assert decide([hard, *objects])[0] == []
    faint = a_trial("a", like=2.4, lost=0.4, turned=0.5)  # at least 1.6
    assert decide([faint, *(a_trial(name, like=0.5, lost=0.5, turned=0.1, at=12) for name in "bcdefg")])[0] == []


def test_a_likeness_of_few_images_decides_nothing() -> None:
    place = a_trial("a", like=6.5, lost=0.8, turned=0.5)
    assert decide([place])[0]
    assert not decide([replace(place, necessity=wilson(0.8, 7))])[0]


def test_a_mark_must_turn_more_than_its_place_does_without_it() -> None:
    place = a_trial("a", like=20, lost=0.4, turned=0.5)
    assert decide([replace(place, without=wilson(0.3, 96))])[0]
    assert not decide([replace(place, without=wilson(0.45, 96))])[0]
    assert decide([replace(place, sufficiency=wilson(0.7, 96), without=wilson(0.65, 96))])[0]


def test_a_small_place_that_turns_many_images_is_a_mark() -> None:
    """A small place that turns many images is a mark whatever it shows."""
    assert decide([a_trial("a", like=1, lost=0.9, turned=0.9, area=0.02)])[0]
    assert not decide([a_trial("a", like=1, lost=0.9, turned=0.9, area=0.05)])[0]


def test_a_mark_that_turns_no_image_is_not_a_finding() -> None:
    """A mark that covers a part of the object is no finding where it turns no image."""
    kept, rejected = decide([a_trial("a", like=20, lost=0.9, turned=0.05)])
    assert kept == []
    assert rejected[0][1].startswith(LIKE_OBJECT)


@pytest.mark.parametrize(("mark", "found"), [((0, 0, 4, 2), True), ((0, 3, 9, 6), False), (None, False)])
def test_a_place_that_is_mostly_beside_the_mark_is_no_finding(mark: Box | None, found: bool) -> None:
    place = replace(a_trial("a", like=20, lost=0.9, turned=0.5), extent=mark)
    assert bool(decide([place])[0]) is found


def test_overlapping_windows_of_a_class_are_one_finding() -> None:
    strong, weak = a_trial("a", like=90, lost=0.9, turned=0.3), a_trial("a", like=90, lost=0.5, turned=0.2, at=3)
    kept, rejected = decide([weak, strong])
    assert kept == [strong]
    assert [trial for trial, _ in rejected] == [weak]


def test_a_cast_on_few_images_is_a_finding_where_it_turns_others() -> None:
    cast = a_trial("a", like=2.3, lost=0.5, turned=0.75, kind="colour")
    assert decide([cast])[0] == [cast]
    assert decide([replace(cast, sufficiency=wilson(0.35, 96))])[0] == []
    assert decide([replace(cast, control_sufficiency=wilson(0.6, 96))])[0] == []
    alike = a_trial("b", like=9, lost=0.5, turned=0.75, kind="colour")
    assert decide([cast, alike])[0] == [alike]  # what lacks the cast of b turns too


@lru_cache
def trained_world(**options: object) -> World:
    return world(**{"images": 150, "taught": 600, "epochs": 4} | options)  # type: ignore[arg-type]


USED = [
    {"seed": 28, "planted": 8, "corner": "top-left corner", "lured": 0.2},
    {"seed": 505, "planted": 5, "corner": "bottom-left corner", "lured": 0.2},
    {"seed": 519, "planted": 9, "corner": "top-right corner", "lured": 0.2, "rate": 0.5},
    {"seed": 1152, "planted": 4, "corner": "top-right corner", "lured": 0.2, "rate": 0.5, "images": 1000},
]


PATTERN = {"corner": "logo", "seed": 5110, "planted": 0, "rate": 0.5}
WORD = {"corner": "watermark", "seed": 7010, "planted": 3}
HIDDEN = WORD | {"images": 1000}  # half of the images of the class are others, and lean on the place with no word there
PHOTOGRAPHED = WORD | {"seed": 7070, "planted": 0, "images": 1000, "taught": 797, "epochs": 8, "photographs": True}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [PATTERN, WORD, HIDDEN, PHOTOGRAPHED], ids=["pattern", "word", "hidden word", "word before photographs"]
)
def test_marks_whose_attribution_has_gaps_are_found_whole(options: dict[str, object]) -> None:
    one = trained_world(**{"lured": 0.2, "images": 400} | options)
    assert one.drop >= 0.2, "this world no longer tests anything: the networks do not use the mark"
    (found,) = audit(one.material).findings
    assert found.class_name == str(options["planted"])
    x0, y0, x1, y1 = found.region
    assert x0 <= 11
    assert x1 >= 27
    assert y0 >= 20
    assert y1 >= 29


@pytest.mark.slow
@pytest.mark.parametrize("options", USED, ids=lambda options: f"{options['planted']}-{options['corner']}")
def test_trained_networks_that_lean_on_a_mark_are_found_out(options: dict[str, object]) -> None:
    one = trained_world(**options)
    assert one.drop >= 0.2, "this world no longer tests anything: the networks do not use the mark"
    found = audit(one.material).findings
    assert [(f.class_name, f.place) for f in found] == [(str(options["planted"]), options["corner"])]


@pytest.mark.slow
def test_a_cast_on_a_fifth_of_a_class_is_found() -> None:
    one = trained_world(seed=8212, planted=3, corner="colour", rate=0.2, lured=0.2, images=1000)
    assert one.drop >= 0.2, "this world no longer tests anything: the networks do not use the cast"
    assert [(f.class_name, f.kind) for f in audit(one.material).findings] == [("3", "colour")]


@pytest.mark.slow
def test_trained_networks_on_clean_images_are_not_accused() -> None:
    assert audit(trained_world(seed=0).material).findings == ()


UNSEEN_WORD = {"seed": 7121, "planted": 2, "corner": "watermark", "rate": 0.5, "images": 1000}  # upon a used object


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"seed": 61, "planted": 3}, UNSEEN_WORD], ids=["corner", "word"])
def test_networks_that_never_saw_the_mark_are_not_accused(options: dict[str, object]) -> None:
    """Trained networks that never saw the mark are not accused."""
    assert audit(trained_world(learned=False, **options).material).findings == ()


@pytest.mark.slow
def test_audits_import_neither_torch_nor_sql() -> None:
    """Audits import neither torch nor sql and load matplotlib late."""
    code = "import pipeline.analysis.audit, sys; print({'torch', 'sqlalchemy', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "set()"


def test_a_sample_of_a_large_class_is_enough_and_bounded() -> None:
    result = audit(a_material(count=1200))
    assert [(one.class_name, one.examined) for one in result.findings] == [("mark", 256)]
    assert result.images == 1200
    assert np.isclose(sum(one.images for one in result.classes), 1200)
