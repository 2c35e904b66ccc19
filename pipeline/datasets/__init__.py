"""Sources of images: from a folder, a bucket, a manifest or tar shards to frozen entries, and from bytes to pixels.

`interface` says what a source can do: list its entries, read one, say whether it is unchanged, and whether the whole
source is there. `folder` and `bucket` are where files lie, `manifests` and `shards` other ways to make entries of them;
`sources` picks what somebody named, and `images` decodes. Knows nothing of models, units or storage.
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
