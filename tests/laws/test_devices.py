"""Every device of this machine computes the maps of a CPU: the numerics, and the explainer of an ensemble."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.gpu.laws import LAWS, Law, members
from db.records import Entry
from pipeline.datasets.decoder import Picture
from pipeline.engine.explainer import Explainer
from pipeline.engine.rows import describe
from pipeline.spec.choices import Baseline
from pipeline.spec.run_spec import RunSpec
from pipeline.storage.sidecar import ImageResult
from tests.support.specs import MODEL

pytestmark = pytest.mark.slow
DEVICES = ["cpu", *(["cuda:0"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("law", LAWS)
def test_a_law_of_the_numerics_holds(law: Law, device: str) -> None:
    law(torch.device(device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["float32", "float64", "auto"])
@pytest.mark.parametrize("take_turns", [False, True])
def test_an_ensemble_explains_as_on_a_cpu_in_float64(precision: str, take_turns: bool, device: str) -> None:
    pixels = np.random.default_rng(0).random((12, 3, 16, 16), np.float32)
    pictures = [Picture(Entry(i, f"{i}.png", "1"), f"{i:064}", one) for i, one in enumerate(pixels)]
    models = tuple(replace(MODEL, class_names=tuple("abcdefghij"), weights_sha256=f"c{i}" * 32) for i in (0, 1))
    asked = RunSpec(models, (Baseline.parse("black"), Baseline.parse("uniform:n=2")), n_steps=24, precision=precision)
    exact = explained(pictures, replace(asked, precision="float64"), "cpu", take_turns=False)
    found = explained(pictures, asked, device, take_turns)
    assert torch.get_float32_matmul_precision() == "highest", "the process's flag is another run's as well"
    allowed = {"float32": 2e-3, "float64": 1e-6, "auto": 0.02}[precision]
    for one, other in zip(exact, found, strict=True):
        assert one.row.predicted == other.row.predicted
        assert np.abs(one.mean - other.mean).sum() <= allowed * np.abs(one.mean).sum()


def explained(pictures: list[Picture], asked: RunSpec, device: str, take_turns: bool) -> list[ImageResult]:
    dtype = torch.float64 if asked.precision == "float64" else torch.float32
    networks = members(torch.device("cpu" if take_turns else device), dtype)
    explainer = Explainer(asked, networks, device=device, take_turns=take_turns)
    return describe("run", asked, explainer.compute(pictures))
