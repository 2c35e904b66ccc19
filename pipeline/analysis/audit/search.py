"""Searches for shortcuts: proposes places and color casts, tests them and the marks in them, and decides."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from db.records import ImageRow
from pipeline.analysis.audit.boxes import Boxes, overlap, place_name, union_share
from pipeline.analysis.audit.casts import propose_colours, read_palette, run_colour_trial
from pipeline.analysis.audit.decide import decide
from pipeline.analysis.audit.measure import Trial, draw_pool, run_trial
from pipeline.analysis.audit.propose import Candidate, Scan, fit_all, means_elsewhere, moved
from pipeline.analysis.audit.results import Cluster, Finding, Unconfirmed
from pipeline.analysis.audit.thresholds import ALPHA, FAMILIES, PART, PERMUTATIONS, SAME, TESTED
from pipeline.runs.view import Floats, RunView


@dataclass(frozen=True)
class Examined:
    """The sampled images of each class and the shares of their maps."""

    rows: Mapping[str, Sequence[ImageRow]]  # by class, n each
    shares: Mapping[str, Floats]  # (n, k) in `boxes`
    grids: Mapping[str, Floats]  # (n, h, w), see `boxes.grid_shares`
    boxes: Boxes
    size: tuple[int, int]  # height and width, in pixels
    step: int  # side of a grid's cell, in pixels
    clusters: Sequence[Cluster]


def find_shortcuts(
    view: RunView, examined: Examined, *, seed: int, on_tested: Callable[[int, int], None] = lambda *_: None
) -> tuple[list[Finding], list[Unconfirmed], bool]:
    """Test all candidates of a run.

    Args:
        view: reads images and runs the models.
        examined: the sampled images and their shares.
        seed: determines permutations, donors and receivers.
        on_tested: receives the number of candidates tested, and their total.

    Returns:
        Findings, strongest first; the other candidates, those that the model uses first; and whether images were
        available for the tests.
    """
    pool = draw_pool(view, list(chain.from_iterable(examined.rows.values())), np.random.default_rng([seed, 1]))
    palette = read_palette(view, examined.rows)
    colours = propose_colours(palette, view.size, permutations=PERMUTATIONS, seed=seed)
    proposed = [replace(one, p_value=min(1.0, FAMILIES * one.p_value)) for one in [*_places(examined, seed), *colours]]

    def tested(candidate: Candidate, bare: Sequence[str] | None = None) -> Trial | None:
        index = view.spec.class_names.index(candidate.class_name)
        if candidate.kind == "colour":
            return run_colour_trial(view, candidate, palette, pool, index=index, seed=seed)
        rows = examined.rows[candidate.class_name]
        if bare is None:
            return run_trial(view, candidate, rows, pool, index=index, seed=seed)
        by_key = {row.key: row for row in rows}
        others = [by_key[key] for key in bare if by_key[key].label in (None, by_key[key].predicted)]
        return run_trial(view, candidate, rows, pool, index=index, seed=seed, bare=others)

    trials: list[Trial] = []
    failed: list[tuple[Candidate, Trial | None, str]] = []
    for number, candidate in enumerate(proposed):
        on_tested(number, len(proposed))
        if reason := _not_worth_testing(candidate, [one.candidate for one in trials]):
            failed.append((candidate, None, reason))
            continue
        if (trial := tested(candidate)) is None:
            failed.append((candidate, None, "too few images lean on it for a test"))
        else:
            trials.append(trial)
    for place, bearing, bare in _whole_marks(trials, examined):
        if (trial := tested(bearing, bare)) is not None:
            trials.append(replace(trial, candidate=place, extent=place.region))
    confirmed, rejected = decide(trials)
    failed += [(trial.candidate, trial, reason) for trial, reason in rejected]
    findings = [_finding(trial, len(examined.rows[trial.candidate.class_name]), view.size) for trial in confirmed]
    places = [_unconfirmed(*one, size=view.size) for one in failed]
    return findings, sorted(places, key=lambda one: (not one.used, -one.effect, one.p_value)), bool(len(pool.pixels))


def _places(examined: Examined, seed: int) -> list[Candidate]:
    """Windows of classes and of clusters, largest excess first, each followed by its shape."""
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


def _whole_marks(
    trials: Sequence[Trial], examined: Examined
) -> list[tuple[Candidate, Candidate, Sequence[str] | None]]:
    """The whole of each mark of which a part was tested: its place, the place with only its images, and the other keys.

    Attribution often shows parts of a mark (some strokes of a word); its content shows all of it. If only some of the
    images that lean on the part have the mark, the place is tested on them, even if it was tested on others before.
    """
    elsewhere = means_elsewhere(examined.grids)
    places = [trial.candidate for trial in trials if trial.candidate.kind != "colour"]
    found: list[tuple[Candidate, Candidate, Sequence[str] | None]] = []
    for trial in sorted(trials, key=lambda one: -one.alike_likeness):
        one, box = trial.candidate, trial.extent
        known = [whole for whole, _, _ in found] + ([] if trial.mixed else places)
        regions = [other.region for other in known if other.class_name == one.class_name]
        if box is None or trial.alike_likeness < PART or any(union_share(box, other) >= SAME for other in regions):
            continue
        whole = moved(one, box, examined.grids, elsewhere[one.class_name], examined.step)
        if trial.mixed:
            rows = examined.rows[one.class_name]
            bearing = tuple(position for position in whole.order if rows[position].key in trial.alike)
            found.append((whole, replace(whole, order=bearing, leaning=len(bearing)), trial.bare))
        else:
            found.append((whole, whole, None))
    return found


def _twin(one: Candidate, other: Candidate) -> bool:
    return one.class_name == other.class_name and overlap(one.region, other.region) > 0.5


def _not_worth_testing(candidate: Candidate, tested: Sequence[Candidate]) -> str:
    if candidate.p_value > ALPHA:
        return f"no more here than by chance (p = {candidate.p_value:.3f})"
    alike = sum((one.kind == "colour") == (candidate.kind == "colour") for one in tested)
    return f"not tested: only the {TESTED} with the largest excess are" if alike >= TESTED else ""


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
        necessity_images=trial.necessity.images,
        sufficiency=trial.sufficiency.value,
        sufficiency_interval=(trial.sufficiency.low, trial.sufficiency.high),
        sufficiency_images=trial.sufficiency.images,
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
