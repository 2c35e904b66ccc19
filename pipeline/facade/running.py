"""The part of the API that makes things happen: runs, schedules, upkeep."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from db import queries
from db.errors import StoreUnavailable
from db.records import Entry, ImageState, Progress, Run
from pipeline import dispatch, planning, submitting
from pipeline.datasets import Source
from pipeline.errors import UsageError
from pipeline.facade.answering import Answering
from pipeline.requesting import RunRequest
from pipeline.spec import RunSpec

if TYPE_CHECKING:
    from pipeline.cleaning import Collected
    from pipeline.estimating import Cost
    from pipeline.evaluating import Evaluation
    from pipeline.repair import Repaired
    from pipeline.scheduling import Scheduler, TickReport
    from pipeline.training.records import Ensemble, TrainingRequest

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
        from pipeline.estimating import measure_cost
        from pipeline.work import pick_device

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
        from pipeline.evaluating import Asked, Stored, evaluate
        from pipeline.work import pick_device

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
        self.objects.put(planning.report_key(run.id, "evaluation.json"), json.dumps(found.to_dict()).encode())
        return found

    def work(self, run: Run, *, workers: int = 1, on_progress: Callable[[Progress], None] = lambda _: None) -> Progress:
        """Compute a run with worker processes on this machine, until nothing of it waits.

        Interrupting gives the units in flight back; calling again goes on where it stopped.

        Args:
            run: from `submit` or `get_run`.
            workers: processes. On a CPU they share the cores.
            on_progress: told of the counts a few times a second.
        """
        with dispatch.LocalWorkers(run.id, workers, self.settings.to_env()) as local:
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
        wake = dispatch.Waker(self.ledger, self.check_broker(), every_seconds=self.settings.sweep_seconds)
        return self._until_finished(run, on_progress, lambda _: wake())

    def wake(self) -> None:
        """Tell Celery workers of what waits; where the broker is away, they look in SQL. Without one: nothing."""
        if self.settings.broker_url is not None:
            dispatch.Waker(self.ledger, self.settings.broker_url)()

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
        from pipeline.repair import forget_failed

        run = self.get_run(ref)
        return self.ledger.retry(run.id) + forget_failed(self.database, self.ledger, self.objects, run)

    def repair(self) -> "Repaired":
        """Rebuild the index from object storage, and queue again what is missing there or damaged."""
        from pipeline.repair import repair

        return repair(self.database, self.ledger, self.objects)

    def removable(self, ref: str) -> str:
        """The id of the run that `remove` would delete. Raises NotFound."""
        from pipeline.cleaning import find_run

        return find_run(self.database, self.objects, ref)[0]

    def remove(self, ref: str) -> int:
        """Delete a run, its rows and its objects; see `pipeline.cleaning.remove`. Objects deleted."""
        from pipeline.cleaning import remove

        return remove(self.database, self.ledger, self.objects, ref)

    def gc(self, *, dry_run: bool = False) -> "Collected":
        """Delete stored objects that no run needs; see `pipeline.cleaning.collect`."""
        from pipeline.cleaning import collect

        return collect(self.database, self.objects, dry_run=dry_run)

    def train_ensemble(
        self,
        request: "TrainingRequest",
        *,
        device: str | None = None,
        threads: int = 4,
        say: Callable[[str], None] = lambda _: None,
    ) -> "Ensemble":
        """Train an ensemble by bagging; an interrupted one goes on. See `pipeline.training`. Raises UsageError."""
        from pipeline.training.ensembles import train_ensemble
        from pipeline.work import pick_device

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
        from pipeline.scheduling import Scheduler

        return Scheduler(self.database, self.objects, self, lease_seconds=self.settings.lease_seconds)

    def tick(
        self, *, wait: bool | None = None, workers: int = 1, on_progress: Callable[[Progress], None] = lambda _: None
    ) -> "TickReport":
        """Submit what is due, and compare what is finished; see `pipeline.scheduling.Scheduler.tick`.

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
