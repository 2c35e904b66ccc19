"""Workers killed, stopped and woken at each step of the protocol, and in a loop."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from db.queries import iter_images, iter_units
from db.records import Run, Unit, UnitState
from db.session import read
from db.tables import units
from tests.support.cluster import LEASE_SECONDS, UNITS, Cluster, finish
from tests.support.invariants import check_run, computed_units
from tests.support.production import eventually
from tests.support.workers import STEPS, Fault

# A process has two units in hand, one that is computed and one that is stored. Whoever dies at a step loses at most:
IN_VAIN = {"claimed": 1, "decoded": 1, "computed": 2, "shards put": 2, "sidecar put": 1, "committed": 1}


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step_another_goes_on(step: str, cluster: Cluster) -> None:
    cluster.data.behave("calm", 0.01)
    run, flag = cluster.submit(), cluster.flag()
    victim = cluster.start_worker(run, Fault(step, flag))
    victim.join(60)
    assert victim.exitcode == -signal.SIGKILL, cluster.log_tail()
    assert Path(flag).exists()
    finish(cluster.pipeline, run)
    check_run(cluster.pipeline, run, cluster.reference, recomputed=IN_VAIN[step], notes=cluster.notes)
    if step in ("sidecar put", "committed"):
        assert computed_units(cluster.notes).count((run.id, 0)) == 1, "what was stored is adopted, not computed again"


@pytest.mark.parametrize("step", ["decoded", "shards put"])
def test_a_worker_that_wakes_after_the_run_changes_nothing(step: str, cluster: Cluster) -> None:
    """Paused past its lease a zombie wakes when all is done and changes nothing."""
    run, flag = cluster.submit(), cluster.flag()
    zombie = cluster.start_worker(run, Fault(step, flag, signal.SIGSTOP))
    eventually(lambda: Path(flag).exists(), 60, cluster.log_tail)
    assert zombie.pid is not None
    finish(cluster.pipeline, run)
    before = (
        check_run(cluster.pipeline, run, cluster.reference, recomputed=2, notes=cluster.notes),
        in_sql(cluster, run),
    )
    os.kill(zombie.pid, signal.SIGCONT)
    zombie.join(30)
    assert zombie.exitcode == 0, cluster.log_tail()
    assert (
        check_run(cluster.pipeline, run, cluster.reference, recomputed=2, notes=cluster.notes),
        in_sql(cluster, run),
    ) == before


def in_sql(cluster: Cluster, run: Run) -> list[tuple[object, ...]]:
    """All that the index holds of the units, when they changed included."""
    with read(cluster.pipeline.database) as connection:
        return [tuple(row) for row in connection.execute(select(units).where(units.c.run_id == run.id))]


@pytest.mark.parametrize("step", ["computed", "sidecar put"])
def test_a_worker_that_wakes_during_the_run_is_fenced(step: str, cluster: Cluster) -> None:
    """Paused past its lease a zombie wakes while another holds the unit and is fenced."""
    run, flag = cluster.submit(), cluster.flag()
    zombie = cluster.start_worker(run, Fault(step, flag, signal.SIGSTOP))
    eventually(lambda: Path(flag).exists(), 60, cluster.log_tail)
    assert zombie.pid is not None
    first = next(iter_units(cluster.pipeline.database, run.id)).id
    claims: list[Unit | None] = []
    eventually(lambda: claims.append(cluster.pipeline.ledger.claim("heir", unit_id=first)) or claims[-1], 30)
    heir = claims[-1]
    assert heir is not None
    os.kill(zombie.pid, signal.SIGCONT)

    def kept_while_the_zombie_does_the_rest() -> bool:
        assert cluster.pipeline.ledger.renew(heir), "somebody else wrote of a unit that is held"
        return cluster.pipeline.status(run.id).units[UnitState.DONE] == UNITS - 1

    eventually(kept_while_the_zombie_does_the_rest, 60, cluster.log_tail)
    assert cluster.pipeline.ledger.renew(heir)
    assert not {row.row for row in iter_images(cluster.pipeline.database, run.id)} & {e.row for e in heir.entries}
    cluster.pipeline.ledger.release(heir)
    cluster.until_over(run)
    check_run(cluster.pipeline, run, cluster.reference, recomputed=2, notes=cluster.notes)


def test_a_process_that_only_takes_a_break_keeps_its_unit(cluster: Cluster) -> None:
    run, flag = cluster.submit(), cluster.flag()
    napper = cluster.start_worker(run, Fault("computed", flag, signal.SIGSTOP))
    eventually(lambda: Path(flag).exists(), 60, cluster.log_tail)
    assert napper.pid is not None
    time.sleep(LEASE_SECONDS / 6)
    os.kill(napper.pid, signal.SIGCONT)
    cluster.until_over(run)
    check_run(cluster.pipeline, run, cluster.reference, notes=cluster.notes)


def test_killed_again_and_again(cluster: Cluster) -> None:
    cluster.data.behave("calm", 0.02)
    luck, run, kills = random.Random(3), cluster.submit(), 0
    max_kills = cluster.pipeline.settings.max_attempts - 1  # one more could all meet one unit, which would rightly fail
    crew = [cluster.start_worker(run), cluster.start_worker(run)]
    while not cluster.pipeline.status(run.id).over:
        time.sleep(luck.uniform(0.2, 0.9))  # the luck of the draw is the fault
        if kills < max_kills and not cluster.pipeline.status(run.id).over:
            fallen = luck.randrange(2)
            crew[fallen].kill()
            crew[fallen] = cluster.start_worker(run)
            kills += 1
    assert kills >= 2, "nothing was disturbed"
    check_run(cluster.pipeline, run, cluster.reference, recomputed=2 * kills, notes=cluster.notes)


def test_an_image_that_kills_workers_fails_alone(cluster: Cluster) -> None:
    """An image that kills is found and failed and its neighbours are done."""
    run, deaths = cluster.submit(), 0
    deadly = sorted(cluster.reference.rows)[4]
    while not cluster.pipeline.status(run.id).over:
        worker = cluster.start_worker(run, Fault(image=deadly))
        worker.join(60)
        deaths += worker.exitcode == -signal.SIGKILL
        assert deaths < 10, cluster.log_tail()
    rows = check_run(
        cluster.pipeline, run, cluster.reference, failed=[deadly], recomputed=2 * deaths, notes=cluster.notes
    )
    assert "ended its worker process 3 times" in str(rows[4].error)
    assert deaths == 4, "the first death names nobody, then three do"


def test_clocks_five_minutes_apart_matter_to_nobody(cluster: Cluster) -> None:
    cluster.data.behave("calm", 0.01)
    run, flag = cluster.submit(), cluster.flag()
    ahead = cluster.start_worker(run, Fault("computed", flag, skew_seconds=300))
    behind = cluster.start_worker(run, Fault(skew_seconds=-300))
    ahead.join(60)
    assert ahead.exitcode == -signal.SIGKILL, cluster.log_tail()
    third = cluster.start_worker(run, Fault(skew_seconds=300))
    cluster.until_over(run)
    check_run(cluster.pipeline, run, cluster.reference, recomputed=2, notes=cluster.notes)
    for worker in (behind, third):
        worker.join(30)
        assert worker.exitcode == 0


def test_stopped_midway_units_are_given_back_uncounted(cluster: Cluster) -> None:
    """Asked to stop midway units go back uncounted and are done later."""
    cluster.data.behave("calm", 0.3)
    run = cluster.submit()
    worker = cluster.start_worker(run)
    eventually(lambda: cluster.pipeline.status(run.id).units[UnitState.LEASED], 30, cluster.log_tail)
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == 0, cluster.log_tail()
    found = cluster.pipeline.status(run.id)
    assert found.units[UnitState.LEASED] == 0
    assert found.attempts == found.units[UnitState.DONE], "a unit that was given back does not count"
    cluster.data.behave("calm", 0)
    finish(cluster.pipeline, run)
    check_run(cluster.pipeline, run, cluster.reference, recomputed=2, notes=cluster.notes)
