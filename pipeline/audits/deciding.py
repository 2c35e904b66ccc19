"""Which tested places and colours are findings: the model uses them, and they are no part of the object.

A candidate becomes a finding in three steps.

1. *More here than elsewhere*: the corrected permutation p-value is at most 0.05. Nearly every class has such windows.
2. *The model uses it*: at least 20 % of the predictions are lost when it is swapped, or 20 % of other images turn when
   it is pasted in, and that is significantly more than random windows of its size do (Newcombe's interval of the
   difference). 20 % is how use is defined here: accuracy on marked images falls by 20 points without the mark.
3. *It is no part of the object*. Objects are used too: digits are centred and fill the image, and the middle of a 0
   reaches necessity 0.97 and sufficiency 0.61, so that no threshold on these two separates. One of three must hold:
   a. a mark: the content is alike in the images that lean on it and unlike that of all others. The d' of
      `interventions.likeness` is at least 6, and 1.5 times the median of the best used windows of the other classes;
   b. alone: the share is at least 20 times that of the other classes, who find nothing there, and d' is at least 3.5
      (on photographs an opaque mark has a d' of 4 to 5, because what it covers elsewhere varies);
   c. enough by itself: the share, as a multiple of that of the other classes, times the lower bound of sufficiency is
      at least 1.5, and 1.5 times the median of the best used places of the other classes. An object's part is either
      where other classes have theirs, or turns few of them: only large parts turn many.

A colour cast must have a d' of 4, or cost predictions and turn half of the other images (their share of the
attribution is that of the whole image; of classes without a cast none got this far in 12 worlds of tinted digits).

Shapes that are joined from parts (`joining`) are held to (c) alone: of likeness larger places have more by chance.

Thresholds, from digits at 32 x 32 (tests/unit/audits/planted.py, two bagged networks): in 333 worlds of bright corner
marks used windows of objects had a d' of at most 5.1, and a share 18 times that of the other classes at most, at a d'
of 2.7; marks that cost 20 points had a d' of 8 to 270, on photographs of 4 to 5 at about 60 times the share. In 50
worlds of all marks, 766 used places of objects reached at most 1.24 in (c), and 1.12 in 10 worlds with photographs
behind the digits; marks that (a) misses, half-transparent words and patterns on a part of the class, 1.5 to 2.4.
`make bench ARGS=shortcuts` counts hits and false alarms.
"""

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.audits.candidates import overlap
from pipeline.audits.interventions import USE, Trial, exceeds
from pipeline.audits.results import LIKE_OBJECT

MARK, OVER_OTHERS = 6.0, 1.5  # a: d', and times the other classes' median
ALONE, ALONE_LIKENESS = 20.0, 3.5  # b: share over the other classes' share, and d'
ENOUGH = 1.5  # c: share over share, times the lower bound of sufficiency
ENOUGH_LOST, ENOUGH_TURNED = 0.1, 0.3  # c: lower bounds of necessity and of sufficiency
CAST, CAST_TURNED = 4.0, 0.5  # of a colour cast: d', or the lower bound of sufficiency


def decide(trials: Sequence[Trial], joined: Sequence[Trial] = ()) -> tuple[list[Trial], list[tuple[Trial, str]]]:
    """Which trials are findings, strongest first, and why the others are not.

    `joined` are shapes made of parts. Each class gets its marks, and places beside them that are enough by themselves.
    """
    every = [*trials, *joined]
    used = [trial for trial in every if _is_used(trial)]
    places = [trial for trial in used if trial.candidate.kind != "colour"]
    whole = [trial for trial in places if trial not in joined]
    marks = [trial for trial in whole if _is_mark(trial, whole) or _is_alone(trial)]
    casts = [trial for trial in used if trial.candidate.kind == "colour" and _is_cast(trial)]
    kept = _whole(_apart(marks, key=_strength), whole)
    enough = [trial for trial in places if trial not in marks and _is_enough(trial, places)]
    free = [trial for trial in enough if not any(_same_class(trial, cast) for cast in casts)]  # a cast is everywhere
    kept = [*_apart(free, key=_sufficient, beside=kept), *casts]
    confirmed = [*marks, *enough, *casts]
    rejected = [(trial, _why_not(trial, used, confirmed)) for trial in every if trial not in kept]
    return sorted(kept, key=_strength, reverse=True), rejected


def _apart(found: Sequence[Trial], *, key: Callable[[Trial], float], beside: Sequence[Trial] = ()) -> list[Trial]:
    """Those of `beside`, and the largest that overlap none of them, nor each other, in the same class."""
    kept = list(beside)
    for trial in sorted(found, key=key, reverse=True):
        if not any(_same_class(trial, other) and _overlaps(trial, other) for other in kept):
            kept.append(trial)
    return kept


def _whole(kept: Sequence[Trial], used: Sequence[Trial]) -> list[Trial]:
    """Each confirmed place, or the used one around it (`_holds`) that the model uses more: parts of one mark."""
    found: list[Trial] = []
    for trial in kept:
        around = [other for other in used if _same_class(trial, other) and _holds(other, trial)]
        whole = max([trial, *around], key=_strength)
        if not any(_same_class(whole, other) and _overlaps(whole, other) for other in found):
            found.append(whole)
    return found


def _holds(larger: Trial, part: Trial) -> bool:
    """Whether a place is no smaller than another and has at least a quarter of it."""
    (x0, y0, x1, y1), box = part.candidate.region, larger.candidate.region
    area = (x1 - x0) * (y1 - y0)
    across, down = min(x1, box[2]) - max(x0, box[0]), min(y1, box[3]) - max(y0, box[1])
    inside = max(0, across) * max(0, down)
    return (box[2] - box[0]) * (box[3] - box[1]) >= area and inside >= area / 4


def _is_used(trial: Trial) -> bool:
    necessary = trial.necessity.value >= USE and exceeds(trial.necessity, trial.control_necessity)
    sufficient = trial.sufficiency.value >= USE and exceeds(trial.sufficiency, trial.control_sufficiency)
    return necessary or sufficient


def _is_mark(trial: Trial, used: Sequence[Trial]) -> bool:
    return trial.likeness >= max(MARK, OVER_OTHERS * _usual(trial, used, lambda other: other.likeness))


def _is_cast(trial: Trial) -> bool:
    return trial.likeness >= CAST or (
        trial.necessity.low >= ENOUGH_LOST
        and trial.sufficiency.low >= CAST_TURNED
        and trial.sufficiency.low > trial.control_sufficiency.high
    )


def _is_alone(trial: Trial) -> bool:
    return _ratio(trial) >= ALONE and trial.likeness >= ALONE_LIKENESS


def _ratio(trial: Trial) -> float:
    return trial.candidate.share / max(trial.candidate.share_elsewhere, 1e-6)


def _usual(trial: Trial, used: Sequence[Trial], value: Callable[[Trial], float]) -> float:
    """Median over the other classes of their best place's value, where it overlaps none; 0 where none has one."""
    best: dict[str, float] = {}
    for other in used:
        if not _same_class(trial, other) and not _overlaps(trial, other):
            name = other.candidate.class_name
            best[name] = max(best.get(name, 0.0), value(other))
    return float(np.median(list(best.values()))) if best else 0.0


def _is_enough(trial: Trial, used: Sequence[Trial]) -> bool:
    if trial.necessity.low < ENOUGH_LOST or trial.sufficiency.low < ENOUGH_TURNED:
        return False
    controlled = trial.sufficiency.low > trial.control_sufficiency.high
    return controlled and _sufficient(trial) >= max(ENOUGH, OVER_OTHERS * _usual(trial, used, _sufficient))


def _why_not(trial: Trial, used: Sequence[Trial], confirmed: Sequence[Trial]) -> str:
    if trial in confirmed:
        return "part of a finding: a stronger place of its class, or its cast, covers it"
    if trial not in used:
        others = "other casts" if trial.candidate.kind == "colour" else "random windows"
        return f"the model hardly uses it: under {100 * USE:.0f} % lost or turned, or no more than {others} do"
    if trial.candidate.kind == "colour":
        return (
            f"{LIKE_OBJECT}: its cast varies as others do (d' {trial.likeness:.1f}, {CAST:.0f} is alike) and turns few"
        )
    return (
        f"{LIKE_OBJECT}: no more than such windows of other classes, and its content varies as "
        f"theirs does (d' {trial.likeness:.1f}, a mark has {MARK:.0f} or more)"
    )


def _sufficient(trial: Trial) -> float:
    return _ratio(trial) * trial.sufficiency.low


def _strength(trial: Trial) -> float:
    return trial.necessity.low + trial.sufficiency.low


def _same_class(one: Trial, other: Trial) -> bool:
    return one.candidate.class_name == other.candidate.class_name


def _overlaps(one: Trial, other: Trial) -> bool:
    return overlap(one.candidate.region, other.candidate.region) > 0
