"""Ensembles trained on real digits: accurate, explained by a run, bit for bit the same however often interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from pipeline.api import Pipeline
from pipeline.cli.app import app
from pipeline.datasets import list_entries, open_source
from pipeline.errors import DatasetError, ModelError, SpecError, UsageError
from pipeline.models.training.bagging import train_ensemble
from pipeline.models.training.ensemble_manifest import Ensemble, TrainingRequest, ensemble_models
from pipeline.models.training.fit import Fit, resample

FACTORY = """
from torch import nn

def cnn(num_classes=3):
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.1), nn.Flatten(),
        nn.Linear(16 * 4 * 4, num_classes),
    )
    return model, {"input_size": 8, "channels": 1, "mean": 0.3, "std": 0.35}

def fixed():
    return cnn(4)
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 real scans in class folders, and three files that are no images."""
    root = tmp_path_factory.mktemp("data") / "digits"
    scans, labels = load_digits(return_X_y=True)
    for index in range(400):
        folder = root / "digits" / str(labels[index])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (scans[index].reshape(8, 8) * 255 / 16).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03}.png")
    (root / "digits" / "3" / "hostile.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 64)
    (root / "digits" / "4" / "empty.png").touch()
    Image.new("L", (9, 8)).save(root / "digits" / "5" / "wide.png")
    (root / "arch.py").write_text(FACTORY)
    return root


@pytest.fixture(scope="module")
def asked(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingRequest:
    out = tmp_path_factory.mktemp("trained") / "ensemble"
    return TrainingRequest(
        str(digits / "digits"), f"{digits / 'arch.py'}:cnn", str(out), members=2, epochs=4, learning_rate=0.01
    )


@pytest.fixture(scope="module")
def trained(asked: TrainingRequest) -> Ensemble:
    return train_ensemble(asked)


def weights_of(folder: str) -> list[dict[str, torch.Tensor]]:
    return [load_file(path) for path in sorted(Path(folder).glob("member-*.safetensors"))]


def assert_equal(one: str, other: str) -> None:
    ones, others = weights_of(one), weights_of(other)
    assert len(ones) == len(others) > 0
    for a, b in zip(ones, others, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    read = [Ensemble.read(Path(folder)) for folder in (one, other)]
    assert read[0] == read[1]


def test_members_and_ensemble_are_accurate(trained: Ensemble, asked: TrainingRequest) -> None:
    """Members and ensemble are accurate and what cannot be read is named."""
    assert trained.class_names == tuple("0123456789")
    assert (trained.train_images, trained.holdout_images) == (320, 80)
    assert {one.key for one in trained.skipped} == {"3/hostile.png", "4/empty.png", "5/wide.png"}
    assert all("png" in one.reason for one in trained.skipped)
    accuracies = [member.accuracy or 0 for member in trained.members]
    assert min(accuracies) > 0.8
    assert trained.accuracy is not None
    assert trained.accuracy > 0.85
    assert {path.name for path in Path(asked.out).iterdir()} == {
        "training.json", "ensemble.json", "member-0.safetensors", "member-1.safetensors",
    }  # fmt: skip
    one, other = weights_of(asked.out)
    assert not torch.equal(one["0.weight"], other["0.weight"])


def test_accuracies_are_those_of_the_members_that_a_run_loads(
    trained: Ensemble, asked: TrainingRequest, digits: Path
) -> None:
    from pipeline.models.registry import load, resolve
    from pipeline.models.training.data import split

    specs = resolve(ensemble_models(Path(asked.out)))
    assert specs[0].class_names == trained.class_names
    entries = list_entries(open_source(asked.data))
    readable = [entry for entry in entries if entry.key not in {one.key for one in trained.skipped}]
    labels = torch.tensor([trained.class_names.index(str(entry.label)) for entry in readable])

    class Listed:
        pass

    images = Listed()
    images.entries, images.labels = readable, labels  # type: ignore[attr-defined]
    _, held = split(images, 0.2, 0)  # type: ignore[arg-type]
    pixels = [np.asarray(Image.open(digits / "digits" / readable[row].key), np.float32) / 255 for row in held]
    given = [load(spec)(torch.from_numpy(np.stack(pixels))[:, None]).softmax(1) for spec in specs]
    for member, found in zip(trained.members, given, strict=True):
        assert (found.argmax(1) == labels[held]).double().mean().item() == pytest.approx(member.accuracy)
    mean = torch.stack(given).mean(0).argmax(1)
    assert (mean == labels[held]).double().mean().item() == pytest.approx(trained.accuracy)
    assert np.bincount(labels[held]).tolist() == [round(0.2 * n) for n in np.bincount(labels)]


class StoppedError(Exception):
    """Raised at a place where a kill may come."""


@pytest.mark.slow
def test_interrupted_at_every_epoch_it_ends_bit_for_bit_alike(
    trained: Ensemble, asked: TrainingRequest, tmp_path: Path
) -> None:
    """Interrupted at every epoch it ends bit for bit as undisturbed."""
    request = replace(asked, out=str(tmp_path / "again"))
    stops = 0

    def stop_at_the_next_epoch(text: str) -> None:
        if "epoch" in text:
            raise StoppedError

    while not (tmp_path / "again" / "ensemble.json").exists():
        try:
            train_ensemble(request, on_message=stop_at_the_next_epoch, cache_bytes=0)  # decoded again in each epoch
        except StoppedError:
            stops += 1
    assert stops == 8
    assert_equal(request.out, asked.out)


@pytest.mark.slow
def test_killed_it_goes_on_and_ends_bit_for_bit_as_undisturbed(
    trained: Ensemble, asked: TrainingRequest, tmp_path: Path
) -> None:
    request = replace(asked, out=str(tmp_path / "killed"))
    code = (
        "import sys, torch; from pipeline.models.training.bagging import train_ensemble; "
        "from pipeline.models.training.ensemble_manifest import TrainingRequest; torch.set_num_threads(1); "
        f"train_ensemble({request!r}, on_message=lambda text: print(text, flush=True))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "member 2 of 2, epoch 2" in line:
            time.sleep(0.02)  # into the epoch after it
            os.kill(process.pid, signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    said: list[str] = []
    train_ensemble(request, on_message=said.append)
    epochs = [text for text in said if "epoch" in text]
    assert all("member 2 of 2" in text for text in epochs)
    assert len(epochs) < 4
    assert_equal(request.out, asked.out)


def test_more_members_extend_an_ensemble(trained: Ensemble, asked: TrainingRequest, tmp_path: Path) -> None:
    """More members extend an ensemble and other settings are refused."""
    small = replace(asked, out=str(tmp_path / "small"), members=1, epochs=1)
    first = train_ensemble(small).members[0]
    said: list[str] = []
    grown = train_ensemble(replace(small, members=2), on_message=said.append)
    assert grown.members[0] == first
    assert next(text for text in said if "epoch" in text).startswith("member 2 of 2, epoch 1 of 1")
    with pytest.raises(UsageError, match=r"holds another training: epochs was 1, is 2; name another folder"):
        train_ensemble(replace(small, epochs=2))
    weights = tmp_path / "small" / "member-1.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(ModelError, match=r"member-1\.safetensors is gone or has changed"):
        ensemble_models(Path(small.out))


def test_it_starts_from_a_file_of_weights_where_they_fit(
    trained: Ensemble, asked: TrainingRequest, tmp_path: Path
) -> None:
    from pipeline.models.loading import build_untrained

    state = load_file(Path(asked.out) / "member-0.safetensors")
    built = build_untrained(asked.arch, 4, weights=str(Path(asked.out) / "member-0.safetensors")).module.state_dict()
    assert torch.equal(built["0.weight"], state["0.weight"])
    assert built["6.weight"].shape == (4, 256)
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match=r"other\.pt fit 0 of its 9 tensors"):
        build_untrained(asked.arch, 4, weights=str(tmp_path / "other.pt"))


def test_a_resample_is_drawn_with_replacement_and_by_the_member() -> None:
    fit = Fit(1, 1, 0.1, False, 7, "cpu")
    rows = list(range(100, 1100))
    one, other = resample(rows, fit, 0), resample(rows, fit, 1)
    assert one == resample(rows, fit, 0) != other
    assert set(one) < set(rows)
    assert 0.6 < len(set(one)) / 1000 < 0.665  # 1 - 1/e


WRONG: dict[str, tuple[Callable[[TrainingRequest, Path], TrainingRequest], type[Exception], str]] = {
    "one class": (lambda r, t: replace(r, data=str(manifest(t, "3"))), DatasetError, "all images are of class '3'"),
    "no label": (lambda r, t: replace(r, data=str(Path(r.data) / "3")), DatasetError, r"image '\d+\.png' has no label"),
    "empty folder": (lambda r, t: replace(r, data=str(t)), DatasetError, "holds no image"),
    "a class that cannot be read": (
        lambda r, t: replace(r, data=str(manifest(t, "3", "gone"))),
        DatasetError,
        "no image of class 'gone' can be read; the first that failed: gone.png",
    ),
    "arch unknown": (lambda r, t: replace(r, arch="torchvision:resnet19"), ModelError, "no model 'resnet19'"),
    "no such file": (lambda r, t: replace(r, arch="nowhere.py:cnn"), ModelError, "nowhere.py"),
    "other outputs": (
        lambda r, t: replace(r, arch=r.arch.replace(":cnn", ":fixed")),
        ModelError,
        "4 outputs for 10 classes; let its factory take num_classes",
    ),
    "not empty": (lambda r, t: replace(r, out=r.data), UsageError, "is not empty and holds no training"),
    "a file": (lambda r, t: replace(r, out=r.arch.removesuffix(":cnn")), UsageError, "is a file; name a folder"),
    "members": (lambda r, t: replace(r, members=0), SpecError, "members is 0"),
    "holdout": (lambda r, t: replace(r, holdout=1), SpecError, "holdout is 1"),
    "rate": (lambda r, t: replace(r, learning_rate=1e30), ModelError, "lower `TrainingRequest.learning_rate`"),
    "weights in the name": (
        lambda r, t: replace(r, arch="torchvision:resnet18@DEFAULT"),
        SpecError,
        "`TrainingRequest.arch` to torchvision:resnet18 and `TrainingRequest.weights` to DEFAULT",
    ),
}


def manifest(folder: Path, *labels: str) -> Path:
    """A manifest of one image for each label; one that is `gone` is not there."""
    for label in labels:
        if label != "gone":
            Image.new("L", (8, 8)).save(folder / f"{label}.png")
    (folder / "list.csv").write_text("file_name,label\n" + "".join(f"{each}.png,{each}\n" for each in labels))
    return folder / "list.csv"


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_trained_says_why(name: str, asked: TrainingRequest, tmp_path: Path) -> None:
    change, error, message = WRONG[name]
    (tmp_path / "in").mkdir()
    with pytest.raises(error, match=message):
        train_ensemble(change(replace(asked, out=str(tmp_path / "out")), tmp_path / "in"))


@pytest.mark.slow
def test_the_commands_train_and_explain_an_ensemble(
    trained: Ensemble,
    asked: TrainingRequest,
    digits: Path,
    tmp_path: Path,
    pipeline: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ATTRIBATCH_HOME", str(pipeline.settings.home))
    few = tmp_path / "few"
    for name in ("2", "7"):
        (few / name).mkdir(parents=True)
        for path in sorted((digits / "digits" / name).glob("*.png"))[:2]:
            (few / name / path.name).write_bytes(path.read_bytes())

    def call(*arguments: str) -> str:
        assert app([*arguments], standalone_mode=False) in (None, 0)
        return capfd.readouterr().out

    train = ["ensemble", "train", "--data", asked.data, "--arch", asked.arch, "--out", asked.out, "--members", "2"]
    options = ["--epochs", "4", "--lr", "0.01"]
    shown = call(*train, *options)  # done already: it only says so
    assert f"{100 * trained.accuracy:.1f} %" in shown
    assert "3/hostile.png" in shown
    assert f" run {asked.data} --ensemble {asked.out}" in shown
    assert json.loads(call(*train, *options, "--json"))["accuracy"] == trained.accuracy
    run = json.loads(call("run", str(few), "--ensemble", asked.out, "--n-steps", "4", "--json"))
    assert run["progress"]["images_done"] == 4
    rows = pipeline.find(run["run"]).rows
    assert sum(row.predicted == row.label for row in rows) >= 3
    assert all(row.member_disagreement is not None for row in rows)
    with pytest.raises(UsageError, match="leave out their options"):
        call("run", str(few), "--ensemble", asked.out, "--model", asked.arch)
    with pytest.raises(UsageError, match="no model is named"):
        call("run", str(few))
    with pytest.raises(ModelError, match=r"holds no ensemble\.json"):
        call("run", str(few), "--ensemble", str(few))
