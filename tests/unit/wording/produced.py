"""Produces every sentence of sentences.json; `python -m tests.unit.wording.produced` writes that file anew."""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.analysis.audit import audit
from pipeline.analysis.audit.decide import decide
from pipeline.analysis.audit.gate_figures import parse_gates
from pipeline.analysis.audit.measure import Trial
from pipeline.analysis.audit.results import Finding, Unconfirmed
from pipeline.analysis.statistics import wilson
from pipeline.errors import UsageError
from pipeline.spec.gate import Gate
from pipeline.storage.files import make_folder, new_file, new_folder, write_file
from tests.support.synthetic_audit import a_material, a_trial

SENTENCES = Path(__file__).with_name("sentences.json")

WINDOW = Finding(
    "mark", "window", (0, 0, 4, 4), "top-left corner", 38, 40, 0.32, 0.0092, 1.0, (0.86, 1.0), 24, 0.72, (0.6, 0.8), 96,
    0.04, 0.0, 9.7, 0.01, ("a.png",),
)  # fmt: skip
PLACE = Unconfirmed("3", "window", (2, 2, 6, 6), "upper left", 9, 0.2, 0.01, 0.31, None, 0.2, "a reason")


def produced(folder: Path) -> dict[str, str]:
    """Sentences by name. `folder` is empty, and named FOLDER in them."""
    found = {**dict(_findings()), **dict(_summaries()), **dict(_reasons()), **dict(_refusals(folder))}
    return {name: text.replace(str(folder), "FOLDER") for name, text in found.items()}


def _findings() -> Iterator[tuple[str, str]]:
    yield "finding", WINDOW.sentence
    yield "finding in a part of the class", replace(WINDOW, images=20).sentence
    weak = replace(WINDOW, necessity_interval=(0.2, 0.6), sufficiency_interval=(0.1, 0.4))
    yield "finding that is weak", weak.sentence
    yield "finding of a cast", replace(WINDOW, kind="colour", region=(0, 0, 32, 32), place="whole image").sentence
    yield "candidate", PLACE.sentence


def _summaries() -> Iterator[tuple[str, str]]:
    result = replace(audit(a_material(count=60)), findings=(), candidates=())
    used = replace(PLACE, reason=next(reason for name, reason in _reasons() if name == "reason: turns few images"))
    yield "summary: found", replace(result, findings=(WINDOW,)).summary
    yield "summary: nothing", result.summary
    yield "summary: nothing of one", replace(result, candidates=(PLACE,)).summary
    yield "summary: look at one", replace(result, candidates=(used, PLACE)).summary
    yield "summary: look at two", replace(result, candidates=(used, used)).summary
    yield "summary: not searched", replace(result, searched=False, remarks=("one remark", "another")).summary


def _reasons() -> Iterator[tuple[str, str]]:
    """Why a trial is not a finding: one row of (measurement, failing check) each."""
    place = a_trial("a", like=20, lost=0.9, turned=0.5)
    cast = a_trial("a", like=2.3, lost=0.5, turned=0.35, kind="colour")
    rows: list[tuple[str, list[Trial]]] = [
        ("overlaps a finding", [a_trial("a", like=90, lost=0.5, turned=0.2, at=3), place]),
        ("hardly used", [a_trial("a", like=20, lost=0.1, turned=0.0)]),
        ("cast hardly used", [a_trial("a", like=20, lost=0.1, turned=0.0, kind="colour")]),
        ("cast varies", [cast]),
        ("turns few images", [a_trial("a", like=20, lost=0.9, turned=0.05)]),
        ("turns no more than random windows", [replace(place, control_sufficiency=wilson(0.45, 96))]),
        ("turns no more than without the mark", [replace(place, without=wilson(0.45, 96))]),
        ("mostly beside the mark", [replace(place, extent=(0, 3, 9, 6))]),
        ("content varies", [a_trial("a", like=1, lost=0.9, turned=0.9)]),
    ]
    for name, trials in rows:
        ((_, reason),) = decide(trials)[1]
        yield f"reason: {name}", reason


def _refusals(folder: Path) -> Iterator[tuple[str, str]]:
    file, foreign, link, made = (folder / name for name in ("file", "foreign", "link", "made"))
    file.touch()
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    link.symlink_to(file)
    with new_folder(made, overwrite=False):
        pass
    rows: dict[str, Callable[[], object]] = {
        "folder is a file": lambda: make_folder(file),
        "folder below a file": lambda: make_folder(file / "x"),
        "file in no folder": lambda: write_file(Path("/proc/x"), b""),
        "export to a folder": lambda: _export_file(foreign),
        "export to a link": lambda: _export_file(link),
        "export to a foreign file": lambda: _export_file(file, is_export=False),
        "export to an earlier file": lambda: _export_file(file),
        "export below a file": lambda: _export_file(file / "x"),
        "export to a file instead of a folder": lambda: _export_folder(file),
        "export to a foreign folder": lambda: _export_folder(foreign),
        "export to an earlier folder": lambda: _export_folder(made),
        "gate of an audit": lambda: parse_gates(["beauty>1"]),
        "gate of a schedule": lambda: Gate.parse("drift=0.1"),
        "gate with a typing error": lambda: Gate.parse("drfit>0.1"),
    }
    for name, refuse in rows.items():
        yield f"refused: {name}", _refusal(refuse)


def _export_file(path: Path, *, is_export: bool = True) -> None:
    with new_file(path, overwrite=False, is_export=lambda _: is_export):
        pass


def _export_folder(path: Path) -> None:
    with new_folder(path, overwrite=False):
        pass


def _refusal(refuse: Callable[[], object]) -> str:
    try:
        refuse()
    except UsageError as error:
        return str(error)
    raise AssertionError("it was not refused")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as new:
        SENTENCES.write_text(json.dumps(produced(Path(new)), indent=2, ensure_ascii=False) + "\n")
