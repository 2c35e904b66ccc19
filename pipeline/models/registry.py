"""Turns model declarations into checked members.

`resolve` loads each model once before a run is stored, tries it on a small batch, and records digests of weights and
code. `load` builds the same member in a worker, refuses it if a digest differs, and caches a few. Weights are read as
data, never as code; factories are code.
"""

import copy
import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.models.loading import Built, build, build_untrained, few
from pipeline.models.member import Member, error_text, first_layer, same_probe, try_member
from pipeline.spec.request import ModelRequest
from pipeline.spec.run_spec import ModelSpec, Preprocess

MEMBERS_KEPT = 16  # per process: an ensemble is loaded once, not once per unit
_KEYS = ("input_size", "resize", "mean", "std", "channels", "classes")
_cache: OrderedDict[tuple[ModelSpec, str, torch.dtype], nn.Module] = OrderedDict()
_cache_lock = threading.Lock()


def resolve(
    requests: Sequence[ModelRequest], *, labels: Sequence[str] = (), allowed_modules: Sequence[str] = ()
) -> tuple[ModelSpec, ...]:
    """Load each model once, try it, and describe it.

    Args:
        requests: the members of an ensemble.
        labels: labels of the data set. Sorted, they name the classes if the model does not and their number fits.
        allowed_modules: if not empty, `package.module:factory` must be below one of these prefixes.

    Returns:
        One spec for each request, in their order.

    Raises:
        ModelError: a model cannot be loaded, its weights or input do not fit, its output is not a finite (N, classes)
            tensor with a gradient, or the members differ in geometry or classes.
    """
    specs = tuple(_resolve_one(request, labels, allowed_modules) for request in requests)
    for spec in specs[1:]:
        with _naming(spec.source):
            if spec.preprocess.geometry != specs[0].preprocess.geometry:
                both = f"it takes {spec.preprocess.geometry}, {specs[0].source!r} {specs[0].preprocess.geometry}"
                raise ModelError(
                    f"{both} (height, width, channels, fit); set one `ModelRequest.input_size` for all, perhaps with "
                    "`ModelRequest.resize`"
                )
            if spec.class_names != specs[0].class_names:
                both = f"classes {few(spec.class_names)}; {specs[0].source!r} has {few(specs[0].class_names)}"
                raise ModelError(f"{both}; set `ModelRequest.class_names` if the outputs mean the same")
    return specs


def load(
    spec: ModelSpec, *, device: str = "cpu", dtype: torch.dtype = torch.float32, allowed_modules: Sequence[str] = ()
) -> nn.Module:
    """The member that a spec describes: in eval mode, with frozen parameters and its normalization.

    The last `MEMBERS_KEPT` members are cached: the same call returns the same module, so it must not be changed.

    Args:
        spec: a model that `resolve` has checked.
        device: torch device of the member.
        dtype: floating-point type of its parameters and its input.
        allowed_modules: as for `resolve`, for this machine.

    Returns:
        Pixels (N, C, H, W) in [0, 1] of `dtype` on `device` -> logits (N, classes).

    Raises:
        ModelError: it cannot be loaded here, or its weights or code changed since the run was submitted.
    """
    key = (spec, str(device), dtype)
    with _naming(spec.source), _cache_lock:
        _check_allowed(spec.source, allowed_modules)
        if key not in _cache:
            classes = len(spec.class_names)
            module = build(spec.source, spec.weights, classes=classes, code_sha256=spec.code_sha256).module
            if spec.weights is None and weights_digest(module) != spec.weights_sha256:
                # `resolve` passes classes to a factory only if the request names them
                module = build(spec.source, None, code_sha256=spec.code_sha256).module
            if weights_digest(module) != spec.weights_sha256:
                if spec.weights is None:
                    raise ModelError(
                        "it has other weights each time it is made; save them and set `ModelRequest.weights`"
                    )
                raise ModelError("its weights changed since the run was submitted; submit it again")
            if not same_probe(spec.probe, try_member(module, spec.preprocess).probe):
                raise ModelError("its outputs changed since the run was submitted: did code that it imports?")
            _cache[key] = Member(module, spec.preprocess).to(device=device, dtype=dtype)
        _cache.move_to_end(key)
        while len(_cache) > MEMBERS_KEPT:
            _cache.popitem(last=False)
        return _cache[key]


def clear_cache() -> int:
    """Drop the loaded members of this process, and return how many there were."""
    with _cache_lock:
        count = len(_cache)
        _cache.clear()
        return count


class Untrained(NamedTuple):
    """A module to train, and its preprocessing."""

    module: nn.Module  # float32
    preprocess: Preprocess
    code_sha256: str | None  # of the file that defines the factory


def untrained(
    request: ModelRequest, classes: int, *, pretrained: bool = False, allowed_modules: Sequence[str] = ()
) -> Untrained:
    """A module for some number of classes, with random weights or with given weights where they fit.

    Args:
        request: model as for a run; its weights are used where they fit, see `pipeline.models.loading`.
        classes: number of outputs, 1 or more.
        pretrained: use torchvision's weights of that name.
        allowed_modules: if not empty, prefixes of importable factories.

    Raises:
        ModelError: it cannot be built, has another number of outputs, or the file has less than half of its weights.
    """
    with _naming(request.source):
        _check_allowed(request.source, allowed_modules)
        built = build_untrained(request.source, classes, weights=request.weights, pretrained=pretrained)
        module = built.module.float()
        preprocess = _preprocess(request, _declared(built)[0], module)
        outputs = try_member(copy.deepcopy(module), preprocess).outputs  # the trial freezes its module
        if outputs != classes:
            raise ModelError(f"{outputs} outputs for {classes} classes; let its factory take num_classes")
    return Untrained(module, preprocess, built.code_sha256)


def weights_digest(module: nn.Module) -> str:
    """sha256 over the names, dtypes, shapes and bytes of a module's state, in the order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _resolve_one(request: ModelRequest, labels: Sequence[str], allowed: Sequence[str]) -> ModelSpec:
    location, _, factory = request.source.rpartition(":")  # absolute: a worker has another working folder
    source = f"{Path(location).expanduser().absolute()}:{factory}" if location.endswith(".py") else request.source
    weights = None if request.weights is None else str(Path(request.weights).expanduser().absolute())
    with _naming(request.source):
        _check_allowed(source, allowed)
        built = build(source, weights, classes=len(request.class_names or ()))
        digest = weights_digest(built.module)  # before the trial, which may change the module's dtype
        try:
            fields, names = _declared(built)
            preprocess = _preprocess(request, fields, built.module)
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"its preprocessing does not parse ({error_text(error)}); see the example in README"
            ) from error
        trial = try_member(built.module, preprocess)
        outputs = trial.outputs
        names = request.class_names or names
        if names is None:
            unique = tuple(sorted(set(labels)))
            names = unique if len(unique) == outputs else tuple(map(str, range(outputs)))
        if len(names) != outputs:
            raise ModelError(
                f"{outputs} outputs, but {len(names)} class names; set `ModelRequest.class_names`, one per output"
            )
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ModelError(
                f"two of its classes are named {twice!r}; set `ModelRequest.class_names` to distinct names"
            )
    return ModelSpec(source, weights, digest, built.code_sha256, preprocess, names, trial.probe)


@contextmanager
def _naming(source: str) -> Iterator[None]:
    """Every error below names the model."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"model {source!r}: {error}") from error.__cause__


def _check_allowed(source: str, allowed: Sequence[str]) -> None:
    module = source.rpartition(":")[0]
    free = source.startswith("torchvision:") or module.endswith(".py") or not allowed
    if not free and not any(f"{module}.".startswith(f"{prefix}.") for prefix in allowed):
        raise ModelError(f"{module!r} is not below {', '.join(allowed)}; the operator of the workers must allow it")


def _declared(built: Built) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """The preprocessing that a model declares, as fields of `Preprocess`, and its class names."""
    declared: Any = built.declared
    if declared is None:
        return {}, built.class_names
    if all(hasattr(declared, name) for name in ("crop_size", "resize_size", "mean", "std", "interpolation")):
        size, shorter = declared.crop_size[0], declared.resize_size[0]
        if shorter < size:
            raise ModelError(f"resize_size {shorter} is below crop_size {size}; make it at least that")
        fields = {"height": size, "width": size, "fit": "crop", "resize_to": shorter}
        fields |= {"mean": declared.mean, "std": declared.std, "interpolation": declared.interpolation.value}
        return fields, built.class_names
    unknown = [key for key in declared if key not in _KEYS] if isinstance(declared, Mapping) else [declared]
    if unknown:
        raise ModelError(f"its preprocessing is a dict of {', '.join(_KEYS)}, or a preset; not {unknown[0]!r}")
    fields = {key: declared[key] for key in ("mean", "std", "channels") if key in declared}
    fields["fit"] = "stretch" if declared.get("resize") else "exact"
    if "input_size" in declared:
        fields["height"], fields["width"] = _size(declared["input_size"])
    names = declared.get("classes")
    if isinstance(names, str):
        raise ModelError(f"its classes are the one string {names!r}; give a list of names")
    return fields, None if names is None else tuple(str(name) for name in names)


def _preprocess(request: ModelRequest, fields: dict[str, Any], module: nn.Module) -> Preprocess:
    """The declared preprocessing with the overrides of the request."""
    if request.input_size is not None:
        height, width = _size(request.input_size)
        fields |= {"height": height, "width": width, "fit": "exact", "resize_to": None}
    if request.resize is not None:
        fields |= {"fit": "stretch" if request.resize else "exact", "resize_to": None}
    if "height" not in fields:
        raise ModelError("its input size is not declared; set `ModelRequest.input_size`, for example 224")
    expected = first_layer(module)[1]
    channels = request.channels or fields.get("channels") or (expected if expected in (1, 3) else 3)
    if channels not in (1, 3):
        raise ModelError(f"{channels} channels; images have 1 or 3: set `ModelRequest.channels`")
    fields["channels"] = channels
    fields["mean"] = _per_channel("mean", request.mean or fields.get("mean", 0.0), channels)
    fields["std"] = _per_channel("std", request.std or fields.get("std", 1.0), channels)
    return Preprocess(**fields)


def _size(value: int | Sequence[int]) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    if height < 1 or width < 1:
        raise ModelError(
            f"input size {height} x {width} is not positive; set `ModelRequest.input_size`, for example 224"
        )
    return height, width


def _per_channel(name: str, given: float | Sequence[float], channels: int) -> tuple[float, ...]:
    values = tuple(map(float, given if isinstance(given, Sequence) else (given,)))
    values *= channels if len(values) == 1 else 1
    if len(values) != channels or not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
        above = " above 0" if name == "std" else ""
        raise ModelError(f"{name} is {values}; give `ModelRequest.{name}` 1 or {channels} (channels) numbers{above}")
    return values
