"""Where the members of an ensemble agree in sign, weighted by the map: what a reader may take from it."""

from torch import Tensor

from pipeline.analysis.evaluation.subject import Subject
from pipeline.attribution.ensemble import share_agreed


def measure_agreement(subject: Subject) -> dict[str, Tensor]:
    """Share of the map's absolute weight where all, and where more than half of the members agree; (N,) each."""
    found = subject.found
    return {
        "sign_agreement_all": share_agreed(found.mean, found.sign_agreement >= 1),
        "sign_agreement_most": share_agreed(found.mean, found.sign_agreement > 0.5),
    }
