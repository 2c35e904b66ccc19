"""The model-randomization test: a map that explains the model changes when the model's weights are drawn again.

Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim, Sanity checks for saliency maps, 2018; cascading from the last layer to
the first. Layers are the modules with parameters of their own, in the order in which a forward pass calls them.
"""

import copy
import math

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.analysis.evaluation.subject import Subject, as_array, summed
from pipeline.analysis.statistics import Doubles, rank_correlations

STAGES = 5


def stages(layers: int) -> list[int]:
    """How many of the last layers are randomized at each stage: at most STAGES numbers, the last is all."""
    return sorted({math.ceil(layers * stage / STAGES) for stage in range(1, STAGES + 1)}) if layers else []


@torch.no_grad()
def layers(member: nn.Module, pixels: Tensor) -> list[str]:
    """Names of the modules with parameters of their own, in the order in which they are called.

    A module that is never called itself, as a projection inside an attention layer, is placed with the one around it.
    """
    called: dict[str, int] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, __, name=name: _note(called, name))
        for name, module in member.named_modules()
    ]
    try:
        member(pixels)
    finally:
        for hook in hooks:
            hook.remove()

    def turn(name: str) -> int:
        while name not in called and name:
            name = name.rpartition(".")[0]
        return called.get(name, 0)

    named = [
        name for name, module in member.named_modules() if next(module.parameters(recurse=False), None) is not None
    ]
    return sorted(named, key=turn)


def randomised(member: nn.Module, names: list[str], seed: int) -> nn.Module:
    """A copy whose named modules are initialized again: by their own `reset_parameters`, or their values shuffled.

    With the same seed, more names after the same first ones do not change those: the cascade continues.
    """
    device = next(member.parameters()).device
    made = copy.deepcopy(member).to("cpu")  # draws on the CPU are the same for every device
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for name in names:
            _reset(made.get_submodule(name))
    return made.to(device).eval().requires_grad_(requires_grad=False)


def correlations(subject: Subject) -> dict[str, Doubles]:
    """Rank correlation of the map with the randomized model's: (N, stages) of values, and of absolute values.

    All members of an ensemble are randomized, each with a seed of its own.
    """
    members = subject.engine.members
    device = next(members[0].parameters()).device
    names = [layers(member, subject.pixels[:1].to(device)) for member in members]
    own = as_array(summed(subject.found.mean))
    signed, absolute = [], []
    for share in [count / len(names[0]) for count in stages(len(names[0]))]:
        others = [
            randomised(member, which[::-1][: math.ceil(share * len(which) - 1e-9)], 1000 * subject.seed + index)
            for index, (member, which) in enumerate(zip(members, names, strict=True))
        ]
        other = as_array(summed(subject.explain(members=others).mean))
        signed.append(rank_correlations(own, other, reference=True))
        absolute.append(rank_correlations(np.abs(own), np.abs(other), reference=True))
    return {"randomisation": np.stack(signed, 1), "randomisation_absolute": np.stack(absolute, 1)}


def shares_of(subject: Subject) -> list[float]:
    """Which part of the layers is randomized at each stage."""
    member = subject.engine.members[0]
    count = len(layers(member, subject.pixels[:1].to(next(member.parameters()).device)))
    return [stage / count for stage in stages(count)]


def _note(called: dict[str, int], name: str) -> None:
    called.setdefault(name, len(called))


def _reset(module: nn.Module) -> None:
    for name in ("reset_parameters", "_reset_parameters"):
        reset = getattr(module, name, None)
        if callable(reset):
            reset()
            return
    for parameter in module.parameters(recurse=False):
        flat = parameter.flatten()
        parameter.copy_(flat[torch.randperm(len(flat))].view_as(parameter))
