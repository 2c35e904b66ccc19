"""Peak memory: against captum with the same chunk, and of a worker with data sets of growing size."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import log, table

CHUNK = """
import torch, warnings
from benchmarks.networks import photographs, zoo
torch.set_num_threads(1)
member, images, labels = zoo("resnet18"), photographs(8, 224), torch.zeros(8, dtype=torch.int64)
if {ours}:
    from pipeline.attribution import integrated_gradients
    integrated_gradients(member, images, labels, baselines=torch.zeros(1, 1, 3, 224, 224), n_steps=16,
                         internal_batch_size=16)
else:
    warnings.simplefilter("ignore")
    from captum.attr import IntegratedGradients
    IntegratedGradients(member).attribute(images, target=labels, n_steps=16, internal_batch_size=16)
from benchmarks.peaks import peak
print(peak())
"""
WORKER = """
import sys
from dataclasses import replace
from pathlib import Path
from pipeline.api import Pipeline, RunRequest
from pipeline.models.registry import ModelRequest
from pipeline.engine.worker import open_workshop, work
with Pipeline.open(sys.argv[2]) as pipeline:
    member = ModelRequest("pipeline.models.digits:digits_cnn", weights=sys.argv[3])
    request = RunRequest(sys.argv[1], (member,), n_steps=2)
    run = pipeline.submit(request)
    shop = open_workshop(replace(pipeline.settings, device="cpu"))
    work(shop, run.id)
from benchmarks.peaks import peak
print(peak())
"""


def section() -> str:
    """Markdown of this section."""
    log("memory: one chunk")
    chunk = [[name, _run(CHUNK.format(ours=ours))] for name, ours in (("captum", False), ("attribatch", True))]
    grown = []
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        _write_weights(weights)
        for count in (100, 1000, 10_000):
            log(f"memory: a data set of {count}")
            images = Path(folder) / f"images-{count}"
            _write_images(images, count)
            grown.append([f"{count:,}", _run(WORKER, str(images), f"{folder}/home-{count}", str(weights))])
    return (
        "## Peak memory\n\nResNet-18, 8 photographs, 16 steps, chunks of 16 rows; the process's peak, MB.\n\n"
        f"{table(['side', 'MB'], chunk)}\n\nA worker over data sets of 32 x 32 scans; the process's peak, MB.\n\n"
        f"{table(['images', 'MB'], grown)}"
    )


def _run(program: str, *arguments: str) -> str:
    root = str(Path(__file__).parents[1])
    found = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, cwd=root,
        env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    return found.stdout.split()[-1]


def _write_images(folder: Path, count: int) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(random.integers(0, 256, (32, 32), dtype=np.uint8)).save(folder / f"{index:06}.png")


def _write_weights(path: Path) -> None:
    from safetensors.torch import save_file

    from pipeline.models.digits import digits_cnn

    save_file(digits_cnn()[0].state_dict(), path)
