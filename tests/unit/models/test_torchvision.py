"""Members by a torchvision name: their transforms, classes, and the remedy without a network."""

import urllib.error

import pytest
import torch
from torchvision.models import get_model, resnet18
from torchvision.transforms import functional as F
from torchvision.transforms._presets import ImageClassification

from pipeline.errors import ModelError
from pipeline.models.registry import load, resolve
from pipeline.spec.request import ModelRequest


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("resnet") / "resnet18.pt"
    torch.save(resnet18(weights=None).state_dict(), path)
    return path


@pytest.mark.slow
def test_a_torchvision_member_equals_the_weights_own_transforms(resnet_file):
    (spec,) = resolve([ModelRequest("torchvision:resnet18@IMAGENET1K_V1", str(resnet_file))])
    assert spec.preprocess.geometry == (224, 224, 3, "crop", 256, "bilinear")
    assert len(spec.class_names) == 1000
    assert spec.class_names[0] == "tench"
    assert spec.code_sha256 is None
    pixels = torch.rand(2, 3, 224, 224)
    reference = get_model("resnet18", weights=None).eval()
    reference.load_state_dict(torch.load(resnet_file, weights_only=True))
    preset = ImageClassification(crop_size=224)
    with torch.no_grad():
        torch.testing.assert_close(load(spec)(pixels), reference(F.normalize(pixels, preset.mean, preset.std)))


@pytest.mark.slow
def test_torchvision_members_have_the_classes_of_the_weights(tmp_path):
    """Torchvision takes the number of classes from the weights."""
    torch.save(resnet18(weights=None, num_classes=7).state_dict(), tmp_path / "w.pt")
    (spec,) = resolve([ModelRequest("torchvision:resnet18", str(tmp_path / "w.pt"), 64)], labels="gfedcba")
    assert spec.class_names == tuple("abcdefg")


def test_without_network_the_remedy_is_a_file(monkeypatch):
    def offline(*arguments, **options):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ModelError) as caught:
        resolve([ModelRequest("torchvision:resnet18@DEFAULT")])
    text = str(caught.value)
    assert "torchvision:resnet18@DEFAULT" in text
    assert "`ModelRequest.weights`" in text
    assert "https://" in text
