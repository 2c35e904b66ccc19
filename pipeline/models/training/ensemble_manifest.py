"""Request and result of a training: `ensemble.json`, stored with the members' weights.

Imports no torch: the command line reads an ensemble before anything is computed.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pipeline.errors import ModelError, SpecError
from pipeline.record_format import build, numbered, read_record
from pipeline.spec.request import ModelRequest, absolute_source
from pipeline.storage.files import replace_text

MANIFEST = "ensemble.json"
TORCHVISION = "torchvision:"
DEFAULT = "DEFAULT"  # weights that torchvision has


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """Data, architecture and options of a training: names and paths as the user typed them.

    Raises:
        SpecError: a number is out of range.
    """

    data: str  # as for a run: a folder of class folders, s3://bucket/prefix, a manifest with labels, .tar shards
    arch: str  # torchvision:resnet18, path/to/file.py:factory or pkg.module:factory
    out: str  # folder
    members: int = 5
    epochs: int = 10
    seed: int = 0
    batch_size: int = 32
    learning_rate: float = 1e-3  # the largest: it rises over the first tenth of the steps, then falls to 0
    holdout: float = 0.2  # share of each class that no member is trained on
    weights: str | None = None  # to start from: DEFAULT (of torchvision), or a .safetensors or .pt file
    input_size: int | None = None  # pixels; images are stretched to it. None: that of the architecture
    flip: bool = False  # mirror half of the images, left to right

    def __post_init__(self) -> None:
        for name in ("members", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if not 0 <= self.holdout < 1:
            raise SpecError(f"holdout is {self.holdout}; it is a share of each class, from 0 to below 1, such as 0.2")
        if not self.learning_rate > 0:
            raise SpecError(f"learning rate is {self.learning_rate}; it must be above 0, for example 0.001")
        if self.arch.startswith(TORCHVISION) and "@" in self.arch:
            name, _, chosen = self.arch.partition("@")
            raise SpecError(
                f"arch {self.arch!r}: set `TrainingRequest.arch` to {name} and `TrainingRequest.weights` to "
                f"{chosen or DEFAULT}"
            )
        if self.weights == DEFAULT and not self.arch.startswith(TORCHVISION):
            raise SpecError(f"arch {self.arch!r} has no DEFAULT weights; give a file of weights")

    @property
    def source(self) -> str:
        """The model as a run takes it. torchvision's preset defines the preprocessing for all weights."""
        return f"{self.arch}@DEFAULT" if self.arch.startswith(TORCHVISION) else absolute_source(self.arch)


@dataclass(frozen=True, slots=True)
class TrainedMember:
    """One member. Its seed is that of the ensemble and its number: a larger ensemble has the same first members."""

    weights: str  # name of a file in the ensemble's folder
    sha256: str  # digest of that file
    accuracy: float | None  # on the holdout; None without one


@dataclass(frozen=True, slots=True)
class Skipped:
    """An image that was left out, and why."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Ensemble:
    """A trained ensemble, as `ensemble.json` has it."""

    source: str  # of each member, as a run takes it
    input_size: int | None  # images are stretched to it; None: that of the architecture
    class_names: tuple[str, ...]
    preprocess: dict[str, Any]  # fields of `pipeline.spec.run_spec.Preprocess`
    recipe: dict[str, Any]  # the request, and digests of the code and the listing
    train_images: int
    holdout_images: int
    members: tuple[TrainedMember, ...]
    accuracy: float | None  # of the mean probability, on the holdout
    skipped_images: int
    skipped: tuple[Skipped, ...]  # the first of them
    made_on: dict[str, str]  # device and versions

    def write(self, folder: Path) -> None:
        """Put it into a folder, by one rename."""
        replace_text(folder / MANIFEST, json.dumps(numbered(asdict(self)), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The ensemble of a folder.

        Raises:
            ModelError: there is none, or its training has not ended.
            RecordTooNew: a newer version wrote it.
        """
        path = folder / MANIFEST
        try:
            return build(cls, read_record(path.read_bytes(), str(path)))
        except FileNotFoundError:
            raise ModelError(
                f"{folder} holds no {MANIFEST}: no ensemble was trained there to its end; if one was begun, the same "
                "`attribatch ensemble train` command resumes it"
            ) from None
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} cannot be read ({error}); train the ensemble again") from error


def ensemble_models(folder: Path) -> tuple[ModelRequest, ...]:
    """The members of a trained ensemble, as a run takes them.

    Raises:
        ModelError: there is none in the folder, or the weights of a member are gone or have changed.
    """
    ensemble = Ensemble.read(folder)
    for member in ensemble.members:
        if file_digest(folder / member.weights) != member.sha256:
            raise ModelError(f"{folder / member.weights} is gone or has changed since it was trained; train it again")
    return tuple(
        ModelRequest(
            ensemble.source,
            weights=str((folder / member.weights).absolute()),
            input_size=ensemble.input_size,
            resize=True if ensemble.input_size else None,
            class_names=ensemble.class_names,
        )
        for member in ensemble.members
    )


def file_digest(path: Path) -> str | None:
    """sha256 of a file; None if it does not exist."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
