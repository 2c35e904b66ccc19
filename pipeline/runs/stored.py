"""A stored run with readers for everything that is stored of it: rows, maps, images, predictions, reports.

Every part of attribatch that reads a run reads it through `StoredRun`. Rows may point into the map arrays of several
runs; the readers follow them.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from db import pair_queries, queries
from db.encoding import IMAGE_FIELDS
from db.filters import columns_in, compile_where
from db.paging import Page
from db.records import Entry, ImageRow, ImageState, Progress, Run
from pipeline.datasets import Source, is_unchanged, read_image, to_pixels
from pipeline.errors import ObjectMissing, SourceUnavailable, UnreadableImage
from pipeline.record_format import read_record
from pipeline.runs.view import RunView
from pipeline.settings import Settings
from pipeline.spec.run_spec import RunSpec
from pipeline.storage.keys import tuning_prefix
from pipeline.storage.reports import put_report, read_report
from pipeline.storage.stores import Stores

if TYPE_CHECKING:
    import pandas as pd
    import xarray

Floats = NDArray[np.float32]
BATCH = 32  # images that an export holds at a time


class Record(ImageRow):
    """One row of the index, with its map and its pixels. Equals the plain `ImageRow`.

    Example:
        record = p.find("first", sort="-error_estimate", limit=1).rows[0]
        print(record.key, record.predicted, record.error_estimate)
        attribution, pixels = record.map(), record.image()
    """

    __slots__ = ("_stored",)
    _stored: "StoredRun"

    @classmethod
    def of(cls, row: ImageRow, stored: "StoredRun") -> "Record":
        """The record of a row of a stored run."""
        record = cls(*(getattr(row, name) for name in IMAGE_FIELDS))
        object.__setattr__(record, "_stored", stored)
        return record

    def map(self) -> Floats:
        """The stored mean map, (C, H, W) float32.

        Raises:
            UsageError: the image failed.
            ObjectMissing: the map is gone.
        """
        return self._stored.map(self)

    def image(self) -> Floats:
        """The pixels that the model saw, before its normalization, (C, H, W) in [0, 1]. Raises UnreadableImage."""
        return self._stored.image(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageRow) and astuple(self) == astuple(other)

    __hash__ = ImageRow.__hash__


@dataclass(frozen=True, slots=True)
class Found(Page):
    """A page of records, and the cursor of the next page (None on the last)."""

    rows: tuple[Record, ...]


@dataclass(frozen=True)
class StoredRun:
    """One run of the index, its spec and source parsed once, and the readers of its data."""

    run: Run
    stores: Stores
    settings: Settings

    @cached_property
    def spec(self) -> RunSpec:
        """The spec of the run."""
        return RunSpec.from_json(self.run.spec)

    @cached_property
    def source(self) -> Source:
        """The source of its images."""
        return Source.from_json(self.run.source, self.settings.s3_endpoint_url)

    # ---- rows

    def rows(self, state: ImageState | None = None) -> Iterator[ImageRow]:
        """All rows, or those of one state, in the order of the manifest, streamed."""
        return queries.iter_images(self.stores.database, self.run.id, state)

    def progress(self) -> Progress:
        """Counts of units and images."""
        return queries.progress(self.stores.database, self.run.id)

    def find(
        self, *, where: str | None = None, sort: str | None = None, limit: int = 100, after: str | None = None
    ) -> Found:
        """One page of the run's images; see `Pipeline.find`."""
        page = queries.find_images(self.stores.database, self.run.id, where=where, sort=sort, limit=limit, after=after)
        return Found(tuple(Record.of(row, self) for row in page.rows), page.next)

    def find_image(self, image: str) -> Record:
        """One image by its key, the end of its key, or its row number. Raises NotFound."""
        return Record.of(queries.find_image(self.stores.database, self.run.id, image), self)

    def by_keys(self, keys: Sequence[str]) -> list[ImageRow]:
        """The rows with these keys, in their order, without those that have no map."""
        found = pair_queries.done_by_key(self.stores.database, self.run.id, keys)
        return [found[key] for key in keys if key in found]

    def check_filter(self, where: str) -> None:
        """Raise UsageError, pointing into the text, if a filter does not parse."""
        compile_where(where)

    def count_up_to(self, where: str, *, most: int, seconds: float) -> int | None:
        """Number of images that match a filter, at most `most + 1`; None if counting takes over `seconds`."""
        return queries.count_up_to(self.stores.database, self.run.id, where=where, most=most, seconds=seconds)

    def select(self, *, where: str | None = None, sort: str | None = None, limit: int | None = None) -> "Selection":
        """Some images of the run, streamed."""
        return Selection(self, where, sort, limit)

    def frame(self, *, where: str | None = None, sort: str | None = None) -> "pd.DataFrame":
        """The matching rows as a table; see `Pipeline.frame`."""
        from pipeline.storage.lazy import frame_of

        return frame_of(queries.iter_found(self.stores.database, self.run.id, where=where, sort=sort))

    # ---- maps

    def lazy_maps(self, *, where: str | None = None, sort: str | None = None) -> "xarray.Dataset":
        """The maps of the matching rows as one lazy array; see `pipeline.storage.lazy.stack_maps`."""
        from pipeline.storage.lazy import stack_maps

        rows = list(queries.iter_found(self.stores.database, self.run.id, where=where, sort=sort))
        return stack_maps(self.stores.objects, self.run, rows)

    def read_maps(self, rows: Sequence[ImageRow]) -> Floats:
        """Mean maps of some rows, (n, C, H, W), in their order. Raises ObjectMissing, UsageError for a failed image."""
        from pipeline.storage.reader import read_maps

        return read_maps(self.stores.objects, rows)

    def read_spreads(self, rows: Sequence[ImageRow]) -> Floats:
        """Standard deviations over members, (n, C, H, W). Raises ObjectMissing, as for a single member."""
        from pipeline.storage.reader import read_spreads

        return read_spreads(self.stores.objects, rows)

    def map(self, row: ImageRow) -> Floats:
        """The mean map of one row, (C, H, W). Raises ObjectMissing, UsageError for a failed image."""
        one: Floats = self.read_maps([row])[0]
        return one

    def spread(self, row: ImageRow) -> Floats | None:
        """Standard deviation over members, (C, H, W); None for a single member or a failed image.

        Raises:
            ObjectMissing: the map is gone.
        """
        if row.map_run is None or len(self.spec.models) == 1:
            return None
        one: Floats = self.read_spreads([row])[0]
        return one

    def curve(self, row: ImageRow) -> dict[str, list[float]] | None:
        """Alphas, outputs F(alpha) and mean absolute gradients of one row's path; None if nothing is stored."""
        from pipeline.storage.arrays import PATH_POINTS
        from pipeline.storage.reader import MapReader

        if row.map_run is None or row.map_row is None:
            return None
        try:
            outputs, gradients = MapReader(self.stores.objects, row.map_run).path([row.map_row])[0]
        except ObjectMissing:
            return None
        if not np.isfinite(outputs).all():
            return None
        alphas = np.linspace(0, 1, PATH_POINTS)
        return {"alphas": alphas.tolist(), "outputs": outputs.tolist(), "gradients": gradients.tolist()}

    # ---- images

    def pixels(self, entry: Entry) -> Floats:
        """The model's input for one entry of the source, (C, H, W) in [0, 1]. Raises UnreadableImage."""
        return read_pixels(self.source, self.spec, entry, self.settings.max_pixels)

    def image(self, row: ImageRow) -> Floats:
        """The model's input for one row, (C, H, W) in [0, 1]. Raises UnreadableImage, SourceUnavailable."""
        return self.pixels(Entry(row.row, row.key, row.version))

    def read_images(self, rows: Sequence[ImageRow]) -> Floats:
        """The model's inputs for some rows, (n, C, H, W) in [0, 1]. Raises UnreadableImage, SourceUnavailable."""
        return np.stack([self.image(row) for row in rows])

    def samples(self) -> Floats | None:
        """The images that the `samples` baselines are drawn from, (S, C, H, W); None if the run has none."""
        found = [self.pixels(Entry(-1, key, version)) for key, version, _ in self.spec.samples]
        return np.stack(found) if found else None

    def is_available(self, row: ImageRow) -> bool:
        """Whether the file of a row is still the one that was attributed."""
        return is_unchanged(self.source, row.key, row.version)

    # ---- members

    def device(self) -> str:
        """The device on which members run in this process."""
        from pipeline.engine.devices import pick_device

        return pick_device(self.settings.device)

    def predict(self, pixels: Floats) -> Floats:
        """The ensemble's mean probabilities, (n, C, H, W) in [0, 1] -> (n, classes); loads the members on first use."""
        import torch

        from pipeline.attribution.batch import default_batch_size
        from pipeline.attribution.ensemble import predict
        from pipeline.engine.unit import load_members

        device = self.device()
        dtype = torch.float64 if self.spec.precision == "float64" else torch.float32
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(device, dtype)
        members = load_members(self.spec, device, self.settings.allowed_modules)
        found = predict(members, batch, batch_size=default_batch_size(batch))
        return np.asarray(found.float().cpu().numpy(), np.float32)

    def tuning(self) -> dict[str, Any]:
        """Measurements of the run: `nodes`, and the chosen member variants by `precision/<device kind>`."""
        prefix, objects = tuning_prefix(self.run.id), self.stores.objects
        return {
            key.removeprefix(prefix).removesuffix(".json"): read_record(objects.get(key), key)
            for key in objects.list(prefix)
        }

    def knots(self) -> dict[str, Sequence[float]]:
        """Positions of the nodes for each declared baseline; empty for even nodes."""
        found: dict[str, Sequence[float]] = self.tuning().get("nodes", {}).get("knots", {})
        return found

    # ---- reports

    def report(self, name: str) -> dict[str, Any] | None:
        """A stored report, for example `audit-label.json`; None if there is none."""
        return read_report(self.stores.objects, self.run.id, name)

    def put_report(self, name: str, report: dict[str, Any]) -> None:
        """Store a report in place of an earlier one of the same name."""
        put_report(self.stores.objects, self.run.id, name, report)

    def view(self) -> RunView:
        """The run as analyses see it: functions that read, free of SQL and torch."""
        return RunView(
            run=self.run,
            spec=self.spec,
            rows=_Rows(self),
            maps=self.read_maps,
            spreads=self.read_spreads if len(self.spec.models) > 1 else None,
            images=self.read_images,
            predict=self.predict,
            available=self.is_available,
        )


@dataclass(frozen=True)
class _Rows:
    """The rows of a run; each iteration reads the index again."""

    stored: StoredRun

    def __iter__(self) -> Iterator[ImageRow]:
        return self.stored.rows()


@dataclass(frozen=True)
class Selection:
    """Some images of one run, streamed in batches. Each iteration reads the index again."""

    stored: StoredRun
    where: str | None = None
    sort: str | None = None
    limit: int | None = None

    @property
    def run(self) -> Run:
        """The run of the images."""
        return self.stored.run

    @property
    def spec(self) -> RunSpec:
        """The spec of that run."""
        return self.stored.spec

    def rows(self) -> Iterator[ImageRow]:
        """The rows, done and failed."""
        database = self.stored.stores.database
        return queries.iter_found(database, self.run.id, where=self.where, sort=self.sort, limit=self.limit)

    def count(self) -> int:
        """The number of rows."""
        found = queries.count_images(self.stored.stores.database, self.run.id, where=self.where)
        return min(found, self.limit or sys.maxsize)

    def done(self) -> Iterator[ImageRow]:
        """The rows that have a map."""
        return (row for row in self.rows() if row.state is ImageState.DONE)

    def with_maps(self) -> Iterator[tuple[list[ImageRow], Floats]]:
        """Rows that have a map, and their maps (n, C, H, W), `BATCH` at a time."""
        done = self.done()
        while batch := list(islice(done, BATCH)):
            yield batch, self.stored.read_maps(batch)

    def with_images(self) -> Iterator[tuple[ImageRow, Floats, Floats]]:
        """Each row that has a map and whose file is unchanged, with its map and its pixels, both (C, H, W)."""
        for batch, maps in self.with_maps():
            for row, one in zip(batch, maps, strict=True):
                try:
                    pixels = self.stored.image(row)
                except (UnreadableImage, SourceUnavailable):
                    continue
                yield row, one, pixels


def read_pixels(source: Source, spec: RunSpec, entry: Entry, max_pixels: int) -> Floats:
    """One image as the members of a spec see it, (C, H, W) in [0, 1]. Raises UnreadableImage."""
    decoded = read_image(source, entry, max_pixels=max_pixels)
    return to_pixels(decoded.image, spec.preprocess, key=entry.key)


def safe_name(row: ImageRow) -> str:
    """A file name for an image, without suffix: unique in its run, of letters, digits, '.', '_' and '-'."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", row.key.rpartition(".")[0] or row.key)
    return f"{row.row:08}-{stem[-80:].strip('._')}"


def used_columns(where: str | None, sort: str | None) -> list[str]:
    """The columns that a filter and an order name, for example `where="gini > 0.5"` and `sort="-entropy"`.

    Raises:
        UsageError: the filter does not parse.
    """
    return [*columns_in(where or ""), *([sort.lstrip("-")] if sort else [])]
