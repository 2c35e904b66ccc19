"""An audit as one HTML page that needs no other file: pictures are `data:` addresses, no script runs.

Names of classes, images and errors come from outside; Jinja escapes every one of them.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from db.records import ImageRow
from pipeline import pictures
from pipeline.audits.interventions import paste
from pipeline.audits.material import Floats, Material
from pipeline.audits.results import Audit, ClassFigures, Finding

CLASSES, CANDIDATES, FAILED = 200, 20, 20  # rows that are shown at most
_PACKAGES = ("attribatch", "torch", "torchvision", "numpy", "pillow")


@dataclass(frozen=True)
class _Example:
    """One image before and after the swap."""

    key: str
    predicted: str
    predicted_after: str
    image: str  # data: addresses
    image_alt: str
    evidence: str
    evidence_alt: str
    after: str
    after_alt: str

    @property
    def changed(self) -> bool:
        return self.predicted != self.predicted_after


@dataclass(frozen=True)
class _Shown:
    """One finding with its pictures."""

    finding: Finding
    images: int
    mean_map: str
    map_alt: str
    examples: Sequence[_Example]


@dataclass(frozen=True)
class _Row:
    """One line of the class table."""

    figures: ClassFigures
    picture: str
    alt: str


def render(audit: Audit, material: Material) -> str:
    """The page. Reads the maps and pixels of six images per finding, and asks the model once per finding."""
    largest = sorted(audit.classes, key=lambda one: -one.images)[:CLASSES]
    shown = set(map(id, largest))
    name = material.run.name or material.run.id
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=f"Audit of {name}",
            audit=audit,
            spec=material.spec,
            shown=[_show(finding, audit, material) for finding in audit.findings],
            classes=[_row(one) for one in audit.classes if id(one) in shown],
            candidates=audit.candidates[:CANDIDATES],
            failed=material.failed()[:FAILED],
            failed_count=sum(audit.failed.values()),
            method=_method(audit, material),
            spec_json=material.spec.to_json(),
        )
    )


def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "percent": lambda value: _number(value, 100, ".0f", " %"),
        "fine": lambda value: _number(value, 100, ".2g" if value is not None and value < 0.1 else ".0f", " %"),
        "small": lambda value: _number(value, 1, ".2g", ""),
        "whole": lambda value: f"{value:,}",
        "interval": lambda pair: f"{100 * pair[0]:.0f} to {100 * pair[1]:.0f} %",
    }
    return found


def _number(value: float | None, factor: float, form: str, unit: str) -> str:
    return "\u2013" if value is None else f"{value * factor:{form}}{unit}"


def _show(finding: Finding, audit: Audit, material: Material) -> _Shown:
    figures = next(one for one in audit.classes if one.class_name == finding.class_name)
    picture = pictures.upscale(Image.fromarray(pictures.signed_colours(figures.mean_map)), 208)
    return _Shown(
        finding=finding,
        images=figures.images,
        mean_map=pictures.data_uri(pictures.boxed(picture, finding.region, material.size)),
        map_alt=f"Mean map of class {finding.class_name}. {finding.sentence}",
        examples=_examples(finding, material),
    )


def _examples(finding: Finding, material: Material) -> list[_Example]:
    rows = _by_key(material, finding.examples)
    if not rows:
        return []
    pixels, maps = material.images(rows), material.maps(rows)
    region = np.repeat(np.array([finding.region]), len(rows), axis=0)
    swapped = paste(pixels, _donors(finding, material, len(rows)), region)
    names = material.spec.class_names
    before, after = material.ask(pixels), material.ask(swapped)
    return [
        _Example(
            key=row.key,
            predicted=names[before[i]],
            predicted_after=names[after[i]],
            image=_framed(pictures.to_picture(pixels[i]), finding, material),
            image_alt=f"{row.key}, predicted {names[before[i]]}: the {finding.place} is framed",
            evidence=_framed(pictures.overlay(pixels[i], maps[i]), finding, material),
            evidence_alt=f"{row.key}: what speaks for and against {finding.class_name}, the {finding.place} is framed",
            after=_framed(pictures.to_picture(swapped[i]), finding, material),
            after_alt=f"{row.key} with the {finding.place} of another class: predicted {names[after[i]]}",
        )
        for i, row in enumerate(rows)
    ]


def _by_key(material: Material, keys: Sequence[str]) -> list[ImageRow]:
    found = {row.key: row for row in material.done() if row.key in keys}
    return [found[key] for key in keys if key in found]


def _donors(finding: Finding, material: Material, count: int) -> Floats:
    """Pixels of images of other classes, evenly spread over the run."""
    others = [row for row in material.done() if row.predicted != finding.class_name and material.available(row)]
    places = np.linspace(0, len(others) - 1, count + 2)[1:-1].round().astype(int)
    return material.images([others[place] for place in places])


def _framed(picture: Image.Image, finding: Finding, material: Material) -> str:
    return pictures.data_uri(pictures.boxed(pictures.upscale(picture), finding.region, material.size))


def _row(figures: ClassFigures) -> _Row:
    small = pictures.shrink(Image.fromarray(pictures.magnitude_colours(figures.mean_absolute_map)), 96)
    name = figures.class_name
    return _Row(
        figures, pictures.data_uri(small), f"Where the evidence for class {name} lies, mean of {figures.images} images"
    )


def _method(audit: Audit, material: Material) -> list[tuple[str, str | Sequence[str]]]:
    """What a third party needs to repeat it, name and value; a sequence is shown line by line, as code."""
    run, spec = material.run, material.spec
    steps = f"{spec.method}, {spec.n_steps} steps"
    if spec.tolerance is not None:
        steps = f"nested levels of up to {spec.max_steps} steps, until a map's estimated error is {spec.tolerance:.2%}"
    prep = spec.preprocess
    facts: list[tuple[str, str | Sequence[str]]] = [
        ("run", [f"{run.id}{f' ({run.name})' if run.name else ''}"]),
        ("submitted", f"{run.submitted_at:%Y-%m-%d %H:%M} UTC" if run.submitted_at else "not recorded"),
        ("spec key", [spec.key]),
        ("data set", [run.source, f"manifest sha256 {run.manifest_digest}"]),
        ("models", [f"{model.source}: weights sha256 {model.weights_sha256}" for model in spec.models]),
        ("baselines", [str(baseline) for baseline in spec.baselines]),
        (
            "attribution",
            f"{spec.attribution.replace('_', ' ')} of the {spec.output.replace('_', ' ')}; target: {spec.target}",
        ),
        ("quadrature", steps),
        ("precision", spec.precision),
        ("model input", f"{prep.width} x {prep.height} pixels, {prep.channels} channel(s), fit: {prep.fit}"),
        ("seeds", f"run {spec.seed}, audit {audit.seed}"),
        ("classes by", audit.by),
        ("versions", ", ".join(f"{name} {found}" for name, found in _versions().items())),
    ]
    return facts


def _versions() -> Mapping[str, str]:
    found = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
