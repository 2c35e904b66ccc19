"""Specs and baseline declarations: round trips, keys that cover what counts, errors that say what is allowed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.options import with_flags
from pipeline.errors import SpecError
from pipeline.spec.choices import Baseline
from pipeline.spec.options import parse_target
from pipeline.spec.request import ModelRequest, RunRequest, repeat
from pipeline.spec.run_spec import Preprocess, RunSpec
from tests.support.records import make_run
from tests.support.specs import MODEL, spec


def test_json_round_trip_keeps_everything() -> None:
    one = spec(target="class:dog", tolerance=0.03, samples=(("a.png", "1-2", "ab"),))
    assert RunSpec.from_json(one.to_json()) == one
    assert RunSpec.from_json(one.to_json()).key == one.key


@pytest.mark.parametrize(
    "changes",
    [
        {"target": "label"},
        {"n_steps": 51},
        {"seed": 1},
        {"output": "probability"},
        {"tolerance": 0.01},
        {"precision": "float64"},
        {"baselines": (Baseline.parse("white"),)},
        {"models": (replace(MODEL, weights_sha256="00" * 32),)},
        {"models": (replace(MODEL, preprocess=Preprocess(8, 8, 1, mean=(0.5,))),)},
        {"models": (MODEL, MODEL)},
    ],
)
def test_what_determines_the_numbers_changes_the_key(changes: dict[str, Any]) -> None:
    assert replace(spec(), **changes).key != spec().key


def test_where_weights_lie_does_not_change_the_key() -> None:
    moved = replace(MODEL, source="elsewhere/a.py:make", weights="elsewhere/w.pt")
    assert replace(spec(), models=(moved,)).key == spec().key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "simpson"}, "`method` 'simpson' is none of: gausslegendre"),
        ({"output": "loss"}, "`output` 'loss' is none of: logit"),
        ({"attribution": "lime"}, "`attribution` 'lime' is none of"),
        ({"n_steps": 0}, "`n_steps` is 0; riemann_middle needs at least 1"),
        ({"n_steps": 1, "method": "riemann_trapezoid"}, "`n_steps` is 1; riemann_trapezoid needs at least 2"),
        ({"tolerance": 3.0}, "`tolerance` is 3.0; it is a relative error"),
        ({"channels": "all"}, "`channels` 'all' is none of: keep, sum"),
        ({"max_steps": 3}, "first level has 9 nodes"),
        ({"unit_size": 0}, "`unit_size` is 0"),
        ({"models": ()}, "at least one model"),
        ({"baselines": ()}, "at least one baseline"),
        ({"baselines": ("grey",)}, "kind 'grey' is none of"),
        ({"target": "best"}, "target 'best' is none of: predicted, label"),
        ({"target": "rank:0"}, "target 'rank:0' is none of"),
    ],
)
def test_impossible_requests_are_named(changes: dict[str, Any], message: str) -> None:
    request = RunRequest("./images", models=(ModelRequest("a.py:make"),))
    with pytest.raises(SpecError, match=message):
        replace(request, **changes)


@pytest.mark.parametrize("target", ["class:fish", "class:2", "rank:3"])
def test_a_target_that_the_models_do_not_have_is_named(target: str) -> None:
    with pytest.raises(SpecError, match=f"{target.split(':')[1]}.*2"):
        spec(target=target)


def test_messages_name_fields_and_the_command_line_its_options() -> None:
    assert with_flags("`n_steps` is 0, `channels` 'all', `other`") == "--n-steps is 0, --store-channels 'all', `other`"
    assert with_flags("name it in `models`, see `ModelRequest.channels`") == "name it in --model, see --channels"


def test_a_spec_of_an_earlier_version_keeps_its_text_and_its_key() -> None:
    stored = (Path(__file__).parent / "stored_spec.json").read_text().strip()
    found = RunSpec.from_json(stored)
    assert json.loads(stored).items() <= json.loads(found.to_json()).items()
    assert found.key == "4d19744a6a25c3eab36b19f1749068ef6bf57268f4375df7ca200b13b282f1dd"


def test_a_repeated_request_has_the_options_of_the_run() -> None:
    changes = {"n_steps": 7, "nodes": "uniform", "channels": "sum", "seed": 3, "reuse": False, "precision": "auto"}
    run = make_run(spec=spec(**changes).to_json(), source='{"kind":"folder","location":"/images"}', priority=4)
    request = repeat(run)
    assert {name: getattr(request, name) for name in changes} == changes
    assert (request.source, request.priority) == ("/images", 4)
    assert request.baselines == ("black", "color:0.1,0.2,0.3")


def test_a_class_is_named_or_numbered() -> None:
    assert spec(target="class:dog").target_index() == spec(target="class:1").target_index() == 1
    assert parse_target("rank:2") == ("rank", "2")


@pytest.mark.parametrize(
    "text",
    ["black", "white", "mean", "opposite", "color:0.5", "color:0.1,0.2,0.3", "blurred:sigma=3", "uniform:n=4",
     "gaussian:n=2,sigma=0.1", "samples:n=16", "black:weight=2", "uniform:n=2,weight=0.5"],
)  # fmt: skip
def test_a_baseline_prints_as_it_parses(text: str) -> None:
    assert str(Baseline.parse(text)) == text
    assert Baseline.parse(str(Baseline.parse(text))) == Baseline.parse(text)


def test_defaults_of_a_kind_are_filled_in() -> None:
    assert Baseline.parse("blurred") == Baseline.parse("blurred:sigma=8")
    assert Baseline.parse("colour:0.5") == Baseline.parse("color:0.5")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grey", "kind 'grey' is none of: black, white"),
        ("blurred:radius=3", "blurred takes sigma, weight, not 'radius'"),
        ("blurred:sigma=big", "sigma is 'big', which is not a number"),
        ("blurred:sigma=0", "sigma must be above 0"),
        ("uniform:n=0", r"n must be in 1\.\.1024"),
        ("color", "needs one or three"),
        ("color:2", r"values in \[0, 1\]"),
        ("color:0.1,0.2", "one or three values"),
        ("black:0.5", "only color takes bare values"),
        ("black:weight=-1", "weight must be above 0"),
        ("black:weight=nan", "not a number"),
    ],
)
def test_wrong_baselines_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Baseline.parse(text)
