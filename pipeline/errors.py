"""The error tree of the pipeline: `db.errors` holds its root and what storage raises, this file the rest.

Retryable
└── SourceUnavailable    the folder or the bucket of the images is away: its units wait
    └── SourceRefused    there is no such bucket, or it refuses us; a DatasetError where somebody asks for a run
Permanent
├── UnreadableImage      one image cannot be decoded: its row is failed, its neighbours go on
├── ModelBroken          the model raised, or returned the wrong shape: the unit is tried again, then failed
├── RecordTooNew         a newer version wrote a stored record: the unit is tried again, maybe by a newer worker
└── WorkersBroken        worker processes that cannot even start
UsageError
├── DatasetError         a source that is not there, or a manifest that does not parse
├── PortTaken            another process listens where the page should be served
├── ModelError           a model that cannot be loaded, or does not fit its ensemble or its weights
└── SpecError            a run that asks for something impossible
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
    """The place where the images are is away, as an unmounted disk: no fault of any image."""


class SourceRefused(SourceUnavailable):
    """The bucket of the images does not exist or refuses the credentials: somebody must change that."""


class UnreadableImage(Permanent):
    """One image that cannot be decoded safely. The message is the reason stored with its row."""


class ModelBroken(Permanent):
    """A model that loaded, but raised or returned something that is no finite (N, classes) tensor."""


class RecordTooNew(Permanent):
    """A stored record whose format is newer than this version of attribatch reads."""


class WorkersBroken(Permanent):
    """Worker processes end by an error of their own, again and again."""


class DatasetError(UsageError):
    """A source of images that is missing, empty, or does not parse."""


class PortTaken(UsageError):
    """The page cannot listen there."""


class ModelError(UsageError):
    """A model that cannot be loaded, or does not fit its weights, its ensemble or its input."""


class SpecError(UsageError):
    """A run that asks for something impossible."""
