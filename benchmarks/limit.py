"""Share of the machine's limit: FLOP/s of a run over the best rate that matmul and convolution reach here."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import interleaved, table
from benchmarks.networks import photographs, zoo
from pipeline.attribution import integrated_gradients

NETWORKS = ("resnet18", "resnet50", "vgg16", "vit_b_16")


def section() -> str:
    """Markdown of this section."""
    square = torch.randn(2048, 2048)
    conv, batch = nn.Conv2d(128, 128, 3, padding=1).requires_grad_(False), torch.randn(16, 128, 56, 56)
    seconds = interleaved({"matmul": lambda: square @ square, "convolution": lambda: conv(batch)})
    rates = {"matmul": 2 * 2048**3, "convolution": 2 * 16 * 56 * 56 * 128 * 128 * 9}
    best = {name: flop / seconds[name] for name, flop in rates.items()}
    limit = max(best.values())
    rows = []
    for name in NETWORKS:
        member, images, labels = zoo(name), photographs(2, 224), torch.tensor([0, 1])

        def run(member: nn.Module = member, images: torch.Tensor = images, labels: torch.Tensor = labels) -> object:
            return integrated_gradients(member, images, labels, baselines=torch.zeros(1, 1, 3, 224, 224), n_steps=16)

        with FlopCounterMode(display=False) as counter:
            run()
        rate = counter.get_total_flops() / interleaved({"run": run}, rounds=2)["run"]
        rows.append([name, f"{rate / 1e9:.0f}", f"{rate / limit:.0%}"])
    peaks = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in best.items())
    return (
        f"## Share of the machine's limit, float32\n\nBest rates measured: {peaks}. Forward and backward of 16 steps "
        "for 2 photographs of 224 x 224, counted by torch's FLOP counter.\n\n"
        f"{table(['network', 'GFLOP/s', 'of the limit'], rows)}"
    )
