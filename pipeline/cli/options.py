"""Shared command-line options: those of models, and those that build a `RunRequest`.

Typer reads the signature of a command. `takes_request` and `takes_models` replace one parameter of a command by the
options that build its value, so that no command repeats them.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer

from pipeline.errors import UsageError
from pipeline.spec.options import Option, choices_of, flag_of, options_of
from pipeline.spec.request import ModelRequest, RunRequest

# Flags that are not the field's name, of the requests that messages name with their class.
FLAGS = {
    "ModelRequest.source": "--model",
    "ModelRequest.class_names": "--classes",
    "TrainingRequest.learning_rate": "--lr",
    "Place.names": "--allowed-host",
    "models": "--model",
    "overwrite": "--overwrite",
}

Source = Annotated[
    str,
    typer.Argument(
        help="Folder of images or s3://bucket/prefix (class folders in it), CSV/JSONL manifest, .tar shards."
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        help="torchvision:resnet50@DEFAULT, path/to/file.py:factory or pkg.module:factory. Repeat for an ensemble.",
    ),
]
Ensemble = Annotated[
    Path | None,
    typer.Option(
        "--ensemble",
        help="Folder of `attribatch ensemble train`; replaces --model and the options that describe models.",
    ),
]


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """The options that describe models. The same input, classes and normalization hold for all of them."""

    weights: Annotated[
        list[Path] | None,
        typer.Option(help="Weights of a model, .safetensors or .pt; in the order of --model."),
    ] = None
    input_size: Annotated[int | None, typer.Option(help="Side of the model's square input, pixels.")] = None
    resize: Annotated[bool, typer.Option("--resize", help="Stretch images to the input size.")] = False
    mean: Annotated[
        str | None,
        typer.Option(help="Normalization, per channel of [0, 1] pixels: 0.485,0.456,0.406"),
    ] = None
    std: Annotated[str | None, typer.Option(help="Normalization, likewise: 0.229,0.224,0.225")] = None
    channels: Annotated[int | None, typer.Option(help="1 for grayscale, 3 for RGB.")] = None
    classes: Annotated[Path | None, typer.Option(help="File of class names, one per line.")] = None

    def requests(self, sources: Sequence[str]) -> tuple[ModelRequest, ...]:
        """The members of these sources.

        Raises:
            UsageError: an option does not parse, or there are more weights than models.
        """
        weights = [str(path) for path in self.weights or ()]
        if len(weights) > len(sources):
            raise UsageError(f"{len(weights)} --weights for {len(sources)} --model: they pair up in order")
        return tuple(
            ModelRequest(
                source,
                weights=weights[index] if index < len(weights) else None,
                input_size=self.input_size,
                resize=self.resize or None,
                mean=_numbers("--mean", self.mean),
                std=_numbers("--std", self.std),
                channels=self.channels,
                class_names=None if self.classes is None else _lines(self.classes),
            )
            for index, source in enumerate(sources)
        )


def takes_models(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter `options` by the fields of `ModelOptions`."""
    return _expanded(command, "options", _model_parameters(), ModelOptions)


def takes_request(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter `request` by the options that build the RunRequest."""
    parameters = [
        _parameter("source", Source),
        _parameter("model", Models, None),
        _parameter("ensemble", Ensemble, None),
        *_model_parameters(),
        *_run_parameters(),
    ]
    return _expanded(command, "request", parameters, _request)


def with_flags(message: str) -> str:
    """A message of the API for the command line: `n_steps` in backquotes becomes --n-steps.

    A field of `RunRequest` appears without its class, another field with it, as in `ModelRequest.weights`.
    """
    flags = {name: flag_of(RunRequest, name) for name in options_of(RunRequest)} | FLAGS

    def flag(found: re.Match[str]) -> str:
        dotted = re.fullmatch(r"(?:ModelRequest|TrainingRequest|Place)\.(\w+)", found[1])
        other = f"--{dotted[1].replace('_', '-')}" if dotted else found[0]
        return flags.get(found[1], other)

    return re.sub(r"`([A-Za-z_.]+)`", flag, message)


def _expanded(
    command: Callable[..., None], name: str, parameters: Sequence[inspect.Parameter], build: Callable[..., object]
) -> Callable[..., None]:
    """A command with `parameters` instead of its parameter `name`, whose value `build` makes from them."""
    merged: list[inspect.Parameter] = []
    for key, own in inspect.signature(command).parameters.items():
        merged += parameters if key == name else [own.replace(kind=inspect.Parameter.KEYWORD_ONLY)]

    @wraps(command)
    def wrapper(**values: object) -> None:
        built = build(**{each.name: values.pop(each.name) for each in parameters})
        command(**{name: built}, **values)

    vars(wrapper)["__signature__"] = inspect.Signature(merged)
    wrapper.__annotations__ = {each.name: each.annotation for each in merged}
    del wrapper.__wrapped__  # Typer would read the annotations of `command`
    return wrapper


def _parameter(name: str, annotation: object, default: object = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _model_parameters() -> list[inspect.Parameter]:
    return [_parameter(each.name, each.type, each.default) for each in fields(ModelOptions)]


def _run_parameters() -> list[inspect.Parameter]:
    """The declared options of a RunRequest as parameters of a Typer command, `--baseline` first."""
    declared = options_of(RunRequest)
    return [_run_parameter(name, *declared[name]) for name in sorted(declared, key=lambda name: name != "baselines")]


def _run_parameter(name: str, declared: "Field[Any]", one: Option) -> inspect.Parameter:
    flag, words, default = flag_of(RunRequest, name), choices_of(declared), declared.default
    kind: object = str if words else declared.type
    if get_origin(kind) is tuple:
        kind, default = list[str] | None, None
    text = with_flags(f"{one.help}: {', '.join(words[:-1])} or {words[-1]}." if words else one.help)
    switch = f"{flag}/--no-{name.replace('_', '-')}" if declared.type is bool else flag
    return _parameter(_python_name(flag), Annotated[kind, typer.Option(switch, help=text)], default)


def _python_name(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _request(source: str, model: list[str] | None, ensemble: Path | None, **values: Any) -> RunRequest:
    """The RunRequest of the options.

    Raises:
        UsageError: an option does not parse or is out of range, or neither models nor an ensemble are named.
    """
    described = ModelOptions(**{each.name: values.pop(each.name) for each in fields(ModelOptions)})
    names = {_python_name(flag_of(RunRequest, name)): name for name in options_of(RunRequest)}
    chosen: dict[str, Any] = {
        names[key]: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    if not chosen["baselines"]:
        del chosen["baselines"]
    return RunRequest(source, _members(model, ensemble, described), **chosen)


def _members(model: list[str] | None, ensemble: Path | None, described: ModelOptions) -> tuple[ModelRequest, ...]:
    from pipeline.models.training.ensemble_manifest import ensemble_models

    if ensemble is None:
        if not model:
            raise UsageError("no model is named; give --model (see --help), or --ensemble with the folder of one")
        return described.requests(model)
    if model or described != ModelOptions():
        raise UsageError("--ensemble brings its models, weights, input size and classes; leave out their options")
    return ensemble_models(ensemble)


def _lines(path: Path) -> tuple[str, ...]:
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--classes {path} cannot be read: {error}") from error


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text!r} is not a list of numbers; write for example 0.485,0.456,0.406") from None
