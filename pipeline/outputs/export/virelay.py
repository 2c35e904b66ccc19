"""A ViRelAy project: `project.yaml`, `label-map.json`, `dataset.h5`, `attribution.h5`, `analysis.h5`.

ViRelAy (Anders et al., 2021) explores what spectral relevance analysis (Lapuschkin et al., 2019) finds in attributions.
Layout of its files: "Project File Format" and "Database Specification" of its documentation, version 0.6. Opened by
`virelay project.yaml`, in an environment of its own: it pins an older Pillow.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

from db.records import ImageRow
from pipeline.analysis.audit.spectral import LEAST, analyse, features
from pipeline.runs.stored import Floats, Selection

UNLABELLED = "(no label)"


def write(selection: Selection, place: Path, _target: Path) -> int:
    """Write the project. Images written.

    Pictures and maps have three channels, which ViRelAy draws; a map of one is spread evenly over them.
    `prediction` holds the probability of the predicted class and 0 for the others: the index stores no more. Each
    predicted class of `spectral.LEAST` images or more has an analysis: spectral embedding, its eigenvalues, clusters.
    """
    names = _class_names(selection)
    number = {name: index for index, name in enumerate(names)}
    by_class: dict[str, list[int]] = defaultdict(list)
    seen: list[Floats] = []
    with h5py.File(place / "dataset.h5", "w") as dataset, h5py.File(place / "attribution.h5", "w") as attribution:
        for position, (row, one, pixels) in enumerate(selection.with_images()):
            label = number[row.label or UNLABELLED]
            _append(dataset, "data", np.broadcast_to(pixels, (3, *pixels.shape[1:])))
            _append(dataset, "label", np.uint16(label))
            _append(attribution, "attribution", np.repeat(one / 3, 3, axis=0) if len(one) == 1 else one)
            _append(attribution, "label", np.uint16(label))
            _append(attribution, "prediction", _prediction(row, len(selection.spec.class_names)))
            by_class[row.predicted or ""].append(position)
            seen.append(features(one))
    labels = [{"index": index, "word_net_id": f"{index:05}", "name": name} for name, index in number.items()]
    (place / "label-map.json").write_text(json.dumps(labels, indent=2), encoding="utf-8")
    large = {f"{number[name]:05}": places for name, places in by_class.items() if len(places) >= LEAST}
    if large:
        _write_analysis(place / "analysis.h5", np.array(seen), large)
    project = {"project": _project(selection, analysed=bool(large))}
    (place / "project.yaml").write_text(yaml.safe_dump(project, sort_keys=False), encoding="utf-8")
    return len(seen)


def _class_names(selection: Selection) -> list[str]:
    """The models' classes in their order, then labels that are none of them."""
    known = list(selection.spec.class_names)
    return known + sorted({row.label or UNLABELLED for row in selection.done()} - set(known))


def _append(file: h5py.File, name: str, value: Any) -> None:
    value = np.asarray(value)
    if name not in file:
        file.create_dataset(
            name, (0, *value.shape), value.dtype, maxshape=(None, *value.shape), chunks=(1, *value.shape)
        )
    array = file[name]
    array.resize(len(array) + 1, axis=0)
    array[-1] = value


def _prediction(row: ImageRow, classes: int) -> Floats:
    found = np.zeros(classes, np.float32)
    if row.predicted_index is not None:
        found[row.predicted_index] = row.probability or 0
    return found


def _write_analysis(path: Path, seen: Floats, large: dict[str, list[int]]) -> None:
    with h5py.File(path, "w") as file:
        for category, places in sorted(large.items()):
            found = analyse(seen[places])
            group = file.create_group(category)
            group["index"] = np.array(places, np.uint32)
            group["embedding/spectral"] = found.embedding
            group["embedding/spectral"].attrs["eigenvalue"] = found.eigenvalues
            for count, clusters in found.clusters.items():
                group[f"cluster/kmeans-{count:02}"] = clusters


def _project(selection: Selection, *, analysed: bool) -> dict[str, Any]:
    spec = selection.spec
    analyses = [{"analysis_method": "Spectral", "sources": ["analysis.h5"]}]
    return {
        "name": selection.run.name or f"attribatch {selection.run.id}",
        "model": ", ".join(model.source for model in spec.models),
        "label_map": "label-map.json",
        "dataset": {
            "name": json.loads(selection.run.source)["location"],
            "type": "hdf5",
            "path": "dataset.h5",
            "input_width": spec.preprocess.width,
            "input_height": spec.preprocess.height,
            "up_sampling_method": "none",
            "down_sampling_method": "none",
        },
        "attributions": {
            "attribution_method": spec.attribution,
            "attribution_strategy": "true_label" if spec.target == "label" else "predicted_label",
            "sources": ["attribution.h5"],
        },
        **({"analyses": analyses} if analysed else {}),
    }
