"""The measures by name, the figures that each adds to an evaluation, and the runs to which it does not apply."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from pipeline.analysis.evaluation import baseline_dependence, randomisation, removal, stability
from pipeline.analysis.evaluation.subject import Subject, as_array
from pipeline.analysis.statistics import Doubles
from pipeline.attribution.ensemble import distance, share_agreed
from pipeline.spec.run_spec import RunSpec


@dataclass
class Measured:
    """Figures of N images. `merge` adds those of others."""

    values: dict[str, Doubles] = field(default_factory=dict)  # by metric, (N,)
    weights: dict[str, Doubles] = field(default_factory=dict)  # of metrics that are ratios of means, (N,)
    curves: dict[str, Doubles] = field(default_factory=dict)  # (N, points)
    axes: dict[str, tuple[str, tuple[float, ...]]] = field(default_factory=dict)  # of curves: name and values of x
    pairs: dict[baseline_dependence.Pair, Doubles] = field(default_factory=dict)  # (N, 3): cosine, rank, distance

    def merge(self, other: "Measured") -> None:
        """Add the images, or the metrics, of another."""
        for name in ("values", "weights", "curves", "pairs"):
            mine, theirs = getattr(self, name), getattr(other, name)
            for key, array in theirs.items():
                mine[key] = np.concatenate([mine[key], array]) if key in mine else array
        self.axes |= other.axes


def skip_reason(name: str, spec: RunSpec) -> str | None:
    """Why a measure does not apply to a run; None if it does."""
    if name in ("deletion", "insertion", "road") and len(spec.class_names) == 1:
        return "the models have one class, whose probability is always 1"
    if name == "agreement" and len(spec.models) == 1:
        return "the run has only one member"
    if name == "baselines" and spec.attribution != "integrated_gradients":
        return f"{spec.attribution} has no baseline to choose"
    if name == "infidelity" and spec.attribution == "saliency":
        return "saliency claims no sums that could be compared with changes of the output"
    return None


def _reproduction(subject: Subject) -> Measured:
    stored, again = subject.maps, subject.found.mean
    again = again.sum(1, keepdim=True) if stored.shape[1] == 1 else again
    return Measured({"reproduction": as_array(distance(stored.flatten(1), again.flatten(1)))})


def _deletion(subject: Subject) -> Measured:
    return _areas(subject, removal.deletion(subject), "deletion", -1)


def _insertion(subject: Subject) -> Measured:
    return _areas(subject, removal.insertion(subject), "insertion", 1)


def _areas(subject: Subject, curves: Mapping[str, Tensor], name: str, sign: int) -> Measured:
    counts = removal.counts_of(subject)
    own, random = (as_array(removal.area(curves[key], counts)) for key in (name, f"{name}_random"))
    shares = tuple((counts / counts[-1]).tolist())
    return Measured(
        {f"{name}_auc": own, f"{name}_auc_random": random, f"{name}_gain": sign * (own - random)},
        curves={key: as_array(values) for key, values in curves.items()},
        axes=dict.fromkeys(curves, ("share of pixels replaced", shares)),
    )


def _road(subject: Subject) -> Measured:
    curves = {name: as_array(values) for name, values in removal.road(subject).items()}
    values = {name: curve.mean(1) for name, curve in curves.items()}
    values["road_gap"] = values["road_least_relevant_first"] - values["road_most_relevant_first"]
    return Measured(values, curves=curves, axes=dict.fromkeys(curves, ("share of pixels removed", removal.ROAD_SHARES)))


def _randomisation(subject: Subject) -> Measured:
    shares, curves = tuple(randomisation.shares_of(subject)), randomisation.correlations(subject)
    signed, absolute = curves["randomisation"], curves["randomisation_absolute"]
    values = {
        "randomisation_top": signed[:, 0],
        "randomisation_all": signed[:, -1],
        "randomisation_all_absolute": absolute[:, -1],
    }
    axis = "share of layers initialized again, from the last"
    return Measured(values, curves=curves, axes=dict.fromkeys(curves, (axis, shares)))


def _sensitivity(subject: Subject) -> Measured:
    return Measured({"max_sensitivity": as_array(stability.measure_sensitivity(subject))})


def _infidelity(subject: Subject) -> Measured:
    errors, changes = (as_array(values) for values in stability.measure_infidelity(subject))
    return Measured({"infidelity": errors, "infidelity_relative": errors}, weights={"infidelity_relative": changes})


def _baselines(subject: Subject) -> Measured:
    return Measured(pairs=baseline_dependence.measure_baselines(subject))


def _agreement(subject: Subject) -> Measured:
    """Share of the map's absolute weight where all, and where more than half of the members agree in sign."""
    found = subject.found
    agreed = {"all": found.sign_agreement >= 1, "most": found.sign_agreement > 0.5}
    return Measured(
        {f"sign_agreement_{who}": as_array(share_agreed(found.mean, where)) for who, where in agreed.items()}
    )


MEASURES: dict[str, Callable[[Subject], Measured]] = {
    "reproduction": _reproduction,
    "deletion": _deletion,
    "insertion": _insertion,
    "road": _road,
    "randomisation": _randomisation,
    "sensitivity": _sensitivity,
    "infidelity": _infidelity,
    "baselines": _baselines,
    "agreement": _agreement,
}
