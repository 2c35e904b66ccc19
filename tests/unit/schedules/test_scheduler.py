"""Ticks over a real pipeline whose runs are computed in this process: once, in order, and past whatever fails."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from db.records import Occasion, OccasionState, Progress, Run
from db.schedule_ledger import Timetable
from pipeline.api import Pipeline, RunRequest
from pipeline.engine.worker import open_workshop, work
from pipeline.errors import NotFound, SpecError, StoreUnavailable, UsageError
from tests.support.ledger_states import pass_hours


class InProcess(Pipeline):
    """Computes without starting processes, which takes seconds each; counts the units it computes."""

    computed = 0

    def compute(self, run: Run, **_: object) -> Progress:  # type: ignore[override]
        shop, before = open_workshop(replace(self.settings, device="cpu")), self.status(run.id)
        work(shop, run.id)
        shop.database.dispose()
        found = self.status(run.id)
        self.computed += found.attempts - before.attempts
        return found


@pytest.fixture
def here(tmp_path: Path, pipeline: Pipeline) -> Iterator[InProcess]:
    with InProcess(pipeline.settings) as opened:
        yield opened


@pytest.fixture
def nightly(here: InProcess, request_: RunRequest) -> InProcess:
    here.schedules.add("nightly", request_, cron="0 2 * * *", timezone="Europe/Berlin", fail_on="drift>0.001")
    return here


def come_due(pipeline: Pipeline, days: int = 1) -> None:
    pass_hours(pipeline.database, 24 * days)


def ticked(pipeline: Pipeline, *, wait: bool = True) -> list[Occasion]:
    return list(pipeline.tick(wait=wait).occasions)


def draw_again(dataset: Path, name: str) -> None:
    """New pictures of a class: bright in one corner."""
    for index in range(6):
        pixels = np.zeros((8, 8), np.uint8)
        pixels[:3, :3] = 200 + index
        Image.fromarray(pixels).save(dataset / name / f"{index}.png")


@pytest.mark.slow
def test_a_due_schedule_runs_to_its_end(nightly: InProcess) -> None:
    """Nothing is due before its time and a due schedule runs to its end."""
    assert ticked(nightly) == []
    come_due(nightly)
    (first,) = ticked(nightly)
    assert (first.state, first.drift, first.unchanged, first.exceeded) == (OccasionState.DONE, None, None, None)
    assert first.run_id == nightly.get_run("nightly").id, "the run bears the schedule's name"
    assert nightly.status(first.run_id or "").images_done == 18
    (stored,) = nightly.schedules.history("nightly")
    assert stored == replace(first, ended_at=stored.ended_at)
    assert ticked(nightly) == []


@pytest.mark.slow
def test_the_next_turn_is_the_next_one_of_the_zone(nightly: InProcess) -> None:
    come_due(nightly)
    ticked(nightly)
    (schedule,) = nightly.schedules.listed()
    assert schedule.next_due > datetime.now(UTC)
    assert schedule.next_due - datetime.now(UTC) <= timedelta(days=1)
    assert schedule.next_due.hour in (0, 1), "2 o'clock in Berlin, summer or winter"


@pytest.mark.slow
def test_an_unchanged_data_set_computes_nothing(nightly: InProcess) -> None:
    """An unchanged data set is said to be so and computes nothing."""
    come_due(nightly)
    (first,) = ticked(nightly)
    computed = nightly.computed
    come_due(nightly)
    (second,) = ticked(nightly)
    assert computed == 5
    assert nightly.computed == computed
    assert (second.run_id, second.previous_run_id, second.unchanged) == (first.run_id, first.run_id, True)
    assert (second.drift, second.class_drift, second.ndcg, second.exceeded) == (0, 0, 1, False)
    assert nightly.status(second.run_id or "").attempts == 5


@pytest.mark.slow
def test_a_changed_data_set_is_a_new_run_with_a_drift(nightly: InProcess, dataset: Path) -> None:
    """A changed data set is a new run whose drift is stored and exceeds the gate."""
    come_due(nightly)
    (first,) = ticked(nightly)
    draw_again(dataset, "cat")
    come_due(nightly)
    (second,) = ticked(nightly)
    assert second.run_id != first.run_id
    assert (second.unchanged, second.exceeded) == (False, True)
    drift = nightly.drift(second.run_id or "", first.run_id or "")
    assert (second.drift, second.class_drift, second.ndcg) == (drift.drift, drift.class_drift, drift.ndcg)
    assert nightly.schedules.classes(second) == drift.classes
    assert sum(each.images for each in drift.classes) == 18
    maps = [np.abs(nightly.read_maps(nightly.find(run or "").rows).sum(axis=1)).mean(axis=0).ravel().astype(float)
            for run in (first.run_id, second.run_id)]  # fmt: skip
    cosine = maps[0] @ maps[1] / np.linalg.norm(maps[0]) / np.linalg.norm(maps[1])
    assert drift.drift == pytest.approx(1 - cosine, rel=1e-4), "8 x 8 pixels are 8 x 8 cells"
    assert drift.drift > 0.001


@pytest.mark.slow
def test_turns_that_were_missed_are_made_up_for_once(nightly: InProcess) -> None:
    come_due(nightly, days=6)
    (occasion,) = ticked(nightly)
    assert datetime.now(UTC) - occasion.due_at > timedelta(days=4)
    assert ticked(nightly) == []
    assert len(nightly.schedules.history("nightly")) == 1


@pytest.mark.slow
def test_a_failed_schedule_does_not_stop_the_others(
    nightly: InProcess, request_: RunRequest, dataset: Path, factory: Path, tmp_path: Path
) -> None:
    """What fails is recorded with its reason and its neighbours go on."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(dataset, elsewhere)
    broken = tmp_path / "broken.py"
    broken.write_text(factory.read_text())
    for name, gone in (("a-source", str(elsewhere)), ("b-model", str(dataset))):
        models = tuple(replace(m, source=f"{broken}:make") for m in request_.models)
        asked = replace(request_, source=gone, models=models if name == "b-model" else request_.models)
        nightly.schedules.add(name, asked, cron="0 2 * * *")
    shutil.rmtree(elsewhere)
    broken.write_text("def make():\n    raise RuntimeError('no such layer')\n")
    come_due(nightly)
    found = {each.schedule: each for each in ticked(nightly)}
    assert found["a-source"].state is found["b-model"].state is OccasionState.FAILED
    assert f"{elsewhere} does not exist" in (found["a-source"].error or "")
    assert "no such layer" in (found["b-model"].error or "")
    assert found["nightly"].state is OccasionState.DONE
    dataset.rename(elsewhere)
    come_due(nightly)
    found = {each.schedule: each for each in ticked(nightly)}
    assert found["a-source"].state is OccasionState.DONE, "it came due again, and the source is back"
    assert found["nightly"].state is OccasionState.FAILED
    assert [each.state for each in nightly.schedules.history("a-source")] == ["done", "failed"]


@pytest.mark.slow
def test_an_unknown_time_zone_stops_only_its_schedule(
    nightly: InProcess, request_: RunRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """A time zone that this machine lacks stops its own schedule alone."""
    now = datetime.now(UTC).replace(microsecond=0)
    far = {"cron": "0 2 * * *", "timezone": "Mars/Olympus", "request": request_.to_json(), "fail_on": None}
    Timetable(nightly.database).add("far", **far, next_due=now)  # type: ignore[arg-type]
    come_due(nightly)
    assert [each.schedule for each in ticked(nightly)] == ["nightly"]
    assert "schedule far: time zone 'Mars/Olympus' is not known" in caplog.text


@pytest.mark.slow
def test_a_failed_image_makes_the_occasion_partial(nightly: InProcess, dataset: Path) -> None:
    """An image that fails makes the turn partial and none at all makes it fail."""
    (dataset / "dog" / "4.png").write_text("not an image")
    come_due(nightly)
    (first,) = ticked(nightly)
    assert (first.state, first.error) == (OccasionState.PARTIAL, None)
    for path in dataset.rglob("*.png"):
        path.write_text("not an image")
    come_due(nightly)
    (second,) = ticked(nightly)
    assert second.state is OccasionState.FAILED
    assert "no image of run" in (second.error or "")


@pytest.mark.slow
def test_what_is_passing_leaves_the_turn_to_the_next_tick(nightly: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: RunRequest) -> Run:
        raise StoreUnavailable("the bucket does not answer")

    come_due(nightly)
    with monkeypatch.context() as patched:
        patched.setattr(nightly, "submit", away)
        (first,) = ticked(nightly)
    assert (first.state, first.error) == (OccasionState.DUE, "the bucket does not answer")
    (again,) = ticked(nightly)
    assert (again.id, again.state, again.error) == (first.id, OccasionState.DONE, None)


def test_a_surprise_in_one_schedule_is_recorded_too(nightly: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: RunRequest) -> Run:
        raise ZeroDivisionError("somebody else's code")

    monkeypatch.setattr(nightly, "submit", broken)
    come_due(nightly)
    (found,) = ticked(nightly)
    assert (found.state, found.error) == (OccasionState.FAILED, "ZeroDivisionError: somebody else's code")


@pytest.mark.slow
def test_interrupted_the_turn_is_free_at_once(nightly: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> Progress:
        raise KeyboardInterrupt

    come_due(nightly)
    with monkeypatch.context() as patched:
        patched.setattr(nightly, "compute", interrupted)
        with pytest.raises(KeyboardInterrupt):
            nightly.tick()
    (found,) = ticked(nightly)
    assert found.state is OccasionState.DONE
    assert len(nightly.schedules.history("nightly")) == 1


@pytest.mark.slow
def test_a_tick_that_died_is_taken_over_when_its_lease_is_over(nightly: InProcess) -> None:
    come_due(nightly)
    (schedule,) = nightly.schedules.listed()
    assert Timetable(nightly.database).claim(schedule, next_due=datetime.now(UTC) + timedelta(days=1))
    assert ticked(nightly) == []
    with pytest.raises(UsageError, match="at work already"):
        nightly.schedules.run_now("nightly")
    pass_hours(nightly.database, 1)
    (found,) = ticked(nightly)
    assert found.state is OccasionState.DONE


@pytest.mark.slow
def test_without_waiting_a_tick_submits_and_a_later_one_compares(nightly: InProcess, dataset: Path) -> None:
    come_due(nightly)
    (first,) = ticked(nightly, wait=False)
    assert (first.state, nightly.computed) == (OccasionState.RUNNING, 0)
    assert ticked(nightly, wait=False) == []
    (run,) = nightly.waiting()
    nightly.compute(run)
    (finished,) = ticked(nightly, wait=False)
    assert (finished.id, finished.state) == (first.id, OccasionState.DONE)
    draw_again(dataset, "eel")
    come_due(nightly)
    ticked(nightly, wait=False)
    nightly.compute(nightly.waiting()[0])
    (second,) = ticked(nightly, wait=False)
    assert second.drift is not None
    assert second.drift > 0
    assert ticked(nightly, wait=False) == [], "a drift is computed once"


@pytest.mark.slow
def test_a_cancelled_run_fails_only_its_occasion(nightly: InProcess) -> None:
    """A cancelled run fails its turn and the next turn goes on."""
    come_due(nightly)
    (first,) = ticked(nightly, wait=False)
    nightly.cancel(first.run_id or "")
    (found,) = ticked(nightly)
    assert (found.state, found.error) == (OccasionState.FAILED, f"run {first.run_id} was cancelled")
    come_due(nightly)
    (second,) = ticked(nightly)
    assert (second.state, second.run_id) == (OccasionState.DONE, first.run_id)


@pytest.mark.slow
def test_missing_maps_leave_the_run_done_without_drift(nightly: InProcess, dataset: Path) -> None:
    """Maps that are gone leave the run done and the next turn has a measure."""
    come_due(nightly)
    (first,) = ticked(nightly)
    shutil.rmtree(nightly.settings.home / "objects" / "runs" / (first.run_id or "") / "maps")
    draw_again(dataset, "cat")
    come_due(nightly)
    (second,) = ticked(nightly)
    assert (second.state, second.drift, second.exceeded) == (OccasionState.DONE, None, None)
    assert f"the drift against run {first.run_id} is not known" in (second.error or "")
    come_due(nightly)
    (third,) = ticked(nightly)
    assert (third.unchanged, third.error) == (True, None)


@pytest.mark.slow
def test_run_now_without_waiting_leaves_the_end_to_a_tick(nightly: InProcess) -> None:
    """Run now that does not wait leaves its run to others and its end to a tick."""
    turn = nightly.schedules.run_now("nightly", wait=False)
    assert (turn.state, nightly.computed) == (OccasionState.RUNNING, 0)
    nightly.compute(nightly.get_run(turn.run_id or ""))
    (settled,) = ticked(nightly, wait=False)
    assert (settled.id, settled.state) == (turn.id, OccasionState.DONE)


@pytest.mark.slow
def test_run_now_runs_what_is_paused_and_moves_nothing(nightly: InProcess) -> None:
    nightly.schedules.pause("nightly")
    come_due(nightly)
    assert ticked(nightly) == []
    before = nightly.schedules.listed()
    assert nightly.schedules.run_now("nightly").state is OccasionState.DONE
    assert nightly.schedules.listed() == before
    nightly.schedules.resume("nightly")
    assert ticked(nightly) == [], "what was missed while it was paused stays missed"
    nightly.schedules.remove("nightly")
    assert nightly.schedules.listed() == []
    with pytest.raises(NotFound):
        nightly.schedules.history("nightly")


def test_a_schedule_that_cannot_run_is_not_stored(here: InProcess, request_: RunRequest) -> None:
    """A schedule that cannot run is refused before it is stored."""

    def add(name: str = "nightly", request: RunRequest = request_, cron: str = "0 2 * * *", **more: str) -> None:
        here.schedules.add(name, request, cron=cron, **more)  # type: ignore[arg-type]

    with pytest.raises(UsageError, match="does not exist"):
        add(request=replace(request_, source="/nowhere"))
    with pytest.raises(SpecError, match="class 'fish'"):
        add(request=replace(request_, target="class:fish"))
    with pytest.raises(SpecError, match="fields"):
        add(cron="daily")
    with pytest.raises(SpecError, match="gate"):
        add(fail_on="drift")
    with pytest.raises(SpecError, match="schedule name"):
        add(name="a b")
    assert here.schedules.listed() == []
    assert here.runs() == []


@pytest.mark.slow
def test_a_schedule_finds_its_files_from_any_folder(
    here: InProcess, request_: RunRequest, dataset: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    models = tuple(replace(m, source="tiny.py:make", weights=Path(str(m.weights)).name) for m in request_.models)
    here.schedules.add("near", replace(request_, source="images", models=models), cron="0 2 * * *")
    monkeypatch.chdir("/")
    assert here.schedules.run_now("near").state is OccasionState.DONE


def test_a_request_survives_its_json(request_: RunRequest) -> None:
    full = replace(request_, models=(replace(request_.models[0], mean=(0.5,), class_names=("a", "b", "c")),))
    assert RunRequest.from_json(full.to_json()) == full
