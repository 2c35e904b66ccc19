"""Calibration of the error estimate: estimate against true error, with even and with fitted nodes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import log, table
from benchmarks.trials import BLACK, NOISE, trial
from pipeline.attribution.path import UNIFORM
from pipeline.spec.choices import Output

OUTPUTS: tuple[Output, ...] = ("logit", "probability")
RULES: dict[str, dict[str, Any]] = {
    "16 midpoints": {"n_steps": 16},
    "32 midpoints": {"n_steps": 32},
    "64 midpoints": {"n_steps": 64},
    "33 nested": {"tolerance": 1e-9, "max_steps": 33},
}
DRAWN = "32 midpoints"  # the rule in the picture
PICTURE = Path(__file__).parent / "calibration.png"

Points = dict[str, tuple[Tensor, Tensor]]  # estimates and true errors (N,) by baseline and output


def section() -> str:
    """Markdown of this section; draws the calibration picture."""
    rows, pictures = [], dict[str, Points]()
    for kinds in (BLACK, NOISE):
        for output in OUTPUTS:
            t = trial(kinds, output)
            log(f"calibration: {kinds[0]}, {output}")
            for nodes, profile in (("even", UNIFORM), ("fitted", t.profile)):
                cells = []
                for rule, options in RULES.items():
                    found = t.run(profile=profile, **options)
                    true = t.errors(found.mean)
                    cells.append(_cell(found.error_estimate / true))
                    if rule == DRAWN:
                        name = f"{kinds[0]}, {output}"
                        pictures.setdefault(f"{nodes} nodes", {})[name] = found.error_estimate, true
                rows.append([kinds[0], output, nodes, *cells])
    _draw(pictures)
    return (
        "## Is the error estimate right?\n\nEstimate over true error: the median over pictures, and the share of "
        "pictures within a factor 2. Above 1 the map is better than its estimate. The factor of `convergence.py` "
        "(3.5) would be exact at a median of 1.\n\n"
        f"{table(['baseline', 'output', 'nodes', *RULES], rows)}\n\n![{DRAWN}]({PICTURE.name})"
    )


def _cell(ratio: Tensor) -> str:
    within = ((ratio > 0.5) & (ratio < 2)).double().mean()
    return f"{ratio.median():.2f}, {within:.0%}"


def _draw(pictures: Mapping[str, Points]) -> None:
    from matplotlib.figure import Figure

    page = Figure(figsize=(10, 5), dpi=100, layout="constrained")
    ends = torch.tensor([0.005, 0.3])
    for axes, (title, points) in zip(page.subplots(1, 2, sharex=True, sharey=True), pictures.items(), strict=True):
        for name, (estimate, true) in points.items():
            axes.loglog(true, estimate, ".", label=name)
        axes.loglog(ends, ends, color="black", linewidth=1)
        axes.fill_between(ends, ends / 2, ends * 2, color="black", alpha=0.08, label="within a factor 2")
        axes.set(title=f"{DRAWN}, {title}", xlabel="true relative L1 error", ylabel="error_estimate")
        axes.legend()
    page.savefig(PICTURE)
