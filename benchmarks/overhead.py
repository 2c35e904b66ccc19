"""What a run costs over the bare engine on the same decoded tensors: decoding, storing, leases, rows."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torchvision.transforms.functional import to_pil_image

from benchmarks.machine import table
from benchmarks.networks import photographs, zoo
from pipeline.api import Pipeline, RunRequest
from pipeline.attribution import integrated_gradients
from pipeline.models import ModelRequest, load
from pipeline.spec import RunSpec
from pipeline.work import open_workshop, work

IMAGES, SIZE, STEPS = 16, 224, 16
NETWORKS = ("resnet18", "resnet50")


def section() -> str:
    """Markdown of this section."""
    rows = []
    for name in NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            run_seconds, bare_seconds = _measure(name, Path(folder))
        rows.append([name, f"{bare_seconds:.1f}", f"{run_seconds:.1f}", f"{bare_seconds / run_seconds:.1%}"])
    return (
        f"## A run against the bare engine\n\n{IMAGES} photographs of {SIZE} x {SIZE} (PNG), {STEPS} steps, black "
        "baseline; the run decodes, attributes, measures, encodes, stores and commits.\n\n"
        f"{table(['network', 'bare engine, s', 'run, s', 'share of the run that is compute'], rows)}"
    )


def _measure(name: str, folder: Path) -> tuple[float, float]:
    (folder / "images").mkdir()
    pixels = photographs(IMAGES, SIZE)
    for index, image in enumerate(pixels):
        to_pil_image(image).save(folder / "images" / f"{index:04}.png")
    save_file(zoo(name).state_dict(), folder / "weights.safetensors")
    model = ModelRequest(f"torchvision:{name}", weights=str(folder / "weights.safetensors"), input_size=SIZE)
    with Pipeline.open(folder / "home") as pipeline:
        run = pipeline.submit(RunRequest(str(folder / "images"), (model,), n_steps=STEPS))
        spec = RunSpec.from_json(run.spec)
        member = load(spec.models[0])
        shop = open_workshop(replace(pipeline.settings, device="cpu"))
        options = {"baselines": torch.zeros(1, 1, 3, SIZE, SIZE), "n_steps": STEPS}
        targets = torch.arange(IMAGES)
        integrated_gradients(member, pixels[:2], targets[:2], **options)  # type: ignore[arg-type]
        started = time.perf_counter()
        work(shop, run.id)
        middle = time.perf_counter()
        integrated_gradients(member, pixels, targets, **options)  # type: ignore[arg-type]
        return middle - started, time.perf_counter() - middle
