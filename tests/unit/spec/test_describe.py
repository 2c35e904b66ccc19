"""Runs in words: every option has its words, unused options are left out, the same for all readers."""

from dataclasses import Field, replace
from typing import Any

from db.records import Run
from pipeline.spec.choices import Baseline
from pipeline.spec.describe import command, describe, differences
from pipeline.spec.options import RunOptions, choices_of, options_of
from pipeline.spec.run_spec import ModelSpec, Preprocess, RunSpec
from tests.support.records import make_run

MODEL = ModelSpec("/code/a.py:make", "/w.pt", "ab" * 32, "cd" * 32, Preprocess(8, 8, 1), ("cat", "dog"))
SPEC = RunSpec((MODEL,), (Baseline.parse("black"), Baseline.parse("blurred:sigma=8")))


def run_of(spec: RunSpec, folder: str = "/data/images") -> Run:
    return make_run(spec=spec.to_json(), source=f'{{"kind":"folder","location":"{folder}"}}')


def another(declared: Field[Any]) -> object:
    """A value that is not the default of an option."""
    words = [word for word in choices_of(declared) if word != declared.default]
    if isinstance(declared.default, bool):
        return not declared.default
    if isinstance(declared.default, int):
        return declared.default + 1
    return words[0] if words else "label" if declared.type is str else 0.03


def test_every_option_in_the_key_can_make_a_difference() -> None:
    """Every option that determines the numbers can make a difference."""
    for name, (declared, one) in options_of(RunOptions).items():
        base = replace(SPEC, tolerance=0.1) if name == "max_steps" else SPEC
        found = differences(run_of(base), run_of(replace(base, **{name: another(declared)})))
        assert bool(found) == (one.in_key != "never"), name


def test_options_that_are_not_used_are_left_out() -> None:
    fixed = describe(run_of(SPEC), SPEC)
    adaptive = describe(run_of(SPEC), replace(SPEC, tolerance=0.03))
    assert {"steps", "method"} <= set(fixed)
    assert not {"tolerance", "max steps"} & set(fixed)
    assert not {"steps", "method"} & set(adaptive)
    assert adaptive["tolerance"] == ("3 %",)
    assert "nodes" not in describe(run_of(SPEC), replace(SPEC, attribution="saliency"))


def test_folders_are_shortened_and_still_tell_data_sets_apart() -> None:
    one, other = run_of(SPEC, "/data/a/images"), run_of(SPEC, "/data/b/images")
    (found,) = differences(one, other, place=lambda path: path.rsplit("/", 1)[-1])
    assert (found.field, found.a, found.b) == ("data set", "images (folder)", "images (folder)")
    assert "/code" not in str(describe(one, SPEC))
    moved = replace(MODEL, source="/elsewhere/a.py:make", weights="/elsewhere/w.pt")
    assert differences(one, run_of(replace(SPEC, models=(moved,)), "/data/a/images")) == ()


def test_the_command_has_the_options_that_are_not_the_default() -> None:
    spec = replace(SPEC, n_steps=9, channels="sum", reuse=False)
    assert " ".join(command(run_of(spec), spec)) == (
        "attribatch run /data/images --model /code/a.py:make --weights /w.pt --baseline black "
        "--baseline blurred:sigma=8 --n-steps 9 --store-channels sum"
    )
