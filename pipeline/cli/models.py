"""`attribatch models`: inspect models before a run."""

from typing import Annotated

import typer

from pipeline.cli import console
from pipeline.cli.options import ModelOptions, takes_models
from pipeline.cli.session import Json

EXAMPLE = "Example: attribatch models show torchvision:resnet50@DEFAULT"
CLASSES_SHOWN = 8
models_app = typer.Typer(no_args_is_help=True, help="Inspect models before a run.", epilog=EXAMPLE)


@models_app.command(epilog=EXAMPLE)
@takes_models
def show(
    model: Annotated[str, typer.Argument(help="As for run --model.")],
    options: ModelOptions,
    as_json: Json = False,
) -> None:
    """Load and check a model, and print its properties.

    The properties are its input, its classes and the digest of its weights.
    """
    from pipeline.models.registry import resolve

    (found,) = resolve(options.requests([model]))
    if as_json:
        console.print_json(found)
        return
    size = found.preprocess
    few = ", ".join(found.class_names[:CLASSES_SHOWN]) + (", ..." if len(found.class_names) > CLASSES_SHOWN else "")
    fit = f"{size.fit} to {size.resize_to}" if size.resize_to else size.fit
    lines = [
        f"source    {found.source}",
        f"input     {size.channels} x {size.height} x {size.width} ({fit}, {size.interpolation})",
        f"mean      {', '.join(f'{value:g}' for value in size.mean)}",
        f"std       {', '.join(f'{value:g}' for value in size.std)}",
        f"classes   {len(found.class_names)}: {few}",
        f"weights   sha256 {found.weights_sha256}",
    ]
    console.out.print("\n".join(lines), markup=False)


@models_app.command("list", epilog="Example: attribatch models list resnet")
def list_models(
    part: Annotated[str, typer.Argument(help="Only names that contain this.")] = "", as_json: Json = False
) -> None:
    """List torchvision's classifiers."""
    from torchvision import models

    found = [name for name in models.list_models(module=models) if part in name]
    if as_json:
        console.print_json(found)
    else:
        console.out.print("\n".join(found), markup=False)
