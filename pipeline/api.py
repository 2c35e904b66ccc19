"""The Python API: `Pipeline` submits, computes, reads, compares and audits runs.

The command line and the web page call it and nothing below it.

Example:
    from attribatch import ModelRequest, Pipeline, RunRequest

    with Pipeline.open() as p:
        run = p.submit(RunRequest("./images", models=(ModelRequest("torchvision:resnet50@DEFAULT"),)))
        p.work(run)
        for row in p.find(run.id, where="mispredicted", sort="-member_disagreement").rows:
            print(row.key, row.predicted, row.error_estimate)
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from db import queries
from db.ledger import Ledger
from db.objects import Objects
from db.overviews import overview, overviews
from db.records import Drift, ImageRow, ImageState, Progress, Run, RunOverview
from db.session import Engine, Index, inspect_schema, migrate, open_engine
from pipeline.errors import UsageError
from pipeline.runs import submit
from pipeline.runs.stored import Found, Record, StoredRun
from pipeline.settings import Settings
from pipeline.spec.request import ModelRequest, RunRequest
from pipeline.storage.stores import Stores

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import xarray
    from numpy.typing import NDArray

    from pipeline.analysis.audit import Audit
    from pipeline.analysis.comparison import Comparison
    from pipeline.analysis.evaluation import Evaluation
    from pipeline.models.training.ensemble_manifest import Ensemble, TrainingRequest
    from pipeline.outputs.export import Exported
    from pipeline.runs.cleanup import Collected
    from pipeline.runs.estimate import Cost
    from pipeline.runs.repair import Repaired
    from pipeline.schedules.scheduler import Scheduler, TickReport

__all__ = ["Found", "ModelRequest", "Pipeline", "Record", "RunRequest", "StoredRun"]

PAIRS = 24  # minimum number of images in a stored comparison, as many as the page shows
By = Literal["predicted", "label"]
OnProgress = Callable[[Progress], None]


def _silent(*_: object) -> None:
    """Ignore progress."""


class Pipeline:
    """One index and one object store, opened. A context manager.

    `ref` is always a run's id, a prefix of it, its name, or `latest`; `NotFound` is raised if no run has it.

    Args:
        settings: where the stores are; `Pipeline.open` reads them from the environment.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stores = Stores.open(settings)
        self.database: Engine = self.stores.database
        self.objects: Objects = self.stores.objects
        self.ledger: Ledger = self.stores.ledger

    @classmethod
    def open(cls, home: str | Path | None = None) -> Self:
        """The pipeline that the environment names; `home` replaces ATTRIBATCH_HOME.

        Raises:
            IndexOutdated: a newer version wrote the index, or a server's schema must be migrated first.
            StoreUnavailable: the database does not answer.
        """
        return cls(Settings.from_env(None if home is None else {**os.environ, "ATTRIBATCH_HOME": str(home)}))

    @staticmethod
    def migrate() -> Index:
        """Bring the schema of the index that the environment names up to date. Safe to repeat, also concurrently.

        Raises:
            IndexOutdated: a newer version wrote the index.
            StoreUnavailable: the database does not answer.
        """
        database = open_engine(Settings.from_env().database_url)
        try:
            migrate(database)
            return inspect_schema(database)
        finally:
            database.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the database."""
        self.stores.close()

    @property
    def index(self) -> Index:
        """The database: its address, its schema's revision, its clock."""
        return inspect_schema(self.database)

    # ---- submit and compute

    def submit(self, request: RunRequest) -> Run:
        """Store a run: its manifest and metadata as objects, its units in SQL. An equal request is the same run.

        Raises:
            UsageError: the source, the models or the spec are wrong; nothing is stored then.
        """
        with submit.planned(request, self.settings) as (run, spec, manifest):
            return submit.store(self.ledger, self.objects, run, spec, manifest)

    def check(self, request: RunRequest) -> None:
        """Load the models and list the images of a request, and store nothing. Raises UsageError as `submit`."""
        with submit.planned(request, self.settings):
            pass

    def estimate(self, request: RunRequest) -> "Cost":
        """Measure the cost of a run on a few of its images; nothing is stored. Raises UsageError as `submit`."""
        from pipeline.runs.estimate import measure_cost

        with submit.planned(request, self.settings) as (run, _, manifest):
            return measure_cost(StoredRun(run, self.stores, self.settings), manifest.entries())

    def work(self, run: Run, *, workers: int = 1, on_progress: OnProgress = _silent) -> Progress:
        """Compute a run with worker processes on this machine, until none of its units waits.

        An interrupt gives the units in flight back; another call resumes.

        Args:
            run: from `submit` or `get_run`.
            workers: number of processes; on a CPU they share the cores.
            on_progress: receives the counts a few times a second.
        """
        from pipeline.runs.compute import compute_locally

        return compute_locally(self.open_run(run.id), workers, on_progress)

    def compute(self, run: Run, *, workers: int = 1, on_progress: OnProgress = _silent) -> Progress:
        """`follow` if a broker is configured, else `work` on this machine."""
        if self.settings.broker_url is not None:
            return self.follow(run, on_progress=on_progress)
        return self.work(run, workers=workers, on_progress=on_progress)

    def follow(self, run: Run, *, on_progress: OnProgress = _silent) -> Progress:
        """Wait until Celery workers have finished a run; units without a message are sent repeatedly."""
        from pipeline.runs.compute import follow

        return follow(self.open_run(run.id), self.check_broker(), on_progress)

    def wake(self) -> None:
        """Send a message for each waiting unit. Does nothing without a broker; if it is away, workers look in SQL."""
        from pipeline.engine.broker import Waker

        if self.settings.broker_url is not None:
            Waker(self.ledger, self.settings.broker_url)()

    def check_broker(self) -> str:
        """The broker's URL. Raises UsageError if none is configured."""
        if self.settings.broker_url is None:
            raise UsageError("ATTRIBATCH_BROKER_URL is not set: without a broker no worker would compute the run")
        return self.settings.broker_url

    # ---- runs

    def runs(self, *, limit: int = 100, offset: int = 0) -> list[Run]:
        """One page of runs with their specs, the latest submission first.

        Args:
            limit: maximum number of runs.
            offset: number of later submissions to skip, 0 to `count_runs()`.
        """
        return queries.list_runs(self.database, limit=limit, offset=offset)

    def count_runs(self) -> int:
        """The number of runs."""
        return queries.count_runs(self.database)

    def overviews(
        self, *, limit: int = 100, offset: int = 0, known: Mapping[str, RunOverview] | None = None
    ) -> list[RunOverview]:
        """One page of runs with their counts and speed, without specs, the latest submission first.

        Args:
            limit: maximum number of runs.
            offset: number of later submissions to skip.
            known: earlier overviews by id; the units of runs that were over and have none waiting are not counted.
        """
        return overviews(self.database, limit=limit, offset=offset, known=known)

    def waiting(self) -> list[Run]:
        """Unfinished runs, the most urgent first."""
        return queries.waiting_runs(self.database)

    def get_run(self, ref: str) -> Run:
        """A run by its reference. Raises NotFound."""
        return queries.get_run(self.database, ref)

    def open_run(self, ref: str) -> StoredRun:
        """A run with the readers of everything that is stored of it. Raises NotFound."""
        return StoredRun(self.get_run(ref), self.stores, self.settings)

    def status(self, ref: str) -> Progress:
        """Counts of a run's units and images."""
        return self.open_run(ref).progress()

    def overview(self, run_id: str) -> RunOverview:
        """Counts of the run with this id, its images per second, and the seconds that it took. Raises NotFound."""
        return overview(self.database, run_id)

    def has_labels(self, ref: str) -> bool:
        """Whether any image of a run has a label; `mispredicted` matches no image without one."""
        return queries.has_labels(self.database, self.get_run(ref).id)

    def reused(self, ref: str) -> int:
        """Number of images of a run whose map was computed earlier, or for an equal image."""
        return queries.count_reused(self.database, self.get_run(ref).id)

    def tuning(self, ref: str) -> dict[str, Any]:
        """Measurements of a run: `nodes`, and `precision/<device kind>`. Empty before the first unit."""
        return self.open_run(ref).tuning()

    def cancel(self, ref: str) -> int:
        """Stop a run; submitting it again resumes it. Returns the number of units cancelled."""
        return self.ledger.cancel(self.get_run(ref).id)

    def retry(self, ref: str) -> int:
        """Queue failed units of a run again, and units with failed images. Returns the number of units."""
        from pipeline.runs.repair import forget_failed

        run = self.get_run(ref)
        return self.ledger.retry(run.id) + forget_failed(self.database, self.ledger, self.objects, run)

    def repair(self) -> "Repaired":
        """Rebuild the index from object storage, and queue units again whose objects are missing or damaged."""
        from pipeline.runs.repair import repair
        from pipeline.schedules.records import restore_schedules

        schedules = restore_schedules(self.database, self.objects)
        found = repair(self.database, self.ledger, self.objects)
        return replace(
            found,
            schedules_restored=schedules.schedules,
            damaged=found.damaged + schedules.damaged,
            newer=found.newer + schedules.newer,
        )

    def removable(self, ref: str) -> str:
        """The id of the run that `remove` would delete. Raises NotFound."""
        from pipeline.runs.cleanup import find_run

        return find_run(self.database, self.objects, ref)[0]

    def remove(self, ref: str) -> int:
        """Delete a run, its rows and its objects; see `pipeline.runs.cleanup.remove`. Returns the objects deleted."""
        from pipeline.runs.cleanup import remove

        return remove(self.database, self.ledger, self.objects, ref)

    def gc(self, *, dry_run: bool = False) -> "Collected":
        """Delete stored objects that no run needs; see `pipeline.runs.cleanup.collect`."""
        from pipeline.runs.cleanup import collect

        return collect(self.database, self.objects, dry_run=dry_run)

    # ---- images and maps

    def find(
        self,
        ref: str = "latest",
        *,
        where: str | None = None,
        sort: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Found:
        """One page of a run's images, as records with `map()` and `image()`.

        Args:
            ref: id, prefix of an id, name, or `latest`.
            where: a filter such as "predicted != label and border_share > 0.3"; see `attribatch query --help`.
            sort: a column, with '-' in front for descending; rows without a value come last.
            limit: maximum number of rows.
            after: `next` of the page before.

        Returns:
            The page and the cursor of the next one.

        Raises:
            UsageError: `where` or `sort` names an unknown column; the message points at it.

        Example:
            for record in p.find("first", where="mispredicted", sort="-probability", limit=5).rows:
                print(record.key, record.label, record.predicted, abs(record.map()).max())
        """
        return self.open_run(ref).find(where=where, sort=sort, limit=limit, after=after)

    def find_image(self, ref: str, image: str) -> Record:
        """One image of a run by its key, the end of its key, or its row number. Raises NotFound.

        Example:
            record = p.find_image("first", "cat/0.png")
            print(record.image().shape, record.map().shape)
        """
        return self.open_run(ref).find_image(image)

    def frame(self, ref: str = "latest", *, where: str | None = None, sort: str | None = None) -> "pd.DataFrame":
        """The matching images of a run as a table with every column in its type. Filters as `find`.

        Example:
            table = p.frame("first", where="not failed")
            print(table.groupby("predicted").border_share.mean())
        """
        return self.open_run(ref).frame(where=where, sort=sort)

    def maps(self, ref: str = "latest", *, where: str | None = None, sort: str | None = None) -> "xarray.Dataset":
        """The maps of a run as one lazy array, aligned with its rows. Filters as `find`.

        `attribution` is (row, channel, y, x) float32, NaN if the image failed; ensembles also have `std`. Values are
        read when they are used, and only those of the chosen rows. With dask installed, `.chunk(row=...)` with the
        run's unit size makes each task read one shard.

        Raises:
            ObjectMissing: on reading values of a map that is gone.

        Example:
            maps = p.maps("first")
            cats = maps.attribution[(maps.predicted == "cat").values]
            print(cats.sizes, float(abs(cats).mean()))
        """
        return self.open_run(ref).lazy_maps(where=where, sort=sort)

    def read_maps(self, rows: Sequence[ImageRow]) -> "NDArray[np.float32]":
        """Stored mean maps of some rows of one run, (n, C, H, W), in their order. Raises ObjectMissing."""
        return self.open_run(rows[0].run_id).read_maps(rows)

    def read_images(self, rows: Sequence[ImageRow]) -> "NDArray[np.float32]":
        """Model-input pixels of some rows of one run, (n, C, H, W) in [0, 1]. Raises UnreadableImage."""
        return self.open_run(rows[0].run_id).read_images(rows)

    def show(self, ref: str, image: str) -> bytes:
        """A PNG of one image: overlay, positive part, member spread, F(alpha), and the path from baseline to image.

        Raises:
            NotFound: no such run or image.
            UsageError: the image has no map.
            UnreadableImage: the file is gone or has changed.
        """
        from pipeline.outputs.figure import show

        stored = self.open_run(ref)
        row = stored.find_image(image)
        if row.state is ImageState.FAILED:
            raise UsageError(f"image {row.key!r} has no map to show: {row.error}")
        return show(stored, row)

    def export(
        self,
        ref: str = "latest",
        *,
        format: str,  # noqa: A002 - callers write format=, the name of the command's option
        out: str | Path,
        where: str | None = None,
        sort: str | None = None,
        limit: int | None = None,
        overwrite: bool = False,
    ) -> "Exported":
        """Write results for another tool; see `pipeline.outputs.export`.

        Args:
            ref: id, prefix of an id, name, or `latest`.
            format: "parquet", "npz", "png", "virelay" or "fiftyone".
            out: file or folder to make.
            where: a filter, as for `find`.
            sort: a column, as for `find`.
            limit: maximum number of images; None exports all.
            overwrite: replace an earlier export; nothing else is ever replaced.

        Returns:
            The path and the number of images written and skipped.

        Raises:
            UsageError: as `find`; a package is missing; the target cannot be replaced or written.
            ObjectMissing: a map that the index names is gone.

        Example:
            done = p.export("first", format="npz", out="first.npz", where="probability > 0.1")
            print(done.images, done.path)
        """
        from pipeline.outputs.export import export

        selection = self.open_run(ref).select(where=where, sort=sort, limit=limit)
        return export(selection, format_name=format, path=Path(out), overwrite=overwrite)

    # ---- analyses

    def audit(
        self,
        ref: str,
        *,
        by: str = "predicted",
        out: Path | None = None,
        on_progress: Callable[[str, int, int], None] = _silent,
    ) -> "tuple[Audit, Path]":
        """Audit all maps of a run, and write an HTML report with `audit.json` and `audit.npz` in the same folder.

        All three are also stored as objects; see `stored_audit`. Memory does not grow with the number of images.

        Args:
            ref: id, prefix of an id, name, or `latest`.
            by: group by the "predicted" class or by the "label".
            out: folder of the report; `reports/<run id>` below the home by default.
            on_progress: receives a stage ("maps" or "places"), the number done, and the total.

        Returns:
            The audit and the path of its report.

        Raises:
            UsageError: no image of the run is done yet, or the folder cannot be written.
        """
        from pipeline.outputs.report import write_report

        stored, classes = self.open_run(ref), _by(by)
        if next(stored.rows(ImageState.DONE), None) is None:
            raise UsageError(f"run {stored.run.id} has no map yet; see `attribatch status {stored.run.id}`")
        folder = out or self.settings.home / "reports" / stored.run.id
        found = write_report(stored.view(), self.objects, by=classes, folder=folder, on_progress=on_progress)
        return found, folder / "report.html"

    def stored_audit(self, ref: str, by: str = "predicted") -> dict[str, Any] | None:
        """The last audit of a run, with the keys of `Audit.to_dict`; None if there is none."""
        return self.open_run(ref).report(f"audit-{_by(by)}.json")

    def evaluate(
        self,
        ref: str = "latest",
        *,
        images: int = 32,
        seed: int = 0,
        metrics: Sequence[str] = (),
        say: Callable[[str], None] = _silent,
    ) -> "Evaluation":
        """Test on a random sample whether the maps of a run are true. The result is stored; see `evaluation`.

        Args:
            ref: id, prefix of an id, name, or `latest`.
            images: maximum size of the sample.
            seed: of the sample and of all random draws.
            metrics: names out of `reproduction`, `deletion`, `insertion`, `road`, `randomisation`, `sensitivity`,
                `infidelity`, `baselines` and `agreement`; all by default.
            say: callback that receives a line before each measurement.

        Returns:
            Every figure with its 95 % interval.

        Raises:
            UsageError: an unknown metric, no map yet, or no image that can still be read.
        """
        from pipeline.analysis.evaluation import EvaluationRequest, evaluate

        stored = self.open_run(ref)
        found = evaluate(stored, EvaluationRequest(images, seed, metrics), on_progress=say)
        stored.put_report("evaluation.json", found.to_dict())
        return found

    def evaluation(self, ref: str = "latest") -> dict[str, Any] | None:
        """The last result of `evaluate` of a run as plain values; None if there is none."""
        return self.open_run(ref).report("evaluation.json")

    def drift(self, ref: str, previous: str) -> Drift:
        """Distance of a run's evidence from an earlier run's; see `pipeline.analysis.drift`. Raises ObjectMissing."""
        from pipeline.analysis.drift import drift_between

        return drift_between(self.database, self.objects, self.get_run(ref), self.get_run(previous))

    def compare(self, a: str, b: str, *, by: str = "predicted", limit: int = 20) -> "Comparison":
        """Differences of two runs, and the distances between the maps of their shared images.

        If both runs are over, the result is stored with at least `PAIRS` of the images that moved most.

        Args:
            a: the reference run.
            b: the other run.
            by: group by A's "predicted" class or by its "label".
            limit: maximum number of images to list, those that moved most.

        Returns:
            Differences of the specs, distributions of distances, and the images that moved most.

        Raises:
            UsageError: the runs share no image, or their maps differ in height or width.
            ObjectMissing: a map that the index names is gone.
        """
        from pipeline.analysis.comparison import compare

        classes, one, other = _by(by), self.open_run(a), self.open_run(b)
        before = one.progress(), other.progress()
        found = compare(self.database, self.objects, one.run, other.run, by=classes, limit=max(limit, PAIRS))
        done = one.progress().images_done, other.progress().images_done
        if all(each.over for each in before) and done == tuple(each.images_done for each in before):
            counts = {"done_a": done[0], "done_b": done[1]}
            one.put_report(f"compare-{other.run.id}-{by}.json", found.to_dict() | counts)
        return replace(found, changed=found.changed[:limit])

    def stored_comparison(self, a: str, b: str, by: str = "predicted") -> dict[str, Any] | None:
        """The last result of `compare`: the keys of `Comparison.to_dict`, `done_a` and `done_b`.

        None if there is none, or if the number of finished images of either run has changed since.
        """
        one, other = self.open_run(a), self.open_run(b)
        found = one.report(f"compare-{other.run.id}-{_by(by)}.json")
        done = one.progress().images_done, other.progress().images_done
        return found if found is not None and (found.get("done_a"), found.get("done_b")) == done else None

    # ---- ensembles and schedules

    def train_ensemble(
        self,
        request: "TrainingRequest",
        *,
        device: str | None = None,
        threads: int = 4,
        say: Callable[[str], None] = _silent,
    ) -> "Ensemble":
        """Train an ensemble by bagging; an interrupted training resumes. Raises UsageError."""
        from pipeline.engine.devices import pick_device
        from pipeline.models.training.bagging import train_ensemble

        return train_ensemble(
            request,
            device=pick_device(device or self.settings.device),
            max_pixels=self.settings.max_pixels,
            threads=threads,
            s3_endpoint_url=self.settings.s3_endpoint_url,
            allowed_modules=self.settings.allowed_modules,
            on_message=say,
        )

    @property
    def schedules(self) -> "Scheduler":
        """Requests that are submitted repeatedly: add, listed, pause, resume, remove, history, run_now."""
        from pipeline.schedules.scheduler import Scheduler

        return Scheduler(self.database, self.objects, self, lease_seconds=self.settings.lease_seconds)

    def tick(self, *, wait: bool | None = None, workers: int = 1, on_progress: OnProgress = _silent) -> "TickReport":
        """Submit the schedules that are due, and compare finished runs; see `Scheduler.tick`.

        `wait` computes each run before the tick returns; by default only without a broker.
        """
        chosen = self.settings.broker_url is None if wait is None else wait
        return self.schedules.tick(wait=chosen, workers=workers, on_progress=on_progress)


def _by(text: str) -> By:
    if text not in ("predicted", "label"):
        raise UsageError(f"cannot group by {text!r}: choose predicted or label")
    return "label" if text == "label" else "predicted"
