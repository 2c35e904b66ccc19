"""The root of the error tree, and the errors of storage.

The class decides how a unit of work continues: a `Retryable` error puts it back in the queue, a `Permanent` error is
recorded.

    AttribatchError
    ├── Retryable            the same attempt may succeed later
    │   ├── MapsGone
    │   └── StoreUnavailable
    │       ├── StoreFull
    │       └── StoreRefused
    ├── Permanent            another attempt would fail too
    │   ├── ObjectMissing
    │   ├── ObjectUnreadable
    │   ├── IndexOutdated
    │   └── IndexDamaged
    └── UsageError           the request is wrong: reported to the caller before any unit starts
        └── NotFound

`pipeline.errors` adds the errors of the pipeline.
"""

import difflib
from collections.abc import Iterable


class AttribatchError(Exception):
    """Base class of all errors that attribatch raises on purpose. The message names the culprit and the remedy."""


class Retryable(AttribatchError):
    """A temporary condition: the unit returns to the queue, for a limited number of attempts."""


class Permanent(AttribatchError):
    """A permanent condition: recorded as the reason, and not retried automatically."""


class UsageError(AttribatchError):
    """The request is wrong. Raised before anything is stored."""


class StoreUnavailable(Retryable):
    """Storage could not be read or written this time."""


class MapsGone(Retryable):
    """Rows point to maps of a run that has been removed. The next attempt computes them or finds them elsewhere."""


class StoreFull(StoreUnavailable):
    """The disk of the index or of the objects is full. An operator must free space."""

    EXIT_CODE = 28  # exit status of a worker that cannot record anything because the disk is full


class StoreRefused(StoreUnavailable):
    """The store answers but refuses: the bucket does not exist, or the credentials are wrong."""


class ObjectUnreadable(Permanent):
    """One object of a data set is missing, has changed, is too large or is archived."""


class ObjectMissing(Permanent):
    """An object that the index names is not in storage; `attribatch repair` re-queues its unit."""


class IndexOutdated(Permanent):
    """The database has another schema than this version of attribatch needs."""


class IndexDamaged(Permanent):
    """The file of the index is damaged. `attribatch repair` rebuilds it from the stored maps."""


class NotFound(UsageError):
    """No run, image or object has this name."""


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return "did you mean NAME?" with the most similar name, or "" if none is similar."""
    near = difflib.get_close_matches(word, list(names), 1, 0.6)
    return f"did you mean {near[0]!r}?" if near else ""
