"""The part of the API that answers: what is stored of runs, and what it says together."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from db import queries
from db.records import Drift, Entry, ImageRow, ImageState, Run
from pipeline.datasets import Source, is_unchanged
from pipeline.errors import ObjectMissing, UsageError
from pipeline.facade.found import Found, Record
from pipeline.facade.opened import Opened
from pipeline.spec.run_spec import RunSpec
from pipeline.storage.keys import report_key, tuning_prefix

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import xarray
    from numpy.typing import NDArray

    from pipeline.analysis.audit import Audit
    from pipeline.analysis.comparison import Comparison
    from pipeline.outputs.export import Exported

PAIRS = 24  # images that a stored comparison lists at least: what the page shows


class Answering(Opened):
    """What finds, reads, draws, compares and audits."""

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
        prefix = tuning_prefix(self.get_run(ref).id)
        return {
            key.removeprefix(prefix).removesuffix(".json"): json.loads(self.objects.get(key))
            for key in self.objects.list(prefix)
        }

    def find(
        self,
        ref: str = "latest",
        *,
        where: str | None = None,
        sort: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Found:
        """One page of a run's images, as records that know their `map()` and `image()`.

        Args:
            ref: of the run.
            where: for example "predicted != label and border_share > 0.3"; see `attribatch query --help`.
            sort: a column, with '-' in front for descending; empty values come last.
            limit: rows at most.
            after: `next` of the page before.

        Raises:
            UsageError: a word of `where` or `sort` that is no column; the message points at it.

        Example:
            for record in p.find("first", where="mispredicted", sort="-probability", limit=5).rows:
                print(record.key, record.label, record.predicted, abs(record.map()).max())
        """
        found = queries.find_images(
            self.database, self.get_run(ref).id, where=where, sort=sort, limit=limit, after=after
        )
        return Found(tuple(self._record(row) for row in found.rows), found.next)

    def find_image(self, ref: str, image: str) -> Record:
        """One image of a run by its key, the end of it, or its row number. Raises NotFound.

        Example:
            record = p.find_image("first", "cat/0.png")
            print(record.image().shape, record.map().shape)
        """
        return self._record(queries.find_image(self.database, self.get_run(ref).id, image))

    def frame(self, ref: str = "latest", *, where: str | None = None, sort: str | None = None) -> "pd.DataFrame":
        """All images of a run that fit a filter, a row each, with every column in its type.

        Args:
            ref: of the run.
            where: as for `find`.
            sort: as for `find`.

        Raises:
            UsageError: as `find`.

        Example:
            table = p.frame("first", where="not failed")
            print(table.groupby("predicted").border_share.mean())
        """
        from pipeline.storage.framing import frame_of

        return frame_of(queries.iter_found(self.database, self.get_run(ref).id, where=where, sort=sort))

    def maps(self, ref: str = "latest", *, where: str | None = None, sort: str | None = None) -> "xarray.Dataset":
        """The maps of a run as one lazy array, aligned with its rows; see `pipeline.storage.lazy.stack_maps`.

        Nothing is read before values are asked for, and then only the chosen rows are. `attribution` is
        (row, channel, y, x) float32, NaN where the image failed; ensembles also have `std`. With dask installed,
        `.chunk(row=...)` with the run's unit size makes each task read one shard.

        Args:
            ref: of the run.
            where: as for `find`.
            sort: as for `find`.

        Raises:
            UsageError: as `find`.
            ObjectMissing: values are asked for of a map that is gone.

        Example:
            maps = p.maps("first")
            cats = maps.attribution[(maps.predicted == "cat").values]
            print(cats.sizes, float(abs(cats).mean()))
        """
        from pipeline.storage.lazy import stack_maps

        run = self.get_run(ref)
        return stack_maps(self.objects, run, list(queries.iter_found(self.database, run.id, where=where, sort=sort)))

    def read_maps(self, rows: Sequence[ImageRow]) -> "NDArray[np.float32]":
        """Stored mean maps of some rows, (n, C, H, W), in their order. Raises ObjectMissing."""
        from pipeline.storage.reader import read_maps

        return read_maps(self.objects, rows)

    def read_images(self, rows: Sequence[ImageRow]) -> "NDArray[np.float32]":
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
        from pipeline.outputs.figure import show

        run = self.get_run(ref)
        row = self.find_image(run.id, image)
        if row.state is ImageState.FAILED:
            raise UsageError(f"image {row.key!r} has no map to show: {row.error}")
        return show(self.objects, run, row, row.image(), self._sample_pixels(run))

    def evaluation(self, ref: str = "latest") -> dict[str, Any] | None:
        """What `evaluate` found of a run last, as plain values; None where it was never asked."""
        return self._stored_report(ref, "evaluation.json")

    def drift(self, ref: str, previous: str) -> Drift:
        """How far the evidence moved from an earlier run; see `pipeline.analysis.drift`. Raises ObjectMissing."""
        from pipeline.analysis.comparing import drift_between

        return drift_between(self.database, self.objects, self.get_run(ref), self.get_run(previous))

    def compare(self, a: str, b: str, *, by: str = "predicted", limit: int = 20) -> "Comparison":
        """What differs between two runs, and how far the maps of the images that both have moved.

        Where both runs are over it is also stored, for the web page, as `runs/<A>/reports/compare-<B>-<by>.json`, with
        the images that each had done, `done_a` and `done_b`, and at least `PAIRS` of those that moved most.

        Args:
            a: the run that is compared with.
            b: the other one.
            by: classes are the ones that A has "predicted", or those of its "label".
            limit: images to list, those that moved most.

        Raises:
            UsageError: the runs have no image in common, or maps of another height and width.
            ObjectMissing: a map that the index names is gone.
        """
        from pipeline.analysis.comparing import compare

        classes, one, other = _by(by), self.get_run(a), self.get_run(b)
        before = self.status(one.id), self.status(other.id)
        found = compare(self.database, self.objects, one, other, by=classes, limit=max(limit, PAIRS))
        if all(each.over for each in before) and self._done(one, other) == tuple(each.images_done for each in before):
            data = found.to_dict() | {"done_a": before[0].images_done, "done_b": before[1].images_done}
            self.objects.put(report_key(one.id, f"compare-{other.id}-{by}.json"), json.dumps(data).encode())
        return replace(found, changed=found.changed[:limit])

    def stored_comparison(self, a: str, b: str, by: str = "predicted") -> dict[str, Any] | None:
        """What `compare` found of two runs last, the keys of `Comparison.to_dict`, `done_a` and `done_b`.

        None where it was never asked, or where one of the runs has more or fewer images done by now.
        """
        one, other = self.get_run(a), self.get_run(b)
        found = self._stored_report(one.id, f"compare-{other.id}-{_by(by)}.json")
        if found is None or (found.get("done_a"), found.get("done_b")) != self._done(one, other):
            return None
        return found

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
            ref: of the run.
            format: "parquet", "npz", "png", "virelay" or "fiftyone".
            out: file or folder to make.
            where: as for `find`.
            sort: as for `find`.
            limit: most images; all by default.
            overwrite: replace an earlier export; nothing else is ever replaced.

        Raises:
            UsageError: as `find`; a package is missing; the target is not to be replaced or cannot be written.
            ObjectMissing: a map that the index names is gone.

        Example:
            done = p.export("first", format="npz", out="first.npz", where="probability > 0.1")
            print(done.images, done.path)
        """
        from pipeline.outputs.export import Material, export

        run = self.get_run(ref)
        spec, source = RunSpec.from_json(run.spec), Source.from_json(run.source, self.settings.s3_endpoint_url)
        material = Material(
            run=run,
            spec=spec,
            rows=lambda: queries.iter_found(self.database, run.id, where=where, sort=sort, limit=limit),
            count=lambda: min(queries.count_images(self.database, run.id, where=where), limit or sys.maxsize),
            read_maps=self.read_maps,
            read_image=lambda row: self._pixels(source, spec, Entry(row.row, row.key, row.version)),
        )
        return export(material, format_name=format, path=Path(out), overwrite=overwrite)

    def audit(
        self,
        ref: str,
        *,
        by: str = "predicted",
        out: Path | None = None,
        on_progress: Callable[[str, int, int], None] = lambda *_: None,
    ) -> "tuple[Audit, Path]":
        """What the maps of a run say together, and the HTML report of it (`audit.json` and `audit.npz` beside it).

        All three are stored as objects too; see `stored_audit`. Memory does not grow with the number of images.

        Args:
            ref: of the run.
            by: classes are the "predicted" ones or those of the "label".
            out: folder of the report; `reports/<run id>` below the home by default.
            on_progress: told of "maps" that were read and of "places" that were tested: how many, of how many.

        Raises:
            UsageError: nothing of the run is done yet, or the folder cannot be written.
        """
        from pipeline.engine.worker import pick_device
        from pipeline.outputs.report import material_of, write_report

        classes, run = _by(by), self.get_run(ref)
        if next(queries.iter_images(self.database, run.id, ImageState.DONE), None) is None:
            raise UsageError(f"run {run.id} has no map yet; see `attribatch status {run.id}`")
        source = Source.from_json(run.source, self.settings.s3_endpoint_url)
        material = material_of(
            run,
            self.database,
            self.objects,
            images=self.read_images,
            available=lambda row: is_unchanged(source, row.key, row.version),
            device=pick_device(self.settings.device),
            allowed_modules=self.settings.allowed_modules,
        )
        folder = out or self.settings.home / "reports" / run.id
        found = write_report(material, self.objects, by=classes, folder=folder, on_progress=on_progress)
        return found, folder / "report.html"

    def stored_audit(self, ref: str, by: str = "predicted") -> dict[str, Any] | None:
        """What the last audit of a run said, the keys of `Audit.to_dict`; None where there was none.

        The report and the maps of the classes are the objects `planning.report_key(run_id, "audit-<by>.html")`
        and `.npz`.
        """
        return self._stored_report(ref, f"audit-{_by(by)}.json")

    def _done(self, *runs: Run) -> tuple[int, ...]:
        return tuple(self.status(run.id).images_done for run in runs)

    def _stored_report(self, ref: str, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self.objects.get(report_key(self.get_run(ref).id, name)))
        except ObjectMissing:
            return None
        return found

    def _record(self, row: ImageRow) -> Record:
        return Record.of(row, read_maps=self.read_maps, read_images=self.read_images)


def _by(text: str) -> Literal["predicted", "label"]:
    if text not in ("predicted", "label"):
        raise UsageError(f"classes by {text!r}: choose predicted or label")
    return "label" if text == "label" else "predicted"
