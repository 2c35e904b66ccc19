"""`attribatch run` and `attribatch show`: attribute a data set, and draw one of its images."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from db.records import ImageRow, Progress, Run
from pipeline.cli import console
from pipeline.cli.console import out
from pipeline.cli.options import takes_request, with_flags
from pipeline.cli.session import Json, exit_with, open_pipeline, resumable
from pipeline.formatting import duration, plural, visible
from pipeline.storage.files import write_file

if TYPE_CHECKING:
    from pipeline.runs.estimate import Cost
    from pipeline.spec.request import RunRequest

LISTED_FAILURES = 5


def register(app: typer.Typer) -> None:
    """Add `run` and `show`."""
    example = "attribatch run ./images --model torchvision:resnet50@DEFAULT --baseline black"
    app.command(epilog=f"Example: {example} --baseline blurred:sigma=8 --tolerance 0.03")(run)
    app.command(epilog="Example: attribatch show cat/0017.jpg --run latest --out cat.png")(show)


@takes_request
def run(
    request: "RunRequest",
    name: Annotated[str | None, typer.Option(help="A name for the run.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    priority: Annotated[int, typer.Option(help="Runs with a larger one go first.")] = 0,
    detach: Annotated[bool, typer.Option("--detach", help="Print the run's id and leave it to the workers.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the cost and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Attribute every image of a data set. If it stops or is killed, the same command resumes it."""
    request = replace(request, name=name, priority=priority)
    with open_pipeline() as pipeline:
        if dry_run:
            _print_cost(pipeline.estimate(request), as_json=as_json)
            return
        if detach:
            pipeline.check_broker()
        with resumable(), console.ProgressBar() as bar:
            bar.say("loading models and listing images")
            stored = pipeline.submit(request)
            bar.say(f"run {stored.id}: {plural(stored.image_count, 'image')}")
            if detach:
                pipeline.wake()
                _print_detached(stored, as_json=as_json)
                return
            progress = pipeline.compute(stored, workers=workers, on_progress=bar.update)
        failures = pipeline.find(stored.id, where="failed", limit=LISTED_FAILURES).rows
        reused = pipeline.reused(stored.id)
    _print_end(stored, progress, failures, reused, as_json=as_json)
    exit_with(progress.state)


def show(
    image: Annotated[str, typer.Argument(help="Key of the image, the end of it, or its row number.")],
    ref: Annotated[str, typer.Option("--run", metavar="RUN", help="Id, name, or latest.")] = "latest",
    out: Annotated[Path | None, typer.Option(help="PNG to write. Default: named after the image.")] = None,
    as_json: Json = False,
) -> None:
    """Draw one image and its map.

    Also draws the evidence for the class, the differences between members, and F along the path.
    """
    with open_pipeline() as pipeline:
        row = pipeline.find_image(ref, image)
        path = out or Path(f"{Path(row.key).stem}-attribution.png")
        write_file(path, pipeline.show(ref, image))
    if as_json:
        console.print_json({"row": row, "png": path})
        return
    predicted = f"predicted {row.predicted} ({row.probability:.3f})"
    text = f"{row.key}: {predicted}, label {row.label}, explained {row.target}"
    console.out.print(f"{text}\n{path}", markup=False)


def _print_cost(found: "Cost", *, as_json: bool) -> None:
    if as_json:
        console.print_json(found)
        return
    steps = round(found.evaluations_per_image / found.paths)
    factors = ((found.images, "image"), (found.paths, "path"), (steps, "step"))
    total = round(found.images * found.evaluations_per_image)
    equals = "=" if found.images * found.paths * steps == total else "= about"
    product = " x ".join(plural(count, noun) for count, noun in factors)
    out.print(
        f"{product} {equals} {plural(total, 'gradient evaluation')}\n"
        f"about {duration(found.seconds)} with one worker on this machine, "
        f"measured on {plural(len(found.sample), 'image')}; nothing was stored"
    )


def _print_detached(run: Run, *, as_json: bool) -> None:
    if as_json:
        console.print_json({"run": run.id, "name": run.name})
    else:
        out.print(run.id, markup=False)


def _print_end(run: Run, progress: Progress, failures: Sequence[ImageRow], reused: int, *, as_json: bool) -> None:
    """Print how a run ended: counts, some failures, and commands to continue with."""
    if as_json:
        found = {"run": run.id, "name": run.name, "progress": progress, "reused": reused, "failures": failures}
        console.print_json(found)
        return
    name = f" ({run.name})" if run.name else ""
    out.print(
        f"run {run.id}{escape(name)}: {progress.state}, "
        f"{progress.images_done:,} of {plural(progress.images_total, 'image')} done"
        + (f", {reused:,} of them reused" if reused else "")
    )
    if progress.images_failed:
        out.print(f"{plural(progress.images_failed, 'image')} failed, for example:")
        for row in failures:
            out.print(f"  {visible(with_flags(row.error or ''))}", markup=False)
    for text in progress.errors:
        out.print(f"  {text}", markup=False)
    if progress.images_done:
        ref, program = run.name or run.id, console.program()
        out.print(f"next: {program} audit {ref}    {program} query {ref} --sort -error_estimate", markup=False)
