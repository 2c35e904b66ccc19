"""What `find` returns: rows of the index that know the way to their map and their pixels."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from db.encoding import IMAGE_FIELDS
from db.paging import Page
from db.records import ImageRow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Read = Callable[[Sequence[ImageRow]], "NDArray[np.float32]"]


class Record(ImageRow):
    """What the index knows of one image, under the names of `db.records.ImageRow`, and its arrays.

    Equals the plain row.

    Example:
        record = p.find("first", sort="-error_estimate", limit=1).rows[0]
        print(record.key, record.predicted, record.error_estimate)
        attribution, pixels = record.map(), record.image()
    """

    __slots__ = ("_read_images", "_read_maps")
    _read_maps: "Read"
    _read_images: "Read"

    @classmethod
    def of(cls, row: ImageRow, *, read_maps: "Read", read_images: "Read") -> "Record":
        """A row with the functions that read for it."""
        record = cls(*(getattr(row, name) for name in IMAGE_FIELDS))
        object.__setattr__(record, "_read_maps", read_maps)
        object.__setattr__(record, "_read_images", read_images)
        return record

    def map(self) -> "NDArray[np.float32]":
        """The stored mean map, (C, H, W).

        Raises:
            UsageError: the image failed.
            ObjectMissing: the map is gone.
        """
        found: NDArray[np.float32] = self._read_maps([self])[0]
        return found

    def image(self) -> "NDArray[np.float32]":
        """The pixels that the model saw, before its normalisation, (C, H, W) in [0, 1]. Raises UnreadableImage."""
        found: NDArray[np.float32] = self._read_images([self])[0]
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageRow) and astuple(self) == astuple(other)

    __hash__ = ImageRow.__hash__


@dataclass(frozen=True, slots=True)
class Found(Page):
    """A page of records, and the cursor that continues it (None: that was all)."""

    rows: tuple[Record, ...]
