"""Requests for runs: names and paths as the caller wrote them, before any model or image is opened."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

from db.records import Run
from pipeline.errors import SpecError
from pipeline.record_format import build, read_record
from pipeline.spec.choices import DECLARATIONS, Baseline
from pipeline.spec.options import Option, RunOptions, check_options, parse_target, shared_options
from pipeline.spec.run_spec import RunSpec


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One model, its weights, and the properties that the caller overrides (None: the model's own).

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


def _unit_size(request: "RunRequest") -> str:
    return "" if request.unit_size is None or request.unit_size >= 1 else "a unit has at least one image"


@dataclass(frozen=True, slots=True)
class RunRequest(RunOptions):
    """A request for a run: names and paths as the caller wrote them. `Pipeline.submit` makes a spec and a run of it.

    Raises:
        SpecError: an option is wrong for any models and images.
    """

    source: str  # a folder, s3://bucket/prefix, a manifest or .tar shards, see `pipeline.datasets.open_source`
    models: tuple[ModelRequest, ...]
    baselines: tuple[str, ...] = field(  # declarations, see `pipeline.spec.choices.Baseline`
        default=("black",),
        metadata={
            "option": Option(
                f"{DECLARATIONS}; weight=W in any. Repeat to average. Default: black.",
                flag="--baseline",
            )
        },
    )
    unit_size: int | None = field(
        default=None,
        metadata={
            "option": Option("Images per unit of work. Default: chosen by the size of the input.", check=_unit_size)
        },
    )
    name: str | None = None
    priority: int = 0  # runs with a larger priority are computed first

    def __post_init__(self) -> None:
        check_options(self)
        if not self.models:
            raise SpecError("a run needs at least one model; name one in `models`")
        if not self.baselines:
            raise SpecError("a run needs at least one baseline; name one in `baselines`, for example black")
        parse_target(self.target)
        self.parsed_baselines()

    def parsed_baselines(self) -> tuple[Baseline, ...]:
        """The declared baselines. Raises SpecError."""
        try:
            return tuple(Baseline.parse(text) for text in self.baselines)
        except ValueError as error:
            raise SpecError(str(error)) from error

    def absolute(self) -> Self:
        """The same request with absolute paths, so that a process in another folder can submit it."""
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
            input_size=None
            if size.fit == "crop"
            else (size.height, size.width),  # a crop comes from the model's preset
            resize=True if size.fit == "stretch" else None,
            mean=size.mean,
            std=size.std,
            channels=size.channels,
            class_names=model.class_names,
        )
        for model in spec.models
        for size in [model.preprocess]
    )
    return RunRequest(
        source=json.loads(run.source)["location"],
        models=members,
        baselines=tuple(str(baseline) for baseline in spec.baselines),
        priority=run.priority,
        **shared_options(spec),
    )


def _absolute(path: str) -> str:
    return path if path.startswith("s3://") else str(Path(path).expanduser().absolute())


def absolute_source(source: str) -> str:
    """A model's source whose file, if it names one, has an absolute path."""
    location, _, factory = source.rpartition(":")
    return f"{_absolute(location)}:{factory}" if location.endswith(".py") else source
