"""Measurements that all workers of a run share: fitted nodes, and the variant of each member for a kind of device.

The first worker stores them below `runs/<id>/tuning/`. So results do not depend on the worker that computed them, and a
report can name the chosen variant and its error.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from db.objects import Objects
from db.records import DEATHS, Unit
from pipeline.attribution import AS_GIVEN, Choice, Profile
from pipeline.datasets.decoder import Picture
from pipeline.engine.explainer import Explainer
from pipeline.errors import ObjectMissing
from pipeline.record_format import build, numbered, read_record
from pipeline.spec.run_spec import FIT_IMAGES
from pipeline.storage.keys import tuning_prefix


def calibrate(
    objects: Objects,
    explainer: Explainer,
    unit: Unit,
    read_calibration: Callable[[], Sequence[Picture]],
    pictures: Sequence[Picture],
) -> None:
    """Set the nodes and member variants of a run in an explainer: the stored ones, or measured now and then stored.

    Args:
        objects: store of the run's maps.
        explainer: explainer of the unit; changed in place.
        unit: claimed unit. After `DEATHS` attempts nothing is measured and defaults are used.
        read_calibration: returns the calibration images of the run that can be read.
        pictures: images of the unit, 1 or more. Variants are measured on them if the run has no calibration images.

    Raises:
        RecordTooNew: a newer version stored them.
    """
    spec, may_measure = explainer.spec, unit.attempt <= DEATHS
    if spec.calibration:
        key = f"{tuning_prefix(unit.run_id)}nodes.json"
        found = _read(objects, key)
        if found is None:
            given = read_calibration() if may_measure else []
            profiles = explainer.fit(given) if len(given) >= FIT_IMAGES[0] else explainer.profiles
            knots = {str(b): profile.knots for b, profile in zip(spec.baselines, profiles, strict=True)}
            found = _keep(objects, key, {"knots": knots, "images": [picture.entry.key for picture in given]})
        explainer.profiles = [Profile(tuple(found["knots"][str(baseline)])) for baseline in spec.baselines]
    if explainer.chooses_variants:
        key = f"{tuning_prefix(unit.run_id)}precision/{explainer.device_kind.replace(' ', '-')}.json"
        found = _read(objects, key)
        if found is None:
            given = read_calibration() if spec.calibration and may_measure else []
            chosen = explainer.choose_variants(given or pictures) if may_measure else [AS_GIVEN] * len(spec.models)
            found = _keep(objects, key, {"members": [asdict(choice) for choice in chosen]})
        explainer.use_variants([build(Choice, choice) for choice in found["members"]], pictures)


def _read(objects: Objects, key: str) -> Any:
    try:
        return read_record(objects.get(key), key)
    except (ObjectMissing, ValueError):  # missing or damaged
        return None


def _keep(objects: Objects, key: str, found: dict[str, Any]) -> Any:
    data = json.dumps(numbered(found)).encode()
    if not objects.put_once(key, data) and _read(objects, key) is None:
        objects.put(key, data)
    return _read(objects, key)  # another worker may have stored its own first
