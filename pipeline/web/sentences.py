"""Sentences about runs, images and their figures."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from db.records import ImageRow, ImageState, Run, RunOverview
from pipeline.formatting import known, number, percent, plural, visible
from pipeline.spec.describe import describe, model_name
from pipeline.spec.run_spec import RunSpec
from pipeline.web.redaction import base_name, redact

CLOSE, ROUGH = 0.05, 0.15  # error estimates up to which pixels, or regions, can be read
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
    """A spec as plain values, without the folders of models and weights."""
    data: dict[str, Any] = json.loads(spec.to_json())
    for model in data["models"]:
        model["source"] = model_name(model["source"])
        model["weights"] = None if model["weights"] is None else base_name(model["weights"])
    return data


def facts(run: Run, spec: RunSpec) -> list[tuple[str, Sequence[str]]]:
    """The request of a run in words: names of fields and their lines, without the folders of this machine."""
    found = describe(run, spec, place=base_name)
    return [*((name.capitalize(), lines) for name, lines in found.items()), ("Spec key", [run.spec_key])]


def paths_per_image(spec: RunSpec) -> int:
    """Number of paths per image, members times baselines. The attribution is their mean."""
    return len(spec.models) * sum(baseline.n for baseline in spec.baselines)


def finding(row: ImageRow, known_paths: Sequence[str] = ()) -> str:
    """One image in one sentence, for alternative texts. `known_paths` as for `redact`."""
    key = visible(row.key)
    if row.state is ImageState.FAILED:
        return f"{key}: failed, {redact(row.error or 'no reason is recorded', known_paths)}"
    label = "" if row.label is None else f" (label {visible(row.label)})"
    sure = "" if row.probability is None else f", {number(row.probability)}"
    border = "" if row.border_share is None else f"; {percent(row.border_share)} of the evidence on the border"
    return f"{key}: predicted {visible(row.predicted)}{label}{sure}{border}"


def gap_in_words(row: ImageRow) -> str:
    """The meaning of an image's completeness gap for a reader of its map."""
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
    return f"The map does not add up: its sum misses the change of the output by {size}. Use more steps."


def error_in_words(row: ImageRow) -> str:
    """The meaning of an image's error estimate for a reader of its map. It covers numerical errors only."""
    estimate = row.error_estimate
    if not known(estimate):
        return "The map's own error was not estimated."
    moves = f"About {percent(estimate)} of the map would still change with more steps:"
    if estimate > ROUGH:
        return f"{moves} take it as a rough sketch."
    if estimate > CLOSE:
        return f"{moves} read regions, not single pixels."
    others = {"members": row.member_disagreement, "baselines": row.baseline_sensitivity}
    sources = " and ".join(name for name, value in others.items() if known(value))
    below = f" See below whether {sources} agree on them." if sources else ""
    return f"{moves} numerically, single pixels can be read.{below}"


def verdict_in_words(audit: Mapping[str, Any]) -> str:
    """The result of a stored audit in one line."""
    found = audit["findings"]
    verdict: str = VERDICTS.get(audit["verdict"], audit["verdict"])
    if not found:
        return f"{verdict[:1].lower()}{verdict[1:]}"
    where = "; ".join(f"class {visible(each['class'])} leans on the {each['place']}" for each in found[:3])
    return f"{plural(len(found), 'shortcut')} found: {where}{'; ...' if len(found) > 3 else ''}"


def matching(count: int) -> str:
    """A number of matching images in words: "1 image matches"."""
    return f"{plural(count, 'image')} {'matches' if count == 1 else 'match'}"
