"""From candidates to findings: which windows does the model take for a class?

Candidates are windows at several sizes and strips along borders, of a class or of a cluster of its maps, the shapes
that these grow to (`fitting`), and colour casts (`colours`). One becomes a finding in three steps. Of findings that
overlap the one that is used most is kept, and a place around it that the model uses still more stands for it.

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
   c. an outlier: the share is at least 5 times that of the other classes, and the lower bounds of necessity (at least
      0.2) and sufficiency (at least 0.1) add up to 0.7 or more, and to more than any such window of the other classes
      reaches (windows at the same place and marks aside).

The thresholds were set with windows alone; `make bench ARGS=shortcuts` counts hits and false alarms of all kinds of
candidates. Measured then, on digits at 32 x 32 (tests/unit/audits/planted.py): two bagged networks, 300 held-out
images, a bright 4 x 4 mark in one corner of one class, all ten classes and four corners; black background, the same
under noise of 0.15 and 0.4, or photographs behind the digits. 333 worlds; 40 of them (20 clean, 11 used, all 11 found)
were drawn after the thresholds were set. "Costs" is the accuracy on marked images minus that on the same images without
the mark.

| | black or noise: found / worlds | photographs | false findings |
| --- | --- | --- | --- |
| no mark | 0 / 77 | 0 / 7 | 0 |
| mark in the images, networks trained without it | 0 / 18 | 0 / 1 | 0 |
| every image of the class marked, costs >= 20 points | 30 / 31 | 12 / 13 | 0 |
| half of the images marked, costs >= 20 points | 7 / 7 | 5 / 7 | 0 |
| costs 10 to 20 points | 12 / 31 | 5 / 10 | 0 |
| costs less (found: pasting it turns 20 to 100 % of other images) | 17 / 111 | 3 / 20 | 0 |

Of the four misses two cost 21 points and stay within the noise of step 2; two are half-marked classes on photographs
that fail step 3. In the first 125 worlds, used windows of objects had a d' of at most 5.1 (one of 11 stayed below step
2: a 7 whose tip reaches into the corner), a share up to 18 times that of the other classes at a d' of 2.7, and at most
6 times at a d' above 3.5. Marks that cost 20 points: d' 8 to 270 and a share 5 to 23 times, on photographs d' 4 to 5
and about 60 times. At a fifth of the images no network used the mark by 20 points.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from db.records import ImageRow
from pipeline.audits.candidates import Boxes, Candidate, Scan, overlap
from pipeline.audits.colours import propose_colours, read_palette, run_colour_trial
from pipeline.audits.fitting import fit_all
from pipeline.audits.interventions import USE, Trial, draw_pool, exceeds, run_trial
from pipeline.audits.material import Floats, Material
from pipeline.audits.results import LIKE_OBJECT, Cluster, Finding, Unconfirmed, place_name

ALPHA = 0.05
MARK, OVER_OTHERS = 6.0, 1.5  # a: d', and times the other classes' median
ALONE, ALONE_LIKENESS = 20.0, 3.5  # b: share over the other classes' share, and d'
OUTLIER_RATIO = 5.0  # c: share over share
OUTLIER = (0.2, 0.1, 0.7)  # c: lower bounds of necessity, of sufficiency, and their sum
CAST = 4.0  # d' of a colour cast
FAMILIES = 2  # of permutation tests, windows and colours: p-values are multiplied by it (Bonferroni)
TESTED = 90  # places, and as many colour casts, that are tested at most, the strangest first
PERMUTATIONS = 199


@dataclass(frozen=True)
class Examined:
    """The sampled images of each class and what their maps say."""

    rows: Mapping[str, Sequence[ImageRow]]  # by class, n each
    shares: Mapping[str, Floats]  # (n, k) in `boxes`
    grids: Mapping[str, Floats]  # (n, h, w), see `fitting.grid_shares`
    boxes: Boxes
    size: tuple[int, int]  # height and width, in pixels
    step: int  # side of a grid's cell, in pixels
    clusters: Sequence[Cluster]


def find_shortcuts(
    material: Material, examined: Examined, *, seed: int, on_tested: Callable[[int, int], None] = lambda *_: None
) -> tuple[list[Finding], list[Unconfirmed], bool]:
    """Findings, strongest first, the candidates that failed, and whether any was tested: not where images are gone.

    Of those that failed, the ones that the model uses come first.
    `on_tested` is told how many candidates of how many were tested.
    """
    pool = draw_pool(material, list(chain.from_iterable(examined.rows.values())), np.random.default_rng([seed, 1]))
    palette = read_palette(material, examined.rows)
    colours = propose_colours(palette, material.size, permutations=PERMUTATIONS, seed=seed)
    proposed = [replace(one, p_value=min(1.0, FAMILIES * one.p_value)) for one in [*_places(examined, seed), *colours]]
    trials: list[Trial] = []
    failed: list[tuple[Candidate, Trial | None, str]] = []
    for number, candidate in enumerate(proposed):
        on_tested(number, len(proposed))
        if reason := _not_worth_testing(candidate, [one.candidate for one in trials]):
            failed.append((candidate, None, reason))
            continue
        index = material.spec.class_names.index(candidate.class_name)
        if candidate.kind == "colour":
            trial = run_colour_trial(material, candidate, palette, pool, index=index, seed=seed)
        else:
            rows = examined.rows[candidate.class_name]
            trial = run_trial(material, candidate, rows, pool, index=index, seed=seed)
        if trial is None:
            failed.append((candidate, None, "too few images lean on it for a test"))
        else:
            trials.append(trial)
    confirmed, rejected = decide(trials)
    failed += [(trial.candidate, trial, reason) for trial, reason in rejected]
    findings = [_finding(trial, len(examined.rows[trial.candidate.class_name]), material.size) for trial in confirmed]
    places = [_unconfirmed(*one, size=material.size) for one in failed]
    return findings, sorted(places, key=lambda one: (not one.used, -one.effect, one.p_value)), bool(len(pool.pixels))


def _places(examined: Examined, seed: int) -> list[Candidate]:
    """Windows of classes and of clusters, the strangest first, each followed by the shape of what it found."""
    scan = Scan(examined.shares, examined.boxes, permutations=PERMUTATIONS, seed=seed)
    windows = scan.proposed()
    for cluster in examined.clusters:
        if cluster.images < cluster.examined:
            positions = {row.row: place for place, row in enumerate(examined.rows[cluster.class_name])}
            one = scan.of_cluster(cluster.class_name, [positions[row] for row in cluster.rows])
            if one is not None and not any(_twin(one, other) for other in windows):
                windows.append(one)
    windows.sort(key=lambda one: -one.score)
    return fit_all(windows, examined.grids, examined.size, examined.step)


def _twin(one: Candidate, other: Candidate) -> bool:
    return one.class_name == other.class_name and overlap(one.region, other.region) > 0.5


def decide(trials: Sequence[Trial]) -> tuple[list[Trial], list[tuple[Trial, str]]]:
    """Which trials are findings, strongest first, and why the others are not."""
    used = [trial for trial in trials if _is_used(trial)]
    places = [trial for trial in used if trial.candidate.kind != "colour"]
    marks = [trial for trial in places if _is_mark(trial, places) or _is_alone(trial)]
    outliers = [trial for trial in places if trial not in marks and _is_outlier(trial, trials, marks)]
    casts = [trial for trial in used if trial.candidate.kind == "colour" and _is_cast(trial)]
    kept: list[Trial] = []
    for trial in sorted(marks + outliers, key=_strength, reverse=True):
        if not any(_same_class(trial, other) and _overlaps(trial, other) for other in kept):
            kept.append(trial)
    kept = _whole(kept, places)
    kept += casts
    confirmed = [*marks, *outliers, *casts]
    rejected = [(trial, _why_not(trial, used, confirmed)) for trial in trials if trial not in kept]
    return sorted(kept, key=_strength, reverse=True), rejected


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
    return trial.likeness >= max(MARK, OVER_OTHERS * _usual_likeness(trial, used))


def _is_cast(trial: Trial) -> bool:
    return trial.likeness >= CAST


def _is_alone(trial: Trial) -> bool:
    return _ratio(trial) >= ALONE and trial.likeness >= ALONE_LIKENESS


def _ratio(trial: Trial) -> float:
    return trial.candidate.share / max(trial.candidate.share_elsewhere, 1e-6)


def _usual_likeness(trial: Trial, used: Sequence[Trial]) -> float:
    """Median over the other classes of their best used window's d'; 0 where none has one."""
    best: dict[str, float] = {}
    for other in used:
        if not _same_class(trial, other) and not _overlaps(trial, other):
            name = other.candidate.class_name
            best[name] = max(best.get(name, 0.0), other.likeness)
    return float(np.median(list(best.values()))) if best else 0.0


def _is_outlier(trial: Trial, trials: Sequence[Trial], marks: Sequence[Trial]) -> bool:
    if _ratio(trial) < OUTLIER_RATIO or trial.necessity.low < OUTLIER[0] or trial.sufficiency.low < OUTLIER[1]:
        return False
    reached = [
        other.necessity.value + other.sufficiency.value
        for other in trials
        if not (_same_class(trial, other) or _overlaps(trial, other) or other in marks)
        and _ratio(other) >= OUTLIER_RATIO
    ]
    return _strength(trial) > max([OUTLIER[2], *reached])


def _why_not(trial: Trial, used: Sequence[Trial], confirmed: Sequence[Trial]) -> str:
    if trial in confirmed:
        return "part of a finding: it overlaps a stronger window of its class"
    if trial not in used:
        others = "other casts" if trial.candidate.kind == "colour" else "random windows"
        return f"the model hardly uses it: under {100 * USE:.0f} % lost or turned, or no more than {others} do"
    if trial.candidate.kind == "colour":
        return f"{LIKE_OBJECT}: its cast varies as others do (d' {trial.likeness:.1f}, a shortcut has {CAST:.0f})"
    return (
        f"{LIKE_OBJECT}: no more than such windows of other classes, and its content varies as "
        f"theirs does (d' {trial.likeness:.1f}, a mark has {MARK:.0f} or more)"
    )


def _strength(trial: Trial) -> float:
    return trial.necessity.low + trial.sufficiency.low


def _same_class(one: Trial, other: Trial) -> bool:
    return one.candidate.class_name == other.candidate.class_name


def _overlaps(one: Trial, other: Trial) -> bool:
    return overlap(one.candidate.region, other.candidate.region) > 0


def _not_worth_testing(candidate: Candidate, tested: Sequence[Candidate]) -> str:
    if candidate.p_value > ALPHA:
        return f"no more here than chance would give (p = {candidate.p_value:.3f})"
    alike = sum((one.kind == "colour") == (candidate.kind == "colour") for one in tested)
    return f"not tested: only the {TESTED} strangest are" if alike >= TESTED else ""


def _finding(trial: Trial, examined: int, size: tuple[int, int]) -> Finding:
    one = trial.candidate
    return Finding(
        class_name=one.class_name,
        kind=one.kind,
        region=one.region,
        place="whole image" if one.kind == "colour" else place_name(one.region, size),
        images=one.leaning,
        examined=examined,
        share=one.share,
        share_elsewhere=one.share_elsewhere,
        necessity=trial.necessity.value,
        necessity_interval=(trial.necessity.low, trial.necessity.high),
        sufficiency=trial.sufficiency.value,
        sufficiency_interval=(trial.sufficiency.low, trial.sufficiency.high),
        control_necessity=trial.control_necessity.value,
        control_sufficiency=trial.control_sufficiency.value,
        likeness=trial.likeness,
        p_value=one.p_value,
        examples=trial.examples,
    )


def _unconfirmed(one: Candidate, trial: Trial | None, reason: str, *, size: tuple[int, int]) -> Unconfirmed:
    return Unconfirmed(
        class_name=one.class_name,
        kind=one.kind,
        region=one.region,
        place="whole image" if one.kind == "colour" else place_name(one.region, size),
        images=one.leaning,
        share=one.share,
        share_elsewhere=one.share_elsewhere,
        necessity=trial.necessity.value if trial else None,
        sufficiency=trial.sufficiency.value if trial else None,
        p_value=one.p_value,
        reason=reason,
    )
