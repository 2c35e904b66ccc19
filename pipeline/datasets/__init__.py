"""Sources of images: from a folder, a bucket, a manifest or tar shards to frozen entries, and from bytes to pixels.

`base` defines the interface of a source: list its entries, read one, check whether one is unchanged, and whether the
source is available. `folder` and `bucket` store files; `manifest` and `shards` make entries from them. `sources` opens
the source that the user names, `images` decodes, `decoder` does so in a pool, and `sampling` draws samples.
"""

from pipeline.datasets.base import MISSING, SUFFIXES
from pipeline.datasets.images import FORMATS, Decoded, read_image, to_pixels
from pipeline.datasets.sources import Source, check_there, is_unchanged, list_entries, open_source

__all__ = [
    "FORMATS",
    "MISSING",
    "SUFFIXES",
    "Decoded",
    "Source",
    "check_there",
    "is_unchanged",
    "list_entries",
    "open_source",
    "read_image",
    "to_pixels",
]
