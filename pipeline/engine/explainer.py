"""A spec with its members on a device: pictures in, targets, baselines and attributions out.

A chunk that does not fit into memory is halved. The process caches the chunk sizes that fit, the fastest ones and,
with `precision="auto"`, the chosen variant of each member. If an ensemble would fill the memory of its device, its
members take turns there.
"""

import logging
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import telemetry
from pipeline.attribution import (
    AS_GIVEN,
    DEFAULT_TOLERANCE,
    Attribution,
    Choice,
    Profile,
    baseline_stack,
    fit_profile,
    input_x_gradient,
    integrated_gradients,
    measured_batch_size,
    prepare,
    products,
    saliency,
)
from pipeline.attribution.batch import default_batch_size
from pipeline.attribution.ensemble import predict, target_outputs
from pipeline.datasets.decoder import Picture
from pipeline.errors import ModelBroken
from pipeline.spec.options import parse_target
from pipeline.spec.run_spec import ModelSpec, RunSpec
from pipeline.storage.arrays import Floats

log = logging.getLogger("attribatch.explaining")

Found = TypeVar("Found")

_TRIAL_PICTURES = 4  # variants of a member are compared on so many pictures
_TRIAL_BASELINES = 2
_WORTH_MEASURING = 2000  # rows of a batch: from here on the search for the fastest chunk size costs little
_VARIANTS_KEPT = 16  # as many as members that stay loaded
_prepared: dict[tuple[object, ...], tuple[nn.Module, Choice]] = {}
_batch_sizes: dict[tuple[object, ...], int] = {}


@dataclass(frozen=True, slots=True)
class Computed:
    """Attributions of some pictures, as tensors on the device."""

    pictures: Sequence[Picture]
    probabilities: Tensor  # (N, classes), mean over members
    targets: Tensor  # (N,)
    found: Attribution


class Explainer:
    """A spec with its members loaded: computes batches of pictures.

    Args:
        spec: options of the run.
        members: one module for each of `spec.models`, pixels (N, C, H, W) in [0, 1] -> logits (N, classes).
        samples: (S, C, H, W) images of the data set for the `samples` baselines.
        device: torch device of the members, for example "cuda:0".
        check: called before each forward pass; raises an exception to stop.
        take_turns: members are kept in the host's memory and moved to the device one at a time.

    Attributes:
        spec: options of the run.
        profiles: one profile of nodes for each declared baseline; uniform unless set.
    """

    def __init__(
        self,
        spec: RunSpec,
        members: Sequence[nn.Module],
        *,
        samples: Floats | None = None,
        device: str = "cpu",
        check: Callable[[], None] = lambda: None,
        take_turns: bool = False,
    ) -> None:
        self.spec = spec
        self.profiles = [Profile()] * len(spec.baselines)
        self._given = list(members)
        self._check = check
        self._samples = None if samples is None else torch.from_numpy(samples)
        self._device = device
        self._turns = _Turns(device) if take_turns else None
        self._members = self._watched(self._given)
        self._fast: Sequence[nn.Module] | None = None

    @property
    def device_kind(self) -> str:
        """Key of the chosen variants: the model of a GPU, the vector instructions of a CPU."""
        if self._device.startswith("cuda"):
            return torch.cuda.get_device_name(self._device)
        return f"{self._device} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"

    @property
    def chooses_variants(self) -> bool:
        """Whether members may be replaced by faster variants."""
        return self.spec.precision == "auto" and self.spec.attribution == "integrated_gradients"

    @telemetry.stage("compute")
    def compute(self, pictures: Sequence[Picture], targets: Tensor | None = None) -> Computed:
        """Attributions of some pictures.

        Args:
            pictures: N decoded images, 1 or more.
            targets: (N,) int64 on the device; default: chosen by the target of the spec.

        Raises:
            ModelBroken: a member raised, or does not return (N, classes).
        """
        pixels = self.pixels(pictures)
        if self.chooses_variants and self._fast is None:
            self.use_variants(self.choose_variants(pictures), pictures)

        def attempt(size: int) -> Computed:
            probabilities = predict(self._members, pixels, batch_size=size)
            chosen = self._targets(pictures, probabilities) if targets is None else targets
            size = self._fastest_size(pixels, size)
            return Computed(pictures, probabilities, chosen, self._attribute(pictures, pixels, chosen, size))

        return self._within_memory(pixels, attempt)

    def ask(self, pixels: Tensor, targets: Tensor, output: str) -> Tensor:
        """One output of images on the device, mean over members.

        Args:
            pixels: (N, C, H, W), as returned by `pixels`.
            targets: (N,) int64.
            output: "logit", "probability" or "log_probability".

        Returns:
            (N,) float64.

        Raises:
            ModelBroken: a member raised, or does not return (N, classes).
        """

        def attempt(size: int) -> Tensor:
            return target_outputs(self._members, pixels, targets, output=cast("Any", output), batch_size=size)

        with products("high" if self._fast is not None else "highest", pixels.device):
            return self._within_memory(pixels, attempt)

    def fit(self, pictures: Sequence[Picture]) -> list[Profile]:
        """Fit a profile of nodes for each declared baseline on some pictures.

        Raises:
            ModelBroken: a member raised, or does not return (N, classes).
        """
        pixels = self.pixels(pictures)

        def attempt(size: int) -> list[Profile]:
            targets = self._targets(pictures, predict(self._members, pixels, batch_size=size))
            options: Any = {"output": self.spec.output, "internal_batch_size": size}
            sizes = [baseline.n for baseline in self.spec.baselines]
            draws = torch.split(self.baselines(pictures, pixels)[0], sizes)
            return [fit_profile(self._members, pixels, targets, baselines=some, **options) for some in draws]

        return self._within_memory(pixels, attempt)

    def choose_variants(self, pictures: Sequence[Picture]) -> list[Choice]:
        """The fastest variant of each member within the tolerance, measured on some pictures."""
        return [self._variant(index, pictures, None)[1] for index in range(len(self._given))]

    def use_variants(self, choices: Sequence[Choice], pictures: Sequence[Picture]) -> None:
        """Use the chosen variants. Each is verified on some pictures; if it fails, its member is used unchanged."""
        variants = [self._variant(index, pictures, choice.name)[0] for index, choice in enumerate(choices)]
        self._fast = self._watched(variants)

    def _within_memory(self, pixels: Tensor, attempt: Callable[[int], Found]) -> Found:
        """The result of `attempt` with a chunk size, which is halved until it fits into memory."""
        key = self._key(pixels, *self.spec.models)
        size = _batch_sizes.get(key) or default_batch_size(pixels)
        while True:
            try:
                return attempt(size)
            except (torch.OutOfMemoryError, MemoryError) as error:
                if size == 1:
                    raise ModelBroken(f"one image does not fit into the memory of {self._device}: {error}") from error
                telemetry.memory_halved()
                size = _batch_sizes[key] = max(min(size, _batch_sizes.get(key, size)) // 2, 1)

    def _fastest_size(self, pixels: Tensor, size: int) -> int:
        """The fastest chunk size, measured once if the batch is large."""
        key, paths = self._key(pixels, *self.spec.models), sum(baseline.n for baseline in self.spec.baselines)
        if key not in _batch_sizes and len(pixels) * paths * self.spec.n_steps >= _WORTH_MEASURING:
            _batch_sizes[key] = measured_batch_size(self._fast or self._members, pixels)
        return _batch_sizes.get(key, size)

    def _targets(self, pictures: Sequence[Picture], probabilities: Tensor) -> Tensor:
        kind, argument = parse_target(self.spec.target)
        if kind == "predicted":
            return probabilities.argmax(1)
        if kind == "rank":
            rank = min(int(argument), probabilities.shape[1])
            return probabilities.sort(stable=True, dim=1, descending=True).indices[:, rank - 1]
        if kind == "class":
            return torch.full((len(pictures),), self.spec.target_index(), device=self._device)
        names = self.spec.class_names
        return torch.tensor([names.index(str(p.entry.label)) for p in pictures], device=self._device)

    def _key(self, pixels: Tensor, *models: ModelSpec) -> tuple[object, ...]:
        spec = self.spec
        return (models, self._device, pixels.shape[1:], spec.precision, spec.output, spec.tolerance)

    def _variant(self, index: int, pictures: Sequence[Picture], name: str | None) -> tuple[nn.Module, Choice]:
        """The prepared member and its measurements. With `name`, try only that variant."""
        spec, member = self.spec, self._given[index]
        if name == AS_GIVEN.name:
            return member, AS_GIVEN
        pixels = self.pixels(pictures[:_TRIAL_PICTURES])
        key = self._key(pixels, spec.models[index])
        known = _prepared.get(key)
        if known is not None and name in (None, known[1].name):
            return known
        if self._turns:
            self._turns.take(member)
        try:
            stack = self.baselines(pictures[:_TRIAL_PICTURES], pixels)[0][:_TRIAL_BASELINES]
            options: Any = {"output": spec.output, "tolerance": spec.tolerance or DEFAULT_TOLERANCE, "only": name}
            found = prepare(member, pixels, baselines=stack, **options)
        except (torch.OutOfMemoryError, MemoryError):  # no room for a second copy
            return member, AS_GIVEN
        log.info("member %s on %s runs as %s", spec.models[index].source, self._device, found.choice)
        if self._turns and found.member is not member:
            self._turns.take(found.member)
        while len(_prepared) >= _VARIANTS_KEPT:
            del _prepared[next(iter(_prepared))]
        _prepared[key] = found.member, found.choice
        return _prepared[key]

    def baselines(self, pictures: Sequence[Picture], pixels: Tensor) -> tuple[Tensor, Tensor]:
        """All draws of the spec's baselines and their weights, see `baseline_stack`."""
        digests = [picture.sha256 for picture in pictures]
        return baseline_stack(self.spec.baselines, pixels, digests, seed=self.spec.seed, samples=self._samples)

    def _attribute(self, pictures: Sequence[Picture], pixels: Tensor, targets: Tensor, size: int) -> Attribution:
        spec = self.spec
        output, summed = cast("Any", spec.output), spec.channels == "sum"
        if spec.attribution == "saliency":
            return saliency(self._members, pixels, targets, output=output, sum_channels=summed)
        if spec.attribution == "input_x_gradient":
            return input_x_gradient(self._members, pixels, targets, output=output, sum_channels=summed)
        stack, weights = self.baselines(pictures, pixels)
        return integrated_gradients(
            self._fast or self._members,
            pixels,
            targets,
            baselines=stack,
            baseline_weights=weights,
            method=cast("Any", spec.method),
            n_steps=spec.n_steps,
            tolerance=spec.tolerance,
            max_steps=spec.max_steps,
            profile=[p for p, b in zip(self.profiles, spec.baselines, strict=True) for _ in range(b.n)],
            output=output,
            internal_batch_size=size,
            precision=cast("Any", "float32" if spec.precision == "auto" else spec.precision),
            sum_channels=summed,
        )

    def pixels(self, pictures: Sequence[Picture]) -> Tensor:
        """Pictures on the device, (N, C, H, W) in the spec's dtype."""
        pixels = torch.from_numpy(np.stack([picture.pixels for picture in pictures]))
        pixels = pixels.to(torch.float64 if self.spec.precision == "float64" else torch.float32)
        if self._device.startswith("cuda"):
            return pixels.pin_memory().to(self._device, non_blocking=True)
        return pixels.to(self._device)

    def _watched(self, members: Sequence[nn.Module]) -> list[nn.Module]:
        classes = len(self.spec.class_names)
        return [_Watched(member, classes, self._check, self._turns) for member in members]


class _Turns:
    """Keeps one member at a time on the device. Paths are computed member by member, so each moves once per sweep."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._current: nn.Module | None = None

    def take(self, member: nn.Module) -> None:
        """Move a member to the device, and the previous one back to the host."""
        if self._current is not member:
            if self._current is not None:
                self._current.to("cpu")
            self._current = member.to(self._device)


class _Watched(nn.Module):
    """A member that checks the stop flag before each pass, and raises ModelBroken if its module fails."""

    def __init__(self, member: nn.Module, classes: int, check: Callable[[], None], turns: _Turns | None) -> None:
        super().__init__()
        self.member = member
        self.classes = classes
        self.check = check
        self.turns = turns

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, C, H, W) -> logits (N, classes)."""
        self.check()
        try:
            if self.turns:
                self.turns.take(self.member)
            found = self.member(pixels)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except RuntimeError as error:
            if "not enough memory" in str(error) or "can't allocate memory" in str(error):  # torch's CPU allocator
                raise MemoryError(str(error)) from error
            raise ModelBroken(f"the model raised {type(error).__name__}: {error}") from error
        except Exception as error:
            raise ModelBroken(f"the model raised {type(error).__name__}: {error}") from error
        if not isinstance(found, Tensor) or found.shape != (len(pixels), self.classes):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ModelBroken(
                f"the model returned {shape} for {len(pixels)} images, not ({len(pixels)}, {self.classes}): it was "
                f"submitted with {self.classes} classes; does its code do the same in a worker?"
            )
        return found
