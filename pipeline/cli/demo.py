"""`attribatch demo`: plant a shortcut in scans of digits, train an ensemble, attribute and audit.

All files are below ATTRIBATCH_HOME. If the demo is killed, running it again resumes it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from db.records import Progress, Run
from pipeline.cli import console
from pipeline.cli.audit import print_audit
from pipeline.cli.console import out
from pipeline.cli.session import Json, exit_with, open_pipeline, resumable
from pipeline.errors import UsageError
from pipeline.formatting import percent
from pipeline.spec.request import ModelRequest, RunRequest

if TYPE_CHECKING:
    from pipeline.analysis.audit import Audit
    from pipeline.api import Pipeline

MEMBERS = 3
BASELINES = ("black", "blurred:sigma=4", "uniform:n=2")
TOLERANCE = 0.05  # relative L1 error of a map
CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The run, the audit and the files of a demo."""

    run: Run
    progress: Progress
    accuracies: tuple[float, ...]  # of each member on held-out scans
    audit: "Audit"
    report: Path


def register(app: typer.Typer) -> None:
    """Add `demo`."""
    app.command(epilog="Example: attribatch demo --shortcut-class 7 --shortcut-corner bottom-left")(demo)


def demo(
    shortcut_class: Annotated[int, typer.Option(min=0, max=9, help="Digit that gets a planted mark.")] = 3,
    shortcut_corner: Annotated[
        str, typer.Option(help="top-left, top-right, bottom-left or bottom-right.")
    ] = "top-right",
    no_shortcut: Annotated[bool, typer.Option("--no-shortcut", help="Plant nothing.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    as_json: Json = False,
) -> None:
    """Find a planted shortcut, in about a minute.

    Trains an ensemble on real scans of digits, attributes every image, and audits the maps.
    """
    if shortcut_corner not in CORNERS:
        raise UsageError(f"--shortcut-corner {shortcut_corner!r} is none of: {', '.join(CORNERS)}")
    planted = None if no_shortcut else shortcut_class
    with open_pipeline() as pipeline, resumable(), console.ProgressBar() as bar:
        found = _run_demo(pipeline, planted, shortcut_corner, seed, workers, bar)
        home = pipeline.settings.home
    if as_json:
        console.print_json(
            {
                "run": found.run.id,
                "accuracies": found.accuracies,
                "progress": found.progress,
                "audit": found.audit.to_dict(),
                "report": found.report,
            }
        )
    else:
        _print(found, home)
    exit_with(found.progress.state)


def _run_demo(
    pipeline: "Pipeline", digit: int | None, corner: str, seed: int, workers: int, bar: console.ProgressBar
) -> DemoResult:
    import torch

    tag = "clean" if digit is None else f"mark-{digit}-{corner}"
    folder = pipeline.settings.home / "demo" / f"{tag}-{seed}"
    manifest, weights, accuracies = _train(folder, digit, corner, seed, bar.say)
    request = RunRequest(
        source=str(manifest),
        models=tuple(ModelRequest("pipeline.models.digits:digits_cnn", weights=str(path)) for path in weights),
        baselines=BASELINES,
        tolerance=TOLERANCE,
        name=f"demo-{tag}",
    )
    run = pipeline.submit(request)
    options = f"{MEMBERS} members x 4 baselines, to an error of {percent(TOLERANCE, 0)}"
    bar.say(f"attributing {run.image_count} held-out scans: {options}")
    progress = pipeline.work(run, workers=workers, on_progress=bar.update)
    bar.say("auditing the maps")
    torch.set_num_threads(1)  # networks this small: 20 s with one thread, 32 s with two
    audit, report = pipeline.audit(run.id)
    return DemoResult(run, progress, tuple(accuracies), audit, report)


def _train(
    folder: Path, digit: int | None, corner: str, seed: int, say: Callable[[str], None]
) -> tuple[Path, list[Path], list[float]]:
    """Write the scans and train the members: the manifest of held-out scans, weights and accuracies."""
    from pipeline.models.digits import test_split, train_member, write_digits

    images = folder / "digits"
    planted = "" if digit is None else f", class {digit} with a mark in its {corner} corner"
    say(f"writing 1,797 scans of handwritten digits{planted}")
    write_digits(images, shortcut_class=digit, shortcut_corner=corner, seed=seed)
    weights = [folder / f"member-{member}.safetensors" for member in range(MEMBERS)]
    accuracies = []
    for member, path in enumerate(weights):
        say(f"training member {member + 1} of {MEMBERS} on a bootstrap resample of the scans")
        accuracies.append(train_member(images, member=member, seed=seed, out=path))
    manifest = folder / "held-out.csv"
    lines = [f"digits/{key},{key.split('/')[0]}" for key in sorted(test_split(images))]
    manifest.write_text("\n".join(["file_name,label", *lines]) + "\n")
    return manifest, weights, accuracies


def _print(found: DemoResult, home: Path) -> None:
    for member, accuracy in enumerate(found.accuracies, 1):
        out.print(f"member {member}: {percent(accuracy, 1)} accuracy on the held-out scans")
    print_audit(found.audit)
    out.print()
    out.print(f"report  {found.report}", markup=False)
    out.print(f"index   {home / 'index.db'}", markup=False)
    out.print(f"maps    {home / 'objects' / 'runs' / found.run.id / 'maps'}", markup=False)
    program = console.program()
    out.print(
        f"\nnext:   open the report in a browser\n        {program} query latest --where mispredicted\n"
        f"        {program} show 0 --out first.png\n        {program} run --help",
        markup=False,
    )
