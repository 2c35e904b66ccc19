"""How much a map depends on the baseline: maps of each baseline of a run against each other.

Sundararajan, Taly, Yan, Axiomatic attribution for deep networks, 2017, leave the choice to the user; Sturmfels,
Lundberg, Lee, Visualizing the impact of feature attribution baselines, 2020, look at single ones and at averages of
noise and of samples. Here averages of each kind are also compared with the run's own, and with one of their kind: does
averaging make maps agree, or do they depend on which baselines are averaged?
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from torch import Tensor

from pipeline.analysis.evaluation.subject import Subject, as_array, summed
from pipeline.analysis.statistics import Doubles, cosines, rank_correlations
from pipeline.attribution.ensemble import distance
from pipeline.spec.choices import Baseline
from pipeline.spec.run_spec import RunSpec

THIS_RUN = "this run"
AVERAGED = 4  # baselines in an average of a kind
_BLURS = (32, 16, 8, 4)  # sigma: this part of the shorter side

Pair = tuple[str, str]


@dataclass(frozen=True)
class BaselinePlan:
    """The baselines that are tried, and the pairs of them that are compared, by name."""

    variants: dict[str, tuple[Baseline, ...]]
    pairs: tuple[Pair, ...]


def plan_baselines(spec: RunSpec, samples: int) -> BaselinePlan:
    """Choose the baselines to compare for a run.

    Args:
        spec: its baselines are compared pairwise; a single one also with a standard set.
        samples: number of images of the data set that are available for an average.
    """
    side = min(spec.preprocess.height, spec.preprocess.width)
    singles = [*spec.baselines]
    if len(singles) == 1:
        standard = ("black", "white", "mean", f"blurred:sigma={_sigma(side, 8):g}", "uniform:n=1")
        singles += [one for one in map(Baseline.parse, standard) if str(one) != str(singles[0])]
    variants: dict[str, tuple[Baseline, ...]] = {str(one): (one,) for one in singles}
    pairs = list(combinations(variants, 2))
    variants[THIS_RUN] = spec.baselines
    if len(spec.baselines) > 1:
        pairs += [(THIS_RUN, str(one)) for one in spec.baselines]
    for name, average, single in _averages(side, min(samples, AVERAGED)):
        variants |= {name: average, str(single): (single,)}
        pairs += [(THIS_RUN, name), (name, str(single))]
    return BaselinePlan(variants, tuple(dict.fromkeys(pairs)))


def measure_baselines(subject: Subject) -> dict[Pair, Doubles]:
    """Cosine, rank correlation and distance of each pair, (N, 3)."""
    engine = subject.engine
    plan = plan_baselines(engine.spec, 0 if engine.samples is None else len(engine.samples))
    known: dict[tuple[Baseline, ...], Tensor] = {engine.spec.baselines: subject.found.mean}
    for baselines in plan.variants.values():
        if baselines not in known:
            known[baselines] = subject.explain(baselines=baselines).mean
    return {(one, other): _apart(known[plan.variants[one]], known[plan.variants[other]]) for one, other in plan.pairs}


def _apart(one: Tensor, other: Tensor) -> Doubles:
    signed, scores = (as_array(one.flatten(1)), as_array(other.flatten(1))), (summed(one), summed(other))
    ranks = rank_correlations(*map(as_array, scores), reference=True)
    apart = as_array(distance(one.flatten(1), other.flatten(1)))
    return np.stack([cosines(*signed, reference=True), ranks, apart], 1)


def _averages(side: int, samples: int) -> Sequence[tuple[str, tuple[Baseline, ...], Baseline]]:
    """Name, baselines, and one of them, of each kind of average."""
    blurs = tuple(Baseline("blurred", sigma=_sigma(side, part)) for part in _BLURS)
    kinds = [(f"average of {AVERAGED} blurred", blurs, blurs[2])]
    for kind, name, n in (("uniform", "uniform noise", AVERAGED), ("samples", "images of the data set", samples)):
        if n > 1:
            kinds.append((f"average of {n} {name}", (Baseline(kind, n=n),), Baseline(kind, n=1)))
    return kinds


def _sigma(side: int, part: int) -> float:
    return max(side / part, 0.5)
