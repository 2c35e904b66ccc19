"""The command line: arguments -> one call of the API -> print. Nothing else.

The exit codes are those of `pipeline.cli.session`.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from pipeline.cli import audit, compare, console, evaluate, query, serving, upkeep
from pipeline.cli import services as processes
from pipeline.cli.ensemble import ensemble_app
from pipeline.cli.headings import UnderHeadings
from pipeline.cli.options import (
    RUNNING,
    Channels,
    Classes,
    InputSize,
    Mean,
    Resize,
    Std,
    Weights,
    model_requests,
    takes_request,
)
from pipeline.cli.schedule import schedule_app, up
from pipeline.cli.session import FAILED, USAGE, Json, exit_with, open_pipeline, resumable
from pipeline.errors import AttribatchError, UsageError
from pipeline.formatting import plural
from pipeline.storage.files import write_file

app = typer.Typer(
    name="attribatch",
    cls=UnderHeadings,
    help="Integrated Gradients for whole image data sets: resumable, queryable, audited.\n\n"
    "Start with: attribatch demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help answers in two thirds of the time
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
EXAMPLE = "Example: attribatch models show torchvision:resnet50@DEFAULT"
models_app = typer.Typer(no_args_is_help=True, help="Look at models before they are run.", epilog=EXAMPLE)
app.add_typer(models_app, name="models")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"attribatch {version('attribatch')}")
        raise typer.Exit


@app.callback()
def _main(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass


@app.command(epilog="Example: attribatch demo --shortcut-class 7 --shortcut-corner bottom-left")
def demo(
    shortcut_class: Annotated[int, typer.Option(min=0, max=9, help="Digit that gets a planted mark.")] = 3,
    shortcut_corner: Annotated[
        str, typer.Option(help="top-left, top-right, bottom-left or bottom-right.")
    ] = "top-right",
    no_shortcut: Annotated[bool, typer.Option("--no-shortcut", help="Plant nothing.")] = False,
    seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    as_json: Json = False,
) -> None:
    """See it find a planted shortcut, in about a minute.

    Trains an ensemble on real scans of digits, attributes every image, and audits the maps.
    """
    from pipeline.cli.demo import run_demo

    with open_pipeline() as pipeline, resumable(), console.progress_bar() as bar:
        found = run_demo(
            pipeline,
            shortcut_class=None if no_shortcut else shortcut_class,
            shortcut_corner=shortcut_corner,
            seed=seed,
            workers=workers,
            say=bar.say,
            on_progress=bar.update,
        )
    console.demo(found, home=pipeline.settings.home, as_json=as_json)
    exit_with(found.progress.state)


@app.command(
    epilog="Example: attribatch run ./images --model torchvision:resnet50@DEFAULT --baseline black "
    "--baseline blurred:sigma=8 --tolerance 0.03"
)
@takes_request
def run(
    request: Any,
    name: Annotated[str | None, typer.Option(help="A name for the run.", rich_help_panel=RUNNING)] = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.", rich_help_panel=RUNNING)] = 1,
    priority: Annotated[int, typer.Option(help="Runs with a larger one go first.", rich_help_panel=RUNNING)] = 0,
    detach: Annotated[
        bool, typer.Option("--detach", help="Print the run's id and leave it to the workers.", rich_help_panel=RUNNING)
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cost and stop.", rich_help_panel=RUNNING)
    ] = False,
    as_json: Json = False,
) -> None:
    """Attribute every image of a data set. Stopped or killed, the same command goes on where it was."""
    request = replace(request, name=name, priority=priority)
    with open_pipeline() as pipeline:
        if dry_run:
            console.cost(pipeline.estimate(request), as_json=as_json)
            return
        if detach:
            pipeline.check_broker()
        with resumable(), console.progress_bar() as bar:
            bar.say("loading models and listing images")
            stored = pipeline.submit(request)
            bar.say(f"run {stored.id}: {plural(stored.image_count, 'image')}")
            if detach:
                pipeline.wake()
                console.detached(stored, as_json=as_json)
                return
            progress = pipeline.compute(stored, workers=workers, on_progress=bar.update)
        failures, reused = pipeline.find(stored.id, where="failed", limit=5).rows, pipeline.reused(stored.id)
    console.finished(stored, progress, failures, reused, as_json=as_json)
    exit_with(progress.state)


@app.command(epilog="Example: attribatch show cat/0017.jpg --run latest --out cat.png")
def show(
    image: Annotated[str, typer.Argument(help="Key of the image, the end of it, or its row number.")],
    ref: Annotated[str, typer.Option("--run", metavar="RUN", help="Id, name, or latest.")] = "latest",
    out: Annotated[Path | None, typer.Option(help="PNG to write. Default: named after the image.")] = None,
    as_json: Json = False,
) -> None:
    """Draw one image and its map.

    Beside them: what speaks for the class, where members differ, and F along the path.
    """
    with open_pipeline() as pipeline:
        row = pipeline.find_image(ref, image)
        path = out or Path(f"{Path(row.key).stem}-attribution.png")
        write_file(path, pipeline.show(ref, image))
    console.image(row, path, as_json=as_json)


@models_app.command("show", epilog=EXAMPLE)
def models_show(
    model: Annotated[str, typer.Argument(help="As for run --model.")],
    weights: Weights = None,
    input_size: InputSize = None,
    resize: Resize = False,
    mean: Mean = None,
    std: Std = None,
    channels: Channels = None,
    classes: Classes = None,
    as_json: Json = False,
) -> None:
    """Load a model, check it, and print what it takes and says.

    That is its input, its classes and the digest of its weights.
    """
    from pipeline.models.registry import resolve

    found = resolve(model_requests([model], weights, input_size, resize, mean, std, channels, classes))
    console.model(found[0], as_json=as_json)


@models_app.command("list", epilog="Example: attribatch models list resnet")
def models_list(
    part: Annotated[str, typer.Argument(help="Only names that contain this.")] = "", as_json: Json = False
) -> None:
    """List the classifiers that torchvision brings."""
    from torchvision import models

    console.names([name for name in models.list_models(module=models) if part in name], as_json=as_json)


for group in (query, audit, evaluate, compare, serving, upkeep, processes):
    group.register(app)
app.add_typer(ensemble_app, name="ensemble")
app.add_typer(schedule_app, name="schedule")
app.command(epilog="Example: attribatch up --workers 2")(up)


def main() -> NoReturn:
    """Run the command line: what is raised on purpose becomes one line on stderr and an exit code."""
    try:
        app()
    except UsageError as error:
        console.error(str(error))
        sys.exit(USAGE)
    except (AttribatchError, OSError) as error:
        console.error(str(error))
        sys.exit(FAILED)
    sys.exit(0)
