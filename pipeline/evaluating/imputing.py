"""Removed pixels are filled from what is left: the noisy linear imputation of ROAD (Rong et al. 2022, section 4).

Every removed pixel is the weighted mean of its eight neighbours (1/6 beside and above, 1/12 across), removed ones among
them, plus noise. The linear system of all images and channels is solved at once by conjugate gradients: it is the
Laplacian of a grid with the known pixels as boundary, symmetric and positive definite.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_WEIGHTS = ((1 / 12, 1 / 6, 1 / 12), (1 / 6, 0.0, 1 / 6), (1 / 12, 1 / 6, 1 / 12))
_MOST_STEPS = 1000


def impute(pixels: Tensor, removed: Tensor, noise: Tensor, *, tolerance: float = 1e-5) -> Tensor:
    """Images whose removed pixels are filled.

    Args:
        pixels: (B, C, H, W) float.
        removed: (B, H, W) bool; of every image at least one pixel stays.
        noise: (B, C, H, W), added to what is filled in.
        tolerance: residual of the system at which it is solved, relative to its right-hand side.

    Returns:
        (B, C, H, W). Values may lie outside [0, 1] by the noise.
    """
    gone = removed[:, None].to(pixels)  # (B, 1, H, W)
    here = 1 - gone
    scale = _neighbours(torch.ones_like(gone))  # weights of the neighbours that lie in the image
    wanted = gone * _neighbours(pixels * here)
    mean = (pixels * here).sum((2, 3), keepdim=True) / here.sum((2, 3), keepdim=True)

    def system(x: Tensor) -> Tensor:
        return gone * (scale * x - _neighbours(x))

    filled = gone * mean
    residual = wanted - system(filled)
    direction, size = residual, _dot(residual, residual)
    goal = tolerance**2 * _dot(wanted, wanted)
    for _ in range(_MOST_STEPS):
        if not (size > goal).any():
            break
        image = system(direction)
        step = (size / _dot(direction, image)).nan_to_num(0.0, 0.0, 0.0)
        filled = filled + step * direction
        residual = residual - step * image
        before, size = size, _dot(residual, residual)
        direction = residual + (size / before).nan_to_num(0.0, 0.0, 0.0) * direction
    return torch.where(removed[:, None], filled + noise, pixels)


def _neighbours(x: Tensor) -> Tensor:
    """Weighted sum of the eight neighbours; those outside the image count 0."""
    kernel = x.new_tensor(_WEIGHTS)[None, None]
    return F.conv2d(x.flatten(0, 1)[:, None], kernel, padding=1).view(x.shape)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum((2, 3), keepdim=True)
