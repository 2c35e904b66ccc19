"""Declarations become modules with their weights: torchvision names, files, importable factories, weight files.

Weights are read as data, never as code; factories are code.
"""

import copy
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.models.member import error_text

_MOVED = {"pipeline.digits": "pipeline.models.digits"}
# Digest of the file that first defined a network of this package, for as long as the network is the same: runs of
# earlier versions load, and their attributions are reused.
_FIRST_DIGESTS = {"pipeline.models.digits": "13630b596ffc2e7141fdb852c58023441529d379b73ad71db2bc9be91ec6aeb3"}
_FORMS = "torchvision:resnet50@DEFAULT, path/to/file.py:factory or package.module:factory"


class Built(NamedTuple):
    """A module with its weights, and the declared input and classes."""

    module: nn.Module
    code_sha256: str | None = None
    declared: object = None  # a dict, or a torchvision preset
    class_names: tuple[str, ...] | None = None


def build(source: str, weights: str | None, *, classes: int = 0, code_sha256: str | None = None) -> Built:
    """The module of a source, with its weights.

    Args:
        source: torchvision:NAME@WEIGHTS, path/to/file.py:factory or package.module:factory.
        weights: .safetensors or .pt file; None: those of the source.
        classes: passed to a factory with a parameter `num_classes`; 0: unknown, not passed.
        code_sha256: digest that the factory's file must have; None: any.

    Raises:
        ModelError: it cannot be built, the weights do not fit, or the code has changed.
    """
    if source.startswith("torchvision:"):
        return _build_torchvision(source, weights)
    factory, sha256 = _factory(source, code_sha256)
    try:
        with redirect_stdout(sys.stderr):  # its output must not get into --json
            wants_classes = classes and "num_classes" in inspect.signature(factory).parameters
            made = factory(num_classes=classes) if wants_classes else factory()
    except (Exception, SystemExit) as error:  # raised by the user's code
        raise ModelError(f"its factory raised {error_text(error)}") from error
    module, declared = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        found = type(module).__name__
        raise ModelError(f"its factory returned {found}; it must return an nn.Module, or (nn.Module, preprocessing)")
    module = copy.deepcopy(module)  # a factory may return the same one again, for the next member
    if weights is not None:
        _load_state(module, read_state(weights), weights)
    return Built(module, sha256, declared)


def build_untrained(source: str, classes: int, *, weights: str | None = None, pretrained: bool = False) -> Built:
    """A module for some number of classes, with random weights or with given weights where they fit.

    Args:
        source: as for `build`. For torchvision the preset of the name gives the preprocessing, even without weights.
        classes: number of outputs, 1 or more.
        weights: file of tensors, used where name and shape fit: a last layer for other classes stays random.
        pretrained: use torchvision's weights of that name in the same way.
    """
    taken = None if weights is None else read_state(weights)
    if source.startswith("torchvision:"):
        name, _, chosen = source.removeprefix("torchvision:").partition("@")
        zoo, known = _known(name, chosen or "DEFAULT")
        built = Built(zoo.get_model(name, weights=None, num_classes=classes), None, known.transforms())
        if pretrained and taken is None:
            with _downloading(known):
                taken = known.get_state_dict(progress=False, check_hash=True)
    else:
        built = build(source, None, classes=classes)
    if taken is not None:
        _load_fitting(built.module, taken, weights or source)
    return built


def _build_torchvision(source: str, weights: str | None) -> Built:
    name, at, chosen = source.removeprefix("torchvision:").partition("@")
    zoo, known = _known(name, chosen if at else "")
    if known is None and weights is None:
        raise ModelError(f"no weights; write {source}@DEFAULT, or set `ModelRequest.weights`")
    declared, names = (known.transforms(), tuple(known.meta["categories"])) if known else (None, None)
    if weights is None:
        with _downloading(known):
            return Built(zoo.get_model(name, weights=known), None, declared, names)
    state = read_state(weights)
    module = zoo.get_model(name, weights=None)
    last = list(module.state_dict())[-1]  # bias of the classifier: its length is the number of classes
    if last in state and len(state[last]) != len(module.state_dict()[last]):
        module = zoo.get_model(name, weights=None, num_classes=len(state[last]))
    _load_state(module, state, weights)
    return Built(module, None, declared, names)


def _known(name: str, chosen: str) -> tuple[Any, Any]:
    """Torchvision's models, and the named weights of one of them; None for an empty name."""
    from torchvision import models as zoo  # takes seconds, which other models do not need

    if name not in zoo.list_models():
        raise ModelError(f"torchvision has no model {name!r}; torchvision.models.list_models() names them")
    choices: Mapping[str, Any] = zoo.get_model_weights(name).__members__
    if chosen and chosen not in choices:
        raise ModelError(f"torchvision has no weights {chosen!r} for it; there are {', '.join(choices)}")
    return zoo, choices[chosen] if chosen else None


@contextmanager
def _downloading(known: Any) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # no network, a broken download
        raise ModelError(
            f"no download ({error_text(error)}); fetch {known.url} elsewhere, and set `ModelRequest.weights` to it"
        ) from error


def _factory(source: str, expected: str | None) -> tuple[Callable[..., object], str | None]:
    """The factory that a source names, and the sha256 of the file that defines it."""
    location, _, name = source.rpartition(":")
    location = _MOVED.get(location, location)
    if not location or not name.isidentifier():
        raise ModelError(f"a model is one of {_FORMS}")
    if location.endswith(".py") and not Path(location).is_file():
        raise ModelError(f"there is no file {Path(location).absolute()}")
    try:
        module = None if location.endswith(".py") else importlib.import_module(location)
        code = Path((module and inspect.getsourcefile(module)) or location).read_bytes()
    except Exception as error:  # raised by the user's code
        raise ModelError(f"importing it raised {error_text(error)}; name a file, or a module on PYTHONPATH") from error
    sha256 = _FIRST_DIGESTS.get(location) or hashlib.sha256(code).hexdigest()
    if expected not in (None, sha256):  # before a file is run
        raise ModelError("its code changed since the run was submitted; submit the run again")
    module = module or _run_file(location, code)
    factory = getattr(module, name, None)
    if not callable(factory):
        names = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise ModelError(f"{location} has no factory {name!r}; its functions are {few(names) or 'none'}")
    return factory, sha256


def _run_file(path: str, code: bytes) -> ModuleType:
    """A module made from exactly these bytes, under a unique name. No .pyc is read or written."""
    name = f"_attribatch_model_{hashlib.sha256(path.encode() + code).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module  # dataclasses look the module of their class up
    try:
        with redirect_stdout(sys.stderr):
            exec(compile(code, path, "exec"), module.__dict__)  # noqa: S102 - running the file that the user named is what --model FILE.py:FACTORY asks for
    except (Exception, SystemExit) as error:  # raised by the user's code
        del sys.modules[name]
        raise ModelError(f"running {path} raised {error_text(error)}") from error
    return module


def read_state(path: str) -> dict[str, Tensor]:
    """A state_dict from a file, unwrapped and without DataParallel's prefix."""
    if not Path(path).is_file():
        raise ModelError(f"weights {path} do not exist")
    try:
        safe = path.endswith(".safetensors")
        state: Any = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file may raise any exception
        raise ModelError(
            f"weights {path} cannot be read as tensors ({error_text(error)}); save model.state_dict()"
        ) from error
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
        listed = "; ".join(f"{what}: {few(names)}" for what, names in problems.items() if names)
        raise ModelError(f"weights {path} do not fit ({listed}); give each model its own `ModelRequest.weights`")


def _load_fitting(module: nn.Module, state: dict[str, Tensor], path: str) -> None:
    own = module.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if 2 * len(fitting) < len(own):
        raise ModelError(f"weights {path} fit {len(fitting)} of its {len(own)} tensors; name those of this model")
    module.load_state_dict(fitting, strict=False)


def few(names: Sequence[str]) -> str:
    """The first names of a list."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
