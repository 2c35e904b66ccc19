"""One audit, start to end: a pass over the rows, a pass over the maps, then the shortcut tests.

Memory does not grow with the data set. It holds a batch of maps, a few maps per class, and for at most 10,000 images
(256 per class) the row and the shares in some 500 windows and in 32 x 32 cells. The sample is random and seeded; every
finding states its size.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from db.records import ImageRow
from pipeline.analysis.audit.boxes import Boxes, grid_shares, grid_step, window_shares, windows
from pipeline.analysis.audit.classes import MEDIAN_OF, SKETCHED_OVERALL, ClassSums, block_step, by_class
from pipeline.analysis.audit.clusters import cluster_classes
from pipeline.analysis.audit.results import Audit, Finding, Unconfirmed
from pipeline.analysis.audit.search import Examined, find_shortcuts
from pipeline.analysis.audit.survey import Survey, survey
from pipeline.analysis.audit.thresholds import MIN_IMAGES
from pipeline.runs.view import By, Floats, RunView

UNSEEN = 0.1  # tolerated error of a map if the run has no tolerance
SMALL = 0.1  # share of the run's median |F(x) - F(x')| below which a completeness gap is not informative
OnProgress = Callable[[str, int, int], None]  # stage, number done, total


def audit(view: RunView, *, by: By = "predicted", seed: int = 0, on_progress: OnProgress = lambda *_: None) -> Audit:
    """Figures per class and shortcuts of a whole run.

    Args:
        view: the run; the result depends only on it, `by` and `seed`.
        by: classes are the predicted ones, or the labels.
        seed: determines the samples, permutations and donors.
        on_progress: receives a stage ("maps" or "places"), the number done, and the total.
    """
    gone = _Gone(view.available)
    view = replace(view, available=gone)
    seen = survey(view.rows, by, seed)
    sample, remarks = _examined(view, seen)
    pass_ = _Pass(view, seen, sample, by)
    for done in pass_.run():
        on_progress("maps", done, seen.images)
    examined = pass_.examined(seed)
    findings: list[Finding] = []
    candidates: list[Unconfirmed] = []
    comparable = searched = len(examined.rows) >= 2
    if comparable:
        findings, candidates, searched = find_shortcuts(
            view, examined, seed=seed, on_tested=lambda done, of: on_progress("places", done, of)
        )
    unfinished, untested = _unfinished(view, seen), gone.untested(examined.rows)
    pixels = view.size[0] * view.size[1]
    differences = pass_.overall.sketches["difference"]
    return Audit(
        run_id=view.run.id,
        by=by,
        seed=seed,
        images=seen.images,
        overall=pass_.overall.figures("", pixels),
        findings=tuple(findings),
        candidates=tuple(candidates),
        classes=tuple(pass_.sums[name].figures(name, pixels) for name in seen.names),
        clusters=tuple(examined.clusters),
        failed=seen.failed,
        remarks=(*unfinished, *gone.remarks(), *untested, *remarks),
        tolerance=tolerance_of(view),
        unreliable_gaps=differences.share_below(SMALL * (differences.quantile(0.5) or 0)),
        searched=searched,
        complete=searched is comparable and not unfinished and not untested,
        sample={row.key: row for part in sample.values() for row in part},
        failures=tuple(seen.failures),
    )


def tolerance_of(view: RunView) -> float:
    """The error of a map above which it is counted as uncertain."""
    return view.spec.tolerance or UNSEEN


@dataclass
class _Gone:
    """Checks once for each image whether it is still available, and remembers the result."""

    ask: Callable[[ImageRow], bool]
    known: dict[int, bool] = field(default_factory=dict)

    def __call__(self, row: ImageRow) -> bool:
        if row.row not in self.known:
            self.known[row.row] = self.ask(row)
        return self.known[row.row]

    def remarks(self) -> list[str]:
        missing = sum(not there for there in self.known.values())
        if not missing:
            return []
        return [
            f"{missing} of {len(self.known)} images that the shortcut tests requested are gone or have changed since "
            "the run; the tests leave them out"
        ]

    def untested(self, sample: Mapping[str, Sequence[ImageRow]]) -> list[str]:
        """Remark on the classes of which images are gone and too few are left."""
        lost = [
            name for name, rows in sample.items()
            if any(not self.known.get(row.row, True) for row in rows)
            and sum(1 for _ in islice(filter(self, rows), MIN_IMAGES)) < MIN_IMAGES
        ]  # fmt: skip
        few = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
        return (
            [f"fewer than {MIN_IMAGES} images are left of {len(lost)} classes, which were not tested: {few}"]
            if lost
            else []
        )


class _Pass:
    """The pass over the maps: sums of all images, shares of the sampled ones."""

    def __init__(self, view: RunView, seen: Survey, sample: Mapping[str, Sequence[ImageRow]], by: By) -> None:
        self._view, self._sample, self._by = view, sample, by
        step = block_step(len(seen.names), *view.size)
        tolerance = tolerance_of(view)
        self.sums = {name: ClassSums(step, tolerance) for name in seen.names}
        self.overall = ClassSums(step, tolerance, SKETCHED_OVERALL)
        self._boxes: Boxes = windows(*view.size)
        self._step = grid_step(*view.size)
        self._wanted = {row.row for part in sample.values() for row in part}
        self._kept = {row.row for part in seen.sample.values() for row in part[:MEDIAN_OF]}
        self._shares: dict[int, Floats] = {}  # row number -> (k,)
        self._grids: dict[int, Floats] = {}  # row number -> (h, w)

    def run(self) -> Iterator[int]:
        """Read all maps; yields the number read so far."""
        done = 0
        for rows, maps, spreads in self._view.read_maps():
            self._reduce(rows, maps, spreads)
            picked = [place for place, row in enumerate(rows) if row.row in self._wanted]
            shares, grids = window_shares(maps[picked], self._boxes), grid_shares(maps[picked], self._step)
            for place, share, grid in zip(picked, shares, grids, strict=True):
                self._shares[rows[place].row], self._grids[rows[place].row] = share, grid
            done += len(rows)
            yield done

    def examined(self, seed: int) -> Examined:
        """The rows, shares and clusters of the sampled images."""
        grids = {name: np.stack([self._grids[row.row] for row in part]) for name, part in self._sample.items()}
        return Examined(
            rows=self._sample,
            shares={name: np.stack([self._shares[row.row] for row in part]) for name, part in self._sample.items()},
            grids=grids,
            boxes=self._boxes,
            size=self._view.size,
            step=self._step,
            clusters=cluster_classes(self._sample, grids, seed),
        )

    def _reduce(self, rows: Sequence[ImageRow], maps: Floats, spreads: Floats | None) -> None:
        self.overall.add_rows(rows)
        for name, places in by_class(rows, self._by).items():
            part, sums = [rows[place] for place in places], self.sums[name]
            sums.add_rows(part)
            keep = [row.row in self._kept for row in part]
            sums.add_maps(maps[places], None if spreads is None else spreads[places], keep)


def _unfinished(view: RunView, seen: Survey) -> list[str]:
    of, done = view.run.image_count, seen.images + sum(seen.failed.values())
    return [f"the run is not finished: {done} of {of} images are done, and the audit covers these"] if done < of else []


def _examined(view: RunView, seen: Survey) -> tuple[dict[str, list[ImageRow]], tuple[str, ...]]:
    """Images per class for the shortcut search, whose map must explain their class, and remarks on classes left out."""
    known = set(view.spec.class_names)
    examined = {name: part for name, part in seen.explained.items() if name in known and len(part) >= MIN_IMAGES}
    small = [name for name in seen.names if name not in examined]
    few = ", ".join(small[:5]) + (", ..." if len(small) > 5 else "")
    if len(examined) < 2:
        fewer = f" (fewer: {few})" if small else ""
        return examined, (
            f"a search for shortcuts needs two classes with {MIN_IMAGES} images or more whose map explains the class, "
            f"and {len(examined) or 'none'} of {len(seen.names)} has them{fewer}",
        )
    if not small:
        return examined, ()
    return examined, (
        f"{len(small)} of {len(seen.names)} classes have fewer than {MIN_IMAGES} images whose map explains the class, "
        f"and were not searched for shortcuts: {few}",
    )
