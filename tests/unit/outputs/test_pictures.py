"""Pictures say what the arrays say."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.outputs import figure, pictures
from pipeline.outputs.figure import FigureData


def test_colours_are_symmetric_about_zero_and_zero_is_neutral() -> None:
    colours = pictures.signed_colours(np.array([[-1.0, -0.5, 0.0, 0.5, 1.0]]))[0].astype(int)
    assert colours[2].tolist() == [247, 247, 247]
    assert colours[0, 2] > colours[0, 0]  # blue against
    assert colours[4, 0] > colours[4, 2]  # red for
    assert (
        pictures.signed_colours(np.array([[-3.0, 3.0]])).tolist()
        == pictures.signed_colours(np.array([[-9.0, 9.0]])).tolist()
    )


def test_the_scale_ends_at_the_99th_percentile_and_is_never_zero() -> None:
    values = np.arange(-500, 501, dtype=np.float64)
    assert pictures.scale_of(values) == pytest.approx(np.quantile(np.abs(values), 0.99))
    assert pictures.scale_of(np.zeros((4, 4))) == 1
    lone = np.zeros((100, 100))
    lone[0, 0] = -7
    assert pictures.scale_of(lone) == 7


def test_channels_are_summed() -> None:
    values = np.random.default_rng(0).normal(size=(3, 5, 6))
    assert (pictures.signed_colours(values) == pictures.signed_colours(values.sum(axis=0))).all()
    assert pictures.flat(values[:1]).shape == (5, 6)


def test_an_overlay_without_evidence_is_grey() -> None:
    """An overlay without evidence is a grey image and evidence colours it."""
    image = np.full((3, 8, 8), 0.5, np.float32)
    bare = np.asarray(pictures.overlay(image, np.zeros((8, 8))))
    assert (bare == bare[0, 0, 0]).all()
    values = np.zeros((1, 8, 8))
    values[0, 0, 0], values[0, 7, 7] = 1, -1
    found = np.asarray(pictures.overlay(image, values)).astype(int)
    assert found[0, 0, 0] > found[0, 0, 2]
    assert found[7, 7, 2] > found[7, 7, 0]
    assert (found[3, 3] == bare[3, 3]).all()


def test_small_pictures_grow_by_whole_factors() -> None:
    """Small pictures grow by whole factors and pixels stay squares."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (28, 32, 3), dtype=np.uint8))
    grown = pictures.upscale(picture)
    assert grown.size == (32 * 6, 28 * 6)
    assert (np.asarray(grown)[::6, ::6] == np.asarray(picture)).all()
    large = Image.new("RGB", (224, 200))
    assert pictures.upscale(large) is large
    assert pictures.shrink(large, 96).size == (96, 86)
    assert pictures.shrink(picture, 96) is picture


def test_a_box_frames_its_region_and_hides_none_of_it() -> None:
    picture = pictures.upscale(Image.fromarray(np.full((32, 32, 3), 100, np.uint8)))
    found = np.asarray(pictures.boxed(picture, (8, 12, 16, 20), (32, 32)))
    factor = picture.width // 32
    assert (found[12 * factor : 20 * factor, 8 * factor : 16 * factor] == 100).all()
    changed = (found != 100).any(axis=2)
    assert changed[12 * factor - 1, 10 * factor]
    assert changed[20 * factor, 10 * factor]
    assert not changed[: 11 * factor].any()
    corner = np.asarray(pictures.boxed(picture, (0, 0, 4, 4), (32, 32)))
    assert (corner != 100).any()


def test_images_become_rgb_and_values_are_clipped() -> None:
    """Grey and colour images become rgb and values are clipped."""
    assert np.asarray(pictures.to_picture(np.full((1, 2, 2), 2.0)))[0, 0].tolist() == [255, 255, 255]
    colour = np.stack([np.full((2, 2), v) for v in (0.0, 0.5, 1.0)])
    assert np.asarray(pictures.to_picture(colour))[0, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("fast", [False, True])
def test_a_png_reads_back_as_it_was(fast: bool) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8))
    read = Image.open(io.BytesIO(pictures.png_bytes(picture, fast=fast)))
    assert (np.asarray(read) == np.asarray(picture)).all()
    assert pictures.data_uri(picture).startswith("data:image/png;base64,iVBOR")


def explained(*, channels: int = 1, std: bool = True, nodes: int = 9, baselines: int = 1) -> FigureData:
    rng = np.random.default_rng(0)
    alphas = (np.arange(nodes) + 0.5) / nodes
    return FigureData(
        key="a_$strange^name_{.png", target="3", predicted="8", probability=0.91, completeness_gap=0.012,
        error_estimate=0.034, image=rng.uniform(size=(channels, 20, 24)), map=rng.normal(size=(channels, 20, 24)),
        std=rng.uniform(size=(1, 20, 24)) if std else None, alphas=alphas, outputs=alphas**2, gradients=1 - alphas,
        strip=rng.uniform(size=(5, channels, 20, 24)), strip_alphas=np.linspace(0, 1, 5),
        strip_baseline="black", baselines=baselines,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "std", "nodes"), [(1, True, 1), (3, False, 129)])
def test_the_figure_is_one_png_for_any_image(channels: int, std: bool, nodes: int) -> None:
    read = Image.open(io.BytesIO(figure.figure(explained(channels=channels, std=std, nodes=nodes))))
    assert read.format == "PNG"
    assert read.size == (1210, 990)
    assert len(np.unique(np.asarray(read.convert("L")))) > 50


def test_the_figure_names_the_baseline_of_the_strip() -> None:
    """The figure says which baseline the strip is from and what is averaged."""
    alone, several = explained(), explained(baselines=3)
    assert figure._strip_title(alone) == "path from black"
    assert figure._strip_title(several) == "path from black, 1 of 3 baselines"
    assert "mean" not in figure._alpha_label(1)
    assert "mean over 3 baselines" in figure._alpha_label(3)


@pytest.mark.slow
def test_the_figure_looks_the_same_each_time() -> None:
    """To the eye: the layout solver may move an edge by less than a pixel."""
    one, other = (np.asarray(Image.open(io.BytesIO(figure.figure(explained()))), np.float64) for _ in range(2))
    assert np.abs(one - other).mean() < 0.5
