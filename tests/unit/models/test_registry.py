"""A model is checked before any unit starts, and a worker gets the one that was submitted or an error."""

import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms import functional as F

from pipeline.errors import ModelError
from pipeline.models import registry
from pipeline.models.digits import digits_cnn
from pipeline.models.registry import load, resolve, weights_digest
from pipeline.spec.request import ModelRequest
from pipeline.spec.run_spec import ModelSpec, Preprocess

FACTORIES = """
    import torch
    from torch import nn
    from torchvision.transforms._presets import ImageClassification

    def body(channels=3, classes=4, size=8):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
            nn.Linear(4 * size * size, classes))

    class Wrapped(nn.Module):
        def __init__(self, wrap, inner=None):
            super().__init__()
            self.inner, self.wrap = inner or body(), wrap
        def forward(self, x):
            return self.wrap(self.inner(x))

    class Output:
        def __init__(self, logits):
            self.logits = logits

    def plain(): return body()
    def grey(): return body(channels=1)
    def two(): return body(classes=2)
    def declared():
        return body(), {"input_size": 8, "resize": True, "mean": 0.5, "std": [0.1, 0.2, 0.3], "classes": list("abcd")}
    def preset():
        return body(), ImageClassification(crop_size=8, resize_size=10, mean=(0.1, 0.2, 0.3), std=(1., 2., 3.))
    def typo(): return body(), {"inputsize": 8}
    def with_logits(): return Wrapped(Output)
    def with_tuple(): return Wrapped(lambda y: (y, None))
    def with_out(): return Wrapped(lambda y: {"aux": None, "out": y})
    def with_logits_key(): return Wrapped(lambda y: {"loss": None, "logits": y})
    def detached(): return Wrapped(lambda y: y.detach())
    def rounded(): return Wrapped(lambda y: y.argmax(1, keepdim=True).float())
    def nan(): return Wrapped(lambda y: y / 0)
    def flat(): return Wrapped(lambda y: y.sum(1))
    def nothing(): return Wrapped(lambda y: "a text")
    def raises(): raise RuntimeError("no licence for this GPU")
    def text(): return "a text"
    def random(): return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    def headed(num_classes=None):
        made = body()
        if num_classes is not None:
            made[-1] = nn.Linear(256, num_classes)
        return made
    number = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(FACTORIES))
    return path


@pytest.fixture(autouse=True)
def _empty_cache():
    registry.clear_cache()


def request_for(file: Path, name: str = "plain", **options) -> ModelRequest:
    return ModelRequest(f"{file}:{name}", **({"input_size": 8} | options))


def refusal(*requests: ModelRequest, **options) -> str:
    with pytest.raises(ModelError) as caught:
        resolve(requests, **options)
    text = str(caught.value)
    assert requests[-1].source in text, "the message names the model"
    return text


def built(name: str, file: Path) -> nn.Module:
    return load(resolve([request_for(file, name)])[0]).body


# What a source says, and what overrides it


def test_a_dict_declares_preprocessing_and_classes(file):
    """A dict beside the module declares its preprocessing and classes."""
    (spec,) = resolve([ModelRequest(f"{file}:declared")], labels="wxyz")
    assert spec.preprocess == Preprocess(8, 8, 3, "stretch", mean=(0.5,) * 3, std=(0.1, 0.2, 0.3))
    assert spec.class_names == tuple("abcd")
    assert spec.source == f"{file}:declared"


def test_a_torchvision_preset_declares_resize_and_crop(file):
    (spec,) = resolve([ModelRequest(f"{file}:preset")])
    assert spec.preprocess == Preprocess(8, 8, 3, "crop", 10, "bilinear", (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


def test_overrides_win(file):
    request = ModelRequest(f"{file}:declared", None, (8, 8), False, (0.1,), (2.0,), 3, tuple("efgh"))
    (spec,) = resolve([request], labels="wxyz")
    assert spec.preprocess == Preprocess(8, 8, 3, "exact", mean=(0.1,) * 3, std=(2.0,) * 3)
    assert spec.class_names == tuple("efgh")


def test_channels_follow_the_first_convolution_unless_stated(file):
    (spec,) = resolve([request_for(file, "grey")])
    assert spec.preprocess.channels == 1
    assert spec.preprocess.mean == (0.0,)


@pytest.mark.parametrize(("labels", "names"), [("dcbaab", tuple("abcd")), ("abc", tuple("0123")), ("", tuple("0123"))])
def test_sorted_labels_name_the_classes_where_their_number_fits(file, labels, names):
    assert resolve([request_for(file)], labels=labels)[0].class_names == names


def test_paths_become_absolute(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    torch.save(built("plain", file).state_dict(), "w.pt")
    (spec,) = resolve([ModelRequest("mine.py:plain", "w.pt", 8)])
    assert (spec.source, spec.weights) == (f"{file}:plain", str(file.parent / "w.pt"))


def test_a_package_factory_needs_an_allowed_prefix():
    """A package factory is found by import and only below allowed prefixes."""
    (spec,) = resolve([ModelRequest("pipeline.models.digits:digits_cnn")], allowed_modules=["pipeline"])
    assert spec.preprocess.channels == 1
    assert spec.code_sha256 is not None
    text = refusal(ModelRequest("pipeline.models.digits:digits_cnn"), allowed_modules=["pipe", "other.models"])
    assert "not below pipe, other.models" in text
    with pytest.raises(ModelError, match="not below"):
        load(spec, allowed_modules=["other"])


def test_a_run_of_0_1_finds_its_digits_network(tmp_path):
    """Under its former name and with the digest of its file in 0.1, so that the key of the spec is the same."""
    save_file(digits_cnn()[0].state_dict(), tmp_path / "w.safetensors")
    names = ("pipeline.digits:digits_cnn", "pipeline.models.digits:digits_cnn")
    specs = [resolve([ModelRequest(name, weights=str(tmp_path / "w.safetensors"))])[0] for name in names]
    for name, spec in zip(names, specs, strict=True):
        assert spec.source == name
        assert spec.code_sha256 == "13630b596ffc2e7141fdb852c58023441529d379b73ad71db2bc9be91ec6aeb3"
        load(spec)
    with pytest.raises(ModelError, match="its code changed"):
        load(replace(spec, source="pipeline.digits:digits_cnn", code_sha256="0" * 64))


def test_former_public_names_work_and_warn():
    with pytest.warns(DeprecationWarning, match="pipeline.spec.request"):
        from pipeline.models import ModelRequest as Former
    assert Former is ModelRequest
    with pytest.warns(DeprecationWarning, match="pipeline.models.digits"):
        from pipeline.digits import digits_cnn
    assert digits_cnn.__module__ == "pipeline.models.digits"
    with pytest.warns(DeprecationWarning, match="pipeline.attribution"):
        from pipeline.tuning import fit_profile
    assert fit_profile.__module__ == "pipeline.attribution.node_fit"


def test_a_model_file_is_run_under_a_private_name(file):
    """A model file is run under a private name and leaves no cache files."""
    resolve([request_for(file)])
    assert "mine" not in sys.modules
    assert [path.name for path in file.parent.iterdir()] == ["mine.py"]


# What is refused before any unit starts


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("plain", {"input_size": None}, ["input size", "`ModelRequest.input_size`"]),
        ("plain", {"input_size": 9}, ["(2, 3, 9, 9)", "`ModelRequest.input_size`"]),
        ("plain", {"input_size": (0, 8)}, ["0 x 8", "`ModelRequest.input_size`"]),
        ("plain", {"channels": 1}, ["first layer", "takes 3 channels", "`ModelRequest.channels` to 3"]),
        ("grey", {"channels": 3}, ["takes 1 channels", "`ModelRequest.channels` to 1"]),
        ("plain", {"channels": 4}, ["4 channels", "1 or 3"]),
        ("plain", {"mean": (0.1, 0.2)}, ["mean", "`ModelRequest.mean`", "1 or 3"]),
        ("plain", {"std": (0.1, 0.0, 0.1)}, ["std", "`ModelRequest.std`", "above 0"]),
        ("plain", {"mean": (float("nan"),)}, ["mean", "`ModelRequest.mean`"]),
        ("plain", {"class_names": ("a", "b")}, ["4 outputs", "2 class names", "`ModelRequest.class_names`"]),
        ("declared", {"class_names": tuple("abc")}, ["4 outputs", "3 class names"]),
        ("typo", {}, ["'inputsize'", "input_size, resize, mean"]),
        ("detached", {}, ["gradient", "detach"]),
        ("rounded", {}, ["gradient", "argmax"]),
        ("nan", {}, ["NaN", "`ModelRequest.weights`"]),
        ("flat", {}, ["(2,)", "(N, classes)"]),
        ("nothing", {}, ["returns str", "expected a tensor"]),
        ("raises", {}, ["factory raised", "no licence for this GPU"]),
        ("text", {}, ["returned str", "nn.Module"]),
        ("number", {}, ["no factory 'number'", "body, plain"]),
        ("absent", {}, ["no factory 'absent'"]),
        ("plain", {"weights": "/no/where.pt"}, ["/no/where.pt", "do not exist"]),
    ],
)
def test_a_model_that_cannot_work_is_refused(file, name, options, words):
    """A model that cannot work is refused with the reason and the remedy."""
    text = refusal(request_for(file, name, **options))
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("resnet50", ["torchvision:resnet50@DEFAULT", "file.py:factory"]),
        ("torchvision:resnet5O@DEFAULT", ["no model 'resnet5O'"]),
        ("torchvision:resnet18@NOPE", ["no weights 'NOPE'", "IMAGENET1K_V1"]),
        ("torchvision:resnet18", ["torchvision:resnet18@DEFAULT", "`ModelRequest.weights`"]),
        ("/no/such/file.py:factory", ["there is no file /no/such/file.py"]),
        ("missing.py:factory", [f"there is no file {Path.cwd() / 'missing.py'}"]),
        ("no.such.package:factory", ["No module named", "PYTHONPATH"]),
    ],
)
def test_a_wrong_source_is_refused(source, words):
    text = refusal(ModelRequest(source, input_size=8))
    assert all(word in text for word in words), text


def test_a_file_that_does_not_run_is_refused_and_may_be_mended(file):
    file.write_text("import torch\n1 / 0\n")
    assert "ZeroDivisionError" in refusal(request_for(file))
    file.write_text(textwrap.dedent(FACTORIES))
    resolve([request_for(file)])


def test_members_must_agree_on_geometry_and_classes(file):
    one = request_for(file)
    assert "`ModelRequest.input_size`" in refusal(one, request_for(file, resize=True))
    assert "`ModelRequest.class_names`" in refusal(one, request_for(file, class_names=tuple("abcd")))
    assert "`ModelRequest.class_names`" in refusal(one, request_for(file, "two"))
    assert len(resolve([one, request_for(file, mean=(0.4,))])) == 2


@pytest.mark.parametrize("name", ["with_logits", "with_tuple", "with_out", "with_logits_key"])
def test_common_wrappings_of_logits_are_unwrapped(file, name):
    (spec,) = resolve([request_for(file, name)])
    pixels = torch.rand(3, 3, 8, 8)
    expected = built("plain", file)(pixels)
    torch.testing.assert_close(load(spec)(pixels), expected)


# Weights


@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_load_however_they_were_wrapped(file, tmp_path, wrap, prefix):
    state = {f"{prefix}{name}": value + 1 for name, value in built("plain", file).state_dict().items()}
    torch.save(wrap(state), tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    digests = {
        resolve([request_for(file, weights=str(tmp_path / name))])[0].weights_sha256
        for name in ("w.pth", "w.safetensors")
    }
    assert len(digests) == 1
    assert digests != {resolve([request_for(file)])[0].weights_sha256}


def test_weights_that_do_not_fit_are_told_by_key_and_shape(file, tmp_path):
    path = tmp_path / "w.safetensors"
    state = built("plain", file).state_dict()
    save_file({**state, "4.bias": torch.zeros(7)}, path)
    assert "4.bias is (7,), the model's (4,)" in refusal(request_for(file, weights=str(path)))
    other = {f"{name}.x": value for name, value in state.items()}
    save_file(other, path)
    text = refusal(request_for(file, weights=str(path)))
    assert "missing: 0.weight, 0.bias" in text
    assert "unexpected: 0.bias.x" in text
    assert "and 4 more" in text or "and 5 more" in text
    assert "each model" in text


class Evil:
    def __reduce__(self):
        return (print, ("owned",))


@pytest.mark.parametrize("content", ["module", "evil", "noise", "empty", "list", "numbers"])
def test_weights_are_data_and_never_code(file, tmp_path, content, capsys):
    path = tmp_path / "w.pt"
    saved = {"module": nn.Linear(1, 1), "evil": {"w": Evil()}, "list": [1, 2], "numbers": {"w": 3}}
    if content in saved:
        torch.save(saved[content], path)
    else:
        path.write_bytes(b"" if content == "empty" else bytes(range(256)))
    assert "model.state_dict()" in refusal(request_for(file, weights=str(path)))
    assert "owned" not in capsys.readouterr().out


def test_damaged_safetensors_are_refused(file, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 100)
    assert "model.state_dict()" in refusal(request_for(file, weights=str(tmp_path / "w.safetensors")))


def test_the_digest_follows_names_dtypes_shapes_and_bytes():
    def digest(**tensors):
        module = nn.Module()
        for name, value in tensors.items():
            module.register_buffer(name, value)
        return weights_digest(module)

    a = torch.arange(6.0)
    tensors = [{"a": a}, {"b": a}, {"a": a + 1}, {"a": a.reshape(2, 3)}, {"a": a.double()}, {"a": a.bfloat16()}, {}]
    tensors += [{"a": a, "b": a[0]}]
    assert len({digest(**each) for each in tensors}) == len(tensors)
    assert digest(a=a, b=a[0]) == digest(b=a[0], a=a.clone())
    assert digest(a=a.reshape(2, 3)) == digest(a=a.reshape(3, 2).T.contiguous().reshape(2, 3).copy_(a.reshape(2, 3)))


# In a worker


def test_a_loaded_member_is_frozen_in_eval_mode(file):
    """A loaded member is frozen in eval mode and normalises pixels."""
    (spec,) = resolve([ModelRequest(f"{file}:declared")])
    for dtype in (torch.float32, torch.float64):
        member = load(spec, dtype=dtype)
        assert not member.training
        assert not any(parameter.requires_grad for parameter in member.parameters())
        pixels = torch.rand(2, 3, 8, 8, dtype=dtype)
        normalised = F.normalize(pixels, spec.preprocess.mean, spec.preprocess.std)
        torch.testing.assert_close(member(pixels), member.body(normalised))
        assert member(pixels).dtype == dtype


def test_a_worker_makes_the_module_that_was_submitted(file):
    """Without names of classes nobody tells it, and its own head stays."""
    (spec,) = resolve([request_for(file, "headed")])
    assert weights_digest(load(spec).body) == spec.weights_sha256


def test_a_member_is_kept_until_the_cache_is_full(file, monkeypatch):
    specs = [resolve([request_for(file, mean=(mean,))])[0] for mean in (0.1, 0.2, 0.3)]
    monkeypatch.setattr(registry, "MEMBERS_KEPT", 2)
    first = load(specs[0])
    assert load(specs[0]) is first
    assert load(specs[1]) is not first, "the same weights with another mean are another member"
    assert load(specs[0], dtype=torch.float64) is not first
    assert load(specs[2]) is load(specs[2])
    assert load(specs[0]) is not first
    assert registry.clear_cache() == 2


def test_changed_weights_code_or_random_weights_are_refused(file, tmp_path):
    path = tmp_path / "w.safetensors"
    state = built("plain", file).state_dict()
    save_file(state, path)
    (spec,) = resolve([request_for(file, weights=str(path))])
    save_file({name: value + 1 for name, value in state.items()}, path)
    with pytest.raises(ModelError, match="weights changed since the run was submitted"):
        load(spec)
    save_file(state, path)
    honest = file.read_text()
    file.write_text(f"{honest}\nimport pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    with pytest.raises(ModelError, match="code changed since the run was submitted"):
        load(spec)
    assert not (tmp_path / "ran").exists(), "changed code is refused before it runs"
    file.write_text(honest)
    (spec,) = resolve([request_for(file, "random")])
    with pytest.raises(ModelError, match="other weights each time it is made"):
        load(spec)


def test_a_spec_that_names_nothing_here_is_refused_by_name():
    spec = ModelSpec("/gone/model.py:factory", None, "0" * 64, None, Preprocess(8, 8), ("a",))
    with pytest.raises(ModelError, match=r"/gone/model.py:factory"):
        load(spec)
    with pytest.raises(ModelError, match=r"code changed"):
        load(replace(spec, source="pipeline.models.digits:digits_cnn", code_sha256="0" * 64))
