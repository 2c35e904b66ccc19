"""What Quantus (Hedström et al. 2023) says of a small case: `python -m tests.laws.quantus_figures > .../quantus.json`.

Run in an environment of its own, with `pip install quantus==0.6.0 torch`; the tests read the figures from the file.
"""

import json
import sys

import numpy as np
import torch
from torch import Tensor, nn

STEP = 5  # pixels that are deleted at a time
PERCENTAGES = (10, 30, 50, 70, 90)  # of the pixels that ROAD removes
FILLED = 2  # images whose imputation is kept


def case() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A network, images (6, 1, 10, 10), targets (6,) and maps (6, 1, 10, 10): functions of nothing but this file."""
    random = np.random.default_rng(7)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3)).double().eval()
    for parameter in model.parameters():
        parameter.data = torch.from_numpy(random.normal(0, 0.2, parameter.shape))
    images = torch.from_numpy(random.random((6, 1, 10, 10)))
    maps = torch.from_numpy(random.normal(size=(6, 1, 10, 10)))
    return model.requires_grad_(requires_grad=False), images, model(images).argmax(1), maps


def main() -> None:
    import quantus
    from quantus.functions.perturb_func import noisy_linear_imputation

    model, images, targets, maps = case()
    x, y, a = images.numpy(), targets.numpy(), maps.numpy()
    common = {"abs": False, "normalise": False, "disable_warnings": True}
    asked = {"model": model.float(), "x_batch": x, "y_batch": y, "a_batch": a, "softmax": True, "device": "cpu"}
    flipping = quantus.PixelFlipping(features_in_step=STEP, perturb_baseline=0.0, **common)
    road = quantus.ROAD(percentages=list(PERCENTAGES), noise=0.0, **common)
    order = (-a.reshape(len(a), -1)).argsort(axis=1)
    filled = [
        [noisy_linear_imputation(one, which[:p], noise=0.0).ravel().tolist() for p in PERCENTAGES]
        for one, which in zip(x[:FILLED], order, strict=False)
    ]
    json.dump(
        {
            "quantus": quantus.__version__,
            "deletion": np.round(flipping(**asked), 7).tolist(),
            "road": {str(key): float(value) for key, value in road(**asked).items()},
            "imputed": np.round(filled, 7).tolist(),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
