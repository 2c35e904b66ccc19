"""`attribatch ensemble`: train the members that a run attributes together."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import console
from pipeline.cli.options import with_flags
from pipeline.cli.session import Json, open_pipeline, resumable
from pipeline.formatting import percent, plural, visible

if TYPE_CHECKING:
    from pipeline.models.training.ensemble_manifest import Ensemble

EXAMPLE = "Example: attribatch ensemble train --data ./images --arch torchvision:resnet18 --out ./ensemble --epochs 20"
LISTED_FILES = 5  # unreadable images to name
ensemble_app = typer.Typer(no_args_is_help=True, help="Train ensembles to explain.", epilog=EXAMPLE)


@ensemble_app.callback()
def _ensemble() -> None:
    pass


@ensemble_app.command(epilog=EXAMPLE)
def train(
    data: Annotated[
        str,
        typer.Option(help="Labeled images as for run: class folders, s3://bucket/prefix, a manifest or .tar shards."),
    ],
    arch: Annotated[
        str,
        typer.Option(
            help="torchvision:resnet18, path/to/file.py:factory or pkg.module:factory. A factory with a parameter "
            "num_classes receives the number of classes."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the weights and ensemble.json, for run --ensemble.")],
    members: Annotated[int, typer.Option(help="Models, each trained on its own bootstrap resample.")] = 5,
    epochs: Annotated[int, typer.Option(help="Passes over the resample.")] = 10,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 32,
    lr: Annotated[float, typer.Option(help="Peak learning rate; AdamW with warm-up and cosine decay.")] = 1e-3,
    weights: Annotated[
        str | None, typer.Option(help="Fine-tune: DEFAULT (torchvision's), or a .safetensors or .pt file.")
    ] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Stretch images to this side, pixels. Default: the architecture's.")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror half of the images; not for digits or text.")] = False,
    holdout: Annotated[float, typer.Option(help="Share of each class that is not used for training.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Seed of weights, resamples, order and holdout.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Threads that decode images.")] = 4,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    as_json: Json = False,
) -> None:
    """Train an ensemble by bagging.

    If the training stops or is killed, the same command resumes it. A larger --members adds members.
    """
    from pipeline.models.training.ensemble_manifest import TrainingRequest

    request = TrainingRequest(
        data=data,
        arch=arch,
        out=str(out),
        members=members,
        epochs=epochs,
        seed=seed,
        batch_size=batch_size,
        learning_rate=lr,
        holdout=holdout,
        weights=weights,
        input_size=input_size,
        flip=flip,
    )
    with open_pipeline() as pipeline, resumable(), console.ProgressBar() as bar:
        found = pipeline.train_ensemble(request, device=device, threads=workers, say=bar.say)
    if as_json:
        console.print_json(asdict(found) | {"folder": str(out)})
    else:
        _print(found, out)


def _print(found: "Ensemble", folder: Path) -> None:
    table = console.table("member", ("held-out accuracy",))
    table.add_column("weights")
    for number, member in enumerate(found.members, 1):
        table.add_row(str(number), percent(member.accuracy, 1), member.weights)
    table.add_row("ensemble", percent(found.accuracy, 1), "mean probability of all")
    console.print_table(table)
    counts = f"{plural(found.train_images, 'image')} for training, {found.holdout_images:,} held out"
    console.out.print(f"{len(found.class_names)} classes; {counts}, {found.skipped_images:,} left out", markup=False)
    for one in found.skipped[:LISTED_FILES]:
        console.out.print(f"  {visible(with_flags(one.reason))}", markup=False)
    next_command = f"{console.program()} run {found.recipe['data']} --ensemble {folder}"
    console.out.print(f"\nnext: {next_command}", markup=False)
