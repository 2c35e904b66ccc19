"""Infidelity and max-sensitivity of maps.

Yeh, Hsieh, Suggala, Inouye, Ravikumar, On the (in)fidelity and sensitivity of explanations, 2019. Infidelity takes
squares of random size and place out of an image, as the paper advises for pictures. The sum of the map over a square is
compared with the change of the output when the square is replaced by the run's baselines. With several baselines the
change is their weighted mean, so that averaged Integrated Gradients of a linear model have infidelity 0.
Max-sensitivity is relative to the map's own norm, as in captum.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from pipeline.analysis.evaluation.subject import Score, Subject
from pipeline.attribution import baseline_stack
from pipeline.spec.choices import Baseline

SQUARES = 16  # per image
SIDES = (8, 2)  # a square's side: from this part of the shorter side to that
NOISES = 5  # per image
RADIUS = 0.02  # of the noise, in pixel values


def infidelity(
    score: Score,
    pixels: Tensor,
    targets: Tensor,
    maps: Tensor,
    baselines: Tensor,
    weights: Tensor,
    masks: Tensor,
    batch: int,
) -> tuple[Tensor, Tensor]:
    """Mean squared error of a map's sums against changes of the output, and the mean squared change.

    Args:
        score: maps pixels (B, C, H, W) and targets (B,) to outputs (B,).
        pixels: (N, C, H, W).
        targets: (N,).
        maps: (N, C or 1, H, W).
        baselines: (K, N or 1, C, H, W).
        weights: (K,), summing to 1.
        masks: (N, R, H, W) bool: True for pixels that are replaced by the baselines.
        batch: images that are built at a time.

    Returns:
        Two tensors (N,) float64, in squared output units.
    """
    (N, R), K = masks.shape[:2], len(baselines)
    own = baselines.shape[1] > 1
    rows = torch.arange(N * R * K, device=pixels.device)
    parts = []
    for row in torch.split(rows, batch):
        i, r, k = row // (R * K), row // K % R, row % K
        start = baselines[k, i if own else 0]
        parts.append(score(torch.where(masks[i, r][:, None], start, pixels[i]), targets[i]))
    replaced = torch.cat(parts).view(N, R, K) @ weights.double().to(pixels.device)  # (N, R)
    change = torch.cat(
        [score(x, t) for x, t in zip(torch.split(pixels, batch), torch.split(targets, batch), strict=True)]
    )[:, None]
    change = change - replaced
    sums = torch.einsum("nhw,nrhw->nr", maps.double().sum(1), masks.double())
    return (sums - change).square().mean(1), change.square().mean(1)


def max_sensitivity(
    explain: Callable[[Tensor], Tensor], pixels: Tensor, maps: Tensor, noises: Iterable[Tensor]
) -> Tensor:
    """Largest relative change of the map under noise.

    Args:
        explain: gives maps (N, C, H, W) of pixels (N, C, H, W).
        pixels: (N, C, H, W).
        maps: (N, C, H, W), of the pixels without noise.
        noises: each (N, C, H, W), added to the pixels.

    Returns:
        (N,) float64: ||map(x + noise) - map(x)|| / ||map(x)||, NaN if the map is 0.
    """
    changes = [(explain(pixels + noise) - maps).flatten(1).double().norm(dim=1) for noise in noises]
    size = maps.flatten(1).double().norm(dim=1)
    return torch.where(size == 0, torch.nan, torch.stack(changes).amax(0) / size)


def squares(subject: Subject) -> Tensor:
    """Random squares, (N, SQUARES, H, W) bool."""
    height, width = subject.pixels.shape[2:]
    short = min(height, width)
    least, most = (max(short // part, 1) for part in SIDES)
    drawn = subject.random("squares", lambda generator: torch.rand(3, SQUARES, generator=generator))
    side = (least + drawn[:, 0] * (most + 1 - least)).long()[..., None]  # (N, SQUARES, 1)
    top, left = ((drawn[:, 1 + a, :, None] * (n + 1 - side)).long() for a, n in enumerate((height, width)))
    y, x = (torch.arange(n, device=side.device) for n in (height, width))
    rows, columns = (y >= top) & (y < top + side), (x >= left) & (x < left + side)
    return rows[..., :, None] & columns[..., None, :]


def measure_infidelity(subject: Subject) -> tuple[Tensor, Tensor]:
    """`infidelity` of the stored maps, against the run's baselines."""
    if subject.engine.spec.attribution == "input_x_gradient":
        baselines, weights = baseline_stack([Baseline("black")], subject.pixels, [])
    else:
        baselines, weights = subject.explainer.baselines(subject.pictures, subject.pixels)
    return infidelity(
        subject.output,
        subject.pixels,
        subject.targets,
        subject.maps,
        baselines,
        weights,
        squares(subject),
        subject.batch,
    )


def measure_sensitivity(subject: Subject) -> Tensor:
    """`max_sensitivity` of the run's attribution."""
    shape = subject.pixels.shape[1:]

    def noise(number: int) -> Tensor:
        drawn = subject.random(f"noise/{number}", lambda generator: torch.rand(shape, generator=generator))
        return (2 * drawn - 1).to(subject.pixels) * RADIUS

    return max_sensitivity(
        lambda pixels: subject.explain(pixels=pixels).mean,
        subject.pixels,
        subject.found.mean,
        (noise(number) for number in range(NOISES)),
    )
