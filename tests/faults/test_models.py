"""Models that raise, give no numbers, too few classes, or ask for more memory than there is."""

import pytest

from db.queries import iter_units
from db.records import UnitState
from pipeline.engine.unit import load_members
from pipeline.spec.run_spec import RunSpec
from tests.support.cluster import UNITS, Cluster, finish
from tests.support.invariants import check_run


@pytest.fixture(autouse=True)
def _loaded(cluster: Cluster) -> None:
    """They fall ill after they were loaded: loading them looks at their outputs."""
    load_members(RunSpec.from_json(cluster.submit().spec), "cpu", cluster.pipeline.settings.allowed_modules)


@pytest.mark.parametrize(
    ("mood", "reason"),
    [("raising", "IndexError: no such layer"), ("short", "classes")],
)
def test_a_broken_model_fails_units_until_retry(mood: str, reason: str, cluster: Cluster) -> None:
    """A broken model fails units after bounded attempts and retry does them."""
    run = cluster.submit()
    cluster.data.behave(mood, 0)
    finish(cluster.pipeline, run)
    attempts = cluster.pipeline.settings.max_attempts
    check_run(
        cluster.pipeline,
        run,
        cluster.reference,
        failed_units=UNITS,
        recomputed=(attempts - 1) * UNITS,
        notes=cluster.notes,
    )
    for unit in iter_units(cluster.pipeline.database, run.id, UnitState.FAILED):
        assert reason in str(unit.error)
        assert unit.attempt == attempts
    cluster.data.behave("calm", 0)
    assert cluster.pipeline.retry(run.id) == UNITS
    finish(cluster.pipeline, run)
    check_run(cluster.pipeline, run, cluster.reference)


def test_a_model_that_gives_nan_fails_images_until_retry(cluster: Cluster) -> None:
    """A model that gives no numbers fails every image and retry does them."""
    run = cluster.submit()
    cluster.data.behave("nan", 0)
    finish(cluster.pipeline, run)
    rows = check_run(cluster.pipeline, run, cluster.reference, failed=set(cluster.reference.rows), notes=cluster.notes)
    assert all("not finite" in str(row.error) for row in rows)
    cluster.data.behave("calm", 0)
    assert cluster.pipeline.retry(run.id) == UNITS
    finish(cluster.pipeline, run)
    check_run(cluster.pipeline, run, cluster.reference)


def test_out_of_memory_halves_the_chunk_and_gives_the_same_maps(cluster: Cluster) -> None:
    run = cluster.submit()
    cluster.data.behave("hungry", 3)
    finish(cluster.pipeline, run)
    check_run(cluster.pipeline, run, cluster.reference, notes=cluster.notes)
    assert cluster.pipeline.status(run.id).attempts == UNITS
