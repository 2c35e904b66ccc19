"""Gates: one comparison of a figure with a number, such as `drift>0.1`."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import ge, gt, le, lt

from pipeline.errors import SpecError, did_you_mean

FIGURES = ("drift", "class_drift", "ndcg")


_SIGNS: dict[str, Callable[[float, float], bool]] = {">": gt, ">=": ge, "<": lt, "<=": le}


_GATE = re.compile(r"\s*([a-z_]+)\s*(>=|<=|>|<)\s*([0-9]*\.?[0-9]+)\s*")


@dataclass(frozen=True, slots=True)
class Gate:
    """One comparison of a figure with a number."""

    figure: str
    sign: str
    limit: float

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        figures: Sequence[str] = FIGURES,
        most: float | None = 1,
        example: str = "'drift>0.1' or 'ndcg<0.9'",
    ) -> "Gate":
        """The gate of a text such as `drift>0.1`.

        Args:
            text: a name, one of > >= < <=, and a number.
            figures: names that are known.
            most: the largest number that makes sense; None for any.
            example: a gate that the error message shows.

        Raises:
            SpecError: the text is not a gate.
        """
        match = _GATE.fullmatch(text)
        if match is not None and match[1] not in figures and (hint := did_you_mean(match[1], figures)):
            raise SpecError(f"gate {text!r} has no figure {match[1]!r}; {hint} Write for example {example}, in quotes")
        if match is None or match[1] not in figures or (most is not None and float(match[3]) > most):
            bounds = "a number" if most is None else f"a number from 0 to {most:g}"
            raise SpecError(
                f"gate {text!r} is not one comparison of {', '.join(figures[:-1])} or {figures[-1]} with {bounds}; "
                f"write for example {example}, in quotes"
            )
        return cls(match[1], match[2], float(match[3]))

    def __str__(self) -> str:
        return f"{self.figure}{self.sign}{self.limit:g}"

    def exceeded(self, figures: Mapping[str, float | None]) -> bool | None:
        """Whether the figures exceed the gate; None if its figure is unknown."""
        value = figures[self.figure]
        return None if value is None else _SIGNS[self.sign](value, self.limit)
