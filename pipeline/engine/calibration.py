"""What a run measures once, and all its workers share: where nodes stand, and how each member is run on a device.

Both lie beside the run's maps, `runs/<id>/tuning/`, written once by whoever comes first: so results do not depend on
which worker computed them, and a report can say what was chosen and how far it is from the plain way.
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
from pipeline.spec.calibration import FIT_IMAGES
from pipeline.storage.keys import tuning_prefix


def tune(
    objects: Objects,
    explainer: Explainer,
    unit: Unit,
    calibration: Callable[[], Sequence[Picture]],
    pictures: Sequence[Picture],
) -> None:
    """Give an explainer the nodes and ways of its run: the stored ones, or else measured now and stored.

    Args:
        objects: where they lie.
        explainer: of the unit.
        unit: of the run. Where attempt after attempt came to an end before anything was stored, nothing is measured.
        calibration: reads the run's calibration images, those that can be read.
        pictures: of the unit: ways are compared on them where the run has no calibration images.
    """
    spec, may_measure = explainer.spec, unit.attempt <= DEATHS
    if spec.calibration:
        key = f"{tuning_prefix(unit.run_id)}nodes.json"
        found = _read(objects, key)
        if found is None:
            given = calibration() if may_measure else []
            profiles = explainer.fit(given) if len(given) >= FIT_IMAGES[0] else explainer.profiles
            knots = {str(b): profile.knots for b, profile in zip(spec.baselines, profiles, strict=True)}
            found = _keep(objects, key, {"knots": knots, "images": [picture.entry.key for picture in given]})
        explainer.profiles = [Profile(tuple(found["knots"][str(baseline)])) for baseline in spec.baselines]
    if explainer.chooses_ways:
        key = f"{tuning_prefix(unit.run_id)}precision/{explainer.device_kind.replace(' ', '-')}.json"
        found = _read(objects, key)
        if found is None:
            given = calibration() if spec.calibration and may_measure else []
            chosen = explainer.choose_ways(given or pictures) if may_measure else [AS_GIVEN] * len(spec.models)
            found = _keep(objects, key, {"members": [asdict(choice) for choice in chosen]})
        explainer.use_ways([Choice(**choice) for choice in found["members"]], pictures)


def _read(objects: Objects, key: str) -> Any:
    try:
        return json.loads(objects.get(key))
    except (ObjectMissing, ValueError):  # or it is damaged
        return None


def _keep(objects: Objects, key: str, found: dict[str, Any]) -> Any:
    data = json.dumps(found).encode()
    if not objects.put_once(key, data) and _read(objects, key) is None:
        objects.put(key, data)
    return _read(objects, key)  # somebody may have been faster: theirs stands
