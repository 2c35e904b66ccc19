"""`attribatch ensemble ...`: train the members that a run explains together."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import console
from pipeline.cli.session import Json, open_pipeline, resumable

EXAMPLE = "Example: attribatch ensemble train --data ./images --arch torchvision:resnet18 --out ./ensemble --epochs 20"
ensemble_app = typer.Typer(no_args_is_help=True, help="Train ensembles to explain.", epilog=EXAMPLE)


@ensemble_app.callback()
def _ensemble() -> None:
    pass


@ensemble_app.command(epilog=EXAMPLE)
def train(
    data: Annotated[
        str, typer.Option(help="Labelled images, as for run: class folders, s3://bucket/prefix, manifest, .tar shards.")
    ],
    arch: Annotated[
        str,
        typer.Option(
            help="torchvision:resnet18, path/to/file.py:factory or pkg.module:factory. A factory that has a parameter "
            "num_classes is told it."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of weights and ensemble.json, for run --ensemble.")],
    members: Annotated[int, typer.Option(help="Models, each trained on its own bootstrap resample.")] = 5,
    epochs: Annotated[int, typer.Option(help="Passes over the resample.")] = 10,
    batch_size: Annotated[int, typer.Option(help="Images of a step.")] = 32,
    lr: Annotated[float, typer.Option(help="Largest learning rate; AdamW, warm-up and cosine.")] = 1e-3,
    weights: Annotated[
        str | None, typer.Option(help="Fine-tune: DEFAULT (torchvision's), or a .safetensors or .pt file.")
    ] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Stretch images to this side, pixels. Default: as the architecture says.")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror half of the images: not for digits or text.")] = False,
    holdout: Annotated[float, typer.Option(help="Share of each class that none is trained on.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Of weights, resamples, order and holdout.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Threads that decode images.")] = 4,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    as_json: Json = False,
) -> None:
    """Train an ensemble by bagging. Stopped or killed, the same command goes on; more --members extend it."""
    from pipeline.cli.ensemble_printing import trained
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
    with open_pipeline() as pipeline, resumable(), console.progress_bar() as bar:
        found = pipeline.train_ensemble(request, device=device, threads=workers, say=bar.say)
    trained(found, out, as_json=as_json)
