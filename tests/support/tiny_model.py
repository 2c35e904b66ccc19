"""A ReLU network for greyscale images of 8 x 8 and three classes, as a module that `--model` takes."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.spec.request import ModelRequest

CLASSES = ("cat", "dog", "eel")
LAYERS = "nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 8 * 8, 3)"


def factory_text(network: str = "nn.Sequential", *, before: str = "", classes: Sequence[str] = CLASSES) -> str:
    """The source of a module whose `make` returns the network and its declaration.

    Args:
        network: the class of the network, a subclass of `nn.Sequential`.
        before: source that defines that class.
        classes: names of the three outputs.
    """
    declared = {"input_size": 8, "channels": 1, "mean": 0.5, "std": 0.25, "classes": list(classes)}
    return f"from torch import nn\n\n{before}\n\ndef make():\n    return {network}({LAYERS}), {declared!r}\n"


FACTORY = factory_text()


def make_members(folder: Path, factory: Path) -> tuple[ModelRequest, ...]:
    """Two of these networks with random weights, which are written into a folder."""
    requests = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model: nn.Module = eval(f"nn.Sequential({LAYERS})")
        path = folder / f"member-{seed}.safetensors"
        save_file(model.state_dict(), path)
        requests.append(ModelRequest(f"{factory}:make", weights=str(path)))
    return tuple(requests)
