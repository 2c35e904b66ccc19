"""Marks of nine kinds planted in one of ten classes: which does the audit find, and what does it accuse wrongly?

Worlds of tests/unit/audits/planted.py: digits at 32 x 32, two bagged networks, the audit's own tests. Whether
a network uses a mark is measured: the accuracy on marked images falls by 20 points or more when the mark is removed.
"""

import os
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from benchmarks.machine import log, table
from pipeline.audits import Audit, audit
from tests.unit.audits.planted import CORNERS, KINDS, world

RATES = (1.0, 0.5, 0.2)
SEEDS = int(os.environ.get("SHORTCUT_SEEDS", "4"))  # worlds of each cell
CLEAN = int(os.environ.get("SHORTCUT_CLEAN", "20"))
FAMILIES = {**dict.fromkeys(CORNERS, "corner"), **{kind: kind for kind in KINDS if kind not in CORNERS}}
SIZE: dict[str, Any] = {"images": 400, "taught": 600, "epochs": 4}
USED = 0.2


@dataclass(frozen=True)
class Cell:
    """One world with a mark."""

    kind: str
    rate: float
    learned: bool
    drop: float
    found: bool  # in its class
    others: int  # findings in other classes


def section() -> str:
    """Markdown of this section."""
    cells = [_cell(kind, rate, True, seed) for kind in KINDS for rate in RATES for seed in range(SEEDS)]
    ignored = [_cell(kind, rate, False, 0) for kind in KINDS for rate in (1.0, 0.5)]
    clean = sum(_clean(seed) for seed in range(CLEAN))
    false = clean + sum(cell.others for cell in [*cells, *ignored]) + sum(c.found for c in ignored if c.drop < USED)
    header = ["mark", *[f"{rate:.0%} of the class: found / used" for rate in RATES], "used by less: found"]
    return (
        "## Planted shortcuts\n\nDigits at 32 x 32, two bagged networks, 400 held-out images, a mark in one of ten "
        "classes; a fifth of the training images bears it too, labelled as the class, so that networks rely on it. "
        "*Used*: accuracy on marked images falls by 20 points or more when the mark is removed.\n\n"
        f"{table(header, _hits(cells))}\n\n### False alarms\n\n"
        + table(
            ["worlds", "with a false finding"],
            [
                [f"clean data, {CLEAN} seeds", str(clean)],
                [f"mark in the audited images alone, networks trained without it, {len(ignored)} worlds",
                 str(sum(c.found for c in ignored if c.drop < USED) + sum(c.others for c in ignored))],
                [f"another class than the marked one, {len(cells)} worlds", str(sum(c.others > 0 for c in cells))],
                ["all", str(false)],
            ],
        )
    )  # fmt: skip


def _hits(cells: list[Cell]) -> list[list[str]]:
    rows = defaultdict(list)
    for cell in cells:
        rows[FAMILIES[cell.kind]].append(cell)
    found = []
    for name, part in rows.items():
        used = [[c for c in part if c.rate == rate and c.drop >= USED] for rate in RATES]
        less = [c for c in part if c.drop < USED]
        counts = [f"{sum(c.found for c in some)} / {len(some)}" for some in used]
        found.append([name, *counts, f"{sum(c.found for c in less)} / {len(less)}"])
    total = [[c for c in cells if c.rate == rate and c.drop >= USED] for rate in RATES]
    return [*found, ["all", *[f"{sum(c.found for c in some)} / {len(some)}" for some in total], ""]]


def _cell(kind: str, rate: float, learned: bool, seed: int) -> Cell:
    number = 1000 * KINDS.index(kind) + 100 * RATES.index(rate) + 10 * learned + seed
    planted = number % 7 + seed % 3
    made = world(
        seed=number, planted=planted, corner=kind, rate=rate, learned=learned, lured=0.2 if learned else 0.0, **SIZE
    )
    said = audit(made.material)
    hits = [one for one in said.findings if one.class_name == str(planted)]
    cell = Cell(kind, rate, learned, made.drop, bool(hits), len(said.findings) - len(hits))
    log(f"shortcuts: {kind} {rate:.0%} learned={learned} costs {made.drop:.2f}: {_told(said)}")
    return cell


def _clean(seed: int) -> bool:
    said = audit(world(seed=20_000 + seed, **SIZE).material)
    log(f"shortcuts: clean {seed}: {_told(said)}")
    return bool(said.findings)


def _told(said: Audit) -> str:
    return ", ".join(f"{one.class_name} {one.kind} {one.region}" for one in said.findings) or "nothing"
