"""Pixels are taken or given in the order of a map: deletion and insertion (RISE), and ROAD.

Deletion and insertion: Petsiuk, Das, Saenko, RISE, 2018. Here both run between the image and its Gaussian blur (sigma
an eighth of the shorter side): black would be evidence of its own where dark pixels mean something. ROAD: Rong,
Leemann, Borisov, Kasneci, Kasneci, A consistent and efficient evaluation strategy for attribution methods, 2022; read
by the probability of the explained class, where the paper counts right predictions.

Pixels are ranked by their attribution summed over channels, ties in random order.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.analysis.evaluation.subject import Score, Subject, summed
from pipeline.attribution import baseline_stack
from pipeline.spec.choices import Baseline

STEPS = 32  # steps of a deletion or insertion curve
ROAD_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # shares of the pixels that are removed
ROAD_NOISE = 0.01  # standard deviation, in pixel values
_MOST_STEPS = 1000  # conjugate gradients stop after so many steps
BLUR = 8  # sigma of the blur: this part of the shorter side


def places(scores: Tensor, shuffle: Tensor) -> Tensor:
    """The place of each pixel when pixels are sorted by falling score.

    Args:
        scores: (N, P).
        shuffle: (N, P) int64, a permutation per row: ties are in its order.

    Returns:
        (N, P) int64, 0 for the highest score.
    """
    order = shuffle.gather(1, scores.gather(1, shuffle).argsort(dim=1, descending=True, stable=True))
    return torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )


def curve(
    score: Score, start: Tensor, end: Tensor, targets: Tensor, place: Tensor, counts: Tensor, batch: int
) -> Tensor:
    """Scores while the pixels of `start` become those of `end`, in the order of their places.

    Args:
        score: maps pixels (B, C, H, W) and targets (B,) to scores (B,).
        start: (N, C, H, W).
        end: (N, C, H, W).
        targets: (N,).
        place: (N, H x W), from `places`.
        counts: (S,) pixels that are replaced at each step.
        batch: images that are built at a time.

    Returns:
        (N, S) float64.
    """
    N, S = len(start), len(counts)
    place = place.view(N, 1, *start.shape[2:])

    def build(i: Tensor, s: Tensor) -> Tensor:
        return torch.where(place[i] < counts[s].view(-1, 1, 1, 1), end[i], start[i])

    return _asked(score, build, targets, S, batch)


def area(values: Tensor, counts: Tensor) -> Tensor:
    """Area under curves by the trapezoidal rule, over the share of pixels 0..1: (N, S) -> (N,)."""
    return torch.trapezoid(values, counts.to(values) / counts[-1], dim=1)


def deletion(subject: Subject) -> dict[str, Tensor]:
    """Curves (N, STEPS + 1) from the image to its blur, in the map's order and in a random one."""
    return _both_orders(subject, "deletion", subject.pixels, blurred(subject))


def insertion(subject: Subject) -> dict[str, Tensor]:
    """Curves (N, STEPS + 1) from the blur to the image, likewise."""
    return _both_orders(subject, "insertion", blurred(subject), subject.pixels)


def counts_of(subject: Subject) -> Tensor:
    """Pixels replaced at each step of a deletion or insertion curve."""
    pixels = subject.pixels[0, 0].numel()
    return torch.linspace(0, pixels, min(STEPS, pixels) + 1, device=subject.pixels.device).round().long()


def blurred(subject: Subject) -> Tensor:
    """The images, blurred until little is left: (N, C, H, W)."""
    sigma = max(min(subject.pixels.shape[2:]) / BLUR, 1)
    return baseline_stack([Baseline("blurred", sigma=sigma)], subject.pixels, [""] * len(subject.pixels))[0][0]


def road(subject: Subject) -> dict[str, Tensor]:
    """Probability of the class with each of ROAD_SHARES removed, (N, shares): most and least relevant pixels first."""
    pixels, size = subject.pixels, subject.pixels[0, 0].numel()
    shuffle = _shuffled(subject, "road")
    most = places(summed(subject.maps), shuffle).view(len(pixels), *pixels.shape[2:])
    counts = torch.tensor([round(share * size) for share in ROAD_SHARES], device=pixels.device)
    noise = ROAD_NOISE * subject.random("noise", lambda g: torch.randn(pixels.shape[1:], generator=g)).to(pixels)

    def answers(place: Tensor) -> Tensor:
        def build(i: Tensor, s: Tensor) -> Tensor:
            return impute(pixels[i], place[i] < counts[s].view(-1, 1, 1), noise[i])

        return _asked(subject.probability, build, subject.targets, len(counts), subject.batch)

    return {"road_most_relevant_first": answers(most), "road_least_relevant_first": answers(size - 1 - most)}


def impute(pixels: Tensor, removed: Tensor, noise: Tensor, *, tolerance: float = 1e-4) -> Tensor:
    """Fill removed pixels from the others: the noisy linear imputation of ROAD (Rong et al. 2022, section 4).

    Every removed pixel is the weighted mean of its eight neighbors (1/6 for the four that share a side, 1/12 for the
    diagonal ones), removed ones among them, plus noise. The linear system of all images and channels is solved at once
    by conjugate gradients: it is the Laplacian of a grid with the known pixels as boundary, symmetric and positive
    definite.

    Args:
        pixels: (B, C, H, W) float.
        removed: (B, H, W) bool; at least one pixel of every image is False.
        noise: (B, C, H, W), added to filled pixels.
        tolerance: residual of the system at which it is solved, relative to its right-hand side.

    Returns:
        (B, C, H, W). Noise may take values outside [0, 1].
    """
    gone = removed[:, None].to(pixels)  # (B, 1, H, W)
    here = 1 - gone
    scale = _neighbours(torch.ones_like(gone))  # weights of the neighbors inside the image
    wanted = gone * _neighbours(pixels * here)
    mean = (pixels * here).sum((2, 3), keepdim=True) / here.sum((2, 3), keepdim=True)

    def system(x: Tensor) -> Tensor:
        return (scale * x).sub_(_neighbours(x)).mul_(gone)

    filled = gone * mean
    residual = wanted - system(filled)
    direction, size = residual.clone(), _dot(residual, residual)
    goal = tolerance**2 * _dot(wanted, wanted)
    for _ in range(_MOST_STEPS):
        if not (size > goal).any():
            break
        image = system(direction)
        step = (size / _dot(direction, image)).nan_to_num_(0.0, 0.0, 0.0)
        filled.addcmul_(step, direction)
        residual.addcmul_(step, image, value=-1)
        before, size = size, _dot(residual, residual)
        direction.mul_((size / before).nan_to_num_(0.0, 0.0, 0.0)).add_(residual)
    return torch.where(removed[:, None], filled + noise, pixels)


def _both_orders(subject: Subject, name: str, start: Tensor, end: Tensor) -> dict[str, Tensor]:
    counts, shuffle = counts_of(subject), _shuffled(subject, name)

    def answers(scores: Tensor) -> Tensor:
        place = places(scores, shuffle)
        return curve(subject.probability, start, end, subject.targets, place, counts, subject.batch)

    scores = summed(subject.maps)
    return {name: answers(scores), f"{name}_random": answers(torch.zeros_like(scores))}


def _shuffled(subject: Subject, what: str) -> Tensor:
    size = subject.pixels[0, 0].numel()
    return subject.random(f"order/{what}", lambda generator: torch.randperm(size, generator=generator))


def _asked(score: Score, build: Callable[[Tensor, Tensor], Tensor], targets: Tensor, steps: int, batch: int) -> Tensor:
    """Scores (N, steps) of the images that `build` makes of (image, step), `batch` of them at a time."""
    rows = torch.arange(len(targets) * steps, device=targets.device)
    parts = [score(build(row // steps, row % steps), targets[row // steps]) for row in torch.split(rows, batch)]
    return torch.cat(parts).view(len(targets), steps)


def _neighbours(x: Tensor) -> Tensor:
    """Weighted sum of the eight neighbors; those outside the image count 0."""
    framed = F.pad(x, (1, 1, 1, 1))  # shifted sums: a convolution of one channel takes 4 times as long
    across = framed[:, :, :-2] + framed[:, :, 2:]  # above and below
    beside = framed[:, :, 1:-1]
    straight = across[..., 1:-1] + beside[..., :-2] + beside[..., 2:]
    return (across[..., :-2] + across[..., 2:]).div_(12).add_(straight, alpha=1 / 6)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum((2, 3), keepdim=True)
