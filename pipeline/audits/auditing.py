"""One audit, start to end: a single pass over the maps for the figures and the shares, then the shortcut tests.

Memory does not grow with the data set beyond the rows themselves: a batch of maps, two mean maps per class, and the
shares of at most 10,000 images (256 per class) in some 400 windows. The sample is random, seeded, and states its size
in every finding.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np

from db.records import ImageRow
from pipeline.audits.candidates import LEAST, window_shares, windows
from pipeline.audits.material import By, Floats, Material, classes_of
from pipeline.audits.reductions import MapSums, accuracy, figures, reduce_maps
from pipeline.audits.results import Audit, Finding, Unconfirmed
from pipeline.audits.shortcuts import find_shortcuts

PER_CLASS = 256
IN_ALL = 10_000


def audit(material: Material, *, by: By = "predicted", seed: int = 0) -> Audit:
    """Figures per class and shortcuts of a whole run.

    Classes are the predicted ones, or the labels. The answer depends on the material, `by` and `seed` alone.
    """
    rows = material.done()
    groups = classes_of(rows, by)
    examined, remarks = _examined(material, groups, seed)
    boxes = windows(*material.size)
    sums = MapSums(list(groups), material.size)
    wanted = {row.row for row in chain.from_iterable(examined.values())}
    shares: dict[int, Floats] = {}  # row number -> (k,)
    for batch, maps in material.read_maps(rows):
        reduce_maps(batch, maps, sums, by)
        picked = [position for position, row in enumerate(batch) if row.row in wanted]
        shares.update(zip((batch[i].row for i in picked), window_shares(maps[picked], boxes), strict=True))
    table = {name: np.stack([shares[row.row] for row in part]) for name, part in examined.items()}
    findings: list[Finding] = []
    candidates: list[Unconfirmed] = []
    if len(table) >= 2:
        findings, candidates = find_shortcuts(material, examined, table, boxes, seed=seed)
    return Audit(
        run_id=material.run.id,
        by=by,
        seed=seed,
        images=len(rows),
        accuracy=accuracy(rows),
        findings=tuple(findings),
        candidates=tuple(candidates),
        classes=figures(rows, sums, by),
        failed=Counter(row.error or "unknown reason" for row in material.failed()),
        remarks=remarks,
        searched=len(table) >= 2,
    )


def _examined(
    material: Material, groups: Mapping[str, Sequence[ImageRow]], seed: int
) -> tuple[dict[str, list[ImageRow]], tuple[str, ...]]:
    """Images per class that the shortcut search looks at: their map must explain their class. And what was left out."""
    rng = np.random.default_rng([seed, 0])
    most = max(LEAST, min(PER_CLASS, IN_ALL // max(1, len(groups))))
    examined: dict[str, list[ImageRow]] = {}
    small, gone = [], 0
    for name, part in groups.items():
        explained = [row for row in part if row.target == name] if name in material.spec.class_names else []
        usable = [row for row in explained if material.available(row)]
        gone += len(explained) - len(usable)
        if len(usable) < LEAST:
            small.append(name)
            continue
        order = sorted(rng.permutation(len(usable))[:most])
        examined[name] = [usable[position] for position in order]
    remarks = []
    if gone:
        remarks.append(f"{gone} images are gone or have changed since the run; the shortcut tests leave them out")
    if small:
        few = ", ".join(small[:5]) + (", ..." if len(small) > 5 else "")
        remarks.append(
            f"{len(small)} of {len(groups)} classes have fewer than {LEAST} images whose map explains the class, "
            f"and were not searched for shortcuts: {few}"
        )
    if len(examined) < 2:
        remarks.append("shortcuts need two classes to compare; none was searched for")
    return examined, tuple(remarks)
