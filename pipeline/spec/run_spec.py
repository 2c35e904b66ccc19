"""What a run computes: frozen, validated, with a canonical JSON and a content key.

The key covers what determines the numbers and nothing else: where weights lie, how many images go into a unit or
a chunk, and the run's name leave it unchanged.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from pipeline.errors import SpecError
from pipeline.record_format import build, read_record
from pipeline.spec.choices import METHODS, OUTPUTS, PRECISIONS, Baseline

ATTRIBUTIONS = ("integrated_gradients", "input_x_gradient", "saliency")
CHANNELS = ("keep", "sum")
NODES = ("fitted", "uniform")
_CHOICES = {
    "attribution": ATTRIBUTIONS,
    "output": OUTPUTS,
    "method": METHODS,
    "precision": PRECISIONS,
    "nodes": NODES,
    "channels": CHANNELS,
}


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How a decoded image becomes a model's input: geometry here, normalisation inside the member.

    `fit` is "exact" (the image must have this size), "stretch" (resize to it), or "crop" (resize the shorter side
    to `resize_to`, then cut out the centre). `mean` and `std` are per channel, in units of [0, 1] pixel values.
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
        """What all members of an ensemble must share: they explain the same pixels."""
        return (self.height, self.width, self.channels, self.fit, self.resize_to, self.interpolation)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One member: where it comes from, and digests that say whether it is still the same."""

    source: str  # torchvision:resnet50@DEFAULT | path/to/file.py:factory | pkg.module:factory
    weights: str | None  # path of a .safetensors or .pt file, None where the source brings its own
    weights_sha256: str  # of the loaded state_dict: names, dtypes, shapes, bytes
    code_sha256: str | None  # of the file that defines the factory
    preprocess: Preprocess
    class_names: tuple[str, ...]
    probe: tuple[str, ...] = ()  # first logits for an image of noise, to 3 digits: tells code apart that digests miss


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What to compute, for every image of a manifest."""

    models: tuple[ModelSpec, ...]
    baselines: tuple[Baseline, ...]
    target: str = "predicted"  # predicted | label | rank:K (2 = runner-up) | class:NAME_OR_INDEX
    attribution: str = "integrated_gradients"
    output: str = "logit"
    method: str = "riemann_middle"
    n_steps: int = 50
    tolerance: float | None = None  # relative L1 error of the map at which an image is finished
    max_steps: int = 513  # with a tolerance: gradient evaluations per path at most
    nodes: str = "fitted"  # of Riemann rules and nested levels: to where the models' gradients change, or evenly
    precision: str = "float32"
    channels: str = "keep"  # what is stored of a map: every channel, or their sum
    seed: int = 0
    # Images that the "samples" baselines are drawn from: (key, version, sha256). Resolved at submission.
    samples: tuple[tuple[str, str, str], ...] = field(default=())
    # Images that nodes are fitted on: (key, version, label). Resolved at submission; empty where a fit would not pay.
    calibration: tuple[tuple[str, str, str | None], ...] = field(default=())
    reuse: bool = True  # take attributions that other runs of this spec have stored

    def __post_init__(self) -> None:
        check_choices(self)
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
        """sha256 over all that determines the numbers.

        Not the calibration images: nodes approach the same integral wherever they stand, so a data set that grew
        shares its attributions with the one it was.
        """
        data = asdict(self)
        del data["calibration"], data["reuse"]
        for model in data["models"]:
            location, _, factory = model.pop("source").rpartition(":")
            model["factory"] = factory if location.endswith(".py") else f"{location}:{factory}"
            del model["weights"]
        return hashlib.sha256(_canonical(data).encode()).hexdigest()


def check_choices(asked: Any) -> None:
    """Refuse what is wrong whatever the models and images are. Messages name options as they are typed.

    Args:
        asked: a `RunSpec`, or a `pipeline.spec.request.RunRequest`: they share the names of their fields.

    Raises:
        SpecError: a word that is no choice, a number out of range, no model or no baseline.
    """
    for name, allowed in _CHOICES.items():
        if (value := getattr(asked, name)) not in allowed:
            option = "--store-channels" if name == "channels" else f"--{name}"  # --channels is the model's
            raise SpecError(f"{option} {value!r} is none of: {', '.join(allowed)}")
    if not asked.models:
        raise SpecError("a run needs at least one model; name one with --model")
    if not asked.baselines:
        raise SpecError("a run needs at least one baseline; name one with --baseline, for example black")
    least = 2 if asked.method == "riemann_trapezoid" else 1
    if asked.n_steps < least:
        raise SpecError(f"--n-steps is {asked.n_steps}; {asked.method} needs at least {least}")
    if asked.tolerance is not None and not 0 < asked.tolerance < 1:
        raise SpecError(f"--tolerance is {asked.tolerance}; it is a relative error, between 0 and 1, for example 0.03")
    if asked.max_steps < 9:
        raise SpecError(f"--max-steps is {asked.max_steps}; the first level has 9 nodes, so it must be at least 9")
    parse_target(asked.target)


def parse_target(text: str) -> tuple[str, str]:
    """Split a target into kind and argument: `("predicted", "")`, `("label", "")`, `("rank", "2")`, `("class", "cat")`.

    Raises:
        SpecError: it is none of these.
    """
    kind, _, argument = text.partition(":")
    if kind in ("predicted", "label") and not argument:
        return kind, ""
    if kind == "rank" and argument.isdecimal() and int(argument) >= 1:
        return kind, argument
    if kind == "class" and argument:
        return kind, argument
    raise SpecError(f"target {text!r} is none of: predicted, label, rank:K (2 = runner-up), class:NAME_OR_INDEX")


def class_index(wanted: str, names: tuple[str, ...], model: str) -> int:
    """Index of a class by its name, or by its number where no class has that name.

    Raises:
        SpecError: neither.
    """
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    few = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    raise SpecError(f"class {wanted!r} is not among the {len(names)} of model {model!r} (0..{len(names) - 1}: {few})")


def _canonical(data: object) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"))
