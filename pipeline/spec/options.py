"""The options of a run, each declared once.

A declaration states an option's type, default, help text, limits, and its names on the command line and in
descriptions. The fields of `RunRequest` and `RunSpec`, their validation, the command line (`pipeline.cli.options`),
repeated requests and descriptions (`pipeline.spec.describe`) all follow from it.
"""

from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pipeline.errors import SpecError
from pipeline.formatting import asked_percent
from pipeline.spec.choices import Method, Output, Precision

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def _plain(value: object) -> str:
    return str(value).replace("_", " ")


@dataclass(frozen=True, slots=True)
class Option:
    """The properties of an option in addition to its name, type and default.

    Args:
        help: one line, with other fields in backquotes. The choices of a `Literal` type are added to it.
        flag: name on the command line, if it is not the field's name.
        label: name in descriptions, if it is not the field's name.
        check: takes the request, returns the problem with this option, or "".
        words: takes the value, returns it as people read it.
        used: takes the request or the spec, returns whether the option has an effect.
        in_key: whether the spec's key covers the option: "always", or "never" if it does not affect the numbers. An
            option that is added later takes "changed": specs with its default keep the keys of earlier versions.
    """

    help: str
    flag: str | None = None
    label: str | None = None
    check: Callable[[Any], str] = lambda _: ""
    words: Callable[[Any], str] = _plain
    used: Callable[[Any], bool] = lambda _: True
    in_key: Literal["always", "changed", "never"] = "always"


def parse_target(text: str) -> tuple[str, str]:
    """Split a target into kind and argument: `("predicted", "")`, `("label", "")`, `("rank", "2")`, `("class", "cat")`.

    Raises:
        SpecError: the text is not a target.
    """
    kind, _, argument = text.partition(":")
    if kind in ("predicted", "label") and not argument:
        return kind, ""
    if kind == "rank" and argument.isdecimal() and int(argument) >= 1:
        return kind, argument
    if kind == "class" and argument:
        return kind, argument
    raise SpecError(f"target {text!r} is none of: predicted, label, rank:K (2 = runner-up), class:NAME_OR_INDEX")


def _integrates(run: "RunOptions") -> bool:
    return run.attribution == "integrated_gradients"


def _adapts(run: "RunOptions") -> bool:
    return _integrates(run) and run.tolerance is not None


def _is_fixed(run: "RunOptions") -> bool:
    return _integrates(run) and run.tolerance is None


def _n_steps(run: "RunOptions") -> str:
    least = 2 if run.method == "riemann_trapezoid" else 1
    return "" if run.n_steps >= least else f"{run.method} needs at least {least}"


def _tolerance(run: "RunOptions") -> str:
    fits = run.tolerance is None or 0 < run.tolerance < 1
    return "" if fits else "it is a relative error, between 0 and 1, for example 0.03"


def _max_steps(run: "RunOptions") -> str:
    return "" if run.max_steps >= 9 else "the first level has 9 nodes, so it must be at least 9"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options that a request and its spec share."""

    target: str = field(
        default="predicted", metadata={"option": Option("predicted, label, rank:K or class:NAME.", words=str)}
    )
    output: Output = field(default="logit", metadata={"option": Option("Model output to attribute")})
    tolerance: float | None = field(
        default=None,
        metadata={
            "option": Option(
                "Stop per image at this relative error of its map, for example 0.03.",
                check=_tolerance,
                words=asked_percent,
                used=_adapts,
            )
        },
    )
    max_steps: int = field(
        default=513,
        metadata={"option": Option("With `tolerance`: maximum steps per path.", check=_max_steps, used=_adapts)},
    )
    n_steps: int = field(
        default=50,
        metadata={
            "option": Option("Without `tolerance`: steps per path.", label="steps", check=_n_steps, used=_is_fixed)
        },
    )
    method: Method = field(
        default="riemann_middle", metadata={"option": Option("Without `tolerance`: quadrature rule", used=_is_fixed)}
    )
    nodes: Literal["fitted", "uniform"] = field(
        default="fitted",
        metadata={"option": Option("Denser nodes where gradients change, or even spacing", used=_integrates)},
    )
    attribution: Literal["integrated_gradients", "input_x_gradient", "saliency"] = field(
        default="integrated_gradients", metadata={"option": Option("Attribution method")}
    )
    precision: Precision = field(default="float32", metadata={"option": Option("Floating-point format of the models")})
    channels: Literal["keep", "sum"] = field(
        default="keep",
        metadata={
            "option": Option(
                "Store every channel of a map, or their sum", flag="--store-channels", label="stored channels"
            )
        },
    )
    seed: int = field(default=0, metadata={"option": Option("Seed of random baselines.")})
    reuse: bool = field(
        default=True, metadata={"option": Option("Reuse maps that other runs have computed.", in_key="never")}
    )


def options_of(kind: "type[DataclassInstance]") -> "dict[str, tuple[Field[Any], Option]]":
    """The options of a dataclass by field name, in the order of declaration."""
    return {each.name: (each, each.metadata["option"]) for each in fields(kind) if "option" in each.metadata}


def choices_of(declared: "Field[Any]") -> tuple[str, ...]:
    """The allowed words of a field with a `Literal` type; empty for other types."""
    return get_args(declared.type) if get_origin(declared.type) is Literal else ()


def flag_of(kind: "type[DataclassInstance]", name: str) -> str:
    """The name of an option on the command line, for example `--n-steps`."""
    return options_of(kind)[name][1].flag or f"--{name.replace('_', '-')}"


def check_options(asked: "DataclassInstance") -> None:
    """Check each option of a request without its models and images. Messages name fields in backquotes.

    Raises:
        SpecError: a word that is not a choice, or a number out of range.
    """
    for name, (declared, one) in options_of(type(asked)).items():
        value, allowed = getattr(asked, name), choices_of(declared)
        if allowed and value not in allowed:
            raise SpecError(f"`{name}` {value!r} is none of: {', '.join(allowed)}")
        if problem := one.check(asked):
            raise SpecError(f"`{name}` is {value}; {problem}")


def shared_options(asked: RunOptions) -> dict[str, Any]:
    """The values of a request or a spec that the other one takes as well."""
    return {name: getattr(asked, name) for name in options_of(RunOptions)}
