"""Model declarations become checked members: torchvision names, files, importable factories, weight files.

`resolve` loads each model once before a run is stored, tries it on a small batch, and notes digests of weights and
code. `load` builds the same member in a worker, refuses it if a digest differs, and keeps a few. Weights are read as
data, never as code; factories are code. Knows nothing of images, units or attributions.
"""

import copy
import hashlib
import importlib
import inspect
import math
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.members import Member, first_layer, said, same_probe, try_member
from pipeline.spec import ModelSpec, Preprocess

_MEMBERS_KEPT = 16  # per process: an ensemble is loaded once, not once per unit
_KEYS = ("input_size", "resize", "mean", "std", "channels", "classes")
_FORMS = "torchvision:resnet50@DEFAULT, path/to/file.py:factory or package.module:factory"
_cache: OrderedDict[tuple[ModelSpec, str, torch.dtype], nn.Module] = OrderedDict()
_cache_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One `--model` with its `--weights`, and what the caller states or overrides (None: as the model says).

    `input_size` replaces the whole geometry: every image must have this size (or, with `resize`, is stretched
    to it). `mean` and `std` are one value or one per channel, in units of [0, 1] pixel values.
    """

    source: str
    weights: str | None = None
    input_size: int | tuple[int, int] | None = None  # height, width
    resize: bool | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: int | None = None
    class_names: tuple[str, ...] | None = None


def resolve(
    requests: Sequence[ModelRequest], *, labels: Sequence[str] = (), allowed_modules: Sequence[str] = ()
) -> tuple[ModelSpec, ...]:
    """Load every model once, try it, and say what it is.

    Args:
        requests: the members of an ensemble.
        labels: of the data set; sorted, they name the classes if nothing else does and their number fits.
        allowed_modules: if not empty, `package.module:factory` must lie below one of these prefixes.

    Raises:
        ModelError: a model cannot be loaded, its weights or input do not fit, it gives no finite (N, classes)
            tensor with a gradient, or the members disagree on geometry or classes.
    """
    specs = tuple(_resolve_one(request, labels, allowed_modules) for request in requests)
    for spec in specs[1:]:
        with _naming(spec.source):
            if spec.preprocess.geometry != specs[0].preprocess.geometry:
                both = f"it takes {spec.preprocess.geometry}, {specs[0].source!r} {specs[0].preprocess.geometry}"
                raise ModelError(f"{both} (height, width, channels, fit); give all one --input-size, maybe --resize")
            if spec.class_names != specs[0].class_names:
                both = f"classes {_few(spec.class_names)}; {specs[0].source!r} has {_few(specs[0].class_names)}"
                raise ModelError(f"{both}; pass --classes if the outputs mean the same")
    return specs


def load(
    spec: ModelSpec, *, device: str = "cpu", dtype: torch.dtype = torch.float32, allowed_modules: Sequence[str] = ()
) -> nn.Module:
    """The member that a spec describes: eval mode, parameters frozen, normalisation inside.

    It takes pixels (N, C, H, W) in [0, 1] of `dtype` on `device` and gives logits (N, classes). The last few
    members are kept; the same call returns the same module, so it must not be changed.

    Raises:
        ModelError: it cannot be loaded here, or its weights or code changed since the run was submitted.
    """
    key = (spec, str(device), dtype)
    with _naming(spec.source), _cache_lock:
        _check_allowed(spec.source, allowed_modules)
        if key not in _cache:
            module = _build(spec.source, spec.weights, code_sha256=spec.code_sha256).module
            if weights_digest(module) != spec.weights_sha256:
                if spec.weights is None:
                    raise ModelError("it has other weights each time it is made; save them and pass --weights")
                raise ModelError("its weights changed since the run was submitted; submit it again")
            if not same_probe(spec.probe, try_member(module, spec.preprocess).probe):
                raise ModelError("its outputs changed since the run was submitted: did code that it imports?")
            _cache[key] = Member(module, spec.preprocess).to(device=device, dtype=dtype)
        _cache.move_to_end(key)
        while len(_cache) > _MEMBERS_KEPT:
            _cache.popitem(last=False)
        return _cache[key]


def weights_digest(module: nn.Module) -> str:
    """sha256 over the names, dtypes, shapes and bytes of a module's state, in the order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class _Built(NamedTuple):
    """What a source gives: a module with its weights, and what is said of its input and classes."""

    module: nn.Module
    code_sha256: str | None = None
    declared: object = None  # a dict, or a torchvision preset
    class_names: tuple[str, ...] | None = None


def _resolve_one(request: ModelRequest, labels: Sequence[str], allowed: Sequence[str]) -> ModelSpec:
    location, _, factory = request.source.rpartition(":")  # absolute paths: a worker stands in another folder
    source = f"{Path(location).expanduser().absolute()}:{factory}" if location.endswith(".py") else request.source
    weights = None if request.weights is None else str(Path(request.weights).expanduser().absolute())
    with _naming(request.source):
        _check_allowed(source, allowed)
        built = _build(source, weights)
        digest = weights_digest(built.module)  # before the trial, which may change the module's dtype
        try:
            fields, names = _declared(built)
            preprocess = _preprocess(request, fields, built.module)
        except (TypeError, ValueError) as error:
            raise ModelError(f"its preprocessing does not parse ({said(error)}); see the example in README") from error
        trial = try_member(built.module, preprocess)
        outputs = trial.outputs
        names = request.class_names or names
        if names is None:
            unique = tuple(sorted(set(labels)))
            names = unique if len(unique) == outputs else tuple(map(str, range(outputs)))
        if len(names) != outputs:
            raise ModelError(f"{outputs} outputs, but {len(names)} class names; pass --classes, one per output")
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ModelError(f"two of its classes are named {twice!r}; pass --classes with distinct names")
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
        raise ModelError(f"{module!r} is not below {', '.join(allowed)}; whoever runs the workers must allow it")


def _build(source: str, weights: str | None, *, code_sha256: str | None = None) -> _Built:
    """The module of a source, with its weights; a given `code_sha256` must be that of the factory's file."""
    if source.startswith("torchvision:"):
        return _build_torchvision(source, weights)
    factory, sha256 = _factory(source, code_sha256)
    try:
        with redirect_stdout(sys.stderr):  # what it prints must not stand in --json
            made = factory()
    except (Exception, SystemExit) as error:  # somebody else's code
        raise ModelError(f"its factory raised {said(error)}") from error
    module, declared = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        found = type(module).__name__
        raise ModelError(f"its factory returned {found}; it must return an nn.Module, or (nn.Module, preprocessing)")
    module = copy.deepcopy(module)  # a factory may return the same one again, for the next member
    if weights is not None:
        _load_state(module, _read_state(weights), weights)
    return _Built(module, sha256, declared)


def _build_torchvision(source: str, weights: str | None) -> _Built:
    from torchvision import models as zoo  # seconds that other models do not need

    name, at, chosen = source.removeprefix("torchvision:").partition("@")
    if name not in zoo.list_models():
        raise ModelError(f"torchvision has no model {name!r}; torchvision.models.list_models() names them")
    choices: Mapping[str, Any] = zoo.get_model_weights(name).__members__
    if at and chosen not in choices:
        raise ModelError(f"torchvision has no weights {chosen!r} for it; there are {', '.join(choices)}")
    if not at and weights is None:
        raise ModelError(f"no weights; write {source}@DEFAULT, or pass --weights")
    known = choices[chosen] if at else None
    declared, names = (known.transforms(), tuple(known.meta["categories"])) if known else (None, None)
    if weights is not None:
        state = _read_state(weights)
        module = zoo.get_model(name, weights=None)
        last = list(module.state_dict())[-1]  # of the classifier: its length is the number of classes
        if last in state and len(state[last]) != len(module.state_dict()[last]):
            module = zoo.get_model(name, weights=None, num_classes=len(state[last]))
        _load_state(module, state, weights)
        return _Built(module, None, declared, names)
    try:
        return _Built(zoo.get_model(name, weights=known), None, declared, names)
    except (OSError, RuntimeError) as error:  # no network, a broken download
        url = known.url if known else ""
        raise ModelError(f"no download ({said(error)}); fetch {url} elsewhere, and pass it with --weights") from error


def _factory(source: str, expected: str | None) -> tuple[Callable[[], object], str | None]:
    """The factory that a source names, and the sha256 of the file that defines it."""
    location, _, name = source.rpartition(":")
    if not location or not name.isidentifier():
        raise ModelError(f"a model is one of {_FORMS}")
    try:
        module = None if location.endswith(".py") else importlib.import_module(location)
        code = Path((module and inspect.getsourcefile(module)) or location).read_bytes()
    except Exception as error:  # somebody else's code
        raise ModelError(f"importing it raised {said(error)}; name a file, or what PYTHONPATH finds") from error
    sha256 = hashlib.sha256(code).hexdigest()
    if expected not in (None, sha256):  # before a file is run
        raise ModelError("its code changed since the run was submitted; submit the run again")
    module = module or _run_file(location, code)
    factory = getattr(module, name, None)
    if not callable(factory):
        names = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise ModelError(f"{location} has no factory {name!r}; its functions are {_few(names) or 'none'}")
    return factory, sha256


def _run_file(path: str, code: bytes) -> ModuleType:
    """A module made of exactly these bytes, under a name that nothing else has. No .pyc is read or written."""
    name = f"_attribatch_model_{hashlib.sha256(path.encode() + code).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module  # dataclasses look the module of their class up
    try:
        with redirect_stdout(sys.stderr):
            exec(compile(code, path, "exec"), module.__dict__)  # noqa: S102 - the user named this file to be run
    except (Exception, SystemExit) as error:  # somebody else's code
        del sys.modules[name]
        raise ModelError(f"running {path} raised {said(error)}") from error
    return module


def _read_state(path: str) -> dict[str, Tensor]:
    """A state_dict from a file, unwrapped and without DataParallel's prefix."""
    if not Path(path).is_file():
        raise ModelError(f"weights {path} do not exist")
    try:
        safe = path.endswith(".safetensors")
        state: Any = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file causes
        raise ModelError(f"weights {path} are no tensors ({said(error)}); save model.state_dict()") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"weights {path} hold no state_dict of tensors; save model.state_dict()")
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    return {name.removeprefix(prefix): value for name, value in state.items()}


def _load_state(module: nn.Module, state: dict[str, Tensor], path: str) -> None:
    own = module.state_dict()
    differ = [name for name, value in state.items() if name in own and own[name].shape != value.shape]
    shapes = [f"{name} is {tuple(state[name].shape)}, the model's {tuple(own[name].shape)}" for name in differ]
    problems = {"other shapes": shapes}
    if not differ:
        result = module.load_state_dict(state, strict=False)  # its own message would list every key
        problems |= {"missing": result.missing_keys, "unexpected": result.unexpected_keys}
    if any(problems.values()):
        listed = "; ".join(f"{what}: {_few(names)}" for what, names in problems.items() if names)
        raise ModelError(f"weights {path} do not fit ({listed}); pair each --weights with its --model, in order")


def _declared(built: _Built) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """What a model says of its preprocessing as fields of `Preprocess`, and its class names."""
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
    """What the request overrides, over what the model declares."""
    if request.input_size is not None:
        height, width = _size(request.input_size)
        fields |= {"height": height, "width": width, "fit": "exact", "resize_to": None}
    if request.resize is not None:
        fields |= {"fit": "stretch" if request.resize else "exact", "resize_to": None}
    if "height" not in fields:
        raise ModelError("it does not say its input size; pass --input-size, for example --input-size 224")
    expected = first_layer(module)[1]
    channels = request.channels or fields.get("channels") or (expected if expected in (1, 3) else 3)
    if channels not in (1, 3):
        raise ModelError(f"{channels} channels; images have 1 or 3: pass --channels")
    fields["channels"] = channels
    fields["mean"] = _per_channel("mean", request.mean or fields.get("mean", 0.0), channels)
    fields["std"] = _per_channel("std", request.std or fields.get("std", 1.0), channels)
    return Preprocess(**fields)


def _size(value: int | Sequence[int]) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    if height < 1 or width < 1:
        raise ModelError(f"input size {height} x {width} is not positive; pass --input-size, for example 224")
    return height, width


def _per_channel(name: str, given: float | Sequence[float], channels: int) -> tuple[float, ...]:
    values = tuple(map(float, given if isinstance(given, Sequence) else (given,)))
    values *= channels if len(values) == 1 else 1
    if len(values) != channels or not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
        above = " above 0" if name == "std" else ""
        raise ModelError(f"{name} is {values}; pass --{name} with 1 or {channels} (channels) numbers{above}")
    return values


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
