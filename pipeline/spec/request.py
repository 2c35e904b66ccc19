"""What somebody asks for, before it is looked at: names and paths. Knows nothing of listings, specs or storage."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from db.records import Run
from pipeline.errors import SpecError
from pipeline.record_format import build, read_record
from pipeline.spec.choices import Baseline
from pipeline.spec.run_spec import RunSpec, check_choices


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One `--model` with its `--weights`, and what the caller states or overrides (None: as the model says).

    `input_size` replaces the whole geometry: every image must have this size (or, with `resize`, is stretched
    to it). `mean` and `std` are one value or one per channel, in units of [0, 1] pixel values.
    """

    source: str
    weights: str | None = None
    input_size: int | tuple[int, int] | None = None  # height, width
    resize: bool | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: int | None = None
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What somebody asks for: names and paths, as they were typed. `Pipeline.submit` makes a spec and a run of it."""

    source: str  # a folder, s3://bucket/prefix, a manifest or .tar shards, see `pipeline.datasets.open_source`
    models: "tuple[ModelRequest, ...]"
    baselines: tuple[str, ...] = ("black",)  # declarations, see `pipeline.spec.choices.Baseline`
    target: str = "predicted"  # predicted | label | rank:K | class:NAME_OR_INDEX
    attribution: str = "integrated_gradients"
    output: str = "logit"
    method: str = "riemann_middle"
    n_steps: int = 50
    tolerance: float | None = None  # relative L1 error; replaces method and n_steps
    max_steps: int = 513
    nodes: str = "fitted"  # or uniform
    precision: str = "float32"
    channels: str = "keep"
    seed: int = 0
    name: str | None = None
    unit_size: int | None = None  # images; None chooses by the input's size
    priority: int = 0
    reuse: bool = True  # False: a run of its own that takes nothing from others

    def checked(self) -> tuple[Baseline, ...]:
        """The baselines, once it is certain that nothing is wrong whatever the models and images are.

        Raises:
            SpecError: something is.
        """
        check_choices(self)
        try:
            return tuple(Baseline.parse(text) for text in self.baselines)
        except ValueError as error:
            raise SpecError(str(error)) from error

    def absolute(self) -> Self:
        """The same request with absolute paths: whoever submits it later may stand in another folder."""
        members = tuple(
            replace(
                model,
                source=absolute_source(model.source),
                weights=None if model.weights is None else _absolute(model.weights),
            )
            for model in self.models
        )
        return replace(self, source=_absolute(self.source), models=members)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`. Raises RecordTooNew."""
        return build(cls, read_record(text, "the request"))


def repeat(run: Run) -> RunRequest:
    """The request that computes the same over a fresh listing of a run's data set."""
    spec = RunSpec.from_json(run.spec)
    members = tuple(
        ModelRequest(
            model.source,
            weights=model.weights,
            input_size=None if size.fit == "crop" else (size.height, size.width),  # a crop is the model's own wish
            resize=True if size.fit == "stretch" else None,
            mean=size.mean,
            std=size.std,
            channels=size.channels,
            class_names=model.class_names,
        )
        for model in spec.models
        for size in [model.preprocess]
    )
    names = ("target", "attribution", "output", "method", "n_steps", "tolerance", "max_steps", "nodes", "precision")
    return RunRequest(
        source=json.loads(run.source)["location"],
        models=members,
        baselines=tuple(str(baseline) for baseline in spec.baselines),
        channels=spec.channels,
        seed=spec.seed,
        reuse=spec.reuse,
        priority=run.priority,
        **{name: getattr(spec, name) for name in names},
    )


def _absolute(path: str) -> str:
    return path if path.startswith("s3://") else str(Path(path).expanduser().absolute())


def absolute_source(source: str) -> str:
    """A model's source whose file, if it names one, has an absolute path."""
    location, _, factory = source.rpartition(":")
    return f"{_absolute(location)}:{factory}" if location.endswith(".py") else source
