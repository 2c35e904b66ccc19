"""The input of every measure: some images of a run, their stored maps, and the engine that made them."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.analysis.statistics import Doubles
from pipeline.attribution import Attribution, Profile
from pipeline.attribution.batch import default_batch_size
from pipeline.datasets.decoder import Picture
from pipeline.engine.explainer import Explainer
from pipeline.spec.choices import Baseline
from pipeline.spec.run_spec import RunSpec
from pipeline.storage.arrays import Floats

Score = Callable[[Tensor, Tensor], Tensor]  # pixels (B, C, H, W), targets (B,) -> (B,) float64


@dataclass(frozen=True)
class RunEngine:
    """A run's spec and members, which compute its maps again.

    Members are not changed for speed, the precision is the spec's own, and channels are kept.
    """

    spec: RunSpec
    members: Sequence[nn.Module]
    samples: Floats | None  # (S, C, H, W) images of the data set, for the `samples` baselines
    profiles: Mapping[str, Profile]  # by declared baseline
    device: str
    take_turns: bool  # members are in the host's memory, and one at a time is moved to the device

    def explainer(
        self, baselines: Sequence[Baseline] | None = None, members: Sequence[nn.Module] | None = None
    ) -> Explainer:
        """The run's explainer, or one of other baselines or members."""
        # The variants of `auto` are chosen for the run's own members; randomized members would need their own.
        precision = "float32" if self.spec.precision == "auto" else self.spec.precision
        chosen = tuple(baselines or self.spec.baselines)
        spec = replace(self.spec, baselines=chosen, precision=precision, channels="keep")
        made = Explainer(
            spec, members or self.members, samples=self.samples, device=self.device, take_turns=self.take_turns
        )
        made.profiles = [self.profiles.get(str(baseline), Profile()) for baseline in spec.baselines]
        return made


@dataclass(frozen=True)
class Subject:
    """Some images and their maps.

    Attributes:
        engine: the one that made the maps.
        pictures: the N images, with the pixels of the model's input.
        targets: (N,) int64 on the device: the explained classes, the same for every change of image or model.
        maps: (N, C, H, W) as stored, on the device; C is 1 where channels were summed.
        seed: determines all random draws.
    """

    engine: RunEngine
    pictures: Sequence[Picture]
    targets: Tensor
    maps: Tensor
    seed: int

    @cached_property
    def explainer(self) -> Explainer:
        """The explainer of the unchanged run."""
        return self.engine.explainer()

    @cached_property
    def pixels(self) -> Tensor:
        """(N, C, H, W) on the device."""
        return self.explainer.pixels(self.pictures)

    @cached_property
    def found(self) -> Attribution:
        """The maps computed again, with the statistics over members."""
        return self.explain()

    @property
    def batch(self) -> int:
        """Rows that are built at a time."""
        return default_batch_size(self.pixels)

    def explain(
        self,
        *,
        baselines: Sequence[Baseline] | None = None,
        members: Sequence[nn.Module] | None = None,
        pixels: Tensor | None = None,
    ) -> Attribution:
        """The run's attribution with other baselines, other members, or other pixels (N, C, H, W) of these images.

        Random baselines depend on the images, not on their pixels.
        """
        pictures = self.pictures
        if pixels is not None:
            values = pixels.float().cpu().numpy()
            pictures = [replace(one, pixels=own) for one, own in zip(pictures, values, strict=True)]
        return self.engine.explainer(baselines, members).compute(pictures, self.targets).found

    def probability(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """Probability of the targets, mean over members: (B, C, H, W), (B,) -> (B,) float64."""
        return self.explainer.ask(pixels, targets, "probability")

    def output(self, pixels: Tensor, targets: Tensor) -> Tensor:
        """The output that the run explains, likewise."""
        return self.explainer.ask(pixels, targets, self.engine.spec.output)

    def random(self, what: str, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        """A draw for each image, (N, ...) on the device: it depends only on the seed, the image and `what`."""
        draws = []
        for picture in self.pictures:
            state = hashlib.sha256(f"{self.seed}/{picture.sha256}/{what}".encode()).digest()
            draws.append(draw(torch.Generator().manual_seed(int.from_bytes(state[:8], "big") >> 1)))
        return torch.stack(draws).to(self.pixels.device)


def as_array(values: Tensor) -> Doubles:
    """A tensor in float64 on the host."""
    return np.asarray(values.double().cpu().numpy(), np.float64)


def summed(maps: Tensor) -> Tensor:
    """Maps (N, C, H, W) as scores of pixels, (N, H x W) float64: summed over channels."""
    return maps.double().sum(1).flatten(1)
