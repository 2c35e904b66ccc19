"""Models that raise, give no numbers, too few classes, or ask for more memory than there is."""

import pytest

from db.queries import iter_units
from db.records import UnitState
from pipeline.engine.unit import load_members
from pipeline.spec.run_spec import RunSpec
from tests.support.cluster import UNITS, Place, finish
from tests.support.invariants import whole


@pytest.fixture(autouse=True)
def _loaded(here: Place) -> None:
    """They fall ill after they were loaded: loading them looks at their outputs."""
    load_members(RunSpec.from_json(here.submit().spec), "cpu", here.pipeline.settings.allowed_modules)


@pytest.mark.parametrize(
    ("mood", "reason"),
    [("raising", "IndexError: no such layer"), ("short", "classes")],
)
def test_a_broken_model_fails_units_after_bounded_attempts_and_retry_does_them(
    mood: str, reason: str, here: Place
) -> None:
    run = here.submit()
    here.small.behave(mood, 0)
    finish(here.pipeline, run)
    attempts = here.pipeline.settings.max_attempts
    whole(here.pipeline, run, here.undisturbed, failed_units=UNITS, in_vain=(attempts - 1) * UNITS, notes=here.notes)
    for unit in iter_units(here.pipeline.database, run.id, UnitState.FAILED):
        assert reason in str(unit.error)
        assert unit.attempt == attempts
    here.small.behave("calm", 0)
    assert here.pipeline.retry(run.id) == UNITS
    finish(here.pipeline, run)
    whole(here.pipeline, run, here.undisturbed)


def test_a_model_that_gives_no_numbers_fails_every_image_and_retry_does_them(here: Place) -> None:
    run = here.submit()
    here.small.behave("nan", 0)
    finish(here.pipeline, run)
    rows = whole(here.pipeline, run, here.undisturbed, failed=set(here.undisturbed.rows), notes=here.notes)
    assert all("not finite" in str(row.error) for row in rows)
    here.small.behave("calm", 0)
    assert here.pipeline.retry(run.id) == UNITS
    finish(here.pipeline, run)
    whole(here.pipeline, run, here.undisturbed)


def test_out_of_memory_halves_the_chunk_and_gives_the_same_maps(here: Place) -> None:
    run = here.submit()
    here.small.behave("hungry", 3)
    finish(here.pipeline, run)
    whole(here.pipeline, run, here.undisturbed, notes=here.notes)
    assert here.pipeline.status(run.id).attempts == UNITS
