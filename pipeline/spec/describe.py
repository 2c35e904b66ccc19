"""A run's request in words, for the command line, the page, the audit report and the comparison of two runs.

Each option of `RunOptions` appears under its label; the other fields have a function here.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from db.records import Run
from pipeline.formatting import NONE, plural
from pipeline.spec.options import RunOptions, flag_of, options_of
from pipeline.spec.request import RunRequest
from pipeline.spec.run_spec import RunSpec

CLASSES_SHOWN = 8
DIGEST_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Difference:
    """One field in which two runs differ, in words."""

    field: str
    a: str
    b: str


def describe(
    run: Run, spec: RunSpec, *, place: Callable[[str], str] = str, digits: int = DIGEST_DIGITS
) -> Mapping[str, tuple[str, ...]]:
    """A run in words: the name of each field and its lines. Unused options are left out.

    Args:
        run: supplies the data set and the listing.
        spec: the parsed spec of `run`.
        place: shortens the location of the data set; the page hides folders.
        digits: digits of each sha256.
    """
    source, size = json.loads(run.source), spec.preprocess
    fit = f"{size.fit} to {size.resize_to}" if size.resize_to else size.fit
    found = {
        "data set": (f"{place(source['location'])} ({source['kind']})",),
        "listing": (f"{plural(run.image_count, 'image')}, sha256 {run.manifest_digest[:digits]}",),
        "models": _models(spec, digits),
        "input": (
            f"{size.width} × {size.height} pixels, {plural(size.channels, 'channel')}, {fit}, {size.interpolation}",
        ),
        "normalisation": _normalisation(spec),
        "classes": (_classes(spec),),
        "baselines": tuple(map(str, spec.baselines)),
        **{
            one.label or name.replace("_", " "): (one.words(getattr(spec, name)),)
            for name, (_, one) in options_of(RunOptions).items()
            if one.in_key != "never" and one.used(spec)
        },
    }
    if spec.samples:
        found["samples"] = (f"{plural(len(spec.samples), 'image')}, sha256 {_digest(repr(spec.samples))[:digits]}",)
    return MappingProxyType(found)


def differences(a: Run, b: Run, *, place: Callable[[str], str] = str) -> tuple[Difference, ...]:
    """The fields in which two runs differ. `place` as for `describe`; it does not decide which fields differ."""
    pairs = [(run, RunSpec.from_json(run.spec)) for run in (a, b)]
    full = [describe(*pair, digits=64) for pair in pairs]
    shown = [describe(*pair, place=place, digits=8) for pair in pairs]
    names = dict.fromkeys(name for found in full for name in found)
    return tuple(
        Difference(name, *("; ".join(found.get(name, (NONE,))) for found in shown))
        for name in names
        if full[0].get(name) != full[1].get(name)
    )


def command(run: Run, spec: RunSpec) -> list[str]:
    """The command line that computes the same as a run over its data set."""
    found = ["attribatch", "run", str(json.loads(run.source)["location"])]
    for model in spec.models:
        found += ["--model", model.source, *(["--weights", model.weights] if model.weights else [])]
    for baseline in spec.baselines:
        found += [flag_of(RunRequest, "baselines"), str(baseline)]
    for name, (declared, one) in options_of(RunOptions).items():
        value = getattr(spec, name)
        if one.in_key != "never" and one.used(spec) and value != declared.default:
            found += [flag_of(RunOptions, name), str(value)]
    return found


def model_name(source: str) -> str:
    """A model's source without the folder of its file: `folder/file.py:factory` becomes `file.py:factory`."""
    location, _, factory = source.rpartition(":")
    file = re.split(r"[/\\]", location)[-1]
    return f"{file}:{factory}" if location.endswith(".py") else source


def _models(spec: RunSpec, digits: int) -> tuple[str, ...]:
    """Members by digests: the folder of a file makes no difference."""
    return tuple(
        f"{model_name(model.source)}, weights sha256 {model.weights_sha256[:digits]}"
        + (f", code sha256 {model.code_sha256[:digits]}" if model.code_sha256 else "")
        for model in spec.models
    )


def _normalisation(spec: RunSpec) -> tuple[str, ...]:
    each = dict.fromkeys((model.preprocess.mean, model.preprocess.std) for model in spec.models)
    return tuple(f"mean {_numbers(mean)}; standard deviation {_numbers(std)}" for mean, std in each)


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _classes(spec: RunSpec) -> str:
    names = spec.class_names
    few = ", ".join(names[:CLASSES_SHOWN])
    more = f", ... (sha256 {_digest(repr(names))[:8]})" if len(names) > CLASSES_SHOWN else ""
    return f"{len(names)}: {few}{more}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
