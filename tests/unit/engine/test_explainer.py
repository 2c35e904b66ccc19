"""What else is in a batch changes nothing of a picture, nor does how it is cut into chunks or where members lie."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from db.records import Entry
from pipeline.datasets.decoder import Picture
from pipeline.engine import explainer
from pipeline.engine.explainer import Explainer
from pipeline.engine.rows import describe
from pipeline.errors import ModelBroken
from pipeline.spec.choices import Baseline
from pipeline.spec.run_spec import RunSpec
from pipeline.storage.sidecar import ImageResult
from tests.support.specs import MODEL

BASELINES = (Baseline.parse("black"), Baseline.parse("uniform:n=2"))


def member(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(6 * 64, len(MODEL.class_names))
    ).eval()


@pytest.fixture
def members() -> list[nn.Module]:
    return [member(0), member(1)]


@pytest.fixture
def pictures() -> list[Picture]:
    random = np.random.default_rng(0)
    return [Picture(Entry(i, f"{i}.png", "1"), f"{i:064}", random.random((3, 8, 8), np.float32)) for i in range(7)]


def explained(members: Sequence[nn.Module], pictures: Sequence[Picture], **options: Any) -> list[ImageResult]:
    asked = RunSpec((MODEL, MODEL), BASELINES, n_steps=12)
    return describe("run", asked, Explainer(asked, members, **options).compute(pictures))


def same(one: ImageResult, other: ImageResult) -> None:
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-4, atol=1e-6)
    assert one.std is not None
    assert other.std is not None
    np.testing.assert_allclose(one.std, other.std, rtol=1e-3, atol=1e-6)
    assert one.row.key == other.row.key
    assert one.row.predicted == other.row.predicted
    assert one.row.error_estimate == pytest.approx(other.row.error_estimate, rel=1e-3)
    assert one.row.output == pytest.approx(other.row.output, rel=1e-5)


def test_the_order_of_images_changes_nothing(members: list[nn.Module], pictures: list[Picture]) -> None:
    forth, back = explained(members, pictures), explained(members, pictures[::-1])
    for one, other in zip(forth, back[::-1], strict=True):
        same(one, other)


def test_the_neighbours_of_an_image_change_nothing(members: list[nn.Module], pictures: list[Picture]) -> None:
    for one, picture in zip(explained(members, pictures), pictures, strict=True):
        same(one, explained(members, [picture])[0])


@pytest.mark.parametrize("size", [1, 5, 64])
def test_the_size_of_a_chunk_changes_nothing(
    size: int, members: list[nn.Module], pictures: list[Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = explained(members, pictures)
    monkeypatch.setattr(explainer, "_batch_sizes", {})
    monkeypatch.setattr(explainer, "default_batch_size", lambda _: size)
    for one, other in zip(whole, explained(members, pictures), strict=True):
        same(one, other)


def test_members_that_take_turns_lie_on_the_device_one_at_a_time(
    members: list[nn.Module], pictures: list[Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, there, most, moves = explained(members, pictures), set[int](), [0], []

    class Moving(nn.Module):
        def __init__(self, body: nn.Module, index: int) -> None:
            super().__init__()
            self.body, self.index = body, index

        def to(self, device: str) -> "Moving":  # type: ignore[override]
            (there.discard if device == "cpu" else there.add)(self.index)
            moves.append(self.index)
            most[0] = max(most[0], len(there))
            return self

        def forward(self, pixels: Tensor) -> Tensor:
            assert there == {self.index}
            result: Tensor = self.body(pixels)
            return result

    monkeypatch.setattr(Explainer, "pixels", _on_the_cpu)
    turning = [Moving(body, index) for index, body in enumerate(members)]
    found = explained(turning, pictures, device="gpu", take_turns=True)
    for one, other in zip(whole, found, strict=True):
        same(one, other)
    assert most == [1]
    assert len(moves) <= 2 * 2 * 4, "once for each member and sweep, not for each chunk"


def test_a_member_with_another_number_of_classes_is_broken(members: list[nn.Module], pictures: list[Picture]) -> None:
    """A member that returns another number of classes is broken."""

    class Short(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return torch.as_tensor(members[1](pixels))[:, 1:]

    with pytest.raises(ModelBroken, match=r"the model returned \(\d+, \d+\) for \d+ images"):
        explained([members[0], Short()], pictures)


def _on_the_cpu(_: Explainer, pictures: Sequence[Picture]) -> Tensor:
    return torch.from_numpy(np.stack([picture.pixels for picture in pictures]))
