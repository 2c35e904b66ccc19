"""The Python API: `Pipeline` is what the command line and the web page call, and nothing they do is done elsewhere.

from pipeline.api import Pipeline, RunRequest

with Pipeline.open() as pipeline:
run = pipeline.submit(RunRequest("./images", models=(ModelRequest("torchvision:resnet50@DEFAULT"),)))
pipeline.work(run)
for row in pipeline.find(run.id, where="mispredicted", sort="-member_disagreement").rows:
print(row.key, row.predicted, row.error_estimate)
"""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from db import queries
from db.ledger import Ledger
from db.objects import Objects, open_objects
from db.queries import Page
from db.records import Drift, Entry, ImageRow, ImageState, Progress, Run
from db.session import Engine, Index, look_at, migrate, open_engine
from pipeline import dispatch, planning, submitting
from pipeline.datasets import Source, is_unchanged
from pipeline.errors import StoreUnavailable, UsageError
from pipeline.requesting import RunRequest
from pipeline.settings import Settings
from pipeline.spec import RunSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.audits import Audit
    from pipeline.cleaning import Collected
    from pipeline.estimating import Cost
    from pipeline.repair import Repaired
    from pipeline.scheduling import Scheduler, TickReport


__all__ = ["Pipeline", "RunRequest"]

log = logging.getLogger("attribatch.api")

POLL_SECONDS = 0.3


class Pipeline:
    """One index and one object store, opened. A context manager.

    Args:
        settings: where they are.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database: Engine = open_engine(settings.database_url)
        migrate(self.database)
        self.objects: Objects = open_objects(settings.objects_url, s3_endpoint_url=settings.s3_endpoint_url)
        self.ledger = Ledger(self.database, lease_seconds=settings.lease_seconds, max_attempts=settings.max_attempts)

    @classmethod
    def open(cls, home: str | Path | None = None) -> Self:
        """The pipeline that the environment names; `home` stands in for ATTRIBATCH_HOME.

        Raises:
            IndexOutdated: the index was written by a newer version.
            StoreUnavailable: the database does not answer.
        """
        return cls(Settings.from_env(None if home is None else {**os.environ, "ATTRIBATCH_HOME": str(home)}))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self.database.dispose()

    @property
    def index(self) -> Index:
        """The database: where it is, its schema's revision, its clock."""
        return look_at(self.database)

    # ---- runs

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

    def runs(self) -> list[Run]:
        """All runs, the newest submission first."""
        return queries.list_runs(self.database)

    def waiting(self) -> list[Run]:
        """Runs of which something waits or is computed, the most urgent first."""
        return queries.waiting_runs(self.database)

    def get_run(self, ref: str) -> Run:
        """A run by its id, a prefix of it, its name, or `latest`. Raises NotFound."""
        return queries.get_run(self.database, ref)

    def status(self, ref: str) -> Progress:
        """Counts of a run's units and images."""
        return queries.progress(self.database, self.get_run(ref).id)

    def has_labels(self, ref: str) -> bool:
        """Whether any image of a run has a label: without one nothing is `mispredicted`."""
        return queries.has_labels(self.database, self.get_run(ref).id)

    def reused(self, ref: str) -> int:
        """How many images of a run show a map that was there, or that an equal image shares."""
        return queries.count_reused(self.database, self.get_run(ref).id)

    def tuning(self, ref: str) -> dict[str, Any]:
        """What was measured for a run: where its `nodes` stand, and by `precision/<device kind>` how members are run.

        Empty where nothing was, or is not yet.
        """
        prefix = planning.tuning_prefix(self.get_run(ref).id)
        return {
            key.removeprefix(prefix).removesuffix(".json"): json.loads(self.objects.get(key))
            for key in self.objects.list(prefix)
        }

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

    def remove(self, ref: str) -> int:
        """Delete a run, its rows and its objects; see `pipeline.cleaning.remove`. Objects deleted."""
        from pipeline.cleaning import remove

        return remove(self.database, self.ledger, self.objects, ref)

    def gc(self, *, dry_run: bool = False) -> "Collected":
        """Delete stored objects that no run needs; see `pipeline.cleaning.collect`."""
        from pipeline.cleaning import collect

        return collect(self.database, self.objects, dry_run=dry_run)

    # ---- schedules

    @property
    def schedules(self) -> "Scheduler":
        """Requests that are submitted again and again: add, listed, pause, resume, remove, history, run_now."""
        from pipeline.scheduling import Scheduler

        return Scheduler(self.database, self, lease_seconds=self.settings.lease_seconds)

    def tick(
        self, *, wait: bool | None = None, workers: int = 1, on_progress: Callable[[Progress], None] = lambda _: None
    ) -> "TickReport":
        """Submit what is due, and compare what is finished; see `pipeline.scheduling.Scheduler.tick`.

        `wait` computes each run to its end before the tick returns: by default without a broker only.
        """
        chosen = self.settings.broker_url is None if wait is None else wait
        return self.schedules.tick(wait=chosen, workers=workers, on_progress=on_progress)

    def drift(self, ref: str, previous: str) -> Drift:
        """How far the evidence moved from an earlier run; see `pipeline.audits.drift`. Raises ObjectMissing."""
        from pipeline.comparing import drift_between

        return drift_between(self.database, self.objects, self.get_run(ref), self.get_run(previous))

    # ---- images

    def find(
        self,
        ref: str = "latest",
        *,
        where: str | None = None,
        sort: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Page:
        """One page of a run's images.

        Args:
            ref: of the run.
            where: for example "predicted != label and border_share > 0.3"; see `attribatch query --help`.
            sort: a column, with '-' in front for descending; empty values come last.
            limit: rows at most.
            after: `next` of the page before.

        Raises:
            UsageError: a word of `where` or `sort` that is no column; the message points at it.
        """
        return queries.find_images(
            self.database, self.get_run(ref).id, where=where, sort=sort, limit=limit, after=after
        )

    def find_image(self, ref: str, image: str) -> ImageRow:
        """One image of a run by its key, the end of it, or its row number. Raises NotFound."""
        return queries.find_image(self.database, self.get_run(ref).id, image)

    def maps(self, rows: Sequence[ImageRow]) -> "NDArray[np.float32]":
        """Stored mean maps of some rows, (n, C, H, W), in their order. Raises ObjectMissing."""
        from pipeline.reading import read_maps

        return read_maps(self.objects, rows)

    def images(self, rows: Sequence[ImageRow]) -> "NDArray[np.float32]":
        """Model-input pixels of some rows of one run, (n, C, H, W) in [0, 1]. Raises UnreadableImage."""
        import numpy as np

        run = self.get_run(rows[0].run_id)
        spec, source = RunSpec.from_json(run.spec), Source.from_json(run.source, self.settings.s3_endpoint_url)
        return np.stack([self._pixels(source, spec, Entry(row.row, row.key, row.version)) for row in rows])

    def show(self, ref: str, image: str) -> bytes:
        """A PNG of one image: overlay, positive part, member spread, F(alpha), and the path from baseline to image.

        Raises:
            NotFound: no such run or image.
            UsageError: the image has no map.
            UnreadableImage: the file is gone or has changed.
        """
        from pipeline.showing import show

        run = self.get_run(ref)
        row = self.find_image(run.id, image)
        if row.state is ImageState.FAILED:
            raise UsageError(f"image {row.key!r} has no map to show: {row.error}")
        return show(self.objects, run, row, self.images([row])[0], self._sample_pixels(run))

    def audit(self, ref: str, *, by: str = "predicted", out: Path | None = None) -> "tuple[Audit, Path]":
        """What the maps of a run say together, and the HTML report of it (`audit.json` lies beside it).

        Args:
            ref: of the run.
            by: classes are the "predicted" ones or those of the "label".
            out: folder of the report; `reports/<run id>` below the home by default.

        Raises:
            UsageError: nothing of the run is done yet.
        """
        from pipeline.reporting import material_of, write_report
        from pipeline.work import pick_device

        if by not in ("predicted", "label"):
            raise UsageError(f"classes by {by!r}: choose predicted or label")
        run = self.get_run(ref)
        rows = list(queries.iter_images(self.database, run.id))
        if not any(row.state is ImageState.DONE for row in rows):
            raise UsageError(f"run {run.id} has no map yet; see `attribatch status {run.id}`")
        device, source = pick_device(self.settings.device), Source.from_json(run.source, self.settings.s3_endpoint_url)
        material = material_of(
            run,
            rows,
            maps=self.maps,
            images=self.images,
            available=lambda row: is_unchanged(source, row.key, row.version),
            device=device,
            allowed_modules=self.settings.allowed_modules,
        )
        folder = out or self.settings.home / "reports" / run.id
        classes: Literal["predicted", "label"] = "label" if by == "label" else "predicted"
        return write_report(material, by=classes, folder=folder), folder / "report.html"

    # ---- how it is done

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

    def _pixels(self, source: Source, spec: RunSpec, entry: Entry) -> "NDArray[np.float32]":
        return submitting.read_pixels(source, spec, entry, self.settings.max_pixels)

    def _sample_pixels(self, run: Run) -> "NDArray[np.float32] | None":
        import numpy as np

        spec, source = RunSpec.from_json(run.spec), Source.from_json(run.source, self.settings.s3_endpoint_url)
        pixels = [self._pixels(source, spec, Entry(-1, key, version)) for key, version, _ in spec.samples]
        return np.stack(pixels) if pixels else None
