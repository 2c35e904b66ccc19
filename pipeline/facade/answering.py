"""The part of the API that answers: what is stored of runs, and what it says together."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from db import queries
from db.queries import Page
from db.records import Drift, Entry, ImageRow, ImageState
from pipeline import planning
from pipeline.datasets import Source, is_unchanged
from pipeline.errors import ObjectMissing, UsageError
from pipeline.facade.opened import Opened
from pipeline.spec import RunSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.audits import Audit


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
        prefix = planning.tuning_prefix(self.get_run(ref).id)
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

    def stored_audit(self, ref: str, by: str = "predicted") -> dict[str, Any] | None:
        """What the last audit of a run said, see `pipeline.audits.results.Audit.to_dict`; None where there was none."""
        return self._stored_report(ref, f"audit-{by}.json")

    def stored_evaluation(self, ref: str) -> dict[str, Any] | None:
        """How faithful the maps of a run were found to be; None where nobody has looked."""
        return self._stored_report(ref, "evaluation.json")

    def _stored_report(self, ref: str, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self.objects.get(planning.report_key(self.get_run(ref).id, name)))
        except ObjectMissing:
            return None
        return found

    def drift(self, ref: str, previous: str) -> Drift:
        """How far the evidence moved from an earlier run; see `pipeline.audits.drift`. Raises ObjectMissing."""
        from pipeline.comparing import drift_between

        return drift_between(self.database, self.objects, self.get_run(ref), self.get_run(previous))

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
