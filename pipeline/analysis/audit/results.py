"""The results of an audit, as values and sentences: findings, candidates that failed, figures per class."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from db.records import ImageRow
from pipeline.analysis.audit.boxes import Box
from pipeline.analysis.audit.propose import Kind
from pipeline.analysis.audit.thresholds import STRONG
from pipeline.formatting import percent, plural
from pipeline.record_format import FORMAT
from pipeline.runs.view import By, Floats


@dataclass(frozen=True)
class Finding:
    """A shortcut: a place whose content the model takes for a class. Rates and shares are 0..1."""

    class_name: str
    kind: Kind
    region: Box  # x0, y0, x1, y1 in pixels of the model's input, x1 and y1 exclusive; the whole image for a color
    place: str  # the region in words
    images: int  # examined images whose share here exceeds the other classes' 95th percentile
    examined: int  # examined images of the class: all of them, or a random sample
    share: float  # of the class's positive attribution, mean over its images
    share_elsewhere: float  # the same window in the other classes
    necessity: float  # predictions lost when the window is swapped, among the images that lean on it most
    necessity_interval: tuple[float, float]  # 95 %
    necessity_images: int  # images that were swapped, each with several donors
    sufficiency: float  # images of other classes that turn into this one when the window is pasted in
    sufficiency_interval: tuple[float, float]
    sufficiency_images: int  # images it was pasted into
    control_necessity: float  # the same at random places
    control_sufficiency: float
    likeness: float  # how far its content sets the images that are most alike apart, in standard deviations (d')
    p_value: float  # permutation, corrected for every window tried
    examples: tuple[str, ...]  # keys of images that lean on it most

    @property
    def sentence(self) -> str:
        """The finding in words."""
        if self.kind == "colour":
            return self._colour_sentence
        x0, y0, x1, y1 = self.region
        some = "" if self.images >= 0.9 * self.examined else f" in {self.images} of {self.examined} images"
        return (
            f"Class {self.class_name!r} {self._leans} the {self.place} (x {x0}-{x1}, y {y0}-{y1}){some}: it holds "
            f"{percent(self.share)} of the class's positive attribution ({percent(self.share_elsewhere)} in "
            f"other classes). Swapping it in the {self.necessity_images} images that lean on it most loses "
            f"{percent(self.necessity)} of the predictions {_interval(self.necessity_interval)}. Pasting it into "
            f"{self.sufficiency_images} other images turns {percent(self.sufficiency)} of them into "
            f"{self.class_name!r} {_interval(self.sufficiency_interval)} (random windows: "
            f"{percent(self.control_necessity)} and {percent(self.control_sufficiency)})."
        )

    @property
    def _leans(self) -> str:
        """The verb: stronger if the lower bound of either rate is a half or more."""
        most = max(self.necessity_interval[0], self.sufficiency_interval[0])
        return "leans on" if most >= STRONG else "leans in part on"

    @property
    def _colour_sentence(self) -> str:
        return (
            f"Class {self.class_name!r} {self._leans} the color cast of the image in {self.images} of "
            f"{self.examined} images. Giving the {self.necessity_images} that show it most the cast of "
            f"other images loses {percent(self.necessity)} of the predictions {_interval(self.necessity_interval)}. "
            f"Giving theirs to {self.sufficiency_images} other images turns {percent(self.sufficiency)} of them "
            f"into {self.class_name!r} {_interval(self.sufficiency_interval)} (other casts of that size: "
            f"{percent(self.control_necessity)} and {percent(self.control_sufficiency)})."
        )


LIKE_OBJECT = "used, but like a part of the object"  # how the reason of such a place begins


@dataclass(frozen=True)
class Unconfirmed:
    """A candidate that is not a finding. Rates are None if it was not tested."""

    class_name: str
    kind: Kind
    region: Box
    place: str
    images: int
    share: float
    share_elsewhere: float
    necessity: float | None
    sufficiency: float | None
    p_value: float
    reason: str

    @property
    def used(self) -> bool:
        """Whether the model uses it: a part of the object, or a mark that the tests cannot distinguish from one."""
        return self.reason.startswith(LIKE_OBJECT)

    @property
    def effect(self) -> float:
        """Predictions lost plus images turned, 0..2; 0 if it was not tested."""
        return (self.necessity or 0.0) + (self.sufficiency or 0.0)

    @property
    def sentence(self) -> str:
        """The candidate in one line."""
        x0, y0, x1, y1 = self.region
        return (
            f"class {self.class_name!r}, {self.place} (x {x0}-{x1}, y {y0}-{y1}): "
            f"{percent(self.necessity or 0)} lost, {percent(self.sufficiency or 0)} turned"
        )


@dataclass(frozen=True, eq=False)
class ClassMaps:
    """A class in maps (h, w) float32, summed over channels, in output units; h, w are H, W or a coarser grid."""

    mean: Floats
    mean_absolute: Floats
    std: Floats  # over images
    median: Floats | None  # of `median_images` random images; all of them if the class has no more
    median_images: int
    member_std: Floats | None  # mean over images of the standard deviation over members; None for a single one


@dataclass(frozen=True, eq=False)
class ClassFigures:
    """One class over the whole run. Figures are None if no row has them.

    Shares are parts of |map|, means over images. Quantiles are within 1 % of the exact ones.
    """

    class_name: str
    images: int
    accuracy: float | None  # over the images with a label; by label: the recall, by predicted: the precision
    completeness_gap: float | None  # median
    error_estimate: float | None  # median
    error_estimate_p90: float | None
    error_above: float | None  # part of the images whose error estimate is above the audit's `tolerance`
    border_share: float | None  # in the outer eighth on each side
    corner_shares: tuple[float | None, ...]  # top left, top right, bottom left, bottom right: 1/16 of the area each
    center_share: float | None  # in the middle half of each side: 1/4 of the area
    center: tuple[float | None, float | None]  # mean center of mass, x and y, 0..1 from the top left
    center_spread: float | None  # standard deviation of the center of mass over images, in sides of the image
    entropy: float | None  # mean, 0 one pixel .. 1 even
    gini: float | None  # mean, 0 even .. 1 one pixel
    effective_pixels: float | None  # exp of the mean entropy: as if so many pixels mattered, all alike
    member_disagreement: float | None  # median
    sign_agreement: float | None  # mean share of |map| where all members have one sign
    baseline_sensitivity: float | None  # median
    distributions: Mapping[str, Any]  # of `classes.SKETCHED`; see `Sketch.to_dict`
    maps: ClassMaps | None


@dataclass(frozen=True, eq=False)
class Cluster:
    """Images of one class whose maps resemble each other; see `pipeline.analysis.audit.clusters`."""

    class_name: str
    cluster: int  # 0, 1, ...: the largest first
    images: int
    examined: int  # images of the class that were clustered
    examples: tuple[str, ...]  # keys of the images nearest to the middle of the cluster
    rows: tuple[int, ...]  # row numbers of all its images, the nearest to the middle first
    mean_map: Floats  # (h, w), at most 16 x 16: mean share of the positive attribution, sums to 1


@dataclass(frozen=True, eq=False)
class Audit:
    """The results of one audit."""

    run_id: str
    by: By
    seed: int
    images: int  # with a map
    overall: ClassFigures  # all images as one class, without maps
    findings: tuple[Finding, ...]  # strongest first
    candidates: tuple[Unconfirmed, ...]  # tested or not, but not confirmed
    classes: tuple[ClassFigures, ...]
    clusters: tuple[Cluster, ...]  # only classes with enough images have clusters
    failed: Mapping[str, int]  # reason -> images
    remarks: tuple[str, ...]  # omissions and their reasons
    tolerance: float  # errors above it are counted: the run's own, or 0.1
    unreliable_gaps: float | None  # part of the images where |F(x) - F(x')| is below a tenth of the run's median
    searched: bool = True  # whether there were two classes to compare, and images to test with
    complete: bool = True  # whether the run is finished, and images of every class that was searched are still there
    sample: Mapping[str, ImageRow] = field(
        default_factory=dict
    )  # examined images by key, for pictures; not in the JSON
    failures: tuple[ImageRow, ...] = ()  # the first 20 that failed; not in the JSON

    @property
    def accuracy(self) -> float | None:
        """Over all images with a label."""
        return self.overall.accuracy

    @property
    def doubtful(self) -> tuple[Unconfirmed, ...]:
        """Places that the model uses and that may be parts of the object, strongest first."""
        return tuple(one for one in self.candidates if one.used)

    @property
    def verdict(self) -> Literal["found", "look", "none", "not searched"]:
        """The action that the user should take: act on findings, review the doubtful places, or none."""
        if self.findings:
            return "found"
        if not self.searched:
            return "not searched"
        return "look" if self.doubtful else "none"

    @property
    def summary(self) -> str:
        """The result in one sentence or two."""
        if self.findings:
            return " ".join(finding.sentence for finding in self.findings)
        if not self.searched:
            return f"Shortcuts were not searched for: {'; '.join(self.remarks)}."
        looked = f" {_were(len(self.candidates), 'suspicious place')} looked at." if self.candidates else ""
        if not self.doubtful:
            return f"No shortcut was found.{looked}"
        count = len(self.doubtful)
        used = "one of them: a part of the object" if count == 1 else f"{count} of them: parts of the objects"
        strongest = "; ".join(one.sentence for one in self.doubtful[:3])
        return (
            f"No shortcut was confirmed.{looked} According to the tests the model uses {used}, but a mark that looks "
            f"different in each image gives the same result. Review them, the strongest first: {strongest}."
        )

    def to_json(self) -> str:
        """One JSON object: findings, candidates, classes, failed images, and the settings of the audit."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values: the fields of `Audit`, `Finding`, `Unconfirmed`, `ClassFigures` and `Cluster`.

        Their `class_name` is called `class`; the maps of classes are not in it (`arrays`), those of clusters are.
        """
        return {
            "format": FORMAT,
            "run": self.run_id,
            "by": self.by,
            "seed": self.seed,
            "images": self.images,
            "failed_images": sum(self.failed.values()),
            "accuracy": self.accuracy,
            "verdict": self.verdict,
            "summary": self.summary,
            "findings": [_plain(one) | {"sentence": one.sentence} for one in self.findings],
            "candidates": [_plain(one) for one in self.candidates],
            "overall": {name: value for name, value in _plain(self.overall).items() if name != "class"},
            "classes": [_plain(one) for one in self.classes],
            "clusters": [_plain(one) | {"mean_map": _rounded(one.mean_map)} for one in self.clusters],
            "complete": self.complete,
            "tolerance": self.tolerance,
            "unreliable_gaps": self.unreliable_gaps,
            "failed": dict(self.failed),
            "remarks": list(self.remarks),
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Maps of all classes for an .npz: `classes` (n,) names, and (n, h, w) float32 each, NaN for a missing map.

        `mean`, `mean_absolute`, `std`, `median`, `member_std`; see `ClassMaps`.
        """
        kept = [one for one in self.classes if one.maps is not None]
        found: dict[str, NDArray[Any]] = {"classes": np.array([one.class_name for one in kept], dtype=np.str_)}
        for name in ("mean", "mean_absolute", "std", "median", "member_std") if kept else ():
            maps = [getattr(one.maps, name) for one in kept]
            shape = next(one.maps.mean.shape for one in kept if one.maps)
            found[name] = np.stack([np.full(shape, np.nan, np.float32) if one is None else one for one in maps])
        return found


def _were(count: int, noun: str) -> str:
    return f"{plural(count, noun)} {'was' if count == 1 else 'were'}"


def _plain(one: Finding | Unconfirmed | ClassFigures | Cluster) -> dict[str, Any]:
    left_out = (np.ndarray, ClassMaps)
    values = {name: value for name, value in vars(one).items() if not isinstance(value, left_out) and name != "maps"}
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return {"class": values.pop("class_name"), **values}


def _rounded(values: Floats) -> list[list[float]]:
    return [[float(f"{value:.3g}") for value in row] for row in values]


def _interval(bounds: tuple[float, float]) -> str:
    return f"[{100 * bounds[0]:.0f}, {100 * bounds[1]:.0f}]"
