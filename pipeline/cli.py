"""The command line: arguments -> one call of the API -> print. Nothing else.

Exit codes: 0 ok, 1 failed, 2 usage, 3 the run is partial (some images or units failed), 130 stopped by Ctrl-C.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from pipeline import printing
from pipeline.errors import AttribatchError, UsageError

FAILED, USAGE, PARTIAL, INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    name="attribatch",
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

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
RunRef = Annotated[str, typer.Argument(metavar="RUN", help="Id, prefix of an id, name, or latest.")]
MODELS = "The models (--model, repeatable: several are an ensemble)"
ATTRIBUTION = "What is computed"
RUNNING = "How it runs"
Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        help="torchvision:resnet50@DEFAULT, path/to/file.py:factory or pkg.module:factory. Repeat for an ensemble.",
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
    """Train an ensemble on real scans with a planted shortcut, attribute, and find it. About a minute."""
    from pipeline.demo import run_demo

    with _pipeline() as pipeline, _resumable(), printing.progress_bar() as bar:
        found = run_demo(
            pipeline,
            shortcut_class=None if no_shortcut else shortcut_class,
            shortcut_corner=shortcut_corner,
            seed=seed,
            workers=workers,
            say=bar.say,
            on_progress=bar.update,
        )
    printing.demo(found, home=pipeline.settings.home, as_json=as_json)
    _exit_with(found.progress)


@app.command(
    epilog="Example: attribatch run ./images --model torchvision:resnet50@DEFAULT --baseline black "
    "--baseline blurred:sigma=8 --tolerance 0.03"
)
def run(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of images or s3://bucket/prefix (class folders in it), CSV/JSONL manifest, .tar shards."
        ),
    ],
    model: Models,
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
    name: Annotated[str | None, typer.Option(help="A name for the run.", rich_help_panel=RUNNING)] = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.", rich_help_panel=RUNNING)] = 1,
    unit_size: Annotated[
        int | None, typer.Option(min=1, help="Images per unit of work.", rich_help_panel=RUNNING)
    ] = None,
    reuse: Annotated[
        bool,
        typer.Option("--reuse/--no-reuse", help="Take what other runs have computed.", rich_help_panel=RUNNING),
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cost and stop.", rich_help_panel=RUNNING)
    ] = False,
    as_json: Json = False,
) -> None:
    """Attribute every image of a data set. Stopped or killed, the same command goes on where it was."""
    from pipeline.api import RunRequest

    request = RunRequest(
        source=source,
        models=_requests(model, weights, input_size, resize, mean, std, channels, classes),
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
        name=name,
        unit_size=unit_size,
        reuse=reuse,
    )
    with _pipeline() as pipeline:
        if dry_run:
            printing.cost(pipeline.estimate(request), as_json=as_json)
            return
        with _resumable(), printing.progress_bar() as bar:
            bar.say("loading models and listing images")
            stored = pipeline.submit(request)
            bar.say(f"run {stored.id}: {stored.image_count:,} images")
            progress = pipeline.compute(stored, workers=workers, on_progress=bar.update)
        failures = pipeline.find(stored.id, where="failed", limit=5).rows
    printing.finished(stored, progress, failures, as_json=as_json)
    _exit_with(progress)


@app.command(epilog="Example: attribatch status latest --json")
def status(
    ref: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run; all of them by default.")] = None,
    as_json: Json = False,
) -> None:
    """Show how far runs are, and what failed in them."""
    with _pipeline() as pipeline:
        runs = pipeline.runs() if ref is None else [pipeline.get_run(ref)]
        tuning = {} if ref is None else pipeline.tuning(runs[0].id)
        printing.status([(run, pipeline.status(run.id)) for run in runs], tuning, as_json=as_json)


@app.command(
    epilog='Example: attribatch query latest --where "predicted != label and border_share > 0.3" '
    "--sort -member_disagreement"
)
def query(
    ref: RunRef = "latest",
    where: Annotated[
        str | None,
        typer.Option(
            help="Filter: comparisons of columns, and, or, not, in (...); also mispredicted, failed, converged."
        ),
    ] = None,
    sort: Annotated[str | None, typer.Option(help="Column; -column for descending. Empty values come last.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Most rows.")] = 20,
    after: Annotated[str | None, typer.Option(help="Continue after a page: its `next`.")] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with every column.")] = False,
) -> None:
    """Find images of a run by what the index knows of them."""
    with _pipeline() as pipeline:
        page = pipeline.find(ref, where=where, sort=sort, limit=limit, after=after)
    if as_csv:
        printing.csv_rows(page.rows)
    else:
        printing.page(page, as_json=as_json)


@app.command(epilog="Example: attribatch audit latest --by label --out ./report")
def audit(
    ref: RunRef = "latest",
    by: Annotated[str, typer.Option(help="Group images by their predicted class or their label.")] = "predicted",
    out: Annotated[
        Path | None, typer.Option(help="Folder of report.html and audit.json. Default: below the home.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what the maps say together: figures per class, shortcuts that were tested, an HTML report."""
    with _pipeline() as pipeline, printing.working("auditing the maps"):
        found, report = pipeline.audit(ref, by=by, out=out)
    printing.audit(found, report, as_json=as_json)


@app.command(epilog="Example: attribatch show cat/0017.jpg --run latest --out cat.png")
def show(
    image: Annotated[str, typer.Argument(help="Key of the image, the end of it, or its row number.")],
    ref: Annotated[str, typer.Option("--run", metavar="RUN", help="Id, name, or latest.")] = "latest",
    out: Annotated[Path | None, typer.Option(help="PNG to write. Default: named after the image.")] = None,
    as_json: Json = False,
) -> None:
    """Draw one image: its map, what speaks for the class, where members differ, and F along the path."""
    with _pipeline() as pipeline:
        row = pipeline.find_image(ref, image)
        path = out or Path(f"{Path(row.key).stem}-attribution.png")
        path.write_bytes(pipeline.show(ref, image))
    printing.image(row, path, as_json=as_json)


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
    """Load a model, check it, and print its input, classes and weights digest."""
    from pipeline.models import resolve

    found = resolve(_requests([model], weights, input_size, resize, mean, std, channels, classes))
    printing.model(found[0], as_json=as_json)


@models_app.command("list", epilog="Example: attribatch models list resnet")
def models_list(
    part: Annotated[str, typer.Argument(help="Only names that contain this.")] = "", as_json: Json = False
) -> None:
    """List the classifiers that torchvision brings."""
    from torchvision import models

    printing.names([name for name in models.list_models(module=models) if part in name], as_json=as_json)


@app.command(epilog="Example: attribatch cancel latest")
def cancel(ref: RunRef, as_json: Json = False) -> None:
    """Stop a run. Submitting it again goes on where it was."""
    with _pipeline() as pipeline:
        printing.counted("units cancelled", pipeline.cancel(ref), as_json=as_json)


@app.command(epilog="Example: attribatch retry latest && attribatch run ... (the same command as before)")
def retry(ref: RunRef, as_json: Json = False) -> None:
    """Give the failed units of a run all their attempts again, and those with failed images."""
    with _pipeline() as pipeline:
        printing.counted("units re-armed", pipeline.retry(ref), as_json=as_json)


@app.command(epilog="Example: attribatch repair")
def repair(as_json: Json = False) -> None:
    """Rebuild the index from the stored maps, and queue again what is missing or damaged."""
    with _pipeline() as pipeline, printing.working("comparing the index with the stored objects"):
        found = pipeline.repair()
    printing.repaired(found, as_json=as_json)


@app.command(epilog="Example: attribatch doctor --json")
def doctor(as_json: Json = False) -> None:
    """Check this installation: disk, index, object storage, device, broker."""
    from pipeline.doctor import examine
    from pipeline.settings import Settings

    checks = examine(Settings.from_env())
    printing.checks(checks, as_json=as_json)
    if not all(check.ok for check in checks):
        raise typer.Exit(FAILED)


def main() -> NoReturn:
    """Run the command line: what is raised on purpose becomes one line on stderr and an exit code."""
    try:
        app()
    except UsageError as error:
        printing.error(str(error))
        sys.exit(USAGE)
    except (AttribatchError, OSError) as error:
        printing.error(str(error))
        sys.exit(FAILED)
    sys.exit(0)


@contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        printing.error("stopped; the same command goes on where it was")
        raise typer.Exit(INTERRUPTED) from None


def _pipeline() -> Any:
    from pipeline.api import Pipeline

    return Pipeline.open()


def _requests(
    sources: list[str],
    weights: list[Path] | None,
    input_size: int | None,
    resize: bool,
    mean: str | None,
    std: str | None,
    channels: int | None,
    classes: Path | None,
) -> Any:
    from pipeline.models import ModelRequest

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


def _exit_with(progress: Any) -> None:
    if progress.state != "done":
        raise typer.Exit(PARTIAL if progress.state == "partial" else FAILED)
