"""The distributions of an audit as pictures, `data:` addresses. matplotlib is imported when something is drawn."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from PIL import Image

from pipeline.analysis.audit.results import Audit, ClassFigures
from pipeline.analysis.statistics import SMALLEST
from pipeline.formatting import plural
from pipeline.outputs import pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _BAR, _LINE = "#1b1b1b", "#2166ac", "#b2182b"
BARS = 30  # classes in the chart of places
TICKS = 7  # at most, of a logarithmic axis
NAMES = {
    "error_estimate": "estimated error of a map",
    "completeness_gap": "completeness gap",
    "member_disagreement": "disagreement between members",
    "baseline_sensitivity": "sensitivity to the baseline",
}


@dataclass(frozen=True)
class Chart:
    """A picture and what it says."""

    picture: str
    alt: str


def draw(audit: Audit) -> list[Chart]:
    """Histograms over all images, and where the evidence of each class lies."""
    found = []
    for name, title in NAMES.items():
        distribution = audit.overall.distributions[name]
        if sum(distribution["histogram"]["counts"]):
            limit = audit.tolerance if name == "error_estimate" else None
            found.append(_histogram(title, distribution, limit))
    places = [one for one in audit.classes if one.border_share is not None and one.center_share is not None]
    if places:
        found.append(_places(sorted(places, key=lambda one: -(one.border_share or 0))[:BARS]))
    return found


def _histogram(title: str, distribution: Mapping[str, Any], limit: float | None) -> Chart:
    edges, counts = (distribution["histogram"][key] for key in ("edges", "counts"))
    quantiles = distribution["quantiles"]
    page, axes = _page(4.6, 2.6, top=0.55, bottom=0.35)
    widths = [after - before for before, after in pairwise(edges)]
    axes.bar(edges[:-1], counts, widths, align="edge", color=_BAR, edgecolor="white", linewidth=0.5)
    axes.set_ylabel("images", color=_INK)
    axes.set_title(title, fontsize=10, color=_INK, loc="left", pad=18)
    _set_ticks(axes, [*edges, *([] if limit is None else [limit])])
    if limit is not None:
        axes.axvline(limit, color=_LINE, linewidth=1.5, linestyle="--")
        across = axes.transAxes.inverted().transform(axes.transData.transform((limit, 0)))[0]
        side = "right" if across > 0.5 else "left"
        where = axes.get_xaxis_transform()  # x in data, y in parts of the axes
        axes.text(limit, 1.0, f"tolerance {limit:g}", transform=where, color=_LINE, fontsize=8, ha=side, va="bottom")
    said = f"median {quantiles['0.5']:.3g}, 95 % of the images at most {at_most(quantiles['0.95'])}"
    return Chart(_saved(page), f"Histogram of the {title}, {plural(distribution['images'], 'image')}: {said}")


def _set_ticks(axes: "Axes", shown: Sequence[float]) -> None:
    """Plain numbers along x: a logarithmic axis from a factor of ten on."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

    if max(shown) < 10 * min(shown):
        axes.xaxis.set_major_locator(MaxNLocator(5, min_n_ticks=3))
    else:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(log_ticks(min(shown), max(shown))))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def log_ticks(low: float, high: float) -> list[float]:
    """Three to `TICKS` numbers with one digit from low to high, which are a factor of ten apart at least."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5)):
        found = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        found = [one for one in found if low <= one <= high]
        if len(found) >= 3:
            break
    return found[:: math.ceil(len(found) / TICKS)]


def at_most(quantile: float) -> str:
    """A bound with three digits that a quantile of a sketch (half a percent off at most) is not above."""
    if quantile < SMALLEST:
        return f"{SMALLEST:g}"
    digit = 10.0 ** (math.floor(math.log10(quantile)) - 2)
    return f"{digit * math.ceil(1.005 * quantile / digit - 0.01):.3g}"


def _places(classes: Sequence[ClassFigures]) -> Chart:
    page, axes = _page(4.6, max(2.6, 0.9 + 0.22 * len(classes)), left=1.5)
    names = [pictures.shortened(one.class_name) for one in classes]
    rows = range(len(classes))
    corners = [max([share for share in one.corner_shares if share is not None], default=0.0) for one in classes]
    for values, mark, colour, label in (
        ([one.border_share for one in classes], "o", _BAR, "border"),
        ([one.center_share for one in classes], "s", "#595959", "centre"),
        (corners, "^", _LINE, "strongest corner"),
    ):
        axes.plot([100 * (value or 0) for value in values], rows, mark, color=colour, markersize=5, label=label)
    axes.set_yticks(list(rows), names, fontsize=8, parse_math=False)
    axes.set_ylim(len(classes) - 0.5, -0.5)  # the first on top
    axes.grid(visible=True, axis="x", alpha=0.3)
    axes.set_xlim(left=0)
    axes.set_xlabel("share of |attribution|, %", color=_INK)
    axes.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    first = classes[0]
    said = f"class {first.class_name} leans on the border most, with {100 * (first.border_share or 0):.0f} %"
    return Chart(_saved(page), f"Border, centre and strongest corner of {len(classes)} classes: {said}")


def _page(
    width: float, height: float, left: float = 0.6, top: float = 0.35, bottom: float = 0.55
) -> "tuple[Figure, Axes]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    page = Figure(figsize=(width, height), dpi=130, facecolor="white")
    FigureCanvasAgg(page)
    axes = page.subplots()
    page.subplots_adjust(left=left / width, right=0.97, bottom=bottom / height, top=1 - top / height)  # inches
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return page, axes


def _saved(page: "Figure") -> str:
    buffer = io.BytesIO()
    page.savefig(buffer, format="png")
    return pictures.data_uri(Image.open(buffer).convert("P", palette=Image.Palette.ADAPTIVE, colors=64))
