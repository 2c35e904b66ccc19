"""A small installation to look at: hostile names, a file that is broken, one that is gone, two runs, a stored audit."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from db.records import Run
from pipeline.analysis.audit.results import Finding
from pipeline.api import Pipeline, RunRequest
from pipeline.engine.worker import open_workshop, work
from pipeline.storage.keys import report_key
from tests.support.tiny_model import factory_text, make_members

HOSTILE = "<svg onload=alert(1)>"  # a label, a class and a part of names
NAMES = (f"{HOSTILE} & 'quoted'.png", 'two "marks".png', "\u202egnp.txe.png", "javascript:alert(1).png", "ünï cödé.png")


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
    (root / "tiny.py").write_text(factory_text(classes=("cat", "dog", HOSTILE)))
    request = RunRequest(str(images), make_members(root, root / "tiny.py"), n_steps=8, unit_size=4, name="first")
    with Pipeline.open(home) as pipeline:
        shop = open_workshop(replace(pipeline.settings, device="cpu"))
        runs = []
        for asked in (request, replace(request, baselines=("white",), name=f"second {HOSTILE}")):
            runs.append(pipeline.submit(asked))
            work(shop, runs[-1].id)
        shop.database.dispose()
        _store_audit(pipeline, runs[0], root / "report")
    (images / "dog" / "3.png").unlink()
    return Installation(root, home, images, runs[0], runs[1], request)


def _store_audit(pipeline: Pipeline, run: Run, folder: Path) -> None:
    """A real audit of the run, and a finding that so few images could not confirm."""
    audit, _ = pipeline.audit(run.id, out=folder)
    name = audit.classes[0].class_name
    keys = [row.key for row in pipeline.find(run.id, where="not failed").rows if row.predicted == name]
    finding = Finding(
        name, "window", (5, 0, 8, 3), "top-right corner", 4, 4, 0.44, 0.01, 0.78, (0.58, 0.9), 24, 0.36,
        (0.28, 0.46), 96, 0.0, 0.0, 9.1, 0.001, tuple(keys[:3]),
    )  # fmt: skip
    told = replace(audit, findings=(finding,), remarks=(*audit.remarks, "a remark"))
    pipeline.objects.put(report_key(run.id, "audit-predicted.json"), told.to_json().encode())
    measure = {
        "name": "deletion",
        "value": 0.2,
        "low": 0.1,
        "high": 0.3,
        "better": "lower",
        "images": 9,
        "meaning": "m",
    }
    evaluation = json.dumps({"metrics": [measure | {"meaning": "m"}], "baseline_sensitivity": [], "remarks": []})
    pipeline.objects.put(report_key(run.id, "evaluation.json"), evaluation.encode())
