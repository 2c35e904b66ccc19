"""Reuse of stored attributions, which are identified by the SHA-256 of the image and the key of the spec.

An image of the same source that is unchanged since an earlier run (same key and version) is not read. Other images are
matched by SHA-256 after reading; duplicates are computed once. The new row points to the stored map, in the arrays of
the run that computed it.
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
class Reuse:
    """The images of a unit that need no computation. `unread` and `uncomputed` fill `rows` and `duplicates`."""

    database: Engine
    run: Run
    spec: RunSpec
    unit: Unit
    rows: list[ImageRow] = field(default_factory=list)
    duplicates: list[tuple[Picture, int]] = field(default_factory=list)  # a picture, and the row of an equal one
    _firsts: dict[tuple[str, str | None], int] = field(default_factory=dict)

    def unread(self) -> list[Entry]:
        """Entries that must be read; the others have stored attributions."""
        if not self.spec.reuse:
            return list(self.unit.entries)
        found = attributions_by_version(self.database, self.run, [entry.key for entry in self.unit.entries])
        return [entry for entry in self.unit.entries if not self._take(entry, found.get((entry.key, entry.version)))]

    def uncomputed(self, pictures: Sequence[Picture]) -> list[Picture]:
        """Pictures that must be computed; the others have stored attributions, or equal an earlier picture."""
        if not self.spec.reuse:
            return list(pictures)
        found = attributions_by_digest(self.database, self.run.spec_key, [picture.sha256 for picture in pictures])
        left = [picture for picture in pictures if not self._take(picture.entry, found.get(picture.sha256))]
        return [picture for picture in left if not self._is_duplicate(picture)]

    def after(self, explained: Sequence[ImageResult]) -> list[ImageRow]:
        """The rows of all images that were not computed, once the others are."""
        computed = {one.row.row: one.row for one in explained}
        return self.rows + [self._like(picture, computed[first]) for picture, first in self.duplicates]

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
            return False  # from an earlier attempt at this unit, whose maps are missing or not trusted
        self.rows.append(self._as(entry, row))
        return True

    def _is_duplicate(self, picture: Picture) -> bool:
        target = picture.entry.label if self.spec.target == "label" else None
        first = self._firsts.setdefault((picture.sha256, target), picture.entry.row)
        if first == picture.entry.row:
            return False
        self.duplicates.append((picture, first))
        return True
