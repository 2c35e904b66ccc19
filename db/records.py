"""The nouns that are stored, frozen, and the states they go through. Knows nothing of SQL."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

DEATHS = 3  # of a process while it computed one row with care: then the row is condemned


class UnitState(StrEnum):
    """`pending -> leased -> done | failed`, or `cancelled` on the way."""

    PENDING = "pending"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RunState(StrEnum):
    """What a run's units add up to."""

    PENDING = "pending"  # nothing has started
    RUNNING = "running"  # units are leased or done, others wait
    DONE = "done"  # every unit done, every image done
    PARTIAL = "partial"  # nothing waits, but units or images failed
    FAILED = "failed"  # nothing waits, and no image is done
    CANCELLED = "cancelled"  # nothing waits, because somebody cancelled


class ImageState(StrEnum):
    """An image's row says either that its map is stored, or why not."""

    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a manifest."""

    row: int  # position in the run's manifest = index in its map arrays
    key: str  # path below the source's root, '/'-separated
    version: str  # size and mtime, or an ETag: changes when the bytes do
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One spec over one manifest."""

    id: str  # 12 hex digits of sha256(spec key, manifest digest, source): the same request is the same run
    name: str | None
    spec: str  # canonical JSON of a RunSpec
    spec_key: str  # sha256 of what determines the numbers
    source: str  # JSON of a datasets.Source
    manifest_digest: str  # sha256 over the entries
    image_count: int
    unit_size: int  # images per unit, the last unit may be smaller
    priority: int = 0  # larger goes first
    created_at: datetime | None = None  # UTC
    submitted_at: datetime | None = None  # UTC; `latest` is the run submitted last


@dataclass(frozen=True, slots=True)
class UnitDraft:
    """A unit before it is stored: consecutive entries of a manifest."""

    number: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """A claimed unit. Its token proves the claim: whoever holds another token is fenced off."""

    id: int
    run_id: str
    number: int
    entries: tuple[Entry, ...]
    token: str
    attempt: int  # 1 for the first; raised in SQL before anything is computed


@dataclass(frozen=True, slots=True)
class ImageRow:
    """What the index knows of one image of one run. Figures are None where the image failed.

    The last block is where the map lies: a run's rows may point into the arrays of an earlier run.
    """

    run_id: str
    row: int
    key: str
    version: str
    state: ImageState
    label: str | None = None
    error: str | None = None
    sha256: str | None = None  # of the file's bytes
    target: str | None = None  # name of the explained class
    target_index: int | None = None
    predicted: str | None = None  # by the mean probability of the ensemble
    predicted_index: int | None = None
    probability: float | None = None  # of the predicted class, mean over members
    output: float | None = None  # F(x) of the target, mean over members
    baseline_output: float | None = None  # F(x') of the target, mean over paths
    convergence_delta: float | None = None  # signed, output units
    completeness_gap: float | None = None  # |convergence_delta| / |F(x) - F(x')|
    error_estimate: float | None = None  # relative L1
    converged: bool | None = None  # None where the run has no tolerance
    evaluations: int | None = None  # gradient evaluations spent
    member_disagreement: float | None = None  # sum std / sum |mean|, over members; None for a single one
    border_share: float | None = None  # share of |attribution| in the outer eighth on each side
    center_x: float | None = None  # centre of |attribution|, 0..1 from the left
    center_y: float | None = None  # 0..1 from the top
    entropy: float | None = None  # of |attribution| over pixels, 0..1 of its maximum
    gini: float | None = None  # of |attribution| over pixels, 0 even .. 1 one pixel
    positive_share: float | None = None  # positive part / |attribution|
    center_share: float | None = None  # share of |attribution| in the middle half of both sides; 0.25 where it is even
    top_left_share: float | None = None  # share in the quarter by quarter at that corner; 0.0625 where it is even
    top_right_share: float | None = None
    bottom_left_share: float | None = None
    bottom_right_share: float | None = None
    effective_pixels: float | None = None  # exp of the entropy in nats: as many even pixels would have it
    sign_agreement: float | None = None  # share of |attribution| where all members have one sign; None for a single one
    baseline_sensitivity: float | None = None  # mean L1 distance of two baselines' maps, 0..2; None for a single one
    top_classes: str | None = None  # JSON: the five most probable classes, [[name, mean probability], ...]
    map_run: str | None = None
    map_row: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts of one run, read in one transaction."""

    run_id: str
    state: RunState
    units: Mapping[UnitState, int]  # every state is a key
    images_total: int
    images_done: int
    images_failed: int
    attempts: int  # claims so far, over all units
    errors: tuple[str, ...] = ()  # distinct unit errors, at most 5

    @property
    def over(self) -> bool:
        """Whether nothing of the run waits or is computed."""
        return self.state not in (RunState.PENDING, RunState.RUNNING)


class OccasionState(StrEnum):
    """`due -> running -> done | partial | failed`: what became of one turn of a schedule."""

    DUE = "due"  # claimed; its run is not submitted yet
    RUNNING = "running"  # its run is stored
    DONE = "done"  # its run is done, its drift known
    PARTIAL = "partial"  # likewise, but images or units of the run failed
    FAILED = "failed"  # no map came of it: `error` says why


@dataclass(frozen=True, slots=True)
class Schedule:
    """A request that is submitted again and again."""

    id: int
    name: str
    cron: str  # five fields
    timezone: str  # name in the IANA database, for example Europe/Berlin
    request: str  # canonical JSON of a RunRequest
    fail_on: str | None  # the gate, for example drift>0.1
    paused: bool
    next_due: datetime  # UTC
    created_at: datetime  # UTC


@dataclass(frozen=True, slots=True)
class Occasion:
    """One turn of a schedule. Its token proves that it is held; whoever holds another token is fenced off."""

    id: int
    schedule_id: int
    schedule: str  # its name
    due_at: datetime  # UTC; of several turns that were missed, the first
    state: OccasionState
    started_at: datetime  # UTC
    ended_at: datetime | None = None  # UTC
    run_id: str | None = None
    previous_run_id: str | None = None  # the run that it was compared with
    unchanged: bool | None = None  # the same run as before: no image, model or option changed, nothing was computed
    drift: float | None = None  # 0..1, see `pipeline.analysis.drift`
    class_drift: float | None = None  # 0..1, of the class that changed most
    ndcg: float | None = None  # 0..1
    exceeded: bool | None = None  # the gate; None where there is none, or nothing to compare with
    error: str | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True)
class ClassDrift:
    """How far the evidence of one class moved between two runs. None where one of them has no image of it."""

    class_name: str
    images: int
    images_before: int
    drift: float | None
    ndcg: float | None


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the evidence moved between two runs, over all images and class by class."""

    run_id: str
    previous_run_id: str
    drift: float  # 0 the same places .. 1 no place in common
    ndcg: float  # 1 the places rank as before
    class_drift: float | None  # the largest of classes that both runs have enough images of
    classes: tuple[ClassDrift, ...]
