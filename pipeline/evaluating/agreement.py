"""Where the members of an ensemble agree in sign, weighted by the map: what a reader may take from it."""

import torch
from torch import Tensor

from pipeline.evaluating.subject import Subject


def measure_agreement(subject: Subject) -> dict[str, Tensor]:
    """Share of the map's absolute weight where all, and where more than half of the members agree; (N,) each."""
    found = subject.found
    return {
        "sign_agreement_all": share_agreed(found.mean, found.sign_agreement >= 1),
        "sign_agreement_most": share_agreed(found.mean, found.sign_agreement > 0.5),
    }


def share_agreed(maps: Tensor, agreed: Tensor) -> Tensor:
    """Share of |map| where `agreed`, both (N, ...): (N,) float64, NaN where the map is 0."""
    weight = maps.flatten(1).double().abs()
    return torch.where(agreed.flatten(1), weight, 0.0).sum(1) / weight.sum(1)
