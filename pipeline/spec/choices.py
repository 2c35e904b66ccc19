"""The choices of a run: quadrature methods, outputs, precisions and baselines. Imports no torch."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

Method = Literal["gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid"]
Output = Literal["logit", "probability", "log_probability"]
Precision = Literal["auto", "float32", "float64", "bfloat16"]
METHODS: tuple[str, ...] = get_args(Method)
OUTPUTS: tuple[str, ...] = get_args(Output)
PRECISIONS: tuple[str, ...] = get_args(Precision)

# kind -> the parameters it takes, with their defaults
_KINDS: dict[str, dict[str, float]] = {
    "black": {},
    "white": {},
    "color": {},
    "mean": {},
    "blurred": {"sigma": 8.0},
    "opposite": {},
    "uniform": {"n": 8},
    "gaussian": {"n": 8, "sigma": 0.2},
    "samples": {"n": 8},
}


@dataclass(frozen=True, slots=True)
class Baseline:
    """One kind of baseline, declared in pixel space [0, 1].

    - `black`, `white`, `color:0.5,0.5,0.5` (one or three channels): one color everywhere
    - `mean`: the image's own mean color
    - `blurred:sigma=8`: the image, Gaussian-blurred; sigma in pixels of the model's input
    - `opposite`: the valid image farthest from this one in L1, per value 0 or 1
    - `uniform:n=8`: n images of uniform noise
    - `gaussian:n=8,sigma=0.2`: n times the image plus Gaussian noise, clipped to [0, 1]; sigma in pixel values
    - `samples:n=8`: n images of the data set (expected gradients)

    Any of them takes `weight=W`: its share when several are averaged, divided evenly among its n draws.
    """

    kind: str
    n: int = 1  # draws
    sigma: float = 0.0
    color: tuple[float, ...] = ()
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "Baseline":
        """A baseline from its declaration, for example `blurred:sigma=8,weight=2`.

        Raises:
            ValueError: an unknown kind or parameter, or a value out of range.
        """
        kind, _, rest = text.strip().partition(":")
        kind = {"colour": "color"}.get(kind, kind)
        if kind not in _KINDS:
            raise ValueError(f"baseline {text!r}: kind {kind!r} is none of: {', '.join(_KINDS)}")
        parts = [part.strip() for part in rest.split(",") if part.strip()]
        values = {name: value for name, _, value in (part.partition("=") for part in parts if "=" in part)}
        color = tuple(_number(text, "a color value", part) for part in parts if "=" not in part)
        allowed = {**_KINDS[kind], "weight": 1.0}
        if unknown := [name for name in values if name not in allowed]:
            raise ValueError(f"baseline {text!r}: {kind} takes {', '.join(allowed)}, not {unknown[0]!r}")
        if (kind == "color") != bool(color):
            raise ValueError(f"baseline {text!r}: only color takes bare values, and needs one or three of them")
        numbers = {**allowed, **{name: _number(text, name, value) for name, value in values.items()}}
        return cls(kind, int(numbers.get("n", 1)), numbers.get("sigma", 0.0), color, numbers["weight"])._checked(text)

    def _checked(self, text: str) -> "Baseline":
        if len(self.color) not in (0, 1, 3) or not all(0 <= value <= 1 for value in self.color):
            raise ValueError(f"baseline {text!r}: a color has one or three values in [0, 1]")
        if not 1 <= self.n <= 1024:
            raise ValueError(f"baseline {text!r}: n must be in 1..1024")
        if self.kind in ("blurred", "gaussian") and self.sigma <= 0:
            raise ValueError(f"baseline {text!r}: sigma must be above 0")
        if self.weight <= 0:
            raise ValueError(f"baseline {text!r}: weight must be above 0")
        return self

    def __str__(self) -> str:
        """The declaration that parses to this baseline."""
        parts = [f"{value:g}" for value in self.color]
        parts += [f"{name}={getattr(self, name):g}" for name in _KINDS[self.kind]]
        parts += [f"weight={self.weight:g}"] if self.weight != 1 else []
        return self.kind + (":" + ",".join(parts) if parts else "")


def _number(text: str, name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"baseline {text!r}: {name} is {value!r}, which is not a number")
    return number


# every kind as it is declared, with the defaults of its parameters
DECLARATIONS = ", ".join("color:R,G,B" if kind == "color" else str(Baseline.parse(kind)) for kind in _KINDS)
