"""Baselines as tensors: images in pixel space [0, 1], one or several draws of each declared kind.

The pipeline's members normalize their own input, so black is black: a zero tensor *after* normalization would be the
mean color. Random draws depend only on (seed, image sha256, draw): they are the same on every worker and device.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.spec.choices import Baseline

_SHARED = ("black", "white", "color", "samples")  # the same for every image


def baseline_stack(
    baselines: Sequence[Baseline],
    images: Tensor,
    digests: Sequence[str],
    *,
    seed: int = 0,
    samples: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """All draws of all declared baselines, for a batch of images.

    Args:
        baselines: declared kinds; the draws of a kind share its weight evenly.
        images: (N, C, H, W) float in [0, 1].
        digests: N strings that identify the images (sha256 of the file), for the random kinds.
        seed: seed of the random kinds, any integer.
        samples: (S, C, H, W) images of the data set for the `samples` kind, which takes its first n.

    Returns:
        Baselines (K, N, C, H, W), or (K, 1, C, H, W) if all are shared, in the images' dtype and on their device,
        and weights (K,) float64 that sum to 1.

    Raises:
        ValueError: a color with other channels than the images, or too few samples.
    """
    shared = all(baseline.kind in _SHARED for baseline in baselines)
    stacks = []
    for baseline in baselines:
        if baseline.kind in _SHARED:
            stack = _shared(baseline, images, samples)[:, None]  # (n, 1, C, H, W)
            stacks.append(stack if shared else stack.expand(-1, len(images), -1, -1, -1))
        else:
            pairs = zip(images, digests, strict=True)
            stacks.append(torch.stack([_of_image(baseline, image, digest, seed) for image, digest in pairs], 1))
    weights = torch.cat([torch.full((len(s),), b.weight / len(s)) for b, s in zip(baselines, stacks, strict=True)])
    return torch.cat(stacks), weights.double() / weights.double().sum()


def _shared(baseline: Baseline, images: Tensor, samples: Tensor | None) -> Tensor:
    one = images.new_zeros(1, *images.shape[1:])  # (1, C, H, W)
    if baseline.kind == "samples":
        if samples is None or len(samples) < baseline.n:
            have = 0 if samples is None else len(samples)
            raise ValueError(f"baseline '{baseline}' draws {baseline.n} images of the data set, which offers {have}")
        return samples[: baseline.n].to(one)
    if baseline.kind == "color":
        if len(baseline.color) not in (1, images.shape[1]):
            raise ValueError(f"baseline '{baseline}' has {len(baseline.color)} channels, the images {images.shape[1]}")
        return one + one.new_tensor(baseline.color).view(1, -1, 1, 1)
    return one + (1.0 if baseline.kind == "white" else 0.0)


def _of_image(baseline: Baseline, image: Tensor, digest: str, seed: int) -> Tensor:
    """Draws for one image: (C, H, W) -> (n, C, H, W)."""
    match baseline.kind:
        case "mean":
            return image.mean((1, 2), keepdim=True).expand_as(image)[None]
        case "blurred":
            rows, columns = (_blur_matrix(size, baseline.sigma).to(image) for size in image.shape[1:])
            return (rows @ image @ columns.T)[None]
        case "opposite":
            return (image < 0.5).to(image)[None]
    draws = torch.stack([_uniform(image, baseline.kind, digest, seed, draw) for draw in range(baseline.n)])
    if baseline.kind == "uniform":
        return draws.to(image)
    # The inverse of the normal distribution on uniform draws: exact on every CPU, where randn's kernels differ.
    noise = torch.special.ndtri(draws.double().clamp(2**-25, 1 - 2**-25)) * baseline.sigma
    noisy: Tensor = image + noise.to(image)
    return noisy.clamp(0, 1)


def _uniform(image: Tensor, kind: str, digest: str, seed: int, draw: int) -> Tensor:
    state = hashlib.sha256(f"{seed}/{digest}/{kind}/{draw}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(state[:8], "big") >> 1)
    return torch.rand(image.shape, generator=generator)


def _blur_matrix(size: int, sigma: float) -> Tensor:
    """Gaussian weights (size, size) float64 between positions; each row sums to 1, so borders keep their brightness."""
    position = torch.arange(size, dtype=torch.float64)
    weights = torch.exp(-((position[:, None] - position) ** 2) / (2 * sigma**2))
    return weights / weights.sum(1, keepdim=True)
