"""The error tree of the pipeline. `db.errors` has its root and the errors of storage.

Retryable
└── SourceUnavailable    the folder or bucket of the images cannot be reached: units wait
    └── SourceRefused    the bucket does not exist or refuses access; at submission a DatasetError
Permanent
├── UnreadableImage      one image cannot be decoded: its row fails, the other rows continue
├── ModelBroken          the model raised, or returned the wrong shape: the unit is retried, then fails
├── RecordDamaged        a stored record does not parse, or its fields have wrong types
├── RecordTooNew         a newer version wrote a stored record: the unit is retried, perhaps by a newer worker
└── WorkersBroken        worker processes that fail to start
UsageError
├── DatasetError         a source that does not exist, or a manifest that does not parse
├── PortTaken            another process listens on the port of the page
├── ModelError           a model that cannot be loaded, or does not fit its ensemble or its weights
└── SpecError            a run whose options are invalid or contradict each other
"""

from db.errors import (
    AttribatchError,
    IndexOutdated,
    MapsGone,
    NotFound,
    ObjectMissing,
    Permanent,
    Retryable,
    StoreFull,
    StoreUnavailable,
    UsageError,
    did_you_mean,
)

__all__ = [
    "AttribatchError",
    "DatasetError",
    "IndexOutdated",
    "MapsGone",
    "ModelBroken",
    "ModelError",
    "NotFound",
    "ObjectMissing",
    "Permanent",
    "PortTaken",
    "RecordDamaged",
    "RecordTooNew",
    "Retryable",
    "SourceRefused",
    "SourceUnavailable",
    "SpecError",
    "StoreFull",
    "StoreUnavailable",
    "UnreadableImage",
    "UsageError",
    "WorkersBroken",
    "did_you_mean",
]


class SourceUnavailable(Retryable):
    """The folder or bucket of the images cannot be reached, for example an unmounted disk."""


class SourceRefused(SourceUnavailable):
    """The bucket of the images does not exist or refuses the credentials; waiting does not help."""


class UnreadableImage(Permanent):
    """One image that cannot be decoded safely. The message is the reason stored with its row."""


class ModelBroken(Permanent):
    """A model that loaded, but raised, or did not return a finite (N, classes) tensor."""


class RecordDamaged(Permanent, ValueError):
    """A stored record that does not parse, or whose fields are missing or of the wrong type."""


class RecordTooNew(Permanent):
    """A stored record whose format is newer than this version of attribatch reads."""


class WorkersBroken(Permanent):
    """Worker processes exit with an error several times in a row."""


class DatasetError(UsageError):
    """A source of images that is missing, empty, or does not parse."""


class PortTaken(UsageError):
    """Another process already listens on the port of the page."""


class ModelError(UsageError):
    """A model that cannot be loaded, or does not fit its weights, its ensemble or its input."""


class SpecError(UsageError):
    """A run whose options are invalid or contradict each other."""
