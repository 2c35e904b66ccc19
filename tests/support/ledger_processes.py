"""What other processes do in the tests of db. Imported by them: no pytest here."""

from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from multiprocessing import get_context

from db.ledger import Ledger
from db.records import Schedule, Unit
from db.schedule_ledger import Timetable
from db.session import migrate, open_engine
from tests.support.records import make_drafts, make_rows, make_run


def pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def migrate_at_once(url: str) -> str:
    engine = open_engine(url)
    migrate(engine)
    engine.dispose()
    return "migrated"


def submit_at_once(url: str, run_id: str, image_count: int) -> int:
    """Migrate and submit; returns the image count of the run that is stored."""
    engine = open_engine(url)
    migrate(engine)
    run = make_run(run_id, image_count=image_count)
    stored = Ledger(engine).submit(run, make_drafts(run))
    engine.dispose()
    return stored.image_count


def claim_and_complete_all(url: str, worker: str) -> list[int]:
    """Ids of the units that this process completed."""
    engine = open_engine(url)
    ledger = Ledger(engine)
    completed = []
    while unit := ledger.claim(worker):
        assert ledger.complete(unit, make_rows(unit))
        completed.append(unit.id)
    engine.dispose()
    return completed


def claim_and_die(url: str, worker: str) -> Unit | None:
    """A claim that nobody ends."""
    engine = open_engine(url)
    unit = Ledger(engine).claim(worker)
    engine.dispose()
    return unit


def claim_turn_at_once(url: str, schedule: Schedule, next_due: datetime) -> str | None:
    """The token of the turn, or None."""
    engine = open_engine(url)
    occasion = Timetable(engine).claim(schedule, next_due=next_due)
    engine.dispose()
    return None if occasion is None else occasion.token
