"""attribatch: Integrated Gradients for whole image data sets. The one door for programs.

    import attribatch

    with attribatch.Pipeline.open() as p:
        for record in p.find("latest", sort="-error_estimate", limit=5).rows:
            print(record.key, record.predicted, record.error_estimate)

Importing this module loads nothing else; each name loads its module when it is first used, and only the numerics and
the models load torch.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from pipeline.api import Found as Found
    from pipeline.api import ModelRequest as ModelRequest
    from pipeline.api import Pipeline as Pipeline
    from pipeline.api import Record as Record
    from pipeline.api import RunRequest as RunRequest
    from pipeline.api import StoredRun as StoredRun
    from pipeline.attribution import Attribution as Attribution
    from pipeline.attribution import Profile as Profile
    from pipeline.attribution import baseline_stack as baseline_stack
    from pipeline.attribution import fit_profile as fit_profile
    from pipeline.attribution import input_x_gradient as input_x_gradient
    from pipeline.attribution import integrated_gradients as integrated_gradients
    from pipeline.attribution import saliency as saliency
    from pipeline.errors import AttribatchError as AttribatchError
    from pipeline.errors import UsageError as UsageError
    from pipeline.settings import Settings as Settings
    from pipeline.spec.choices import Baseline as Baseline

_PLACES = {
    "pipeline.api": ("Found", "ModelRequest", "Pipeline", "Record", "RunRequest", "StoredRun"),
    "pipeline.attribution": (
        "Attribution",
        "Profile",
        "baseline_stack",
        "fit_profile",
        "input_x_gradient",
        "integrated_gradients",
        "saliency",
    ),
    "pipeline.errors": ("AttribatchError", "UsageError"),
    "pipeline.settings": ("Settings",),
    "pipeline.spec.choices": ("Baseline",),
}
_HOME = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [  # noqa: PLE0604 - the names of the table above
    *_HOME,
    "main",
]


def __getattr__(name: str) -> Any:
    """The public name, from the module that defines it."""
    if name == "__version__":
        return import_module("importlib.metadata").version("attribatch")
    if name not in _HOME:
        raise AttributeError(f"module 'attribatch' has no attribute {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def main() -> NoReturn:
    """Run the command line."""
    from pipeline.cli.app import main as run

    run()


def _check_packages() -> None:
    """Raise ImportError if Python finds another `pipeline`, `db` or `workers` before those of attribatch."""
    here = Path(__file__).resolve().parent
    for name in ("pipeline", "db", "workers"):
        loaded = sys.modules.get(name)
        spec = find_spec(name) if loaded is None else loaded.__spec__
        origin = None if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), None)
        if origin is None:
            raise ImportError(f"attribatch is not whole: its package {name!r} is not in {here}; install it again")
        if Path(origin).resolve() not in (here / name / "__init__.py", here / f"{name}"):
            raise ImportError(
                f"attribatch needs its own package {name!r}, but Python finds {origin} first; rename that file or "
                f"folder, or run from another folder (attribatch is in {here})"
            )


_check_packages()

if __name__ == "__main__":
    main()
