"""A FiftyOneDataset folder: `samples.json`, `metadata.json`, the pictures in `data/`, heat maps in `fields/`.

Loaded by `fiftyone.Dataset.from_dir(folder, dataset_type=fiftyone.types.FiftyOneDataset)`. FiftyOne wants heat maps by
their full path: export again where the folder is to be moved. Written without a version, which FiftyOne reads as its
first format: fields have the types of their values.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from db.records import ImageRow
from pipeline.outputs.pictures import flat, to_picture
from pipeline.runs.stored import Floats, Selection, safe_name

FIGURES = (
    "probability",
    "completeness_gap",
    "error_estimate",
    "member_disagreement",
    "sign_agreement",
    "baseline_sensitivity",
    "border_share",
    "center_share",
    "entropy",
    "gini",
    "positive_share",
)


def write(selection: Selection, place: Path, target: Path) -> int:
    """Write the folder. Images written.

    A sample has `ground_truth`, `prediction`, `attribution` (|map summed over channels|, 255 at its largest),
    `source_key` and the figures of the index.
    """
    (place / "data").mkdir()
    (place / "fields" / "attribution").mkdir(parents=True)
    written = 0
    with (place / "samples.json").open("w", encoding="utf-8") as file:
        file.write('{"samples": [')
        for row, one, pixels in selection.with_images():
            name = f"{safe_name(row)}.png"
            to_picture(pixels).save(place / "data" / name)
            _heat(one).save(place / "fields" / "attribution" / name)
            sample = _sample(row, f"data/{name}", str(target / "fields" / "attribution" / name))
            file.write(f"{',' if written else ''}\n{json.dumps(sample)}")
            written += 1
        file.write("\n]}\n")
    info = {"attribatch_run": selection.run.id, "spec": json.loads(selection.run.spec)}
    metadata = {"media_type": "image", "info": info, "default_classes": list(selection.spec.class_names)}
    (place / "metadata.json").write_text(json.dumps(metadata, indent=2), encoding="utf-8")
    return written


def _heat(one: Floats) -> Image.Image:
    size = np.abs(flat(one))
    return Image.fromarray((255 * size / (size.max() or 1)).round().astype(np.uint8))


def _sample(row: ImageRow, picture: str, heat: str) -> dict[str, Any]:
    labels = {"ground_truth": (row.label, None), "prediction": (row.predicted, row.probability)}
    return {
        "filepath": picture,
        "tags": [],
        "metadata": None,
        "source_key": row.key,
        **{name: _classification(*label) for name, label in labels.items() if label[0] is not None},
        "attribution": {"_cls": "Heatmap", "tags": [], "map_path": heat, "range": [0, 255]},
        **{name: getattr(row, name) for name in FIGURES if getattr(row, name) is not None},
    }


def _classification(label: str | None, confidence: float | None) -> dict[str, Any]:
    sure = {} if confidence is None else {"confidence": confidence}
    return {"_cls": "Classification", "tags": [], "label": label, **sure}
