"""The figures of an audit that a gate may compare: `findings>0`, `border_share>0.3`, `accuracy<0.9`.

All figures are numbers; shares and rates are 0..1. A gate on an unknown figure (no labels, a single member, no finding
because the test images are gone) is exceeded: it cannot be passed.
"""

from collections.abc import Mapping, Sequence

from pipeline.analysis.audit.results import Audit, ClassFigures
from pipeline.spec.gate import Gate

MIN_CLASS_IMAGES = 5  # images that a class needs to count for `class_accuracy` and the other figures of single classes
MEANINGS: Mapping[str, str] = {
    "findings": "shortcuts that were found; 0 is known only for a complete audit",
    "doubtful": "places that the model uses and that may be parts of the object; 0 likewise",
    "failed_images": "images without a map",
    "accuracy": "of all labeled images",
    "class_accuracy": "of the worst class",
    "border_share": "mean over all images",
    "class_border_share": "of the class that leans on the border most",
    "corner_share": "of the class and corner with the largest share",
    "center_share": "mean over all images",
    "completeness_gap": "median",
    "error_estimate": "90th percentile",
    "error_above": "part of the images whose error estimate is above the run's tolerance, or 0.1",
    "member_disagreement": "median",
    "sign_agreement": "mean share of a map where all members have one sign",
    "baseline_sensitivity": "median distance of the maps of two baselines, 0 to 2",
}


def parse_gates(texts: Sequence[str]) -> list[Gate]:
    """Gates of texts such as `findings>0`.

    Raises:
        SpecError: a text is not a comparison of a known figure with a number.
    """
    return [Gate.parse(text, figures=tuple(MEANINGS), most=None, example="'findings>0' or 'accuracy<0.9'")
            for text in texts]  # fmt: skip


def exceeded(audit: Audit, gates: Sequence[Gate]) -> list[str]:
    """The gates that an audit exceeds, each with the value: `border_share>0.3 (0.42)`.

    A gate on an unknown figure, for example the accuracy of images without labels, is exceeded: it cannot be passed.
    """
    known = figures_of(audit)
    return [f"{gate} ({_shown(known[gate.figure])})" for gate in gates if gate.exceeded(known) is not False]


def figures_of(audit: Audit) -> dict[str, float | None]:
    """Every figure of `MEANINGS`; None if it is not known."""
    classes = [one for one in audit.classes if one.images >= MIN_CLASS_IMAGES]
    every = audit.overall
    return {
        "findings": len(audit.findings) or (0 if audit.complete else None),
        "doubtful": len(audit.doubtful) or (0 if audit.complete else None),
        "failed_images": sum(audit.failed.values()),
        "accuracy": every.accuracy,
        "class_accuracy": min(_known(classes, "accuracy"), default=None),
        "border_share": every.border_share,
        "class_border_share": max(_known(classes, "border_share"), default=None),
        "corner_share": max([v for one in classes for v in one.corner_shares if v is not None], default=None),
        "center_share": every.center_share,
        "completeness_gap": every.completeness_gap,
        "error_estimate": every.error_estimate_p90,
        "error_above": every.error_above,
        "member_disagreement": every.member_disagreement,
        "sign_agreement": every.sign_agreement,
        "baseline_sensitivity": every.baseline_sensitivity,
    }


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _known(classes: Sequence[ClassFigures], name: str) -> list[float]:
    return [value for one in classes if (value := getattr(one, name)) is not None]
