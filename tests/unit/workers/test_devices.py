"""Which process computes where."""

import os

import pytest
import torch

from pipeline.errors import UsageError
from workers import devices
from workers.devices import seats


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_gpus", lambda environment: ["2", "GPU-5f"])


def test_cpu_processes_share_the_cores_and_see_no_gpu() -> None:
    found = seats("cpu", 2, {})
    assert (
        found
        == [
            {
                "ATTRIBATCH_DEVICE": "cpu",
                "CUDA_VISIBLE_DEVICES": "",
                "OMP_NUM_THREADS": str(max(len(os.sched_getaffinity(0)) // 2, 1)),
            }
        ]
        * 2
    )
    assert "OMP_NUM_THREADS" not in seats("cpu", 2, {"OMP_NUM_THREADS": "3"})[0]


@pytest.mark.usefixtures("gpus")
def test_each_gpu_has_its_process_and_more_are_dealt_in_turn() -> None:
    assert [seat["CUDA_VISIBLE_DEVICES"] for seat in seats("auto", None, {})] == ["2", "GPU-5f"]
    assert [seat["CUDA_VISIBLE_DEVICES"] for seat in seats("cuda", 3, {})] == ["2", "GPU-5f", "2"]
    assert seats("cuda:1", None, {}) == [{"ATTRIBATCH_DEVICE": "cuda:0", "CUDA_VISIBLE_DEVICES": "GPU-5f"}]


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("device", ["tpu", "cuda:2", "cuda:x", "cpu:0"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(UsageError, match=device):
        seats(device, None, {})


@pytest.mark.slow
def test_gpus_are_counted_by_torch_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    found = devices._gpus(os.environ)
    assert len(found) == torch.cuda.device_count()
    monkeypatch.setattr(devices, "_gpus", lambda environment: [])
    assert seats("auto", None, {})[0]["ATTRIBATCH_DEVICE"] == "cpu"
    with pytest.raises(UsageError, match="no visible GPU"):
        seats("cuda", None, {})
