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
from tests.support.cluster import LEASE_SECONDS, UNITS, Place, finish
from tests.support.invariants import noted, whole
from tests.support.production import eventually
from tests.support.workers import STEPS, Suffering

# A process has two units in hand, one that is computed and one that is stored. Whoever dies at a step loses at most:
IN_VAIN = {"claimed": 1, "decoded": 1, "computed": 2, "shards put": 2, "sidecar put": 1, "committed": 1}


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step_another_goes_on(step: str, here: Place) -> None:
    here.small.behave("calm", 0.01)
    run, once = here.submit(), here.once()
    victim = here.hire(run, Suffering(step, once))
    victim.join(60)
    assert victim.exitcode == -signal.SIGKILL, here.said()
    assert Path(once).exists()
    finish(here.pipeline, run)
    whole(here.pipeline, run, here.undisturbed, in_vain=IN_VAIN[step], notes=here.notes)
    if step in ("sidecar put", "committed"):
        assert noted(here.notes).count((run.id, 0)) == 1, "what was stored is adopted, not computed again"


@pytest.mark.parametrize("step", ["decoded", "shards put"])
def test_paused_past_its_lease_a_zombie_wakes_when_all_is_done_and_changes_nothing(step: str, here: Place) -> None:
    run, once = here.submit(), here.once()
    zombie = here.hire(run, Suffering(step, once, signal.SIGSTOP))
    eventually(lambda: Path(once).exists(), 60, here.said)
    assert zombie.pid is not None
    finish(here.pipeline, run)
    before = whole(here.pipeline, run, here.undisturbed, in_vain=2, notes=here.notes), in_sql(here, run)
    os.kill(zombie.pid, signal.SIGCONT)
    zombie.join(30)
    assert zombie.exitcode == 0, here.said()
    assert (whole(here.pipeline, run, here.undisturbed, in_vain=2, notes=here.notes), in_sql(here, run)) == before


def in_sql(here: Place, run: Run) -> list[tuple[object, ...]]:
    """All that the index holds of the units, when they changed included."""
    with read(here.pipeline.database) as connection:
        return [tuple(row) for row in connection.execute(select(units).where(units.c.run_id == run.id))]


@pytest.mark.parametrize("step", ["computed", "sidecar put"])
def test_paused_past_its_lease_a_zombie_wakes_while_another_holds_the_unit_and_is_fenced(
    step: str, here: Place
) -> None:
    run, once = here.submit(), here.once()
    zombie = here.hire(run, Suffering(step, once, signal.SIGSTOP))
    eventually(lambda: Path(once).exists(), 60, here.said)
    assert zombie.pid is not None
    first = next(iter_units(here.pipeline.database, run.id)).id
    claims: list[Unit | None] = []
    eventually(lambda: claims.append(here.pipeline.ledger.claim("heir", unit_id=first)) or claims[-1], 30)
    heir = claims[-1]
    assert heir is not None
    os.kill(zombie.pid, signal.SIGCONT)

    def kept_while_the_zombie_does_the_rest() -> bool:
        assert here.pipeline.ledger.renew(heir), "somebody else wrote of a unit that is held"
        return here.pipeline.status(run.id).units[UnitState.DONE] == UNITS - 1

    eventually(kept_while_the_zombie_does_the_rest, 60, here.said)
    assert here.pipeline.ledger.renew(heir)
    assert not {row.row for row in iter_images(here.pipeline.database, run.id)} & {e.row for e in heir.entries}
    here.pipeline.ledger.release(heir)
    here.until_over(run)
    whole(here.pipeline, run, here.undisturbed, in_vain=2, notes=here.notes)


def test_a_process_that_only_takes_a_break_keeps_its_unit(here: Place) -> None:
    run, once = here.submit(), here.once()
    napper = here.hire(run, Suffering("computed", once, signal.SIGSTOP))
    eventually(lambda: Path(once).exists(), 60, here.said)
    assert napper.pid is not None
    time.sleep(LEASE_SECONDS / 6)
    os.kill(napper.pid, signal.SIGCONT)
    here.until_over(run)
    whole(here.pipeline, run, here.undisturbed, notes=here.notes)


def test_killed_again_and_again(here: Place) -> None:
    here.small.behave("calm", 0.02)
    luck, run, kills = random.Random(3), here.submit(), 0
    max_kills = here.pipeline.settings.max_attempts - 1  # one more could all meet one unit, which would rightly fail
    crew = [here.hire(run), here.hire(run)]
    while not here.pipeline.status(run.id).over:
        time.sleep(luck.uniform(0.2, 0.9))  # the luck of the draw is the fault
        if kills < max_kills and not here.pipeline.status(run.id).over:
            fallen = luck.randrange(2)
            crew[fallen].kill()
            crew[fallen] = here.hire(run)
            kills += 1
    assert kills >= 2, "nothing was disturbed"
    whole(here.pipeline, run, here.undisturbed, in_vain=2 * kills, notes=here.notes)


def test_an_image_that_kills_is_found_and_failed_and_its_neighbours_are_done(here: Place) -> None:
    run, deaths = here.submit(), 0
    deadly = sorted(here.undisturbed.rows)[4]
    while not here.pipeline.status(run.id).over:
        hand = here.hire(run, Suffering(image=deadly))
        hand.join(60)
        deaths += hand.exitcode == -signal.SIGKILL
        assert deaths < 10, here.said()
    rows = whole(here.pipeline, run, here.undisturbed, failed=[deadly], in_vain=2 * deaths, notes=here.notes)
    assert "ended its worker process 3 times" in str(rows[4].error)
    assert deaths == 4, "the first death names nobody, then three do"


def test_clocks_five_minutes_apart_matter_to_nobody(here: Place) -> None:
    here.small.behave("calm", 0.01)
    run, once = here.submit(), here.once()
    ahead = here.hire(run, Suffering("computed", once, skew_seconds=300))
    behind = here.hire(run, Suffering(skew_seconds=-300))
    ahead.join(60)
    assert ahead.exitcode == -signal.SIGKILL, here.said()
    third = here.hire(run, Suffering(skew_seconds=300))
    here.until_over(run)
    whole(here.pipeline, run, here.undisturbed, in_vain=2, notes=here.notes)
    for hand in (behind, third):
        hand.join(30)
        assert hand.exitcode == 0


def test_asked_to_stop_midway_units_go_back_uncounted_and_are_done_later(here: Place) -> None:
    here.small.behave("calm", 0.3)
    run = here.submit()
    hand = here.hire(run)
    eventually(lambda: here.pipeline.status(run.id).units[UnitState.LEASED], 30, here.said)
    hand.terminate()
    hand.join(30)
    assert hand.exitcode == 0, here.said()
    found = here.pipeline.status(run.id)
    assert found.units[UnitState.LEASED] == 0
    assert found.attempts == found.units[UnitState.DONE], "a unit that was given back does not count"
    here.small.behave("calm", 0)
    finish(here.pipeline, run)
    whole(here.pipeline, run, here.undisturbed, in_vain=2, notes=here.notes)
