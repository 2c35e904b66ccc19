"""The spec of a run: frozen values with a canonical JSON and a content key.

The key covers only the values that determine the numbers. The folder of the weights, the size of units and chunks,
and the name of the run do not change it.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Literal, Self

from pipeline.errors import SpecError
from pipeline.record_format import build, read_record
from pipeline.spec.choices import Baseline
from pipeline.spec.options import RunOptions, options_of, parse_target

FIT_SHARE = 0.05  # largest share of a run's evaluations that the fit may cost
FIT_COST = 65  # evaluations of one calibration image per path, see `pipeline.attribution.fit_profile`
FIT_IMAGES = (8, 16)  # smallest and largest number of images


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How a decoded image becomes a model's input: geometry here, normalization inside the member.

    `fit` is "exact" (the image must have this size), "stretch" (resize to it), or "crop" (resize the shorter side
    to `resize_to`, then cut out the center). `mean` and `std` are per channel, in units of [0, 1] pixel values.
    """

    height: int
    width: int
    channels: Literal[1, 3] = 3
    fit: Literal["exact", "stretch", "crop"] = "exact"
    resize_to: int | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @property
    def geometry(self) -> tuple[object, ...]:
        """The values that all members of an ensemble share, because they explain the same pixels."""
        return (self.height, self.width, self.channels, self.fit, self.resize_to, self.interpolation)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One member: its source, and digests that detect a change."""

    source: str  # torchvision:resnet50@DEFAULT | path/to/file.py:factory | pkg.module:factory
    weights: str | None  # path of a .safetensors or .pt file; None if the source has its own
    weights_sha256: str  # of the loaded state_dict: names, dtypes, shapes, bytes
    code_sha256: str | None  # of the file that defines the factory
    preprocess: Preprocess
    class_names: tuple[str, ...]
    probe: tuple[
        str, ...
    ] = ()  # first logits for an image of noise, to 3 digits: detects changes of code that the digests miss


@dataclass(frozen=True, slots=True)
class RunSpec(RunOptions):
    """What to compute for every image of a manifest. `RunRequest` has checked the options."""

    models: tuple[ModelSpec, ...]
    baselines: tuple[Baseline, ...]
    # Images that the "samples" baselines are drawn from: (key, version, sha256). Resolved at submission.
    samples: tuple[tuple[str, str, str], ...] = field(default=())
    # Images that nodes are fitted on: (key, version, label). Resolved at submission; empty without a fit.
    calibration: tuple[tuple[str, str, str | None], ...] = field(default=())

    def __post_init__(self) -> None:
        kind, argument = parse_target(self.target)
        if kind == "class":
            self.target_index()
        if kind == "rank" and int(argument) > len(self.class_names):
            raise SpecError(f"target {self.target!r}: the models have {len(self.class_names)} classes")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the outputs, shared by all members."""
        return self.models[0].class_names

    @property
    def preprocess(self) -> Preprocess:
        """Geometry shared by all members (each member normalises for itself)."""
        return self.models[0].preprocess

    def target_index(self) -> int:
        """The output that a `class:` target names.

        Raises:
            SpecError: no class has that name or index.
        """
        wanted = parse_target(self.target)[1]
        return class_index(wanted, self.class_names, self.models[0].source)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return _canonical(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`. Raises RecordTooNew."""
        data = read_record(text, "the spec of the run")
        data["samples"] = [(*sample, "")[:3] for sample in data["samples"]]  # the first ones had no digest
        return build(cls, data)

    @property
    def key(self) -> str:
        """sha256 of the values that determine the numbers.

        The calibration images are excluded: any nodes approach the same integral, so a data set that grew shares
        its attributions with the earlier one.
        """
        data = asdict(self)
        del data["calibration"]
        for name, (declared, one) in options_of(RunOptions).items():
            if one.in_key == "never" or (one.in_key == "changed" and data[name] == declared.default):
                del data[name]
        for model in data["models"]:
            location, _, factory = model.pop("source").rpartition(":")
            model["factory"] = factory if location.endswith(".py") else f"{location}:{factory}"
            del model["weights"]
        return hashlib.sha256(_canonical(data).encode()).hexdigest()


def class_index(wanted: str, names: tuple[str, ...], model: str) -> int:
    """Index of a class by its name, or by its number if no class has that name.

    Raises:
        SpecError: no class has that name or number.
    """
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    few = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    raise SpecError(f"class {wanted!r} is not among the {len(names)} of model {model!r} (0..{len(names) - 1}: {few})")


def _canonical(data: object) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def calibration_images(spec: RunSpec, count: int) -> int:
    """The number of images to fit the nodes on, for a run of `count` images; 0 if the fit would cost too much."""
    if spec.nodes == "uniform" or spec.attribution != "integrated_gradients":
        return 0
    if spec.tolerance is None and spec.method == "gausslegendre":  # its nodes are fixed
        return 0
    steps = spec.n_steps if spec.tolerance is None else 33
    affordable = int(FIT_SHARE * count * steps / FIT_COST)
    least, most = FIT_IMAGES
    return min(affordable, most) if affordable >= least else 0
