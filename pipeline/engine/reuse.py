"""What is attributed already is not computed again: an attribution is known by its image's digest and its spec's key.

An image of the same source that did not change since an earlier run (key and version are the same) is not even read.
Any other is known by its sha256 once it is read, wherever it came from; one that stands twice is computed once.
The new row points to the map that is stored, in the arrays of whichever run computed it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from db.queries import attributions_by_digest, attributions_by_version
from db.records import Entry, ImageRow, ImageState, Run, Unit
from db.session import Engine
from pipeline.datasets.decoder import Picture
from pipeline.engine.rows import failed_row
from pipeline.spec.run_spec import RunSpec
from pipeline.storage.sidecar import ImageResult


@dataclass
class Known:
    """What a unit need not compute. `rows` and `twins` are filled as its images are looked at."""

    database: Engine
    run: Run
    spec: RunSpec
    unit: Unit
    rows: list[ImageRow] = field(default_factory=list)
    twins: list[tuple[Picture, int]] = field(default_factory=list)  # a picture, and the row of the one it equals
    _firsts: dict[tuple[str, str | None], int] = field(default_factory=dict)

    def unread(self) -> list[Entry]:
        """Entries that must be read; the others were attributed as they are."""
        if not self.spec.reuse:
            return list(self.unit.entries)
        found = attributions_by_version(self.database, self.run, [entry.key for entry in self.unit.entries])
        return [entry for entry in self.unit.entries if not self._take(entry, found.get((entry.key, entry.version)))]

    def uncomputed(self, pictures: Sequence[Picture]) -> list[Picture]:
        """Pictures that must be computed; the others were attributed under another name, or equal one before them."""
        if not self.spec.reuse:
            return list(pictures)
        found = attributions_by_digest(self.database, self.run.spec_key, [picture.sha256 for picture in pictures])
        left = [picture for picture in pictures if not self._take(picture.entry, found.get(picture.sha256))]
        return [picture for picture in left if not self._is_twin(picture)]

    def after(self, explained: Sequence[ImageResult]) -> list[ImageRow]:
        """The rows of all images that were not computed, once the others are."""
        computed = {one.row.row: one.row for one in explained}
        return self.rows + [self._like(picture, computed[first]) for picture, first in self.twins]

    def _like(self, picture: Picture, row: ImageRow) -> ImageRow:
        if row.state is ImageState.FAILED:
            return failed_row(self.run.id, picture.entry, str(row.error), picture.sha256)
        return self._as(picture.entry, row)

    def _as(self, entry: Entry, row: ImageRow) -> ImageRow:
        return replace(row, run_id=self.run.id, row=entry.row, key=entry.key, version=entry.version, label=entry.label)

    def _take(self, entry: Entry, row: ImageRow | None) -> bool:
        if row is None or (self.spec.target == "label" and row.target != entry.label):
            return False
        if row.map_run == self.run.id and row.map_row in {entry.row for entry in self.unit.entries}:
            return False  # our own, of an attempt whose maps are gone or not trusted any more
        self.rows.append(self._as(entry, row))
        return True

    def _is_twin(self, picture: Picture) -> bool:
        target = picture.entry.label if self.spec.target == "label" else None
        first = self._firsts.setdefault((picture.sha256, target), picture.entry.row)
        if first == picture.entry.row:
            return False
        self.twins.append((picture, first))
        return True
