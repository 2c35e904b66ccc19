"""The stored records, as frozen dataclasses, and their states."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

DEATHS = 3  # a row is condemned after this many processes died while they computed it with care


class UnitState(StrEnum):
    """A unit goes `pending -> leased -> done | failed`, and may be `cancelled` before it is done."""

    PENDING = "pending"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RunState(StrEnum):
    """The state of a run, derived from its units and images."""

    PENDING = "pending"  # no unit has been claimed yet
    RUNNING = "running"  # units have been claimed, and some are still pending or leased
    DONE = "done"  # every unit and every image is done
    PARTIAL = "partial"  # no unit is pending or leased, but units or images failed
    FAILED = "failed"  # no unit is pending or leased, and no image is done
    CANCELLED = "cancelled"  # no unit is pending or leased, and at least one was cancelled


class ImageState(StrEnum):
    """The state of an image: `done` (its map is stored) or `failed` (its row has the reason)."""

    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a manifest."""

    row: int  # position in the run's manifest, and index in its map arrays
    key: str  # path below the source's root, with '/'
    version: str  # size and mtime, or an ETag: changes when the bytes change
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One spec applied to one manifest."""

    id: str  # 12 hex digits of sha256(spec key, manifest digest, source): the same request has the same id
    name: str | None
    spec: str  # canonical JSON of a RunSpec
    spec_key: str  # sha256 of the options that determine the numbers
    source: str  # JSON of a datasets.Source
    manifest_digest: str  # sha256 over the entries
    image_count: int
    unit_size: int  # images per unit; the last unit may be smaller
    priority: int = 0  # larger ones are claimed first
    created_at: datetime | None = None  # UTC
    submitted_at: datetime | None = None  # UTC; `latest` names the run with the largest


@dataclass(frozen=True, slots=True)
class UnitDraft:
    """A unit that is not stored yet: consecutive entries of a manifest."""

    number: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """A claimed unit. Its token proves the claim; a worker with an older token is fenced."""

    id: int
    run_id: str
    number: int
    entries: tuple[Entry, ...]
    token: str
    attempt: int  # 1 for the first; counted in SQL before anything is computed


@dataclass(frozen=True, slots=True)
class ImageRow:
    """The index row of one image of one run. The figures are None if the image failed.

    `map_run` and `map_row` are the place of the map, which may be in the arrays of an earlier run.
    """

    run_id: str
    row: int
    key: str
    version: str
    state: ImageState
    label: str | None = None
    error: str | None = None
    sha256: str | None = None  # hash of the file's bytes
    target: str | None = None  # name of the explained class
    target_index: int | None = None
    predicted: str | None = None  # class with the largest mean probability over members
    predicted_index: int | None = None
    probability: float | None = None  # mean over members, of the predicted class
    output: float | None = None  # F(x) of the target, mean over members
    baseline_output: float | None = None  # F(x') of the target, mean over paths
    convergence_delta: float | None = None  # signed, output units
    completeness_gap: float | None = None  # |convergence_delta| / |F(x) - F(x')|
    error_estimate: float | None = None  # relative L1
    converged: bool | None = None  # None if the run has no tolerance
    evaluations: int | None = None  # gradient evaluations, over all paths
    member_disagreement: float | None = None  # sum std / sum |mean|, over members; None for one member
    border_share: float | None = None  # share of |attribution| in the outer eighth on each side
    center_x: float | None = None  # center of mass of |attribution|, 0..1 from the left
    center_y: float | None = None  # 0..1 from the top
    entropy: float | None = None  # entropy of |attribution| over pixels, relative to its maximum, 0..1
    gini: float | None = None  # Gini coefficient of |attribution| over pixels, 0 (even) to 1 (one pixel)
    positive_share: float | None = None  # positive part / |attribution|
    center_share: float | None = None  # share of |attribution| in the middle half of both sides; 0.25 if even
    top_left_share: float | None = None  # share in a quarter of both sides at that corner; 0.0625 if even
    top_right_share: float | None = None
    bottom_left_share: float | None = None
    bottom_right_share: float | None = None
    effective_pixels: float | None = None  # exp(entropy in nats): number of pixels of an even map with this entropy
    sign_agreement: float | None = None  # share of |attribution| where all members have one sign; None for one member
    baseline_sensitivity: float | None = None  # mean L1 distance of two baselines' maps, 0..2; None for one baseline
    top_classes: str | None = None  # JSON: the five most probable classes, [[name, mean probability], ...]
    map_run: str | None = None
    map_row: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts of one run, from one transaction."""

    run_id: str
    state: RunState
    units: Mapping[UnitState, int]  # every state is a key
    images_total: int
    images_done: int
    images_failed: int
    attempts: int  # claims so far, over all units
    errors: tuple[str, ...] = ()  # up to 5 distinct errors of units

    @property
    def over(self) -> bool:
        """Whether no unit of the run is pending or leased."""
        return self.state not in (RunState.PENDING, RunState.RUNNING)


@dataclass(frozen=True, slots=True)
class RunOverview:
    """One run in a list, without its spec: counts and speed, from one statement. The counts have no errors.

    Reused images count as computed when they were recorded.
    """

    id: str
    name: str | None
    source: str  # JSON of a datasets.Source
    submitted_at: datetime  # UTC
    progress: Progress
    images_per_second: float  # over the last minute, or since the submission if that is more recent
    seconds: float | None  # from the submission to the last unit that ended; None before any unit ended


class OccasionState(StrEnum):
    """An occasion of a schedule goes `due -> running -> done | partial | failed`."""

    DUE = "due"  # claimed; its run is not submitted yet
    RUNNING = "running"  # its run is stored
    DONE = "done"  # its run is done, and its drift is known
    PARTIAL = "partial"  # its run has ended with failed images or units, and its drift is known
    FAILED = "failed"  # it has no maps; `error` has the reason


@dataclass(frozen=True, slots=True)
class Schedule:
    """A request that is submitted again at the times of a cron expression."""

    id: int
    name: str
    cron: str  # five fields
    timezone: str  # name in the IANA database, for example Europe/Berlin
    request: str  # canonical JSON of a RunRequest
    fail_on: str | None  # a gate, for example drift>0.1
    paused: bool
    next_due: datetime  # UTC
    created_at: datetime  # UTC


@dataclass(frozen=True, slots=True)
class Occasion:
    """One occasion of a schedule. Its token proves the claim; a tick with an older token is fenced."""

    id: int
    schedule_id: int
    schedule: str  # name of the schedule
    due_at: datetime  # UTC; the earliest time that this occasion makes up for
    state: OccasionState
    started_at: datetime  # UTC
    ended_at: datetime | None = None  # UTC
    run_id: str | None = None
    previous_run_id: str | None = None  # the earlier run that `run_id` was compared with
    unchanged: bool | None = None  # the same run as before: no image, model or option has changed
    drift: float | None = None  # 0..1, see `pipeline.analysis.drift`
    class_drift: float | None = None  # 0..1, drift of the class that changed most
    ndcg: float | None = None  # 0..1
    exceeded: bool | None = None  # whether the gate was exceeded; None without a gate or an earlier run
    error: str | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True)
class ClassDrift:
    """How far the evidence of one class moved between two runs. The figures are None if a run has no image of it."""

    class_name: str
    images: int
    images_before: int
    drift: float | None
    ndcg: float | None


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the evidence moved between two runs, over all images and by class."""

    run_id: str
    previous_run_id: str
    drift: float  # 0 (same places) to 1 (no place in common)
    ndcg: float  # 1 if the places have the same ranking
    class_drift: float | None  # largest drift of a class with enough images in both runs
    classes: tuple[ClassDrift, ...]
