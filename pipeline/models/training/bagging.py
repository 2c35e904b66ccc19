"""Trains the members of an ensemble one after the other, measures them, and writes the manifest last.

In its folder, each file appearing by one rename:

    training.json                the request: the same command resumes it, another one is refused
    member-0.part.safetensors    checkpoint of the member that is being trained
    member-0.safetensors         a member that is done
    ensemble.json                the manifest, see `pipeline.models.training.ensemble_manifest`: all is done
"""

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file

from pipeline.datasets import Source, list_entries, open_source
from pipeline.datasets.decoder import Decoder
from pipeline.errors import ModelError, UsageError
from pipeline.formatting import percent, plural
from pipeline.models.registry import Untrained, untrained
from pipeline.models.training.data import CACHE_BYTES, Images, class_names, read_images, split
from pipeline.models.training.ensemble_manifest import (
    DEFAULT,
    Ensemble,
    TrainedMember,
    TrainingRequest,
    file_digest,
)
from pipeline.models.training.fit import Fit, probabilities, save, train_member, weights_of
from pipeline.record_format import numbered, read_record
from pipeline.spec.request import ModelRequest
from pipeline.storage.files import make_folder, replace_text

TRAINING = "training.json"
MOST_SKIPPED = 1000  # images that the manifest names


def train_ensemble(
    request: TrainingRequest,
    *,
    device: str = "cpu",
    max_pixels: int = 100_000_000,
    threads: int = 4,
    cache_bytes: int = CACHE_BYTES,
    s3_endpoint_url: str | None = None,
    allowed_modules: Sequence[str] = (),
    on_message: Callable[[str], None] = lambda _: None,
) -> Ensemble:
    """Train an ensemble, or resume an interrupted training of the same request.

    Args:
        request: data, architecture and options of the training.
        device: torch device, for example "cuda:0".
        max_pixels: images with more pixels are skipped.
        threads: number of threads that decode images.
        cache_bytes: largest size of the pixels kept in memory; 8 bits a value.
        s3_endpoint_url: URL of an S3-compatible server; None: Amazon S3.
        allowed_modules: if not empty, prefixes of importable architectures.
        on_message: called with a line of progress, at least once an epoch.

    Raises:
        UsageError: the folder holds other files, the source has fewer than two classes or an image without a label,
            or the architecture cannot be built or trained.
        UnreadableImage: an image has changed since the training began.
        Retryable: the source of the images is away.
    """
    source, folder = open_source(request.data, s3_endpoint_url=s3_endpoint_url), Path(request.out).expanduser()
    _check_folder(folder)
    fit = Fit(request.epochs, request.batch_size, request.learning_rate, request.flip, request.seed, device)
    entries = list(list_entries(source))
    probe = _built(request, len(class_names(entries)), fit, 0, allowed_modules)
    on_message(f"reading {plural(len(entries), 'image')}")
    decoder = Decoder(source, probe.preprocess, max_pixels, threads)
    images = read_images(entries, decoder, cache_bytes=cache_bytes)
    for one in images.skipped[:10]:
        on_message(f"left out: {one.reason}")
    recipe = _recipe(request, source, probe, images)
    _claim(folder, recipe)
    train, held = split(images, request.holdout, request.seed)
    on_message(f"{len(images.class_names)} classes; {plural(len(train), 'image')} to train on, {len(held):,} held out")
    members, accuracy = _members(request, fit, folder, images, (train, held), allowed_modules, on_message)
    ensemble = Ensemble(
        source=request.source,
        input_size=request.input_size,
        class_names=images.class_names,
        preprocess=asdict(probe.preprocess),
        recipe=recipe,
        train_images=len(train),
        holdout_images=len(held),
        members=members,
        accuracy=accuracy,
        skipped_images=len(images.skipped),
        skipped=images.skipped[:MOST_SKIPPED],
        made_on={"device": device, "torch": torch.__version__, "python": platform.python_version()},
    )
    ensemble.write(folder)
    return ensemble


def _members(
    request: TrainingRequest,
    fit: Fit,
    folder: Path,
    images: Images,
    rows: tuple[list[int], list[int]],
    allowed_modules: Sequence[str],
    on_message: Callable[[str], None],
) -> tuple[tuple[TrainedMember, ...], float | None]:
    """All members, trained now or earlier, and the accuracy of their mean probability."""
    train, held = rows
    labels = images.labels[held]
    mean = torch.zeros(len(held), len(images.class_names), dtype=torch.float64)
    found: list[TrainedMember] = []
    for member in range(request.members):
        built = _built(request, len(images.class_names), fit, member, allowed_modules)
        path, checkpoint = folder / f"member-{member}.safetensors", folder / f"member-{member}.part.safetensors"
        if path.exists():
            built.module.to(fit.device).load_state_dict(load_file(path))
        else:

            def on_epoch(epoch: int, loss: float, member: int = member) -> None:
                on_message(f"member {member + 1} of {request.members}, epoch {epoch} of {fit.epochs}: loss {loss:.4f}")

            train_member(
                built.module, built.preprocess, images, train, fit, member, checkpoint=checkpoint, on_epoch=on_epoch
            )
            save(weights_of(built.module), path, {})
        checkpoint.unlink(missing_ok=True)
        accuracy = None
        if held:
            given = probabilities(built.module, built.preprocess, images, held, fit)
            mean += given / request.members
            accuracy = _right(given.argmax(1) == labels)
            on_message(f"member {member + 1} of {request.members}: {percent(accuracy, 1)} of the held-out images right")
        found.append(TrainedMember(path.name, str(file_digest(path)), accuracy))
    return tuple(found), _right(mean.argmax(1) == labels) if held else None


def _right(correct: torch.Tensor) -> float:
    return correct.double().mean().item()


def _built(request: TrainingRequest, classes: int, fit: Fit, member: int, allowed: Sequence[str]) -> Untrained:
    """A member before its training."""
    pretrained = request.weights == DEFAULT
    model = ModelRequest(
        request.source,
        weights=None if pretrained else request.weights,
        input_size=request.input_size,
        resize=True if request.input_size else None,
    )
    with fit.seeded(member, "weights"):
        return untrained(model, classes, pretrained=pretrained, allowed_modules=allowed)


def _recipe(request: TrainingRequest, source: Source, built: Untrained, images: Images) -> dict[str, object]:
    """The values that determine the weights. The number of members is not one: an ensemble may grow."""
    recipe = asdict(request)
    for name in ("out", "members"):
        del recipe[name]
    listing = [[entry.key, entry.version, entry.label] for entry in images.entries]
    return recipe | {
        "data": source.location,
        "arch": request.source,
        "weights": request.weights if request.weights in (None, DEFAULT) else file_digest(Path(request.weights)),
        "code_sha256": built.code_sha256,
        "images_sha256": hashlib.sha256(json.dumps(listing).encode()).hexdigest(),
    }


def _check_folder(folder: Path) -> None:
    """Refuse a folder that cannot hold this training, before images are read."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / TRAINING).exists():
        raise UsageError(f"{folder} is not empty and holds no training; name a new folder")


def _claim(folder: Path, recipe: dict[str, object]) -> None:
    """Record the training in its folder. Refuse a folder of another training."""
    file = folder / TRAINING
    if not file.exists():
        make_folder(folder)
        replace_text(file, json.dumps(numbered(recipe), indent=2) + "\n")
        return
    try:
        before = read_record(file.read_bytes(), str(file))
    except ValueError as error:
        raise ModelError(f"{file} cannot be read ({error}); name another folder") from error
    differ = [
        f"{name} was {before.get(name)}, is {value}" for name, value in recipe.items() if before.get(name) != value
    ]
    if differ:
        raise UsageError(f"{folder} holds another training: {'; '.join(differ)}; name another folder")
