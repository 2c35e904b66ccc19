"""The demo finds what was planted, wherever it was planted, and nothing where nothing was."""

import json
from pathlib import Path

import pytest

from tests.support.commands import attribatch

BOXES = {"top-left": (0, 0), "top-right": (1, 0), "bottom-left": (0, 1), "bottom-right": (1, 1)}


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("digit", "corner"), [(3, "top-right"), (7, "bottom-left")])
def test_the_planted_class_and_corner_are_found(digit: int, corner: str, tmp_path: Path) -> None:
    arguments = ["demo", "--shortcut-class", str(digit), "--shortcut-corner", corner]
    found = json.loads(attribatch(tmp_path, *arguments, "--json").stdout)
    assert all(accuracy > 0.95 for accuracy in found["accuracies"])
    assert found["progress"]["images_done"] == 450
    (finding,) = found["audit"]["findings"]
    assert finding["class"] == str(digit)
    x0, y0, x1, y1 = finding["region"]
    right, bottom = BOXES[corner]
    assert ((x0 + x1) / 2 > 16, (y0 + y1) / 2 > 16) == (bool(right), bool(bottom))
    assert finding["necessity"] > 0.2
    assert f"Class '{digit}' leans on the {corner} corner" in finding["sentence"]
    assert Path(found["report"]).read_text().count("<img") > 5


@pytest.mark.timeout(400)
def test_a_clean_data_set_gives_no_finding(tmp_path: Path) -> None:
    found = json.loads(attribatch(tmp_path, "demo", "--no-shortcut", "--json").stdout)
    assert found["audit"]["findings"] == []
    assert found["audit"]["verdict"] in ("none", "look")
    printed = attribatch(tmp_path, "demo", "--no-shortcut").stdout  # again: all is there, nothing is computed
    assert "member 3:" in printed
    assert "finding:" not in printed
