"""The root of the error tree, and what storage can raise.

The class decides what happens to a unit of work: `Retryable` is tried again later, `Permanent` is recorded and left.

    AttribatchError
    ├── Retryable            try the same thing again, later
    │   ├── MapsGone
    │   └── StoreUnavailable
    │       ├── StoreFull
    │       └── StoreRefused
    ├── Permanent            trying again changes nothing
    │   ├── ObjectMissing
    │   ├── ObjectUnreadable
    │   ├── IndexOutdated
    │   └── IndexDamaged
    └── UsageError           the request itself is wrong: said to whoever asked, before any unit starts
        └── NotFound

`pipeline.errors` adds the leaves that only the pipeline knows.
"""

import difflib
from collections.abc import Iterable


class AttribatchError(Exception):
    """Whatever attribatch raises on purpose. The message names the culprit and the remedy."""


class Retryable(AttribatchError):
    """A passing condition: the unit goes back and is tried again, a bounded number of times."""


class Permanent(AttribatchError):
    """A lasting condition: recorded as the reason, never tried again on its own."""


class UsageError(AttribatchError):
    """The request is wrong. Raised before anything is stored."""


class StoreUnavailable(Retryable):
    """Object storage did not take or give an object this time."""


class MapsGone(Retryable):
    """Rows point to maps of a run that was removed meanwhile: they must be computed, or found elsewhere."""


class StoreFull(StoreUnavailable):
    """No space is left where the index or the objects lie: only a person can mend that."""

    EXIT_CODE = 28  # of a worker process that ends for it, as it can record nothing


class StoreRefused(StoreUnavailable):
    """It answers, and says no: there is no such bucket, or the credentials are wrong. Waiting does not help."""


class ObjectUnreadable(Permanent):
    """One object of a data set that is gone, has changed, is too large or is archived."""


class ObjectMissing(Permanent):
    """An object that the index names is not in storage; `attribatch repair` re-queues its unit."""


class IndexOutdated(Permanent):
    """The database holds a newer schema than this version of attribatch knows."""


class IndexDamaged(Permanent):
    """The index's file is no database any more; the stored maps can rebuild it."""


class NotFound(UsageError):
    """No run, image or object by that name."""


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """A question with the name that is most like a word; empty where none is like it."""
    near = difflib.get_close_matches(word, list(names), 1, 0.6)
    return f"did you mean {near[0]!r}?" if near else ""
