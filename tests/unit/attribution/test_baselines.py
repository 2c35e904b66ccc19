"""Baselines stand in pixel space: black is black to the eye, whatever the model's normalisation."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.attribution import baseline_stack, integrated_gradients
from pipeline.models.member import Member
from pipeline.spec.choices import Baseline
from pipeline.spec.run_spec import Preprocess

IMAGES = torch.rand(3, 3, 12, 10, generator=torch.Generator().manual_seed(0))
DIGESTS = ["a", "b", "c"]


def one(text: str, images: Tensor = IMAGES, digests: list[str] = DIGESTS, **options: object) -> Tensor:
    return baseline_stack([Baseline.parse(text)], images, digests, **options)[0]  # type: ignore[arg-type]


def test_black_is_black_not_the_mean_colour() -> None:
    """A zero after normalisation would be the mean colour, where this model's output is 0: a different map."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(360, 2))
    member = Member(body, Preprocess(12, 10, 3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))).float()
    seen: list[Tensor] = []
    handle = body.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    found = integrated_gradients(member, IMAGES, torch.tensor([0, 1, 0]), baselines=one("black"), n_steps=2)
    handle.remove()
    start = seen[0][0]  # the first pass is F(x')
    torch.testing.assert_close(start[:, 0, 0], torch.tensor([-2.0, -2.5, -3.0]))
    black = member(torch.zeros_like(IMAGES)).gather(1, torch.tensor([[0], [1], [0]]))[:, 0]
    torch.testing.assert_close(found.baseline_output, black.double().detach(), rtol=1e-5, atol=1e-6)


def test_shared_baselines_are_shared() -> None:
    assert one("black").shape == (1, 1, 3, 12, 10)
    assert (one("black") == 0).all()
    assert (one("white") == 1).all()
    assert one("color:0.1,0.2,0.3")[0, 0, :, 5, 5].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert (one("color:0.5") == 0.5).all()


def test_mean_is_the_images_own_mean_colour() -> None:
    torch.testing.assert_close(one("mean")[0, 1, :, 0, 0], IMAGES[1].mean((1, 2)))


def test_blurring_keeps_a_flat_image_and_approaches_the_mean() -> None:
    flat = torch.full((1, 1, 12, 10), 0.3)
    torch.testing.assert_close(one("blurred:sigma=3", flat, ["a"])[0], flat)
    wide = one("blurred:sigma=1000")[0]
    torch.testing.assert_close(wide, one("mean")[0].clone(), rtol=1e-3, atol=1e-3)
    assert one("blurred:sigma=1")[0].std() < IMAGES.std()


def test_blurring_an_impulse_is_a_gaussian_of_that_sigma() -> None:
    impulse = torch.zeros(1, 1, 41, 41)
    impulse[..., 20, 20] = 1
    spread = one("blurred:sigma=2", impulse, ["a"])[0, 0, 0].double()
    position = torch.arange(41).double() - 20
    variance = (spread.sum(0) * position**2).sum() / spread.sum()
    assert variance.sqrt().item() == pytest.approx(2, rel=1e-3)


def test_opposite_is_farther_in_l1_than_any_other_valid_image() -> None:
    far = one("opposite")[0]
    assert ((far == 0) | (far == 1)).all()
    others = torch.rand(50, *IMAGES.shape)
    assert ((far - IMAGES).abs().sum() >= (others - IMAGES).abs().flatten(1).sum(1)).all()


def test_noise_depends_on_seed_image_and_draw_alone() -> None:
    noise = one("uniform:n=3")
    assert noise.shape == (3, 3, 3, 12, 10)
    alone = one("uniform:n=3", IMAGES[1:2], ["b"])
    torch.testing.assert_close(alone[:, 0], noise[:, 1], rtol=0, atol=0)
    torch.testing.assert_close(one("uniform:n=2"), noise[:2], rtol=0, atol=0)
    assert (one("uniform:n=3", seed=1) != noise).any()
    assert (noise[0, 0] != noise[1, 0]).any()
    assert (noise[0, 0] != noise[0, 1]).any()
    assert noise.min() >= 0
    assert noise.max() < 1


def test_gaussian_noise_stays_within_valid_pixels() -> None:
    """Gaussian noise stands around the image within valid pixels."""
    grey = torch.full((1, 3, 64, 64), 0.5)
    noise = one("gaussian:n=2,sigma=0.1", grey, ["a"]) - 0.5
    assert noise.std().item() == pytest.approx(0.1, rel=0.05)
    assert noise.mean().abs() < 0.01
    wild = one("gaussian:n=2,sigma=5")
    assert wild.min() == 0
    assert wild.max() == 1


def test_random_draws_are_those_of_the_first_release() -> None:
    """Stored maps are reproducible only as long as these numbers stand."""
    noise = one("uniform:n=1", torch.zeros(1, 1, 1, 4), ["0" * 64])
    assert noise.flatten().tolist() == pytest.approx(RELEASED, abs=1e-7)


def test_samples_are_images_of_the_data_set() -> None:
    samples = torch.rand(4, 3, 12, 10)
    torch.testing.assert_close(one("samples:n=3", samples=samples)[:, 0], samples[:3])
    with pytest.raises(ValueError, match="draws 8 images of the data set, which offers 4"):
        one("samples:n=8", samples=samples)


def test_weights_are_shared_by_the_draws_of_a_kind() -> None:
    kinds = [Baseline.parse(text) for text in ("black:weight=2", "uniform:n=4", "white")]
    stack, weights = baseline_stack(kinds, IMAGES, DIGESTS)
    assert stack.shape[:2] == (6, 3)
    assert weights.tolist() == pytest.approx([0.5, 0.0625, 0.0625, 0.0625, 0.0625, 0.25])


def test_a_color_must_fit_the_channels() -> None:
    with pytest.raises(ValueError, match="has 3 channels, the images 1"):
        one("color:0.1,0.2,0.3", torch.rand(1, 1, 4, 4), ["a"])


RELEASED = [0.20576113, 0.43997836, 0.7918368, 0.38383639]
