"""Trains one member, epoch by epoch, through checkpoints: an interrupted training resumes at the last finished epoch.

All random draws (initial weights, resample, order, dropout) follow from the seed, the member and the epoch, never from
earlier draws. So an interrupted training equals an uninterrupted one, on a CPU bit for bit.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from pipeline.errors import ModelError
from pipeline.models.member import Member, error_text, logits_of
from pipeline.models.training.data import Images
from pipeline.spec.run_spec import Preprocess

WARM_UP = 0.1  # share of all steps during which the learning rate rises
WEIGHT_DECAY = 0.01


@dataclass(frozen=True, slots=True)
class Fit:
    """Options and device of a training."""

    epochs: int
    batch_size: int
    learning_rate: float
    flip: bool
    seed: int
    device: str

    def drawn(self, *what: object) -> int:
        """A seed for one purpose."""
        text = "/".join(map(str, (self.seed, *what)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")

    @contextmanager
    def seeded(self, *what: object) -> Iterator[None]:
        """Seed torch's random state for one purpose inside the block; restore it afterwards."""
        devices = [self.device] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.drawn(*what))
            yield


def resample(rows: Sequence[int], fit: Fit, member: int) -> list[int]:
    """A bootstrap resample: as many rows, drawn with replacement."""
    generator = torch.Generator().manual_seed(fit.drawn(member, "resample"))
    return [rows[index] for index in torch.randint(len(rows), (len(rows),), generator=generator).tolist()]


def train_member(
    module: nn.Module,
    preprocess: Preprocess,
    images: Images,
    rows: Sequence[int],
    fit: Fit,
    member: int,
    *,
    checkpoint: Path,
    on_epoch: Callable[[int, float], None],
) -> None:
    """Train a module with AdamW and cross entropy (Loshchilov and Hutter, 2019) on a resample of some rows.

    Args:
        module: model with its initial weights; trained in place.
        preprocess: its mean and std are used.
        images: images of the source.
        rows: rows of `images` that members are trained on.
        fit: options and device.
        member: number of the member: 0, 1, 2, ...
        checkpoint: file to resume from if it exists; written after each epoch.
        on_epoch: called after each epoch with its number (1, 2, ...) and its mean loss.

    Raises:
        ModelError: the loss is not finite, the module raised, or the checkpoint is damaged.
        UnreadableImage: an image has changed.
    """
    module = module.to(fit.device).train()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, fit.learning_rate, weight_decay=WEIGHT_DECAY)
    bag = resample(rows, fit, member)
    fit = replace(fit, batch_size=min(fit.batch_size, len(bag)))
    steps = len(bag) // fit.batch_size  # a rest smaller than a batch is left out
    done = _restore(checkpoint, module, optimizer) if checkpoint.exists() else 0
    schedule = LambdaLR(optimizer, lambda step: _rate(step + done * steps, fit.epochs * steps))
    for epoch in range(done, fit.epochs):
        with fit.seeded(member, "epoch", epoch):
            order = [bag[index] for index in torch.randperm(len(bag))[: steps * fit.batch_size].tolist()]
            loss = train_epoch(module, _batches(images, order, preprocess, fit), optimizer, schedule)
        if not math.isfinite(loss):
            raise ModelError(
                f"member {member}: the loss of epoch {epoch + 1} is {loss}; lower `TrainingRequest.learning_rate`"
            )
        save(_snapshot(module, optimizer), checkpoint, {"epochs": str(epoch + 1)})
        on_epoch(epoch + 1, loss)


def probabilities(module: nn.Module, preprocess: Preprocess, images: Images, rows: Sequence[int], fit: Fit) -> Tensor:
    """Class probabilities of some images.

    Args:
        module: trained model; frozen by the call.
        preprocess: its mean and std are used.
        images: images of the source.
        rows: n rows of `images`.
        fit: its device is used.

    Returns:
        (n, classes) float64 on the CPU.
    """
    member = Member(module, preprocess).float().to(fit.device)
    with torch.no_grad():
        parts = [member(pixels.to(fit.device)).softmax(1).double().cpu() for pixels, _ in images.batches(rows, 64)]
    return torch.cat(parts)


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of a module's state, in the CPU's memory."""
    return {name: value.detach().cpu().clone().contiguous() for name, value in module.state_dict().items()}


def save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a .safetensors file by one rename."""
    new = path.with_name(f".{path.name}.new")
    save_file(tensors, new, metadata)
    new.replace(path)


def train_epoch(
    module: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler,
) -> float:
    """One pass over batches with cross entropy. The rate follows the schedule, a step for each batch.

    Args:
        module: input (n, C, H, W) -> logits (n, classes); trained in place.
        batches: normalized input and labels (n,) int64 on the module's device; one batch or more.
        optimizer: updates the module's parameters after each batch.
        schedule: sets the learning rate of the optimizer; stepped after each batch.

    Returns:
        Mean loss of the batches.

    Raises:
        ModelError: the module raised.
    """
    losses = list[Tensor]()
    for inputs, labels in batches:
        try:
            loss = F.cross_entropy(logits_of(module(inputs)), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch ships this method without annotations
        except Exception as error:  # raised by the user's model
            raise ModelError(
                f"in training the model raised {error_text(error)}; check `TrainingRequest.input_size` and "
                "`TrainingRequest.batch_size`"
            ) from error
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()


def _batches(images: Images, order: Sequence[int], preprocess: Preprocess, fit: Fit) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalized input (n, C, H, W) and labels (n,) of some rows on the device, half of them mirrored with `flip`."""
    mean, std = (torch.tensor(v, device=fit.device)[:, None, None] for v in (preprocess.mean, preprocess.std))
    for read, labels in images.batches(order, fit.batch_size):
        mirrored = torch.rand(len(read), 1, 1, 1) < (0.5 if fit.flip else 0)
        pixels = torch.where(mirrored, read.flip(3), read)
        yield (pixels.to(fit.device) - mean) / std, labels.to(fit.device)


def _rate(step: int, steps: int) -> float:
    """Factor of the largest learning rate: linear warm-up, then half a cosine."""
    risen = WARM_UP * steps
    return (step + 1) / (risen + 1) if step < risen else (1 + math.cos(math.pi * (step - risen) / (steps - risen))) / 2


def _snapshot(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state that the next epoch depends on."""
    kept = {f"module/{name}": value for name, value in weights_of(module).items()}
    for index, state in optimizer.state_dict()["state"].items():
        kept |= {f"optimizer/{index}/{name}": value.detach().cpu().clone() for name, value in state.items()}
    return kept


def _restore(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore a snapshot; returns the number of finished epochs."""
    weights: dict[str, Tensor] = {}
    states: dict[int, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            epochs = int(file.metadata()["epochs"])
            for key in file.keys():  # noqa: SIM118 - the file has keys() but is no mapping: `for key in file` raises
                kind, _, name = key.partition("/")
                if kind == "module":
                    weights[name] = file.get_tensor(key)
                else:
                    index, _, name = name.partition("/")
                    states.setdefault(int(index), {})[name] = file.get_tensor(key)
        module.load_state_dict(weights)
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    except Exception as error:  # a damaged file may raise any exception
        raise ModelError(
            f"checkpoint {path} is damaged ({error_text(error)}); delete it to train its member again"
        ) from error
    return epochs
