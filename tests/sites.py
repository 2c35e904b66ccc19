"""A small installation to look at: hostile names, a file that is broken, one that is gone, two runs, a stored audit."""

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from db.records import Run
from pipeline import planning
from pipeline.api import Pipeline, RunRequest
from pipeline.audits.results import Finding
from pipeline.models import ModelRequest
from pipeline.work import open_workshop, work

HOSTILE = "<svg onload=alert(1)>"  # a label, a class and a part of names
NAMES = (f"{HOSTILE} & 'quoted'.png", 'two "marks".png', "\u202egnp.txe.png", "javascript:alert(1).png", "ünï cödé.png")
FACTORY = f"""
from torch import nn

def make():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 8 * 8, 3)
    )
    return model, {{"input_size": 8, "channels": 1, "mean": 0.5, "std": 0.25, "classes": ["cat", "dog", {HOSTILE!r}]}}
"""


@dataclass(frozen=True)
class Installation:
    """What was made."""

    root: Path
    home: Path
    images: Path
    run: Run  # named "first", partial: an image is broken
    other: Run  # the same images from another baseline
    request: RunRequest


def install(root: Path) -> Installation:
    """Make it below a folder, computed in this process."""
    images, home = root / "images", root / "home"
    random = np.random.default_rng(0)
    for label in ("cat", "dog", HOSTILE):
        (images / label).mkdir(parents=True)
        for name in NAMES if label == HOSTILE else [f"{index}.png" for index in range(4)]:
            Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(images / label / name)
    (images / "cat" / "broken.png").write_bytes(b"no image at all")
    (root / "tiny.py").write_text(FACTORY)
    members = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, 3))
        save_file(model.state_dict(), root / f"member-{seed}.safetensors")
        members.append(ModelRequest(f"{root / 'tiny.py'}:make", weights=str(root / f"member-{seed}.safetensors")))
    request = RunRequest(str(images), tuple(members), n_steps=8, unit_size=4, name="first")
    with Pipeline.open(home) as pipeline:
        shop = open_workshop(replace(pipeline.settings, device="cpu"))
        runs = []
        for asked in (request, replace(request, baselines=("white",), name=f"second {HOSTILE}")):
            runs.append(pipeline.submit(asked))
            work(shop, runs[-1].id)
        shop.database.dispose()
        _store_audit(pipeline, runs[0])
    (images / "dog" / "3.png").unlink()
    return Installation(root, home, images, runs[0], runs[1], request)


def _store_audit(pipeline: Pipeline, run: Run) -> None:
    rows = [row for row in pipeline.find(run.id, where="not failed").rows if row.predicted]
    names = sorted({row.predicted or "" for row in rows})
    finding = Finding(
        names[0], "window", (5, 0, 8, 3), "top-right corner", 4, 4, 0.44, 0.01, 0.78, (0.58, 0.9), 0.36, (0.28, 0.46),
        0.0, 0.0, 9.1, 0.001, tuple(row.key for row in rows if row.predicted == names[0])[:3],
    )  # fmt: skip
    place = vars(finding) | {"class": finding.class_name, "sentence": finding.sentence}
    figures = {
        "images": 4, "accuracy": 0.5, "completeness_gap": 0.01, "error_estimate": 0.03, "error_estimate_p90": 0.05,
        "border_share": 0.4, "member_disagreement": 0.9,
    }  # fmt: skip
    group = [row for row in rows if row.predicted == names[0]]
    cluster = {"class": names[0], "cluster": 0, "images": len(group), "examined": len(group)}
    cluster |= {"examples": [row.key for row in group[:2]], "rows": [row.row for row in group]}
    audit = {
        "run": run.id, "by": "predicted", "seed": 0, "images": len(rows), "failed_images": 1, "accuracy": 0.5,
        "verdict": "found", "summary": finding.sentence, "findings": [place], "candidates": [],
        "classes": [{"class": name, **figures} for name in names], "clusters": [cluster], "failed": {"broken": 1},
        "remarks": ["a remark"],
    }  # fmt: skip
    pipeline.objects.put(planning.report_key(run.id, "audit-predicted.json"), json.dumps(audit).encode())
    maps, buffer = np.full((len(names), 8, 8), 0.5, np.float32), io.BytesIO()
    np.savez(buffer, classes=np.array(names), mean=maps, mean_absolute=maps)
    pipeline.objects.put(planning.report_key(run.id, "audit-predicted.npz"), buffer.getvalue())
    measure = {
        "name": "deletion",
        "value": 0.2,
        "low": 0.1,
        "high": 0.3,
        "better": "lower",
        "images": 9,
        "meaning": "m",
    }
    evaluation = {"metrics": [measure], "baseline_sensitivity": [], "remarks": []}
    pipeline.objects.put(planning.report_key(run.id, "evaluation.json"), json.dumps(evaluation).encode())
