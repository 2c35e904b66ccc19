"""Charts as inline SVG, for the report and the web page, whose style sheets give the colors of light and dark mode.

Every chart names its axes and has a sentence for those who do not see it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from pipeline.analysis.statistics import SMALLEST
from pipeline.formatting import plural
from pipeline.outputs.pictures import shortened

CLASSES = 30  # in the chart of class shares, at most
TICKS = 7  # on a logarithmic axis, at most
DISTRIBUTIONS = {
    "error_estimate": "estimated error of a map",
    "completeness_gap": "completeness gap",
    "member_disagreement": "disagreement between members",
    "baseline_sensitivity": "sensitivity to the baseline",
    "border_share": "share on the border",
    "gini": "Gini coefficient of a map",
    "probability": "probability of the predicted class",
}


@dataclass(frozen=True)
class Chart:
    """An SVG and its content in one sentence."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Plot:
    """Where a chart's axes are, in the units of its view box; `left`, `right`, `top` and `bottom` are margins."""

    width: int
    height: int
    left: int = 64
    right: int = 20
    top: int = 24
    bottom: int = 44

    def x(self, part: float) -> float:
        """Position of a part 0..1 of the horizontal axis."""
        return self.left + part * (self.width - self.left - self.right)

    def y(self, part: float) -> float:
        """Position of a part 0..1 of the vertical axis, 0 at its foot."""
        return self.height - self.bottom - part * (self.height - self.top - self.bottom)

    def points(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        """The points of a line, from parts of both axes."""
        return " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in zip(xs, ys, strict=True))

    def level(self, name: str, part: float) -> str:
        """A horizontal line."""
        y = self.y(part)
        return f'<line class="{name}" x1="{self.left}" y1="{y:.1f}" x2="{self.width - self.right}" y2="{y:.1f}"/>'

    def upright(self, name: str, part: float) -> str:
        """A vertical line."""
        x = self.x(part)
        return f'<line class="{name}" x1="{x:.1f}" y1="{self.top}" x2="{x:.1f}" y2="{self.height - self.bottom}"/>'

    def labels(self, across: str, up: str, right: str = "") -> str:
        """The names of the axes."""
        middle = self.y(0.5)
        found = _text(self.x(0.5), self.height - 8, across, "middle")
        for x, text in ((14, up), (self.width - 6, right)):
            if text:
                found += (
                    f'<text x="{x}" y="{middle:.1f}" transform="rotate(-90 {x} {middle:.1f})" '
                    f'text-anchor="middle">{escape(text)}</text>'
                )
        return found

    def ticks_x(self, ticks: Sequence[tuple[str, float]]) -> str:
        """Texts under the horizontal axis, each with its part of the axis."""
        y = self.height - self.bottom + 16
        return "".join(_text(self.x(part), y, text, "middle") for text, part in ticks)

    def ticks_y(self, ticks: Sequence[tuple[str, float]]) -> str:
        """Texts left of the vertical axis, each with its part of the axis and a line across."""
        left = self.left - 8
        return "".join(self.level("grid", part) + _text(left, self.y(part) + 4, text, "end") for text, part in ticks)

    def svg(self, body: str, caption: str) -> Markup:
        """The chart."""
        return Markup(  # noqa: S704 - every text in it went through escape(), the rest are numbers
            f'<svg class="plot" viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(caption)}">'
            f"{body}</svg>"
        )


CURVE, TURNS, HISTOGRAM = Plot(560, 240, right=30, top=14), Plot(560, 176, top=14), Plot(420, 230)


def of_audit(audit: Mapping[str, Any]) -> list[Chart]:
    """Histograms over all images, and where the evidence of each class is.

    Args:
        audit: from `Audit.to_dict`, or stored by an earlier version: distributions that it lacks are left out.
    """
    found = []
    for name, title in DISTRIBUTIONS.items():
        distribution = audit["overall"]["distributions"].get(name)
        if distribution and sum(distribution["histogram"]["counts"]):
            found.append(histogram(title, distribution, audit["tolerance"] if name == "error_estimate" else None))
    classes = [one for one in audit["classes"] if one["border_share"] is not None and one["center_share"] is not None]
    if classes:
        found.append(class_shares(sorted(classes, key=lambda one: -float(one["border_share"]))[:CLASSES]))
    return found


def histogram(title: str, distribution: Mapping[str, Any], limit: float | None) -> Chart:
    """Images by a figure, on a logarithmic axis from a factor of ten on; `limit` is a dashed line.

    Args:
        title: the figure, without an article.
        distribution: from `Sketch.to_dict`, with at least one value.
        limit: the run's tolerance.
    """
    plot = HISTOGRAM
    edges, counts = (distribution["histogram"][key] for key in ("edges", "counts"))
    low, high = min([*edges, *([] if limit is None else [limit])]), max([*edges, *([] if limit is None else [limit])])
    log = high >= 10 * low

    def part(value: float) -> float:
        return math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)

    ticks = log_ticks(low, high) if log else linear_ticks(low, high)
    most = max(counts)
    body = plot.ticks_y([(f"{tick:,.0f}", tick / most) for tick in linear_ticks(0, most, whole=True)])
    for (start, end), count in zip(pairwise(edges), counts, strict=True):
        x, y = plot.x(part(start)), plot.y(count / most)
        width = max(plot.x(part(end)) - x - 0.5, 0.5)
        body += f'<rect class="bar" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{plot.y(0) - y:.2f}"/>'
    body += plot.ticks_x([(f"{tick:g}", part(tick)) for tick in ticks]) + plot.labels(title, "images")
    if limit is not None:
        at = part(limit)
        body += plot.upright("gate", at) + _text(plot.x(at), 15, f"tolerance {limit:g}", "end" if at > 0.5 else "start")
    quantiles = distribution["quantiles"]
    caption = (
        f"Histogram of the {title}, {plural(distribution['images'], 'image')}: median {quantiles['0.5']:.3g}, "
        f"95 % of the images at most {at_most(quantiles['0.95'])}"
    )
    return Chart(plot.svg(body, caption), caption)


def class_shares(classes: Sequence[Mapping[str, Any]]) -> Chart:
    """Border, center and strongest corner of each class, in the order given. `classes` as in `Audit.to_dict`."""
    plot = Plot(420, 74 + 22 * len(classes), left=134, top=30)
    shares = [
        [one["border_share"], one["center_share"], max([v for v in one["corner_shares"] if v is not None], default=0.0)]
        for one in classes
    ]
    most = max(max(row) for row in shares) or 1.0
    body = ""
    for tick in linear_ticks(0, 100 * most):
        body += plot.upright("grid", tick / 100 / most) + plot.ticks_x([(f"{tick:g}", tick / 100 / most)])
    for index, (one, row) in enumerate(zip(classes, shares, strict=True)):
        y = plot.y(1 - (index + 0.5) / len(classes))
        body += _text(plot.left - 8, y + 4, shortened(one["class"]), "end")
        body += "".join(_mark(kind, plot.x(share / most), y) for kind, share in enumerate(row))
    for kind, name in enumerate(("border", "center", "strongest corner")):
        x = plot.left + 4 + 70 * kind
        body += _mark(kind, x, 12) + _text(x + 10, 16, name, "start")
    body += plot.labels("share of |attribution|, %", "")
    first, many = classes[0], "1 class" if len(classes) == 1 else f"{len(classes)} classes"
    caption = (
        f"Border, center and strongest corner of {many}: class {first['class']} has the largest share on the border, "
        f"{100 * first['border_share']:.0f} %"
    )
    return Chart(plot.svg(body, caption), caption)


def curve(alphas: Sequence[float], outputs: Sequence[float], gradients: Sequence[float], target: str) -> Markup:
    """F(alpha) as a line over the area of the mean absolute gradient, which has a scale of its own, from 0.

    Args:
        alphas: (n,), 0 at the baseline, 1 at the image.
        outputs: (n,) F(alpha).
        gradients: (n,) mean absolute gradients.
        target: the explained class.
    """
    plot = CURVE
    low, high = min(outputs), max(outputs)
    low, high = (low, high) if high > low else (low - 1, high + 1)
    most = max(gradients) or 1.0
    line = plot.points(alphas, [(value - low) / (high - low) for value in outputs])
    area = plot.points([0.0, *alphas, 1.0], [0.0, *(value / most for value in gradients), 0.0])
    verb = "falls" if outputs[-1] < outputs[0] else "rises"
    caption = f"F along the path {verb} from {outputs[0]:.3g} at the baseline to {outputs[-1]:.3g} at the image"
    body = (
        plot.ticks_y([(f"{low + part * (high - low):.3g}", part) for part in (0.0, 0.5, 1.0)])
        + f'<polygon class="area" points="{area}"/><polyline class="line" points="{line}"/>'
        + plot.ticks_x([(f"{part:g}", part) for part in (0, 0.25, 0.5, 0.75, 1)])
        + plot.labels("alpha: 0 is the baseline, 1 is the image", "F(alpha)", f"gradient, 0 to {most:.2g} (area)")
    )
    return plot.svg(body, f"{caption}; output of {target}")


def drift(turns: Sequence[tuple[str, float]], gate: float | None) -> Markup:
    """The drift of each turn in the order of time, from 0; the gate is a dashed line.

    Args:
        turns: the time of a turn, which begins with its date, and how far the evidence moved.
        gate: the largest drift that the schedule allows.
    """
    plot = TURNS
    values = [value for _, value in turns]
    high = max([*values, gate or 0.0, 1e-3]) * 1.1
    places = [index / max(len(turns) - 1, 1) if len(turns) > 1 else 0.5 for index in range(len(turns))]
    body = plot.ticks_y([(f"{part * high:.3g}", part) for part in (0.0, 0.5, 1.0)])
    if gate is not None:
        text = _text(plot.width - plot.right, plot.y(gate / high) - 5, f"gate {gate:g}", "end")
        body += plot.level("gate", gate / high) + text
    body += f'<polyline class="line" points="{plot.points(places, [value / high for value in values])}"/>'
    for place, (when, value) in zip(places, turns, strict=True):
        body += (
            f'<circle class="mark" cx="{plot.x(place):.1f}" cy="{plot.y(value / high):.1f}" r="4">'
            f"<title>{escape(when)}: {value:.4f}</title></circle>"
        )
    ends = [(0, "start"), (-1, "end")][: min(len(turns), 2)]
    for index, anchor in ends:
        body += _text(plot.x(-index), plot.height - plot.bottom + 16, turns[index][0].split()[0], anchor)
    body += plot.labels("time of the turn", "drift")
    return plot.svg(body, f"Drift of {plural(len(turns), 'turn')}, the last {values[-1]:.4f}")


def share(value: float | None, title: str) -> Markup:
    """A share 0..1 as a bar in a table's cell."""
    width = 60 * min(max(value or 0.0, 0.0), 1.0)
    return Markup(  # noqa: S704 - every text in it went through escape(), the rest are numbers
        f'<svg class="share" viewBox="0 0 60 8" role="img" aria-label="{escape(title)}">'
        '<rect class="rest" width="60" height="8" rx="2"/>'
        f'<rect class="bar" width="{width:.1f}" height="8" rx="2"/></svg>'
    )


def log_ticks(low: float, high: float) -> list[float]:
    """Three to `TICKS` numbers with one digit from low to high, which are a factor of ten apart at least."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5)):
        found = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        found = [one for one in found if low <= one <= high]
        if len(found) >= 3:
            break
    return found[:: math.ceil(len(found) / TICKS)]


def linear_ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Three to six numbers from low to high whose step has one digit, 1, 2 or 5; fewer if only integers are wanted."""
    decade = math.floor(math.log10((high - low) or 1.0))
    for step in (float(f"{digit}e{decade + shift}") for shift in (0, -1) for digit in (5, 2, 1)):
        if whole and step < 1:
            break
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        found = [float(f"{index * step:.12g}") for index in range(first, last + 1)]
        if len(found) >= 3:
            return found
    return [0.0, high] if whole else [low, high]


def at_most(quantile: float) -> str:
    """A bound with three digits that a quantile of a sketch (half a percent off at most) is not above."""
    if quantile < SMALLEST:
        return f"{SMALLEST:g}"
    digit = 10.0 ** (math.floor(math.log10(quantile)) - 2)
    return f"{digit * math.ceil(1.005 * quantile / digit - 0.01):.3g}"


def _mark(kind: int, x: float, y: float) -> str:
    """A circle, a square or a triangle."""
    shapes = (
        f'<circle class="bar" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>',
        f'<rect class="neutral" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>',
        f'<polygon class="mark" points="{x - 5:.1f},{y + 4:.1f} {x + 5:.1f},{y + 4:.1f} {x:.1f},{y - 5:.1f}"/>',
    )
    return shapes[kind]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
