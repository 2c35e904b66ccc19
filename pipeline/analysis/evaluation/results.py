"""The results of an evaluation as plain values, and the meaning of each figure."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline.record_format import FORMAT

Better = Literal["lower", "higher"]

# name -> which is better, and one sentence
MEANINGS: dict[str, tuple[Better, str]] = {
    "reproduction": (
        "lower",
        "Relative L1 distance between the stored map and the same map computed again: 0 is the same map.",
    ),
    "deletion_auc": (
        "lower",
        "Area under the class probability while pixels are blurred away, the most relevant first (RISE): a faithful "
        "map removes the evidence first.",
    ),
    "deletion_auc_random": ("lower", "The same with pixels in random order: the score of an uninformative map."),
    "deletion_gain": ("higher", "Random order minus the map: above 0 the map locates the evidence."),
    "insertion_auc": (
        "higher",
        "Area under the class probability while pixels are put into the blurred image, the most relevant first (RISE).",
    ),
    "insertion_auc_random": ("higher", "The same with pixels in random order."),
    "insertion_gain": ("higher", "The map minus random order: above 0 the map locates the evidence."),
    "road_most_relevant_first": (
        "lower",
        "Class probability, mean over the shares removed, when the most relevant pixels are replaced by noisy linear "
        "imputation (ROAD).",
    ),
    "road_least_relevant_first": (
        "higher",
        "The same when the least relevant pixels are removed: the others should be enough for the model.",
    ),
    "road_gap": ("higher", "Least minus most relevant first: 0 is the score of a map of noise."),
    "randomisation_top": (
        "lower",
        "Rank correlation of the map with that of the model whose last layers are initialized again: 1 would mean "
        "that the map does not depend on them.",
    ),
    "randomisation_all": (
        "lower",
        "The same with every layer initialized again: near 0 for a map that explains the model.",
    ),
    "randomisation_all_absolute": (
        "lower",
        "The same of absolute values: Integrated Gradients multiply by x - x', so the image's outline stays.",
    ),
    "max_sensitivity": (
        "lower",
        "Largest relative change of the map (L2) under uniform noise of at most 0.02 on every pixel value.",
    ),
    "infidelity": (
        "lower",
        "Mean squared error of the map's sum over a random square against the change of the output when the square "
        "is replaced by the run's baselines, in squared output units.",
    ),
    "infidelity_relative": (
        "lower",
        "Infidelity over the mean squared change of the output: 0 is exact, 1 is the score of a map of zeros.",
    ),
    "sign_agreement_all": (
        "higher",
        "Share of the map's absolute weight where all members agree on the sign; members with nothing in common reach "
        "0.71 of two, 0.43 of three, 0.25 of four, 0.14 of five.",
    ),
    "sign_agreement_most": (
        "higher",
        "Share of the map's absolute weight where more than half of the members have the map's sign.",
    ),
}


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of the sample."""

    name: str
    value: float
    low: float  # bootstrap 95 % interval over images
    high: float
    better: Better
    images: int
    meaning: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A mean over images along an axis, for plots."""

    name: str
    axis: str  # name of x
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BaselinePair:
    """How far the maps of one baseline are from those of another; means over images, and 10th and 90th percentiles."""

    baseline: str
    other: str
    images: int
    cosine: float  # -1..1, over all values of the map
    cosine_p10: float
    cosine_p90: float
    rank_correlation: float  # Spearman's, of maps summed over channels
    rank_correlation_p10: float
    rank_correlation_p90: float
    distance: float  # L1, relative to the mean L1 norm of both: 0 the same .. 2 no value in common
    distance_p10: float
    distance_p90: float


@dataclass(frozen=True, slots=True)
class ClassAgreement:
    """Share of the maps' weight where members agree in sign, for the images of one explained class."""

    class_name: str
    images: int
    all_members: float
    all_low: float  # bootstrap 95 % interval over images
    all_high: float
    most_members: float
    most_low: float
    most_high: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The results of one evaluation."""

    run_id: str
    images: int  # sampled
    seed: int
    metrics: tuple[Metric, ...]
    curves: tuple[Curve, ...]
    baseline_sensitivity: tuple[BaselinePair, ...]
    sign_agreement: tuple[ClassAgreement, ...]
    remarks: tuple[str, ...]  # omissions and their reasons

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "format": FORMAT,
            "run": self.run_id,
            "images": self.images,
            "seed": self.seed,
            "metrics": [asdict(one) for one in self.metrics],
            "curves": [asdict(one) | {"x": list(one.x), "y": list(one.y)} for one in self.curves],
            "baseline_sensitivity": [asdict(one) for one in self.baseline_sensitivity],
            "sign_agreement": [{"class": one.class_name, **_without_name(one)} for one in self.sign_agreement],
            "remarks": list(self.remarks),
        }


def _without_name(one: ClassAgreement) -> dict[str, Any]:
    values = asdict(one)
    del values["class_name"]
    return values
