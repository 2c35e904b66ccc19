"""Overhead of a run over the bare engine on the same decoded tensors: decoding, storing, leases, rows."""

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torchvision.transforms.functional import to_pil_image

from benchmarks.machine import log, table
from benchmarks.networks import photographs, zoo
from pipeline.api import Pipeline, RunRequest
from pipeline.attribution import integrated_gradients
from pipeline.attribution.ensemble import predict
from pipeline.engine.worker import open_workshop, work
from pipeline.models.registry import load
from pipeline.spec.request import ModelRequest
from pipeline.spec.run_spec import RunSpec

IMAGES, SIZE, STEPS = 8, 224, 16
NETWORKS = {"resnet18": 2, "resnet50": 1}  # number of rounds


def section() -> str:
    """Markdown of this section."""
    rows = []
    for name, rounds in NETWORKS.items():
        pairs = []
        for number in range(rounds):
            log(f"overhead: {name}, round {number + 1} of {rounds}")
            with tempfile.TemporaryDirectory() as folder:
                pairs.append(_measure(name, Path(folder)))
        bare, run = (statistics.median(side) for side in zip(*pairs, strict=True))
        rows.append([name, f"{bare:.2f}", f"{run:.2f}", f"{statistics.median(b / r for b, r in pairs):.1%}"])
    return (
        f"## A run against the bare engine\n\n{IMAGES} photographs of {SIZE} x {SIZE} (PNG), {STEPS} steps, black "
        "baseline. Both sides run in one process, predict the class and attribute; the run also decodes, "
        "measures, encodes, stores and commits.\n\n"
        f"{table(['network', 'bare engine, processor s', 'run, processor s', 'bare / run'], rows)}"
    )


def _measure(name: str, folder: Path) -> tuple[float, float]:
    """Processor seconds of the bare engine and of a run of the same pictures."""
    (folder / "images").mkdir()
    pixels = photographs(IMAGES, SIZE)
    for index, image in enumerate(pixels):
        to_pil_image(image).save(folder / "images" / f"{index:04}.png")
    save_file(zoo(name).state_dict(), folder / "weights.safetensors")
    model = ModelRequest(f"torchvision:{name}", weights=str(folder / "weights.safetensors"), input_size=SIZE)
    with Pipeline.open(folder / "home") as pipeline:
        run = pipeline.submit(RunRequest(str(folder / "images"), (model,), n_steps=STEPS))
        member = load(RunSpec.from_json(run.spec).models[0])
        shop = open_workshop(replace(pipeline.settings, device="cpu"))
        black = torch.zeros(1, 1, 3, SIZE, SIZE)
        integrated_gradients(member, pixels[:1], torch.tensor([0]), baselines=black, n_steps=STEPS)  # warm
        started = time.process_time()
        targets = predict([member], pixels, batch_size=8).argmax(1)
        integrated_gradients(member, pixels, targets, baselines=black, n_steps=STEPS)
        middle = time.process_time()
        work(shop, run.id)
        return middle - started, time.process_time() - middle
