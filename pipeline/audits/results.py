"""What an audit says, in plain values and sentences: findings, candidates that failed, figures per class."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.audits.candidates import Box
from pipeline.audits.material import By


@dataclass(frozen=True)
class Finding:
    """A shortcut: a place whose content the model takes for a class. Rates and shares are 0..1."""

    class_name: str
    kind: Literal["window"]
    region: Box  # x0, y0, x1, y1 in pixels of the model's input, x1 and y1 exclusive
    place: str  # the region in words
    images: int  # examined images of the class that lean on it: more than 95 % of the other classes' images do
    examined: int  # images of the class that were looked at: all of them, or a random sample
    share: float  # of the class's positive attribution, mean over its images
    share_elsewhere: float  # the same window in the other classes
    necessity: float  # predictions lost when the window is swapped, among the images that lean on it most
    necessity_interval: tuple[float, float]  # 95 %
    sufficiency: float  # images of other classes that turn into this one when the window is pasted in
    sufficiency_interval: tuple[float, float]
    control_necessity: float  # the same at random places
    control_sufficiency: float
    likeness: float  # how far the window's content sets the leaning images apart, in standard deviations
    p_value: float  # permutation, corrected for every window tried
    examples: tuple[str, ...]  # keys of images that lean on it most

    @property
    def sentence(self) -> str:
        """The finding in one sentence."""
        x0, y0, x1, y1 = self.region
        some = "" if self.images >= 0.9 * self.examined else f" in {self.images} of {self.examined} images"
        return (
            f"Class {self.class_name!r} leans on the {self.place} (x {x0}-{x1}, y {y0}-{y1}){some}: it holds "
            f"{_percent(self.share)} % of the class's positive attribution ({_percent(self.share_elsewhere)} % in "
            f"other classes); swapping it with other images loses {_percent(self.necessity)} % of the predictions "
            f"{_interval(self.necessity_interval)}, and pasting it into other images turns "
            f"{_percent(self.sufficiency)} % of them into {self.class_name!r} {_interval(self.sufficiency_interval)} "
            f"(random windows: {_percent(self.control_necessity)} % and {_percent(self.control_sufficiency)} %)."
        )


LIKE_OBJECT = "used, but like a part of the object"  # how the reason of such a window begins


@dataclass(frozen=True)
class Unconfirmed:
    """A window that was looked at and is no finding. Rates are None where no test was run."""

    class_name: str
    kind: Literal["window"]
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
        """Whether the model uses it: a part of the object, or a mark that the tests cannot tell from one."""
        return self.reason.startswith(LIKE_OBJECT)

    @property
    def effect(self) -> float:
        """Predictions lost plus images turned, 0..2; 0 where no test was run."""
        return (self.necessity or 0.0) + (self.sufficiency or 0.0)

    @property
    def sentence(self) -> str:
        """The window in one sentence."""
        x0, y0, x1, y1 = self.region
        return (
            f"class {self.class_name!r}, {self.place} (x {x0}-{x1}, y {y0}-{y1}): "
            f"{_percent(self.necessity or 0)} % lost, {_percent(self.sufficiency or 0)} % turned"
        )


@dataclass(frozen=True, eq=False)
class ClassFigures:
    """One class over the whole run. Figures are None where no row has them."""

    class_name: str
    images: int
    accuracy: float | None  # over the images with a label; by label: the recall, by predicted: the precision
    completeness_gap: float | None  # median
    error_estimate: float | None  # median
    error_estimate_p90: float | None
    border_share: float | None  # mean
    member_disagreement: float | None  # median
    mean_map: NDArray[np.float32]  # (H, W), summed over channels, in output units
    mean_absolute_map: NDArray[np.float32]  # (H, W)


@dataclass(frozen=True, eq=False)
class Audit:
    """All that an audit says."""

    run_id: str
    by: By
    seed: int
    images: int  # with a map
    accuracy: float | None
    findings: tuple[Finding, ...]  # strongest first
    candidates: tuple[Unconfirmed, ...]  # looked at, not confirmed
    classes: tuple[ClassFigures, ...]
    failed: Mapping[str, int]  # reason -> images
    remarks: tuple[str, ...]  # what could not be looked at, and why
    searched: bool = True  # whether there were two classes to compare

    @property
    def doubtful(self) -> tuple[Unconfirmed, ...]:
        """Windows that the model uses and the tests could not tell from a part of the object, strongest first."""
        return tuple(one for one in self.candidates if one.used)

    @property
    def verdict(self) -> Literal["found", "look", "none", "not searched"]:
        """What somebody should do: act, look for themselves, or nothing."""
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
        looked = f"{len(self.candidates)} suspicious windows were looked at." if self.candidates else ""
        if not self.doubtful:
            return f"No shortcut was found. {looked}".strip()
        strongest = "; ".join(one.sentence for one in self.doubtful[:3])
        return (
            f"No shortcut was confirmed. {looked} The model uses {len(self.doubtful)} of them: parts of the objects, "
            f"as far as the tests can tell, but a mark whose content varies looks the same to them. Look for yourself, "
            f"the strongest first: {strongest}."
        )

    def to_json(self) -> str:
        """One JSON object: findings, candidates, classes, failed, and what the audit was made of."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
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
            "classes": [_plain(one) for one in self.classes],
            "failed": dict(self.failed),
            "remarks": list(self.remarks),
        }


def place_name(region: Box, size: tuple[int, int]) -> str:
    """A region in words, for an image of (height, width): 'top-left corner', 'left border', 'upper left', 'centre'."""
    (height, width), (x0, y0, x1, y1) = size, region
    across = _third(x0, x1, width, ("left", "", "right"))
    down = _third(y0, y1, height, ("top", "", "bottom"))
    if not across and not down:
        return "centre"
    flush_x = min(x0, width - x1) <= width / 16
    flush_y = min(y0, height - y1) <= height / 16
    if across and down:
        inner = {"top": "upper", "bottom": "lower"}[down]
        return f"{down}-{across} corner" if flush_x and flush_y else f"{inner} {across}"
    border = flush_x if across else flush_y
    return f"{across or down} {'border' if border else 'part'}"


def _third(start: int, end: int, length: int, names: tuple[str, str, str]) -> str:
    return names[min(2, int(3 * (start + end) / 2 / length))]


def _plain(one: Finding | Unconfirmed | ClassFigures) -> dict[str, Any]:
    values = {name: value for name, value in vars(one).items() if not isinstance(value, np.ndarray)}
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return {"class": values.pop("class_name"), **values}


def _percent(value: float) -> str:
    return f"{100 * value:.0f}"


def _interval(bounds: tuple[float, float]) -> str:
    return f"[{_percent(bounds[0])}, {_percent(bounds[1])}]"
