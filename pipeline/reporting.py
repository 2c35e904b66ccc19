"""Gives an audit its material from what is stored, and writes its report and JSON."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from db.records import ImageRow, Run
from pipeline.attribution.ensemble import predict
from pipeline.attribution.rows import default_batch_size
from pipeline.audits import Audit, By, Material, audit
from pipeline.audits.report import render
from pipeline.engine import load_members
from pipeline.maps import Floats
from pipeline.spec import RunSpec

Reader = Callable[[Sequence[ImageRow]], Floats]


def material_of(
    run: Run,
    rows: Sequence[ImageRow],
    *,
    maps: Reader,
    images: Reader,
    available: Callable[[ImageRow], bool],
    device: str,
    allowed_modules: Sequence[str] = (),
) -> Material:
    """A run as audits see it; models are loaded when they are first asked.

    Args:
        run: whose rows these are.
        rows: all of them, done and failed.
        maps: gives stored maps (n, C, H, W).
        available: whether the file of a row is still the one that was attributed.
        images: gives the pixels of the model's input (n, C, H, W).
        device: where the models run.
        allowed_modules: prefixes of importable models.
    """
    spec = RunSpec.from_json(run.spec)

    def ask(pixels: Floats) -> Floats:
        dtype = torch.float64 if spec.precision == "float64" else torch.float32
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(device, dtype)
        found = predict(load_members(spec, device, allowed_modules), batch, batch_size=default_batch_size(batch))
        return np.asarray(found.float().cpu().numpy(), np.float32)

    return Material(run=run, spec=spec, rows=rows, maps=maps, images=images, predict=ask, available=available)


def write_report(material: Material, *, by: By, folder: Path) -> Audit:
    """Audit a run and write `report.html` and `audit.json` into a folder."""
    result = audit(material, by=by)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text(render(result, material), encoding="utf-8")
    (folder / "audit.json").write_text(result.to_json(), encoding="utf-8")
    return result
