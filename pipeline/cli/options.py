"""The options that say what to compute, declared once: whatever takes them is given the RunRequest they make."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import UsageError

MODELS = "The models (--model, repeatable: several are an ensemble)"
ATTRIBUTION = "What is computed"
RUNNING = "How it runs"
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        help="torchvision:resnet50@DEFAULT, path/to/file.py:factory or pkg.module:factory. Repeat for an ensemble.",
        rich_help_panel=MODELS,
    ),
]
EnsembleFolder = Annotated[
    Path | None,
    typer.Option(
        "--ensemble",
        help="Folder of `attribatch ensemble train`: its members, in place of --model and what describes models.",
        rich_help_panel=MODELS,
    ),
]
Weights = Annotated[
    list[Path] | None,
    typer.Option(help="Weights of a model, .safetensors or .pt; in the order of --model.", rich_help_panel=MODELS),
]
InputSize = Annotated[
    int | None, typer.Option(help="Side of the model's square input, pixels.", rich_help_panel=MODELS)
]
Resize = Annotated[bool, typer.Option("--resize", help="Stretch images to the input size.", rich_help_panel=MODELS)]
Mean = Annotated[
    str | None,
    typer.Option(help="Normalisation, per channel of [0, 1] pixels: 0.485,0.456,0.406", rich_help_panel=MODELS),
]
Std = Annotated[str | None, typer.Option(help="Normalisation, likewise: 0.229,0.224,0.225", rich_help_panel=MODELS)]
Channels = Annotated[int | None, typer.Option(help="1 for greyscale, 3 for RGB.", rich_help_panel=MODELS)]
Classes = Annotated[Path | None, typer.Option(help="File of class names, one a line.", rich_help_panel=MODELS)]


def takes_request(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `run_request` in the place of its parameter `request`, and the request they make.

    Typer reads signatures, so the options are declared in one place and no command repeats them.
    """
    own = inspect.signature(command).parameters
    asked = inspect.signature(run_request).parameters
    merged: list[inspect.Parameter] = []
    for name, parameter in own.items():
        merged += asked.values() if name == "request" else [parameter]

    @wraps(command)
    def wrapper(**options: Any) -> None:
        request = run_request(**{name: options.pop(name) for name in asked})
        command(request=request, **options)

    keywords = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in merged]
    shown: Any = wrapper  # functions have a signature that mypy does not know
    shown.__signature__ = inspect.Signature(keywords)
    wrapper.__annotations__ = {each.name: each.annotation for each in merged}
    del wrapper.__wrapped__  # typer would read the annotations there
    return wrapper


def run_request(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of images or s3://bucket/prefix (class folders in it), CSV/JSONL manifest, .tar shards."
        ),
    ],
    model: Models = None,
    ensemble: EnsembleFolder = None,
    weights: Weights = None,
    input_size: InputSize = None,
    resize: Resize = False,
    mean: Mean = None,
    std: Std = None,
    channels: Channels = None,
    classes: Classes = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="black, white, color:R,G,B, mean, blurred:sigma=8, opposite, uniform:n=8, gaussian:n=8,sigma=0.2 or "
            "samples:n=8; weight=W in any. Repeat to average. Default: black.",
            rich_help_panel=ATTRIBUTION,
        ),
    ] = None,
    target: Annotated[
        str, typer.Option(help="predicted, label, rank:K or class:NAME.", rich_help_panel=ATTRIBUTION)
    ] = "predicted",
    output: Annotated[
        str, typer.Option(help="logit, probability or log_probability.", rich_help_panel=ATTRIBUTION)
    ] = "logit",
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Stop per image at this relative error of its map, for example 0.03.", rich_help_panel=ATTRIBUTION
        ),
    ] = None,
    max_steps: Annotated[
        int, typer.Option(help="With --tolerance: most steps per path.", rich_help_panel=ATTRIBUTION)
    ] = 513,
    n_steps: Annotated[
        int, typer.Option(help="Without --tolerance: steps per path.", rich_help_panel=ATTRIBUTION)
    ] = 50,
    method: Annotated[
        str,
        typer.Option(
            help="riemann_middle, gausslegendre, riemann_trapezoid, riemann_left or riemann_right.",
            rich_help_panel=ATTRIBUTION,
        ),
    ] = "riemann_middle",
    nodes: Annotated[
        str, typer.Option(help="fitted to where gradients change, or uniform.", rich_help_panel=ATTRIBUTION)
    ] = "fitted",
    attribution: Annotated[
        str,
        typer.Option(help="integrated_gradients, input_x_gradient or saliency.", rich_help_panel=ATTRIBUTION),
    ] = "integrated_gradients",
    precision: Annotated[str, typer.Option(help="float32, float64 or auto.", rich_help_panel=ATTRIBUTION)] = "float32",
    store_channels: Annotated[
        str, typer.Option(help="Stored maps: keep every channel, or their sum.", rich_help_panel=ATTRIBUTION)
    ] = "keep",
    seed: Annotated[int, typer.Option(help="Of random baselines.", rich_help_panel=ATTRIBUTION)] = 0,
    unit_size: Annotated[
        int | None, typer.Option(min=1, help="Images per unit of work.", rich_help_panel=RUNNING)
    ] = None,
    reuse: Annotated[
        bool,
        typer.Option("--reuse/--no-reuse", help="Take what other runs have computed.", rich_help_panel=RUNNING),
    ] = True,
) -> Any:
    """The RunRequest that these options make.

    Raises:
        UsageError: they do not parse or are out of range, there are more weights than models, or neither models nor an
            ensemble.
    """
    from pipeline.api import RunRequest

    described = (weights, input_size, resize, mean, std, channels, classes)
    request = RunRequest(
        source=source,
        models=_members(model, ensemble, described),
        baselines=tuple(baseline or ("black",)),
        target=target,
        output=output,
        tolerance=tolerance,
        max_steps=max_steps,
        n_steps=n_steps,
        method=method,
        nodes=nodes,
        attribution=attribution,
        precision=precision,
        channels=store_channels,
        seed=seed,
        unit_size=unit_size,
        reuse=reuse,
    )
    request.checked()  # now: models take a while to load, a data set to list
    return request


def _members(model: list[str] | None, ensemble: Path | None, described: tuple[Any, ...]) -> Any:
    """The models that are named one by one, or the members of a trained ensemble."""
    from pipeline.models.training.ensemble_manifest import ensemble_models

    if ensemble is None:
        if not model:
            raise UsageError("no model is named; give --model (see --help), or --ensemble with a trained one's folder")
        return model_requests(model, *described)
    if model or any(described):
        raise UsageError("--ensemble brings its models, weights, input size and classes; leave --model and theirs out")
    return ensemble_models(ensemble)


def model_requests(
    sources: list[str],
    weights: list[Path] | None,
    input_size: int | None,
    resize: bool,
    mean: str | None,
    std: str | None,
    channels: int | None,
    classes: Path | None,
) -> Any:
    """The members that the options name, a tuple of ModelRequest.

    Raises:
        UsageError: they do not parse, or there are more weights than models.
    """
    from pipeline.spec.request import ModelRequest

    paths = [str(path) for path in weights or ()]
    if len(paths) > len(sources):
        raise UsageError(f"{len(paths)} --weights for {len(sources)} --model: they pair up in order")
    names = None if classes is None else _lines(classes)
    return tuple(
        ModelRequest(
            source,
            weights=paths[index] if index < len(paths) else None,
            input_size=input_size,
            resize=resize or None,
            mean=_numbers("--mean", mean),
            std=_numbers("--std", std),
            channels=channels,
            class_names=names,
        )
        for index, source in enumerate(sources)
    )


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
        raise UsageError(f"{option} {text!r} is no list of numbers; write for example 0.485,0.456,0.406") from None
