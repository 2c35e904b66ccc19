"""Evaluations to a given error, per rule, fixed against adaptive; and how well the error estimate knows the error."""

from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import table
from benchmarks.networks import accuracy, digits, relative_errors, trained
from pipeline.attribution import Attribution, baseline_stack, integrated_gradients
from pipeline.declarations import METHODS, Baseline

IMAGES = 64
TARGET = 0.03
STEPS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
PICTURE = Path(__file__).parent / "calibration.png"


def section() -> str:
    """Markdown of this section; draws the calibration picture."""
    images, labels = digits()[0][1400 : 1400 + IMAGES], digits()[1][1400 : 1400 + IMAGES]
    members = trained()[:1]
    rows, points = [], {}
    for text in ("black", "uniform:n=1"):
        stack, _ = baseline_stack([Baseline.parse(text)], images, [str(i) for i in range(IMAGES)])
        for output in ("logit", "probability"):

            def run(stack: Tensor = stack, output: str = output, **options: object) -> Attribution:
                return integrated_gradients(members, images, labels, baselines=stack, output=output, **options)  # type: ignore[arg-type]

            exact = run(n_steps=1024, precision="float64").mean
            rows += [[text, output, method, *_fixed(run, exact, method)] for method in METHODS]
            rows.append([text, output, "nested levels, per image", *_adaptive(run, exact)])
            found = run(n_steps=32)
            points[f"{text}, {output}"] = (found.error_estimate, relative_errors(found.mean, exact))
    _draw(points)
    within = [
        [name, f"{((e / t > 0.5) & (e / t < 2)).double().mean():.0%}", f"{(e / t).median():.2f}"]
        for name, (e, t) in points.items()
    ]
    header = ["baseline", "output", "rule", "evaluations an image", "p90 error"]
    return (
        f"## Evaluations to an error of {TARGET:.0%} at the 90th percentile\n\n"
        f"{IMAGES} held-out scans, a residual ReLU network (accuracy {accuracy(members[0]):.1%}), one path an image; "
        f"error = relative L1 against float64 with 1,024 steps.\n\n{table(header, rows)}\n\n"
        "### Is the error estimate right?\n\n32 midpoints; estimate over true error.\n\n"
        f"{table(['baseline, output', 'within a factor 2', 'median ratio'], within)}\n\n![calibration]({PICTURE.name})"
    )


def _fixed(run, exact: Tensor, method: str) -> list[str]:  # type: ignore[no-untyped-def]
    for n in STEPS:
        error = relative_errors(run(method=method, n_steps=n).mean, exact).quantile(0.9).item()
        if error <= TARGET:
            return [str(n), f"{error:.2%}"]
    return [f"> {STEPS[-1]}", f"{error:.2%}"]


def _adaptive(run, exact: Tensor) -> list[str]:  # type: ignore[no-untyped-def]
    """The loosest tolerance whose 90th percentile meets the target."""
    for tolerance in (0.06, 0.05, 0.045, 0.04, 0.035, 0.03, 0.025, 0.02):
        found = run(tolerance=tolerance)
        error = relative_errors(found.mean, exact).quantile(0.9).item()
        if error <= TARGET:
            return [f"{found.evaluations.double().mean():.0f} (tolerance {tolerance:.1%})", f"{error:.2%}"]
    return ["not reached", f"{error:.2%}"]


def _draw(points: dict[str, tuple[Tensor, Tensor]]) -> None:
    from matplotlib.figure import Figure

    page = Figure(figsize=(6, 5.5), dpi=110, layout="constrained")
    axes = page.subplots()
    for name, (estimate, true) in points.items():
        axes.loglog(true, estimate, ".", label=name)
    ends = torch.tensor([0.002, 0.5])
    axes.loglog(ends, ends, color="black", linewidth=1)
    axes.fill_between(ends, ends / 2, ends * 2, color="black", alpha=0.08, label="within a factor 2")
    axes.set_xlabel("true relative L1 error")
    axes.set_ylabel("error_estimate")
    axes.legend()
    page.savefig(PICTURE)
