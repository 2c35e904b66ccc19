"""The main job on real scans: handwritten digits, a planted shortcut, an ensemble, attributions, an audit.

Everything it writes lies below the home; killed at any point, it goes on where it stopped when it is run again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from db.records import Progress, Run
from pipeline.analysis.audit import Audit
from pipeline.api import Pipeline, RunRequest
from pipeline.errors import UsageError
from pipeline.formatting import percent

MEMBERS = 3
BASELINES = ("black", "blurred:sigma=4", "uniform:n=2")
TOLERANCE = 0.05
CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo made and found."""

    run: Run
    progress: Progress
    accuracies: tuple[float, ...]  # of each member on held-out scans
    audit: Audit
    report: Path
    images: Path


def run_demo(
    pipeline: Pipeline,
    *,
    shortcut_class: int | None,
    shortcut_corner: str,
    seed: int,
    workers: int,
    say: Callable[[str], None],
    on_progress: Callable[[Progress], None],
) -> DemoResult:
    """Write the scans, train the ensemble, attribute, audit.

    Args:
        pipeline: opened.
        shortcut_class: digit that gets a mark in every scan before training; None plants nothing.
        shortcut_corner: one of `CORNERS`.
        seed: of the training.
        workers: processes that attribute.
        say: told what is going on.
        on_progress: told of the run's counts.
    """
    if shortcut_corner not in CORNERS:
        raise UsageError(f"--shortcut-corner {shortcut_corner!r} is none of: {', '.join(CORNERS)}")
    import torch

    from pipeline.models.digits import test_split, train_member, write_digits
    from pipeline.spec.request import ModelRequest

    tag = "clean" if shortcut_class is None else f"mark-{shortcut_class}-{shortcut_corner}"
    folder = pipeline.settings.home / "demo" / f"{tag}-{seed}"
    images = folder / "digits"
    say("writing 1,797 scans of handwritten digits" + _planted(shortcut_class, shortcut_corner))
    write_digits(images, shortcut_class=shortcut_class, shortcut_corner=shortcut_corner, seed=seed)
    weights = [folder / f"member-{member}.safetensors" for member in range(MEMBERS)]
    accuracies = []
    for member, out in enumerate(weights):
        say(f"training member {member + 1} of {MEMBERS} on a bootstrap resample of the scans")
        accuracies.append(train_member(images, member=member, seed=seed, out=out))
    manifest = folder / "held-out.csv"
    lines = [f"digits/{key},{key.split('/')[0]}" for key in sorted(test_split(images))]
    manifest.write_text("\n".join(["file_name,label", *lines]) + "\n")
    request = RunRequest(
        source=str(manifest),
        models=tuple(ModelRequest("pipeline.models.digits:digits_cnn", weights=str(path)) for path in weights),
        baselines=BASELINES,
        tolerance=TOLERANCE,
        name=f"demo-{tag}",
    )
    asked = f"{MEMBERS} members x 4 baselines, to an error of {percent(TOLERANCE, 0)}"
    say(f"attributing {len(lines)} held-out scans: {asked}")
    run = pipeline.submit(request)
    progress = pipeline.work(run, workers=workers, on_progress=on_progress)
    say("auditing the maps")
    torch.set_num_threads(1)  # networks this small: a second thread costs more than it brings (32 s, 20 s with one)
    audit, report = pipeline.audit(run.id)
    return DemoResult(run, progress, tuple(accuracies), audit, report, images)


def _planted(shortcut_class: int | None, corner: str) -> str:
    return "" if shortcut_class is None else f", class {shortcut_class} with a mark in its {corner} corner"
