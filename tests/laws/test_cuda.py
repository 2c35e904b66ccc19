"""On a GPU, where there is one: the same maps as on a CPU, in the plain way and in the one that is chosen."""

import numpy as np
import pytest
import torch
from torch import nn

from db.records import Entry
from pipeline.attribution import fit_profile, integrated_gradients, measured_batch_size
from pipeline.datasets.decoder import Picture
from pipeline.engine.explainer import Explainer
from pipeline.engine.rows import describe
from pipeline.spec.choices import Baseline
from pipeline.spec.run_spec import RunSpec
from tests.support.networks import lively
from tests.support.specs import MODEL

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch sees none")


def member(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    body = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
        nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Flatten(),
        nn.Linear(16 * 64, len(MODEL.class_names)),
    )  # fmt: skip
    return lively(body)


def pictures(count: int) -> list[Picture]:
    pixels = np.random.default_rng(0).random((count, 3, 16, 16), np.float32)
    return [Picture(Entry(i, f"{i}.png", "1"), f"{i:064}", pixels[i]) for i in range(count)]


@pytest.mark.parametrize("precision", ["float32", "float64", "auto"])
@pytest.mark.parametrize("take_turns", [False, True])
def test_an_ensemble_explains_alike_on_cpu_and_gpu(precision: str, take_turns: bool) -> None:
    asked = RunSpec(
        (MODEL, MODEL), (Baseline.parse("black"), Baseline.parse("uniform:n=2")), n_steps=24, precision=precision
    )
    dtype = torch.float64 if precision == "float64" else torch.float32
    found = {}
    for device in ("cpu", "cuda:0"):
        home = "cpu" if take_turns else device
        members = [member(seed).to(home, dtype) for seed in (0, 1)]
        explainer = Explainer(asked, members, device=device, take_turns=take_turns and device != "cpu")
        found[device] = describe("run", asked, explainer.compute(pictures(12)))
        assert torch.get_float32_matmul_precision() == "highest", "the process's flag is another run's as well"
    allowed = 0.02 if precision == "auto" else 2e-3
    for one, other in zip(found["cpu"], found["cuda:0"], strict=True):
        assert one.row.predicted == other.row.predicted
        assert np.abs(one.mean - other.mean).sum() <= allowed * np.abs(one.mean).sum()


def test_nodes_and_chunks_are_measured_on_a_gpu() -> None:
    x = torch.from_numpy(np.stack([picture.pixels for picture in pictures(16)])).cuda()
    model, targets, black = member(0).cuda(), torch.zeros(16).long().cuda(), x.new_zeros(1, 1, 3, 16, 16)
    profile = fit_profile(model, x, targets, baselines=black)
    assert measured_batch_size([model], x) >= 8
    even, fitted = (
        integrated_gradients(model, x, targets, baselines=black, n_steps=256, **options).mean
        for options in ({}, {"profile": profile})
    )
    assert (even - fitted).abs().sum() <= 0.02 * even.abs().sum()
