"""Hits and false alarms of the audit on marks of nine kinds, planted in one of ten classes.

Worlds of tests/support/planted_worlds.py: digits at 32 x 32, plain and on photographs, two bagged networks, 1,000
audited images (a fifth of a class is 20 images). A network uses a mark if removing it lowers the accuracy on marked
images by 20 points or more, significantly (McNemar's exact test at 5 %: on 6 of 20 images if none is gained).

The thresholds of the audit were set on worlds with seeds below 90. If you change a threshold, use new seeds here.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

from benchmarks.machine import log, table
from pipeline.analysis.audit import Audit, audit
from tests.support.planted_worlds import CORNERS, KINDS, world

RATES = (1.0, 0.5, 0.2)
SEEDS = range(90, 94)  # no threshold was set with these
FAMILIES = {**dict.fromkeys(CORNERS, "corner"), **{kind: kind for kind in KINDS if kind not in CORNERS}}
CLEAN = 5  # clean worlds for each seed
SIZE: dict[str, Any] = {"images": 1000, "taught": 600, "epochs": 4}
ON_PHOTOGRAPHS: dict[str, Any] = {"images": 1000, "taught": 797, "epochs": 8, "photographs": True}
USED, CHANCE = 0.2, 0.05


@dataclass(frozen=True)
class Cell:
    """A world, and the result of its audit. `kind` is None for a clean world."""

    kind: str | None
    rate: float
    learned: bool
    photographs: bool
    seed: int
    drop: float = 0.0
    p_value: float = 1.0  # by McNemar's exact test
    found: bool = False  # in the marked class
    others: int = 0  # findings in other classes
    findings: str = ""  # in words

    @property
    def used(self) -> bool:
        """Whether the networks use the mark."""
        return self.learned and self.drop >= USED and self.p_value <= CHANCE

    @property
    def false(self) -> bool:
        """Whether the audit has a false finding."""
        return self.others > 0 or (self.found and not self.learned and self.drop < USED)


def section() -> str:
    """Markdown of this section."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        cells = []
        for cell in pool.map(_measured, _cells()):
            cells.append(cell)
            name = f"{cell.kind or 'clean'} {cell.rate:.0%}{' on photographs' if cell.photographs else ''}"
            verdict = "FALSE" if cell.false else "MISSED" if cell.used and not cell.found else ""
            log(
                f"shortcuts: {name} {cell.seed} learned={cell.learned} costs {cell.drop:.2f}: {cell.findings} {verdict}"
            )
    plain, photographs = [c for c in cells if not c.photographs], [c for c in cells if c.photographs]
    return (
        "## Planted shortcuts\n\nDigits at 32 x 32, two bagged networks, 1,000 held-out images, a mark in one of ten "
        "classes; a fifth of the training images has it too, labeled as the class, so that networks rely on it. "
        "*Used*: accuracy on marked images falls by 20 points or more when the mark is removed, significantly "
        "(McNemar's exact test, 5 %: on 6 of 20 images). No threshold was set with these worlds.\n\n"
        f"{_hits(plain)}\n\n### On photographs\n\nThe same, with the digits on pieces of two photographs.\n\n"
        f"{_hits(photographs)}\n\n### False alarms\n\n{_false(plain, photographs)}"
    )


def _cells() -> list[Cell]:
    """All worlds: with marks, with marks that no network was trained on, and clean; half as many on photographs."""
    cells = []
    for photographs, step in ((False, 1), (True, 2)):
        for seed in SEEDS[::step]:
            cells += [Cell(kind, rate, True, photographs, seed) for kind in KINDS for rate in RATES]
            cells += [Cell(kind, RATES[(seed - SEEDS.start) // step % 2], False, photographs, seed) for kind in KINDS]
            cells += [Cell(None, 0, False, photographs, CLEAN * seed + i) for i in range(CLEAN)]
    return cells


def _measured(cell: Cell) -> Cell:
    size = ON_PHOTOGRAPHS if cell.photographs else SIZE
    if cell.kind is None:
        return _with(cell, audit(world(seed=20_000 + cell.seed, **size).material), "")
    number = 1000 * KINDS.index(cell.kind) + 100 * RATES.index(cell.rate) + 10 * cell.learned + cell.seed
    planted = number % 7 + cell.seed % 3
    lured = 0.2 if cell.learned else 0.0
    made = world(
        seed=number, planted=planted, corner=cell.kind, rate=cell.rate, learned=cell.learned, lured=lured, **size
    )
    return _with(replace(cell, drop=made.drop, p_value=made.p_value), audit(made.material), str(planted))


def _with(cell: Cell, found: Audit, planted: str) -> Cell:
    own = [one for one in found.findings if one.class_name == planted]
    words = ", ".join(f"{one.class_name} {one.kind} {one.region}" for one in found.findings) or "nothing"
    return replace(cell, found=bool(own), others=len(found.findings) - len(own), findings=words)


def _hits(cells: Sequence[Cell]) -> str:
    """Found and used marks, by kind and by the part of the class that has them."""
    marks = [cell for cell in cells if cell.learned]
    rows = []
    for name in [*dict.fromkeys(FAMILIES.values()), "all"]:
        part = [cell for cell in marks if name in ("all", FAMILIES[cell.kind or ""])]
        used = [[cell for cell in part if cell.used and cell.rate == rate] for rate in RATES]
        few = [cell for cell in part if cell.drop >= USED and not cell.used]
        less = [cell for cell in part if cell.drop < USED]
        rows.append([name, *[f"{sum(c.found for c in some)} / {len(some)}" for some in [*used, few, less]]])
    rates = [f"{rate:.0%} of the class: found / used" for rate in RATES]
    return table(["mark", *rates, "20 points, but not significant: found", "fewer points: found"], rows)


def _false(*groups: Sequence[Cell]) -> str:
    """Worlds with a false finding."""
    kinds: dict[str, Callable[[Cell], bool]] = {
        "clean data": lambda cell: cell.kind is None,
        "mark only in the audited images, networks trained without it": lambda cell: (
            cell.kind is not None and not cell.learned
        ),
        "another class than the marked one": lambda cell: cell.learned,
    }
    rows = []
    for name, wanted in kinds.items():
        parts = [[cell for cell in group if wanted(cell)] for group in groups]
        rows.append([name, *[f"{sum(cell.false for cell in part)} of {len(part)}" for part in parts]])
    return table(["worlds with a false finding", "digits", "digits on photographs"], rows)
