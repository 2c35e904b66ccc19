"""Removed pixels are filled from what is left: the noisy linear imputation of ROAD (Rong et al. 2022, section 4).

Every removed pixel is the weighted mean of its eight neighbours (1/6 beside and above, 1/12 across), removed ones among
them, plus noise. The linear system of all images and channels is solved at once by conjugate gradients: it is the
Laplacian of a grid with the known pixels as boundary, symmetric and positive definite.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_MOST_STEPS = 1000


def impute(pixels: Tensor, removed: Tensor, noise: Tensor, *, tolerance: float = 1e-4) -> Tensor:
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


def _neighbours(x: Tensor) -> Tensor:
    """Weighted sum of the eight neighbours; those outside the image count 0."""
    framed = F.pad(x, (1, 1, 1, 1))  # shifted sums: a convolution of one channel takes 4 times as long
    across = framed[:, :, :-2] + framed[:, :, 2:]  # above and below
    beside = framed[:, :, 1:-1]
    straight = across[..., 1:-1] + beside[..., :-2] + beside[..., 2:]
    return (across[..., :-2] + across[..., 2:]).div_(12).add_(straight, alpha=1 / 6)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum((2, 3), keepdim=True)
