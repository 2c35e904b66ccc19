"""Which tested places and colours are findings: the model uses them, and they are no part of the object.

A candidate becomes a finding in three steps.

1. *More here than elsewhere*: the corrected permutation p-value is at most 0.05. Nearly every class has such windows.
2. *The model uses it*: at least 20 % of the predictions are lost when it is swapped, or 20 % of other images turn when
   it is pasted in, and that is significantly more than random windows of its size do (Newcombe's interval of the
   difference). 20 % is how use is defined here: accuracy on marked images falls by 20 points without the mark.
3. *It is a mark, not a part of the object*. Objects are used too: digits are centred and fill the image, and the middle
   of a 0 reaches necessity 0.97 and sufficiency 0.61, so that no threshold on these two separates. It turns at least
   10 % of other images (lower bound; what is only lost may be the object that a mark covers in part), more than random
   windows do, and, unless it turns most, more than the same place of the class's images that do not bear it, where
   there are 6 of them (what these turn is the object's). And one of two must hold:
   a. its content is alike in the tested images, and unlike that of all others (`likeness`): the lower end of d' of its
      local contrast is at least 6, or three times the best used places of the other classes. Of these, one in eight is
      left out, at least one: they may bear marks too. (Print looks the same in all images, whatever the class; before
      photographs a half-transparent word is hard to tell from what is behind it, but objects are harder still.) It is
      at least 1.75, and where fewer than 5 other classes have used places to compare with, 3.5. What sets the contrast
      apart covers at least half of the place, so that no object beside a mark is taken for it;
   b. it turns more than a part of an object of its size does: the lower bound of sufficiency is at least 30 times the
      part of the image that it covers. That finds small marks whatever they look like.

Of marks of a class that overlap, the one that is used most is the finding.

Thresholds, from digits at 32 x 32 (tests/support/planted_worlds.py, two networks, 1,000 audited images): in 82 worlds
2,614 used places of objects had a d' of at most 5.4, its lower end of at most 2.9, and turned at most 7 times their
area; 3,295 of digits on photographs a lower end of at most 1.7; of printed figures (72 worlds, 12 faces, centred to the
pixel or to two, half of them on photographs; not in the benchmark) 4.6. Of 16 marks that cost 20 points the best place
had a lower end of 7 to 73; on photographs some have 2 to 4. Places of objects with a lower end of 1.75 or more had at
most 2.5 times what all other classes reached but one (59 in 328 worlds of digits, none on photographs; 2.4 of printed
figures), words before photographs 4.2 times or more. A mark of 4 x 4 turns up to 65 times its area. `make bench
ARGS=shortcuts` counts hits and false alarms in other worlds.

A colour cast is alike by the same threshold, or, where no class has one that is, turns 30 % of other images (lower
bound) and more than the control does. Casts that networks were lured with turned 37 % or more; of 820 classes of digits
on photographs two came to 34 and 37 % by chance, neither with a p-value below 0.9.
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
    """Which trials are findings, strongest first, and why the others are not."""
    used = [trial for trial in trials if _is_used(trial)]
    places = [trial for trial in used if trial.candidate.kind != "colour"]
    marks = [trial for trial in places if _is_mark(trial, places)]
    casts = _casts([trial for trial in used if trial.candidate.kind == "colour"])
    kept = [*_apart(marks), *casts]
    rejected = [(trial, _why_not(trial, used, [*marks, *casts])) for trial in trials if trial not in kept]
    return sorted(kept, key=_strength, reverse=True), rejected


def _apart(found: Sequence[Trial]) -> list[Trial]:
    """The strongest that overlap none of each other in the same class."""
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
    """The lower end of d' from which content is a mark's, by the largest of each other class, the smallest first."""
    enough = len(others) >= OTHERS
    compared = others[: -max(1, len(others) // 8)] if enough else others
    return max(APART if enough else ALIKE, min(SURELY, OVER_OTHERS * max(compared, default=0.0)))


def _is_mostly_mark(trial: Trial) -> bool:
    """Whether what sets its content apart covers half of a place: else the object beside it may be what is used."""
    region = trial.candidate.region
    return trial.extent is not None and shared_area(region, trial.extent) >= area_of(region) / 2


def _casts(used: Sequence[Trial]) -> list[Trial]:
    """Casts that are alike; if there are none, those that turn many: what lacks the cast of another class turns too."""
    alike = [trial for trial in used if trial.surely >= ALIKE]
    return alike or [one for one in used if one.sufficiency.low >= max(CAST_TURNED, one.control_sufficiency.high)]


def _of_others(trial: Trial, places: Sequence[Trial]) -> list[float]:
    """The largest lower end of d' in the used places of each other class that has any, the smallest first."""
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
        return f"{LIKE_OBJECT}: its cast varies as others do {compared}, and turns few or lacks that of a class"
    least = _least(_of_others(trial, [one for one in used if one.candidate.kind != "colour"]))
    if trial.surely >= least:
        return (
            f"{LIKE_OBJECT}: a mark stands there {_compared(trial, least)}, but the object beside or beneath it may be "
            "what is used: most of the place is no mark, or it turns few images or no more than the place does without "
            "it"
        )
    compared = _compared(trial, least)
    return f"{LIKE_OBJECT}: its content varies as an object's does, or other classes have the like {compared}"


def _compared(trial: Trial, least: float) -> str:
    return f"(d' is at least {max(0.0, trial.surely):.1f}, that of a mark {least:.1f} here)"


def _strength(trial: Trial) -> float:
    return trial.necessity.low + trial.sufficiency.low


def _same_class(one: Trial, other: Trial) -> bool:
    return one.candidate.class_name == other.candidate.class_name


def _overlaps(one: Trial, other: Trial) -> bool:
    return overlap(one.candidate.region, other.candidate.region) > 0
