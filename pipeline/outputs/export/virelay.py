"""A ViRelAy project: `project.yaml`, `label-map.json`, `dataset.h5`, `attribution.h5`, `analysis.h5`.

ViRelAy (Anders et al., 2021) explores the clusters that spectral relevance analysis (Lapuschkin et al., 2019) finds.
Layout of its files: "Project File Format" and "Database Specification" of its documentation, version 0.6. Opened by
`virelay project.yaml`, in an environment of its own: it pins an older Pillow.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

from db.records import ImageRow
from pipeline.analysis.audit.boxes import grid_shares, grid_step
from pipeline.analysis.audit.clusters import MIN_EMBEDDED, MOST, embed
from pipeline.analysis.audit.survey import survey
from pipeline.runs.stored import Floats, Selection

UNLABELLED = "(no label)"
SEED = 0  # the seed of every stored audit


def write(selection: Selection, place: Path, _target: Path) -> int:
    """Write the project. Images written.

    Pictures and maps have three channels, which ViRelAy draws; a map of one is spread evenly over them.
    `prediction` holds the probability of the predicted class and 0 for the others: the index stores no more. The
    analysis of a class with `clusters.MIN_EMBEDDED` images or more has the spectral embedding, its eigenvalues, and the
    clusters that an audit by predicted class finds: it covers the same random sample of at most `clusters.MOST` images.
    """
    names = _class_names(selection)
    number = {name: index for index, name in enumerate(names)}
    sample = survey(selection.done(), "predicted", SEED).explained
    wanted = {row.row for part in sample.values() for row in part[:MOST]}
    maps: dict[int, tuple[int, Floats]] = {}  # by row: the image's position in the project, and its shares (h, w)
    written = 0
    with h5py.File(place / "dataset.h5", "w") as dataset, h5py.File(place / "attribution.h5", "w") as attribution:
        for row, one, pixels in selection.with_images():
            label = number[row.label or UNLABELLED]
            _append(dataset, "data", np.broadcast_to(pixels, (3, *pixels.shape[1:])))
            _append(dataset, "label", np.uint16(label))
            _append(attribution, "attribution", np.repeat(one / 3, 3, axis=0) if len(one) == 1 else one)
            _append(attribution, "label", np.uint16(label))
            _append(attribution, "prediction", _prediction(row, len(selection.spec.class_names)))
            if row.row in wanted:
                maps[row.row] = written, grid_shares(one.sum(axis=0)[None], grid_step(*one.shape[1:]))[0]
            written += 1
    labels = [{"index": index, "word_net_id": f"{index:05}", "name": name} for name, index in number.items()]
    (place / "label-map.json").write_text(json.dumps(labels, indent=2), encoding="utf-8")
    known = {number[name]: [maps[row.row] for row in part[:MOST] if row.row in maps] for name, part in sample.items()}
    large = {f"{index:05}": part for index, part in sorted(known.items()) if len(part) >= MIN_EMBEDDED}
    if large:
        _write_analysis(place / "analysis.h5", large)
    project = {"project": _project(selection, analysed=bool(large))}
    (place / "project.yaml").write_text(yaml.safe_dump(project, sort_keys=False), encoding="utf-8")
    return written


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


def _write_analysis(path: Path, large: Mapping[str, Sequence[tuple[int, Floats]]]) -> None:
    with h5py.File(path, "w") as file:
        for category, part in large.items():
            found = embed(np.stack([shares for _, shares in part]), SEED)
            positions = np.array([position for position, _ in part], np.uint32)
            order = np.argsort(positions)  # HDF5 reads by rising index
            group = file.create_group(category)
            group["index"] = positions[order]
            group["embedding/spectral"] = found.vectors[order].astype(np.float32)
            group["embedding/spectral"].attrs["eigenvalue"] = found.eigenvalues.astype(np.float32)
            group["cluster/spectral"] = found.clusters[order].astype(np.uint32)


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
