"""Runs: the list, and the page of one run with its live progress and its actions."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, HTTPException, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from db.records import Progress, RunOverview, RunState, UnitState
from pipeline.errors import AttribatchError
from pipeline.runs.stored import StoredRun
from pipeline.web import sentences
from pipeline.web.responses import CurrentRequest, PageRequest, View, twins

SHOWN = 50  # runs per page
LIVE_SECONDS = 1.0
LIVE_LIMIT = 900  # updates of one stream; then the browser reconnects
FAILURES = 200  # failed images that the table of reasons counts

router = APIRouter()


async def check_form(request: CurrentRequest, form_token: Annotated[str, Form(max_length=128)] = "") -> None:
    """Refuse with 403 a change that does not come from a page of this server."""
    if not request.site.guard.may_write(request.http, form_token):
        raise HTTPException(403, "this form is from another server, or from before a restart; reload the page")


WRITES = [Depends(check_form)]


@twins(router, "/runs")
def runs(request: CurrentRequest, page: Annotated[int, Query(ge=1, le=100_000)] = 1) -> View:
    """All runs, the newest first."""
    count = request.pipeline.count_runs()
    pages = max(-(-count // SHOWN), 1)
    found = request.pipeline.overviews(limit=SHOWN, offset=(page - 1) * SHOWN)
    shown = [record(each, errors(request, each.id)) for each in found]
    more = {"page": page, "pages": pages, "live": any(not one["over"] for one in shown)}
    following = f"page={page + 1}" if page < pages else None
    return View("runs.html", {"runs": shown, "count": count}, more, rows=shown, next=following)


@twins(router, "/runs/{run}")
def run(request: CurrentRequest, run: str) -> View:
    """One run: progress, request, cost, failures."""
    opened = request.open_run(run)
    stored, spec = opened.run, opened.spec
    data = {
        **record(request.pipeline.overview(stored.id), errors(request, stored.id)),
        "spec_key": stored.spec_key,
        "spec": sentences.redacted_spec(spec),
        "cost": cost(opened),
        "failures": failures(request, opened),
        "tuning": opened.tuning(),
    }
    audited = {by: opened.report(f"audit-{by}.json") for by in ("predicted", "label")}
    others = [each for each in request.pipeline.runs(limit=SHOWN) if each.id != stored.id]
    more = {"facts": sentences.facts(stored, spec), "one": data, "audits": audited, "others": others}
    return View("run.html", data, more)


@router.get("/events", response_class=StreamingResponse)
def all_events(request: CurrentRequest) -> Response:
    """The table of runs as server-sent events: sent again whenever it changes, until all runs are over."""
    known: dict[str, RunOverview] = {}

    def update() -> tuple[str, bool]:
        found = request.pipeline.overviews(limit=SHOWN, known=known)
        known.update({each.id: each for each in found})
        shown = [record(each) for each in found]
        return request.render("_runs.html", {"runs": shown}), all(one["over"] for one in shown)

    return _stream(request, update)


@router.get("/events/{run}", response_class=StreamingResponse)
def run_events(request: CurrentRequest, run: str) -> Response:
    """The progress of one run as server-sent events: sent again whenever it changes, until the run is over."""
    stored = request.pipeline.get_run(run)

    def update() -> tuple[str, bool]:
        one = record(request.pipeline.overview(stored.id))
        return request.render("_progress.html", {"one": one}), one["over"]

    return _stream(request, update)


@router.post("/runs/{run}/cancel", dependencies=WRITES, status_code=303, response_class=RedirectResponse)
def cancel(request: CurrentRequest, run: str) -> Response:
    """Stop a run."""
    stored = request.pipeline.get_run(run)
    request.pipeline.cancel(stored.id)
    return RedirectResponse(f"/runs/{stored.id}", 303)


@router.post("/runs/{run}/retry", dependencies=WRITES, status_code=303, response_class=RedirectResponse)
def retry(request: CurrentRequest, run: str) -> Response:
    """Queue failed units of a run again, and units with failed images, and wake the workers."""
    stored = request.pipeline.get_run(run)
    request.pipeline.retry(stored.id)
    request.pipeline.wake()
    return RedirectResponse(f"/runs/{stored.id}", 303)


def errors(request: PageRequest, run_id: str) -> list[str]:
    """Errors of a run's units, without the paths of this machine."""
    stored = request.open_run(run_id)
    return [request.redact(error, stored.run) for error in stored.progress().errors]


def record(run: RunOverview, errors: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of a run in a list."""
    progress = run.progress
    seen = progress.images_done + progress.images_failed
    rate = 0.0 if progress.over else run.images_per_second
    return {
        "id": run.id,
        "name": run.name,
        "state": state_of(progress),
        "over": progress.over,
        "images": progress.images_total,
        "done": progress.images_done,
        "failed": progress.images_failed,
        "units": sum(progress.units.values()),
        "units_done": progress.units[UnitState.DONE],
        "units_failed": progress.units[UnitState.FAILED],
        "attempts": progress.attempts,
        "errors": list(errors),
        "images_per_second": rate,
        "seconds_left": (progress.images_total - seen) / rate if rate else None,
        "seconds": run.seconds if progress.over else None,
        "source": sentences.redacted_source(run),
        "submitted_at": run.submitted_at,
    }


def state_of(progress: Progress) -> str:
    """The state of a run; `stopped` if units are pending and no worker computes any."""
    idle = progress.state is RunState.RUNNING and not progress.units[UnitState.LEASED]
    return "stopped" if idle else str(progress.state)


def cost(stored: StoredRun) -> dict[str, Any]:
    """Gradient evaluations per image: as planned, or with a tolerance the mean over the first 100 images."""
    spec, paths = stored.spec, sentences.paths_per_image(stored.spec)
    if spec.tolerance is None:
        return {"paths": paths, "per_image": float(paths * spec.n_steps), "measured": False}
    known = stored.find(where="evaluations != null", limit=100).rows
    mean = sum(row.evaluations or 0 for row in known) / len(known) if known else None
    return {"paths": paths, "per_image": mean, "measured": True}


def failures(request: PageRequest, stored: StoredRun) -> list[dict[str, Any]]:
    """Reasons of failed images, the most frequent first, from the first `FAILURES` failed images."""
    if not stored.progress().images_failed:
        return []
    rows = stored.find(where="failed", limit=FAILURES).rows
    causes = [request.redact((row.error or "").removeprefix(f"{row.key}: ")) for row in rows]
    return [
        {
            "reason": reason,
            "images": count,
            "examples": [row.key for row, cause in zip(rows, causes, strict=True) if cause == reason][:3],
        }
        for reason, count in Counter(causes).most_common()
    ]


def _stream(request: PageRequest, update: Callable[[], tuple[str, bool]]) -> StreamingResponse:
    """Events with the HTML of `update`, sent when it changes, until its flag is True."""

    async def events() -> AsyncIterator[str]:
        shown = None
        for _ in range(LIVE_LIMIT):
            if await request.http.is_disconnected():
                return
            try:
                html, over = await run_in_threadpool(update)
            except AttribatchError:  # the database does not answer, or the run was removed: the browser reconnects
                return
            if html != shown:
                shown = html
                yield "".join(f"data: {line}\n" for line in html.splitlines()) + "\n"
            if over:
                yield "event: over\ndata: over\n\n"
                return
            await asyncio.sleep(LIVE_SECONDS)

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
