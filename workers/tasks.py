"""The one task: claim a unit by its id and run it. `celery -A workers.tasks worker -P threads -c 1`."""

from functools import cache

from pipeline.dispatch import TASK
from pipeline.engine import Workshop, run_unit
from pipeline.settings import Settings
from pipeline.work import open_workshop, worker_name
from workers.app import make_app

app = make_app(Settings.from_env())


@cache
def workshop() -> Workshop:
    """Opened by the first task, so after any fork."""
    return open_workshop(Settings.from_env())


@app.task(name=TASK)  # type: ignore[untyped-decorator]
def run_unit_task(unit_id: int) -> str:
    """Run a unit, if it is there to be had: the claim finds no row for a message that came twice."""
    shop = workshop()
    unit = shop.ledger.claim(worker_name(), unit_id=unit_id)
    return "gone" if unit is None else str(run_unit(shop, unit))
