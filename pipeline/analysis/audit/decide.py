"""Decides which tested places and color casts are findings: the model uses them, and they are not part of the object.

A candidate becomes a finding in three steps.

1. *More here than elsewhere*: the corrected permutation p-value is at most 0.05. Nearly every class has such windows.
2. *The model uses it*: swapping it loses at least 20 % of the predictions, or pasting it flips at least 20 % of other
   images, and that is significantly more than random windows of its size do (Newcombe's interval of the difference).
   This defines use: accuracy on marked images drops by 20 points without the mark.
3. *It is a mark, not a part of the object*. Objects are used too: digits are centered and fill the image, and the
   middle of a 0 reaches necessity 0.97 and sufficiency 0.61, so no threshold on these two separates objects from marks.
   Pasting the mark must flip at least 10 % of other-class images (lower confidence bound), and more than random windows
   flip. Unless it flips most of them, it must also flip more than the same window from unmarked images of the class
   (needs 6): those flips come from the object. One of two conditions must also hold:
   a. Its content is alike in the tested images, and unlike that of all others. The lower end of d' of its local
      contrast must be at least 6, or three times that of the best used places of the other classes. Ignore the top
      eighth of those classes (at least one), because they may contain marks too. Print looks the same in images of any
      class; a half-transparent word is hard to separate from the photograph behind it, but an object is harder still.
      The lower end must be at least 1.75, or 3.5 if fewer than 5 other classes have used places. The pixels that differ
      in contrast must cover at least half of the place, so that an object next to a mark does not pass.
   b. It flips more than a part of an object of its size does: the lower bound of sufficiency is at least 30 times the
      share of the image that it covers. This finds small marks of any look.

Of overlapping marks of a class, the one with the largest effect is the finding.

The thresholds were measured on digits at 32 x 32 (tests/support/planted_worlds.py, two networks, 1,000 audited images).
In 82 worlds, 2,614 used places of objects had a d' of at most 5.4 with a lower end of at most 2.9, and flipped at most
7 times their area. For 3,295 places of digits on photographs the lower end was at most 1.7. For printed figures it was
at most 4.6 (72 worlds, 12 faces, centered to the pixel or to two, half of them on photographs; not in the benchmark).
Of 16 marks that cost 20 points, the best place had a lower end of 7 to 73; on photographs some have 2 to 4. Places of
objects with a lower end of 1.75 or more had at most 2.5 times the value of all other classes but one. There were 59 of
them in 328 worlds of digits, none on photographs; printed figures reached 2.4 times. Words on photographs had 4.2 times
or more. A square mark of side 4 flips up to 65 times its area. `make bench ARGS=shortcuts` counts hits and false alarms
in other worlds.

A color cast is alike by the same threshold. If no class has such a cast, one that flips 30 % of other images (lower
bound) and more than the control passes too. Casts that networks were trained to use flipped 37 % or more. Of 820
classes of digits on photographs two came to 34 and 37 % by chance, neither with a p-value below 0.9.
"""

from collections.abc import Sequence

from pipeline.analysis.audit.boxes import area_of, overlap, shared_area
from pipeline.analysis.audit.measure import Trial
from pipeline.analysis.audit.results import LIKE_OBJECT
from pipeline.analysis.audit.thresholds import (
    ALIKE,
    APART,
    CAST_TURNED,
    FOR_ITS_SIZE,
    MOST,
    OTHERS,
    OVER_OTHERS,
    SURELY,
    TURNED,
    USE,
)
from pipeline.analysis.statistics import exceeds


def decide(trials: Sequence[Trial]) -> tuple[list[Trial], list[tuple[Trial, str]]]:
    """The trials that are findings, strongest first, and each other trial with the reason why it is not a finding."""
    used = [trial for trial in trials if _is_used(trial)]
    places = [trial for trial in used if trial.candidate.kind != "colour"]
    marks = [trial for trial in places if _is_mark(trial, places)]
    casts = _casts([trial for trial in used if trial.candidate.kind == "colour"])
    kept = [*_apart(marks), *casts]
    rejected = [(trial, _why_not(trial, used, [*marks, *casts])) for trial in trials if trial not in kept]
    return sorted(kept, key=_strength, reverse=True), rejected


def _apart(found: Sequence[Trial]) -> list[Trial]:
    """The strongest trials of each class that do not overlap."""
    kept: list[Trial] = []
    for trial in sorted(found, key=_strength, reverse=True):
        if not any(_same_class(trial, other) and _overlaps(trial, other) for other in kept):
            kept.append(trial)
    return kept


def _is_used(trial: Trial) -> bool:
    necessary = trial.necessity.value >= USE and exceeds(trial.necessity, trial.control_necessity)
    sufficient = trial.sufficiency.value >= USE and exceeds(trial.sufficiency, trial.control_sufficiency)
    return necessary or sufficient


def _is_mark(trial: Trial, places: Sequence[Trial]) -> bool:
    turned = trial.sufficiency
    if turned.low < TURNED or not exceeds(turned, trial.control_sufficiency):
        return False
    if trial.without and turned.low < MOST and not exceeds(turned, trial.without):
        return False
    if trial.sufficiency.low >= FOR_ITS_SIZE * trial.area:
        return True
    return trial.surely >= _least(_of_others(trial, places)) and _is_mostly_mark(trial)


def _least(others: Sequence[float]) -> float:
    """The lower end of d' that a mark needs, given the largest one of each other class, smallest first."""
    enough = len(others) >= OTHERS
    compared = others[: -max(1, len(others) // 8)] if enough else others
    return max(APART if enough else ALIKE, min(SURELY, OVER_OTHERS * max(compared, default=0.0)))


def _is_mostly_mark(trial: Trial) -> bool:
    """Whether the pixels that differ in contrast cover half of a place; else the object next to it may be used."""
    region = trial.candidate.region
    return trial.extent is not None and shared_area(region, trial.extent) >= area_of(region) / 2


def _casts(used: Sequence[Trial]) -> list[Trial]:
    """Casts that are alike; without any, those that flip many: an image that lacks the cast of its class flips too."""
    alike = [trial for trial in used if trial.surely >= ALIKE]
    return alike or [one for one in used if one.sufficiency.low >= max(CAST_TURNED, one.control_sufficiency.high)]


def _of_others(trial: Trial, places: Sequence[Trial]) -> list[float]:
    """The largest lower end of d' in the used places of each other class, smallest first."""
    best: dict[str, float] = {}
    for other in places:
        if not _same_class(trial, other):
            name = other.candidate.class_name
            best[name] = max(best.get(name, 0.0), other.surely)
    return sorted(best.values())


def _why_not(trial: Trial, used: Sequence[Trial], confirmed: Sequence[Trial]) -> str:
    if trial in confirmed:
        return "overlaps a finding: a stronger place of its class"
    if trial not in used:
        others = "other casts" if trial.candidate.kind == "colour" else "random windows"
        return f"the model hardly uses it: under {100 * USE:.0f} % lost or turned, or no more than {others} do"
    if trial.candidate.kind == "colour":
        compared = _compared(trial, ALIKE)
        return f"{LIKE_OBJECT}: its cast varies as much as others {compared}, and it turns too few images"
    least = _least(_of_others(trial, [one for one in used if one.candidate.kind != "colour"]))
    if trial.surely >= least:
        return f"{LIKE_OBJECT}: it has a mark {_compared(trial, least)}, but {_object_used(trial)}"
    compared = _compared(trial, least)
    return f"{LIKE_OBJECT}: its content varies as much as an object, or is similar in other classes {compared}"


def _object_used(trial: Trial) -> str:
    """The first check of a place with a mark that failed."""
    if trial.sufficiency.low < TURNED:
        return f"it may turn under {100 * TURNED:.0f} % of other images (lower bound)"
    if not exceeds(trial.sufficiency, trial.control_sufficiency):
        return "it does not turn more images than random windows"
    if trial.without and trial.sufficiency.low < MOST and not exceeds(trial.sufficiency, trial.without):
        return "it does not turn more images than the same place without the mark"
    return "the mark covers less than half of the place"


def _compared(trial: Trial, least: float) -> str:
    return f"(d' is at least {max(0.0, trial.surely):.1f}, that of a mark {least:.1f} here)"


def _strength(trial: Trial) -> float:
    return trial.necessity.low + trial.sufficiency.low


def _same_class(one: Trial, other: Trial) -> bool:
    return one.candidate.class_name == other.candidate.class_name


def _overlaps(one: Trial, other: Trial) -> bool:
    return overlap(one.candidate.region, other.candidate.region) > 0
