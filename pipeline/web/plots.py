"""Small plots as SVG: figures in, markup out. Colours and fonts are the style sheet's: they suit dark and light.

Every plot has a title and a sentence for those who do not see it.
"""

from collections.abc import Sequence
from html import escape

from markupsafe import Markup

WIDTH, HEIGHT = 560, 240
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 14, 40
DRIFT_HEIGHT = 160


def curve(alphas: Sequence[float], outputs: Sequence[float], gradients: Sequence[float], target: str) -> Markup:
    """F(alpha) as a line over the area of the mean absolute gradient, which has a scale of its own."""
    low, high = _range(outputs)
    most = max(gradients) or 1.0
    line = _points(alphas, outputs, low, high, HEIGHT)
    area = f"{LEFT},{HEIGHT - BOTTOM} {_points(alphas, gradients, 0, most, HEIGHT)} {WIDTH - RIGHT},{HEIGHT - BOTTOM}"
    title = f"F along the path rises from {outputs[0]:.3g} at the baseline to {outputs[-1]:.3g} at the image"
    if outputs[-1] < outputs[0]:
        title = f"F along the path falls from {outputs[0]:.3g} at the baseline to {outputs[-1]:.3g} at the image"
    body = (
        _frame(low, high, HEIGHT)
        + f'<polygon class="area" points="{area}"/><polyline class="line" points="{line}"/>'
        + "".join(_text(_x(a), HEIGHT - BOTTOM + 16, f"{a:g}", "middle") for a in (0, 0.25, 0.5, 0.75, 1))
        + _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "alpha: 0 is the baseline, 1 is the image", "middle")
    )
    return _svg(body, HEIGHT, f"{title}; output of {target}")


def drift(turns: Sequence[tuple[str, float]], gate: float | None) -> Markup:
    """The drift of each turn (its time, which begins with the date, and how far it moved) in the order of time.

    0 is at the foot; the gate is a dashed line.
    """
    values = [value for _, value in turns]
    high = max([*values, gate or 0.0, 1e-3]) * 1.1
    step = 1 / max(len(turns) - 1, 1)
    places = [index * step if len(turns) > 1 else 0.5 for index in range(len(turns))]
    marks = "".join(
        f'<circle class="mark" cx="{_x(place):.1f}" cy="{_y(value, 0, high, DRIFT_HEIGHT):.1f}" r="4">'
        f"<title>{escape(when)}: {value:.4f}</title></circle>"
        for place, (when, value) in zip(places, turns, strict=True)
    )
    line = _points(places, values, 0, high, DRIFT_HEIGHT)
    level = "" if gate is None else _gate(gate, high)
    ends = _text(LEFT, DRIFT_HEIGHT - 20, turns[0][0].split()[0], "start")
    if len(turns) > 1:
        ends += _text(WIDTH - RIGHT, DRIFT_HEIGHT - 20, turns[-1][0].split()[0], "end")
    body = _frame(0, high, DRIFT_HEIGHT) + level + f'<polyline class="line" points="{line}"/>' + marks + ends
    return _svg(body, DRIFT_HEIGHT, f"Drift of {len(turns)} turns, the last {values[-1]:.4f}")


def bars(values: Sequence[int], title: str, low: str, high: str) -> Markup:
    """A histogram without a scale: what matters is its shape."""
    most = max([*values, 1])
    width = 200 / max(len(values), 1)
    columns = "".join(
        f'<rect class="bar" x="{index * width:.2f}" y="{60 - 56 * value / most:.2f}" width="{width - 1:.2f}" '
        f'height="{56 * value / most:.2f}"/>'
        for index, value in enumerate(values)
    )
    ends = (
        f'<text x="0" y="74" text-anchor="start">{escape(low)}</text>'
        f'<text x="200" y="74" text-anchor="end">{escape(high)}</text>'
    )
    return Markup(  # noqa: S704 - every text in it went through escape(), the rest are numbers
        f'<svg class="plot bars" viewBox="0 0 200 78" role="img" aria-label="{escape(title)}">'
        f'<line class="axis" x1="0" y1="60.5" x2="200" y2="60.5"/>{columns}{ends}</svg>'
    )


def share(value: float | None, title: str) -> Markup:
    """A share 0..1 as a bar in a table's cell."""
    width = 60 * min(max(value or 0.0, 0.0), 1.0)
    return Markup(  # noqa: S704 - every text in it went through escape(), the rest are numbers
        f'<svg class="share" viewBox="0 0 60 8" role="img" aria-label="{escape(title)}">'
        '<rect class="rest" width="60" height="8" rx="2"/>'
        f'<rect class="bar" width="{width:.1f}" height="8" rx="2"/></svg>'
    )


def _gate(gate: float, high: float) -> str:
    y = _y(gate, 0, high, DRIFT_HEIGHT)
    return f'<line class="gate" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>' + _text(
        WIDTH - RIGHT, y - 5, f"gate {gate:g}", "end"
    )


def _frame(low: float, high: float, height: int) -> str:
    lines = []
    for part in (0.0, 0.5, 1.0):
        value = low + part * (high - low)
        y = _y(value, low, high, height)
        lines.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        lines.append(_text(LEFT - 8, y + 4, f"{value:.3g}", "end"))
    return "".join(lines)


def _svg(body: str, height: int, title: str) -> Markup:
    return Markup(  # noqa: S704 - every text in it went through escape(), the rest are numbers
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{body}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _points(places: Sequence[float], values: Sequence[float], low: float, high: float, height: int) -> str:
    return " ".join(f"{_x(a):.1f},{_y(v, low, high, height):.1f}" for a, v in zip(places, values, strict=True))


def _x(place: float) -> float:
    return LEFT + place * (WIDTH - LEFT - RIGHT)


def _y(value: float, low: float, high: float, height: int) -> float:
    return height - BOTTOM - (value - low) / (high - low) * (height - TOP - BOTTOM)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 1, high + 1)
