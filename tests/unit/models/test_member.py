"""What a model must be before a run is stored, beyond its shapes; and how two that look alike are told apart."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import ModelError
from pipeline.models import registry
from pipeline.models.registry import load, resolve
from pipeline.spec.request import ModelRequest
from tests.support.specs import spec

HEAD = "import functools, torch\nfrom torch import nn\nWHAT = {'input_size': 4, 'channels': 1, 'classes': ['a', 'b']}\n"
BODIES = {
    "relu": "def make(): return nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 2)), WHAT",
    "gelu": "def make(): return nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.GELU(), nn.Linear(4, 2)), WHAT",
    "batch": """class M(nn.Module):
    def __init__(self): super().__init__(); self.l = nn.Linear(16, 2)
    def forward(self, x): x = x.flatten(1); return self.l(x - x.mean(0))
def make(): return M(), WHAT""",
    "noise": """class M(nn.Module):
    def __init__(self): super().__init__(); self.l = nn.Linear(16, 2)
    def forward(self, x): return self.l(x.flatten(1)) + torch.randn(len(x), 2)
def make(): return M(), WHAT""",
    "exits": "import sys\ndef make(): sys.exit(0)",
    "text": "def make(): return nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), {**WHAT, 'classes': 'ab'}",
    "size": "def make(): return nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), {**WHAT, 'input_size': 'four'}",
    "twice": "def make(): return nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), {**WHAT, 'classes': ['a', 'a']}",
    "cached": "@functools.cache\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), WHAT",
    "loud": "def make():\n    print('loading')\n    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), WHAT",
}


def write(folder: Path, name: str, body: str | None = None) -> str:
    path = folder / f"{name}.py"
    path.write_text(HEAD + (body or BODIES[name]))
    return f"{path}:make"


def weights(folder: Path, seed: int, layers: dict[str, tuple[int, ...]]) -> str:
    generator = torch.Generator().manual_seed(seed)
    path = folder / f"weights-{seed}.safetensors"
    save_file({name: torch.randn(shape, generator=generator) for name, shape in layers.items()}, path)
    return str(path)


LINEAR = {"1.weight": (2, 16), "1.bias": (2,)}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("batch", "changes with the other images of the batch"),
        ("noise", "changes with the other images of the batch, or with time"),
        ("exits", "its factory raised SystemExit"),
        ("text", "its classes are the one string 'ab'"),
        ("size", "its preprocessing does not parse"),
        ("twice", "two of its classes are named 'a'"),
    ],
)
def test_models_that_cannot_be_explained_are_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        resolve([ModelRequest(write(tmp_path, name))])


def test_two_factories_of_one_file_are_two_models(tmp_path: Path) -> None:
    """Two factories of one file with equal weights are two models."""
    body = BODIES["relu"].replace("make", "one") + "\n" + BODIES["gelu"].replace("make", "two")
    file = write(tmp_path, "both", body).removesuffix(":make")
    state = weights(tmp_path, 0, {"1.weight": (4, 16), "1.bias": (4,), "3.weight": (2, 4), "3.bias": (2,)})
    one, two = (resolve([ModelRequest(f"{file}:{name}", weights=state)])[0] for name in ("one", "two"))
    assert one.weights_sha256 == two.weights_sha256
    assert one.code_sha256 == two.code_sha256
    base = spec()
    assert type(base)((one,), base.baselines).key != type(base)((two,), base.baselines).key


def test_a_factory_that_returns_one_module_gives_two_members(tmp_path: Path) -> None:
    """A factory that returns the same module again still gives two members."""
    source = write(tmp_path, "cached")
    requests = [ModelRequest(source, weights=weights(tmp_path, seed, LINEAR)) for seed in (1, 2)]
    one, two = (load(found) for found in resolve(requests))
    pixels = torch.rand(1, 1, 4, 4)
    assert not torch.allclose(one(pixels), two(pixels))
    assert not torch.allclose(one.body[1].weight, two.body[1].weight)  # type: ignore[union-attr,index]


def test_code_that_a_factory_imports_is_noticed_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "its_helper.py").write_text("SCALE = 1.0\n")
    body = """import its_helper
class M(nn.Module):
    def __init__(self): super().__init__(); self.l = nn.Linear(16, 2)
    def forward(self, x): return self.l(x.flatten(1)) * its_helper.SCALE
def make(): return M(), WHAT"""
    state = weights(tmp_path, 3, {"l.weight": (2, 16), "l.bias": (2,)})
    (found,) = resolve([ModelRequest(write(tmp_path, "helped", body), weights=state)])
    load(found)
    registry.clear_cache()
    import its_helper  # type: ignore[import-not-found]

    its_helper.SCALE = 2.0
    with pytest.raises(ModelError, match="its outputs changed since the run was submitted"):
        load(found)


def test_what_a_factory_prints_does_not_stand_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resolve([ModelRequest(write(tmp_path, "loud"))])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "loading" in captured.err
