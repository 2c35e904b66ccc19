"""The part of the API that makes things happen: runs, schedules, upkeep."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from db import queries
from db.errors import StoreUnavailable
from db.records import Entry, ImageState, Progress, Run
from pipeline.datasets import Source
from pipeline.engine import broker
from pipeline.errors import UsageError
from pipeline.facade.answering import Answering
from pipeline.runs import submit as submitting
from pipeline.spec.request import RunRequest
from pipeline.spec.run_spec import RunSpec
from pipeline.storage.keys import report_key

if TYPE_CHECKING:
    from pipeline.analysis.evaluation import Evaluation
    from pipeline.models.training.ensemble_manifest import Ensemble, TrainingRequest
    from pipeline.runs.cleanup import Collected
    from pipeline.runs.estimate import Cost
    from pipeline.runs.repair import Repaired
    from pipeline.schedules.scheduler import Scheduler, TickReport

log = logging.getLogger("attribatch.api")

POLL_SECONDS = 0.3


class Running(Answering):
    """What submits, computes, stops and removes runs."""

    def submit(self, request: RunRequest) -> Run:
        """Store a run: its manifest and metadata as objects, its units in SQL. The same request is the same run.

        Raises:
            UsageError: whatever is wrong with the source, the models or the spec, before anything is stored.
        """
        with submitting.planned(request, self.settings) as (run, spec, manifest):
            return submitting.store(self.ledger, self.objects, run, spec, manifest)

    def check(self, request: RunRequest) -> None:
        """Load the models and list the images of a request, and store nothing. Raises UsageError as `submit`."""
        with submitting.planned(request, self.settings):
            pass

    def estimate(self, request: RunRequest) -> "Cost":
        """What the run would take; computes a few images and stores nothing.

        Raises:
            UsageError: as `submit`.
        """
        from pipeline.engine.worker import pick_device
        from pipeline.runs.estimate import measure_cost

        with submitting.planned(request, self.settings) as (run, spec, manifest):
            source = Source.from_json(run.source, self.settings.s3_endpoint_url)
            return measure_cost(
                run,
                spec,
                manifest.entries(),
                pixels=lambda entry: self._pixels(source, spec, entry),
                samples=self._sample_pixels(run),
                device=pick_device(self.settings.device),
            )

    def evaluate(
        self,
        ref: str = "latest",
        *,
        images: int = 32,
        seed: int = 0,
        metrics: Sequence[str] = (),
        say: Callable[[str], None] = lambda _: None,
    ) -> "Evaluation":
        """Whether the maps of a run are true, and what they owe to the baseline: tests on a random sample.

        What was found is stored, and read again by `evaluation`.

        Args:
            ref: of the run.
            images: at most; all where the run has fewer.
            seed: of the sample and of everything random.
            metrics: of reproduction, deletion, insertion, road, randomisation, sensitivity, infidelity, baselines and
                agreement; all by default.
            say: told what is computed next.

        Raises:
            UsageError: an unknown metric, no map yet, or no image that can still be read.
        """
        from pipeline.analysis.evaluation import Asked, Stored, evaluate
        from pipeline.engine.worker import pick_device

        run = self.get_run(ref)
        spec, source = RunSpec.from_json(run.spec), Source.from_json(run.source, self.settings.s3_endpoint_url)
        stored = Stored(
            run=run,
            rows=queries.iter_images(self.database, run.id, ImageState.DONE),
            read=lambda row: self._pixels(source, spec, Entry(row.row, row.key, row.version)),
            maps=self.read_maps,
            samples=self._sample_pixels(run),
            knots=self.tuning(run.id).get("nodes", {}).get("knots", {}),
            finished=self.status(run.id).over,
        )
        device, allowed = pick_device(self.settings.device), self.settings.allowed_modules
        found = evaluate(stored, Asked(images, seed, metrics), device=device, allowed_modules=allowed, say=say)
        self.objects.put(report_key(run.id, "evaluation.json"), json.dumps(found.to_dict()).encode())
        return found

    def work(self, run: Run, *, workers: int = 1, on_progress: Callable[[Progress], None] = lambda _: None) -> Progress:
        """Compute a run with worker processes on this machine, until nothing of it waits.

        Interrupting gives the units in flight back; calling again goes on where it stopped.

        Args:
            run: from `submit` or `get_run`.
            workers: processes. On a CPU they share the cores.
            on_progress: told of the counts a few times a second.
        """
        with broker.LocalWorkers(run.id, workers, self.settings.to_env()) as local:
            return self._until_finished(run, on_progress, lambda found: local.tend(found.attempts))

    def compute(
        self, run: Run, *, workers: int = 1, on_progress: Callable[[Progress], None] = lambda _: None
    ) -> Progress:
        """`follow` where a broker is configured, `work` on this machine where none is."""
        if self.settings.broker_url is not None:
            return self.follow(run, on_progress=on_progress)
        return self.work(run, workers=workers, on_progress=on_progress)

    def follow(self, run: Run, *, on_progress: Callable[[Progress], None] = lambda _: None) -> Progress:
        """Wait until Celery workers have finished a run; sends what they were not told of, again and again."""
        wake = broker.Waker(self.ledger, self.check_broker(), every_seconds=self.settings.sweep_seconds)
        return self._until_finished(run, on_progress, lambda _: wake())

    def wake(self) -> None:
        """Tell Celery workers of what waits; where the broker is away, they look in SQL. Without one: nothing."""
        if self.settings.broker_url is not None:
            broker.Waker(self.ledger, self.settings.broker_url)()

    def check_broker(self) -> str:
        """The broker's URL. Raises UsageError where none is configured."""
        if self.settings.broker_url is None:
            raise UsageError("ATTRIBATCH_BROKER_URL is not set: without a broker nobody would compute the run")
        return self.settings.broker_url

    def cancel(self, ref: str) -> int:
        """Stop a run; submitting it again goes on. Units cancelled."""
        return self.ledger.cancel(self.get_run(ref).id)

    def retry(self, ref: str) -> int:
        """Give failed units of a run all their attempts again, and units with failed images too. Units re-armed."""
        from pipeline.runs.repair import forget_failed

        run = self.get_run(ref)
        return self.ledger.retry(run.id) + forget_failed(self.database, self.ledger, self.objects, run)

    def repair(self) -> "Repaired":
        """Rebuild the index from object storage, and queue again what is missing there or damaged."""
        from pipeline.runs.repair import repair
        from pipeline.schedules.records import restore_schedules

        schedules, unreadable = restore_schedules(self.database, self.objects)
        found = repair(self.database, self.ledger, self.objects)
        return replace(found, schedules_restored=schedules, damaged=found.damaged + tuple(unreadable))

    def removable(self, ref: str) -> str:
        """The id of the run that `remove` would delete. Raises NotFound."""
        from pipeline.runs.cleanup import find_run

        return find_run(self.database, self.objects, ref)[0]

    def remove(self, ref: str) -> int:
        """Delete a run, its rows and its objects; see `pipeline.runs.cleanup.remove`. Objects deleted."""
        from pipeline.runs.cleanup import remove

        return remove(self.database, self.ledger, self.objects, ref)

    def gc(self, *, dry_run: bool = False) -> "Collected":
        """Delete stored objects that no run needs; see `pipeline.runs.cleanup.collect`."""
        from pipeline.runs.cleanup import collect

        return collect(self.database, self.objects, dry_run=dry_run)

    def train_ensemble(
        self,
        request: "TrainingRequest",
        *,
        device: str | None = None,
        threads: int = 4,
        say: Callable[[str], None] = lambda _: None,
    ) -> "Ensemble":
        """Train an ensemble by bagging; an interrupted training resumes. Raises UsageError."""
        from pipeline.engine.worker import pick_device
        from pipeline.models.training.bagging import train_ensemble

        return train_ensemble(
            request,
            device=pick_device(device or self.settings.device),
            max_pixels=self.settings.max_pixels,
            threads=threads,
            s3_endpoint_url=self.settings.s3_endpoint_url,
            allowed_modules=self.settings.allowed_modules,
            say=say,
        )

    @property
    def schedules(self) -> "Scheduler":
        """Requests that are submitted again and again: add, listed, pause, resume, remove, history, run_now."""
        from pipeline.schedules.scheduler import Scheduler

        return Scheduler(self.database, self.objects, self, lease_seconds=self.settings.lease_seconds)

    def tick(
        self, *, wait: bool | None = None, workers: int = 1, on_progress: Callable[[Progress], None] = lambda _: None
    ) -> "TickReport":
        """Submit what is due, and compare what is finished; see `pipeline.schedules.scheduler.Scheduler.tick`.

        `wait` computes each run to its end before the tick returns: by default without a broker only.
        """
        chosen = self.settings.broker_url is None if wait is None else wait
        return self.schedules.tick(wait=chosen, workers=workers, on_progress=on_progress)

    def _until_finished(
        self, run: Run, on_progress: Callable[[Progress], None], each_time: Callable[[Progress], None]
    ) -> Progress:
        while True:
            try:
                found = self.status(run.id)
            except StoreUnavailable as error:  # workers wait for the index as well
                log.warning("%s", error)
                time.sleep(10 * POLL_SECONDS)
                continue
            if not found.over:
                each_time(found)
            on_progress(found)
            if found.over:
                return found
            time.sleep(POLL_SECONDS)
