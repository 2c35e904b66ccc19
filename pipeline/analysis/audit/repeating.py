"""What a third party needs to repeat an audit: command lines, and facts that must come out the same."""

import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from pipeline.analysis.audit.results import Audit
from pipeline.formatting import asked_percent
from pipeline.runs.view import Material
from pipeline.spec.run_spec import RunSpec

_PACKAGES = ("attribatch", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow")
_DEFAULTS = {"target": "predicted", "output": "logit", "nodes": "fitted", "precision": "float32", "seed": 0,
             "attribution": "integrated_gradients"}  # fmt: skip


def commands(audit: Audit, material: Material) -> list[str]:
    """Command lines that make the report again from the same images and weights."""
    source = json.loads(material.run.source)
    command = ["attribatch", "run", str(source.get("location", material.run.source)), *_options(material.spec)]
    return [shlex.join(command), shlex.join(["attribatch", "audit", "latest", "--by", audit.by])]


def _options(spec: RunSpec) -> list[str]:
    found: list[str] = []
    for model in spec.models:
        found += ["--model", model.source, *(["--weights", model.weights] if model.weights else [])]
    for baseline in spec.baselines:
        found += ["--baseline", str(baseline)]
    if spec.tolerance is not None:
        found += ["--tolerance", f"{spec.tolerance:g}", "--max-steps", str(spec.max_steps)]
    else:
        found += ["--method", spec.method, "--n-steps", str(spec.n_steps)]
    for name, usual in _DEFAULTS.items():
        if (value := getattr(spec, name)) != usual:
            found += [f"--{name}", str(value)]
    return found + (["--store-channels", spec.channels] if spec.channels != "keep" else [])


def facts(audit: Audit, material: Material) -> list[tuple[str, str | Sequence[str]]]:
    """Name and value of everything that determines the figures; a sequence is shown line by line, as code."""
    run, spec = material.run, material.spec
    steps = f"{spec.method}, {spec.n_steps} steps"
    if spec.tolerance is not None:
        wanted = asked_percent(spec.tolerance)
        steps = f"nested levels of up to {spec.max_steps} steps, until a map's estimated error is {wanted}"
    prep = spec.preprocess
    return [
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
        ("normalisation", f"mean {_numbers(prep.mean)}; standard deviation {_numbers(prep.std)}"),
        ("seeds", f"run {spec.seed}, audit {audit.seed}"),
        ("classes by", audit.by),
        ("versions", ", ".join(f"{name} {found}" for name, found in _versions().items())),
    ]


def _numbers(values: Sequence[float] | float) -> str:
    return ", ".join(f"{value:g}" for value in (values if isinstance(values, Sequence) else (values,)))


def _versions() -> Mapping[str, str]:
    found = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
