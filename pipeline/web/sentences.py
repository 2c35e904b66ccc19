"""Figures, runs and images in words."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from db.records import ImageRow, ImageState, Run, RunOverview
from pipeline.formatting import known, number, percent, plural, visible
from pipeline.spec.describe import describe, model_name
from pipeline.spec.run_spec import RunSpec
from pipeline.web.redaction import base_name, redact

CLOSE, ROUGH = 0.05, 0.15  # errors up to which single pixels, and regions, are numerically right
VERDICTS = {
    "found": "Shortcut found",
    "look": "Look for yourself",
    "none": "No shortcut found",
    "not searched": "Not searched for shortcuts",
}


def redacted_source(run: Run | RunOverview) -> dict[str, str]:
    """Kind and name of the data set of a run."""
    source = json.loads(run.source)
    return {"kind": source["kind"], "name": base_name(source["location"])}


def redacted_spec(spec: RunSpec) -> dict[str, Any]:
    """A spec as plain values without the places of models and weights on the machine."""
    data: dict[str, Any] = json.loads(spec.to_json())
    for model in data["models"]:
        model["source"] = model_name(model["source"])
        model["weights"] = None if model["weights"] is None else base_name(model["weights"])
    return data


def facts(run: Run, spec: RunSpec) -> list[tuple[str, Sequence[str]]]:
    """What a run computes, name and lines, without the folders of this machine."""
    found = describe(run, spec, place=base_name)
    return [*((name.capitalize(), lines) for name, lines in found.items()), ("Spec key", [run.spec_key])]


def paths_per_image(spec: RunSpec) -> int:
    """Paths that an image's attribution is the mean of: members times baselines."""
    return len(spec.models) * sum(baseline.n for baseline in spec.baselines)


def finding(row: ImageRow, known_paths: Sequence[str] = ()) -> str:
    """One image in one sentence: what an alternative text says. `known` as for `places.public`."""
    key = visible(row.key)
    if row.state is ImageState.FAILED:
        return f"{key}: failed, {redact(row.error or 'no reason is recorded', known_paths)}"
    label = "" if row.label is None else f" (label {visible(row.label)})"
    sure = "" if row.probability is None else f", {number(row.probability)}"
    border = "" if row.border_share is None else f"; {percent(row.border_share)} of the evidence on the border"
    return f"{key}: predicted {visible(row.predicted)}{label}{sure}{border}"


def gap_in_words(row: ImageRow) -> str:
    """What the completeness gap of an image means for who reads its map."""
    gap, error, before, after = row.completeness_gap, row.error_estimate, row.baseline_output, row.output
    if not known(gap):
        return "The completeness gap is not known."
    size = percent(gap)
    if gap <= CLOSE:
        closely = "" if gap <= 0.01 else " closely"
        return f"The map adds up{closely}: its sum misses the change of the output along the path by {size}."
    if known(error) and error <= CLOSE and known(before) and known(after):
        return (
            f"The output changes from {number(before, 3)} at the baseline to {number(after, 3)} at the image: less "
            f"than the evidence for and against together. The completeness gap of {size} divides by this change, and "
            "more steps need not lower it: look at the error estimate."
        )
    return f"The map does not add up: its sum misses the change of the output by {size}. More steps are more exact."


def error_in_words(row: ImageRow) -> str:
    """What the error estimate of an image, which is of the numbers alone, means for who reads its map."""
    estimate = row.error_estimate
    if not known(estimate):
        return "The map's own error was not estimated."
    moves = f"About {percent(estimate)} of the map would still move with more steps:"
    if estimate > ROUGH:
        return f"{moves} take it as a rough sketch."
    if estimate > CLOSE:
        return f"{moves} read regions, not single pixels."
    others = {"members": row.member_disagreement, "baselines": row.baseline_sensitivity}
    sources = " and ".join(name for name, value in others.items() if known(value))
    below = f" Whether {sources} agree on them is told below." if sources else ""
    return f"{moves} numerically, single pixels can be read.{below}"


def verdict_in_words(audit: Mapping[str, Any]) -> str:
    """What a stored audit found, in a line."""
    found = audit["findings"]
    said: str = VERDICTS.get(audit["verdict"], audit["verdict"])
    if not found:
        return f"{said[:1].lower()}{said[1:]}"
    where = "; ".join(f"class {visible(each['class'])} leans on the {each['place']}" for each in found[:3])
    return f"{plural(len(found), 'shortcut')} found: {where}{'; ...' if len(found) > 3 else ''}"


def matching(count: int) -> str:
    """How many images match a filter."""
    return f"{plural(count, 'image')} {'matches' if count == 1 else 'match'}"
