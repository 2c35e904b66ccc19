"""One PNG that explains one image of a run: its map, the curve along the path, and the images along it."""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from db.records import ImageRow
from pipeline.attribution import baseline_stack
from pipeline.formatting import percent
from pipeline.outputs.pictures import flat, magnitude_colours, overlay, to_picture
from pipeline.runs.stored import StoredRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

Floats = NDArray[np.floating[Any]]

STRIP_ALPHAS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
_FOR, _AGAINST, _INK, _GREY = "#b2182b", "#2166ac", "#1b1b1b", "#595959"


@dataclass(frozen=True)
class FigureData:
    """All that `figure` draws of one image. A is the number of alphas, S that of the images in the strip."""

    key: str
    target: str  # the explained class
    predicted: str
    probability: float  # that of the predicted class
    completeness_gap: float
    error_estimate: float
    image: Floats  # (C, H, W)
    map: Floats  # (C, H, W) or (H, W), mean over members and baselines
    std: Floats | None  # same shape, over members; None for a single member
    alphas: Floats  # (A,), 0 at the baseline, 1 at the image
    outputs: Floats  # (A,) F(alpha) of the target, mean over members and baselines
    gradients: Floats  # (A,) mean absolute gradient, likewise
    strip: Floats  # (S, C, H, W) images interpolated from one of the baselines
    strip_alphas: Floats  # (S,)
    strip_baseline: str  # its declaration
    baselines: int  # that map, curve, gap and error are averaged over, draws counted singly
    output: str = "logit"


def show(stored: StoredRun, row: ImageRow) -> bytes:
    """A PNG of one image of a run that has a map.

    Raises:
        UsageError: the image failed.
        ObjectMissing: its map is gone.
        UnreadableImage: its file is gone or has changed.
    """
    spec, pixels, samples, std = stored.spec, stored.image(row), stored.samples(), stored.spread(row)
    curve = stored.curve(row) or {"alphas": [0.0, 1.0], "outputs": [np.nan] * 2, "gradients": [np.nan] * 2}
    stack, _ = baseline_stack(
        spec.baselines,
        torch.from_numpy(pixels)[None],
        [row.sha256 or ""],
        seed=spec.seed,
        samples=None if samples is None else torch.from_numpy(samples),
    )
    start = stack[0, 0].numpy()  # the strip shows the first declared baseline and names it
    return figure(
        FigureData(
            key=row.key,
            target=row.target or "",
            predicted=row.predicted or "",
            probability=_number(row.probability),
            completeness_gap=_number(row.completeness_gap),
            error_estimate=_number(row.error_estimate),
            image=pixels,
            map=stored.map(row),
            std=std,
            **{name: np.asarray(values) for name, values in curve.items()},
            strip=np.stack([start + alpha * (pixels - start) for alpha in STRIP_ALPHAS]),
            strip_alphas=np.asarray(STRIP_ALPHAS),
            strip_baseline=str(spec.baselines[0]),
            baselines=len(stack),
            output=spec.output,
        )
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def figure(one: FigureData) -> bytes:
    """One PNG that explains one image: the pictures, the path's curve, and the images along it.

    Top: image, overlay, evidence for the class, spread over members. Middle: F(alpha) and the mean absolute
    gradient. Bottom: the images from one baseline, which is named, to the image.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    page = Figure(figsize=(11, 9), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(page)
    page.suptitle(_title(one), fontsize=12, color=_INK, parse_math=False)
    parts = page.subfigures(3, 1, squeeze=False, height_ratios=(3.3, 3.4, 1.9))
    for draw, part in zip((_draw_maps, _draw_curve, _draw_strip), parts[:, 0], strict=True):
        draw(part, one)
    return _saved(page)


def _title(one: FigureData) -> str:
    return (
        f"{one.key}\nexplained: {one.target}    predicted: {one.predicted} (probability {one.probability:.3f})\n"
        f"completeness gap {percent(one.completeness_gap)}    estimated error {percent(one.error_estimate)}"
    )


def _draw_maps(place: "SubFigure", one: FigureData) -> None:
    summed = flat(one.map)
    panels = [
        ("image", to_picture(one.image)),
        ("for (red) and against (blue)", overlay(one.image, summed)),
        ("speaks for the class", Image.fromarray(magnitude_colours(np.clip(summed, 0, None)))),
    ]
    if one.std is not None:
        panels.append(("where members differ (std)", Image.fromarray(magnitude_colours(flat(one.std)))))
    for axes, (title, picture) in zip(place.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.imshow(np.asarray(picture), interpolation="nearest")
        axes.set_title(title, fontsize=10, color=_INK)
        _bare(axes)


def _draw_curve(place: "SubFigure", one: FigureData) -> None:
    axes = place.subplots(1, 1)
    many = len(one.alphas) > 40
    axes.plot(one.alphas, one.outputs, color=_FOR, linewidth=2, marker="" if many else "o", markersize=4)
    axes.set_xlabel(_alpha_label(one.baselines), color=_INK)
    axes.set_ylabel(f"F(alpha), {one.output} of {one.target}", color=_FOR, parse_math=False)
    axes.tick_params(axis="y", colors=_FOR)
    axes.set_xlim(0, 1)
    axes.grid(visible=True, alpha=0.25)
    second = axes.twinx()
    second.fill_between(one.alphas, one.gradients, color=_AGAINST, alpha=0.15, linewidth=0)
    second.plot(one.alphas, one.gradients, color=_AGAINST, linewidth=1.5, linestyle="--")
    second.set_ylim(bottom=0)
    second.set_ylabel("mean absolute gradient (dashed)", color=_AGAINST)
    second.tick_params(axis="y", colors=_AGAINST)
    axes.set_zorder(second.get_zorder() + 1)  # the curve over the filled area
    axes.patch.set_visible(False)
    for edge in (axes, second):
        edge.spines["top"].set_visible(False)


def _alpha_label(baselines: int) -> str:
    ends = "alpha: 0 is the baseline, 1 is the image"
    return ends if baselines == 1 else f"{ends} (mean over {baselines} baselines, as the map)"


def _strip_title(one: FigureData) -> str:
    few = "" if one.baselines == 1 else f", 1 of {one.baselines} baselines"
    return f"path from {one.strip_baseline}{few}"


def _draw_strip(place: "SubFigure", one: FigureData) -> None:
    place.suptitle(_strip_title(one), fontsize=10, color=_INK, parse_math=False)
    for axes, alpha, image in zip(
        place.subplots(1, len(one.strip), squeeze=False)[0], one.strip_alphas, one.strip, strict=True
    ):
        axes.imshow(np.asarray(to_picture(image)), interpolation="nearest")
        axes.set_title(f"alpha {float(alpha):.2f}", fontsize=8, color=_GREY)
        _bare(axes)


def _bare(axes: "Axes") -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#bdbdbd")


def _saved(page: "Figure") -> bytes:
    buffer = io.BytesIO()
    page.savefig(buffer, format="png")
    return buffer.getvalue()
