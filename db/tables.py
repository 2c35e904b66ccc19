"""The tables, and the database's clock.

Times are doubles, in seconds since 1970, so that leases are plain arithmetic in both SQLite and PostgreSQL. They come
from the database's clock, never from a worker's: `now()` has the expression of each dialect.

Claims take the same time however many units are done: their index contains only pending and leased units.
"""

from dataclasses import MISSING
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from db.encoding import IMAGE_FIELDS, IMAGE_TYPES
from db.records import ImageRow, UnitState

metadata = MetaData()

VERSION_TABLE = "attribatch_schema"  # Alembic's table, renamed so that other programs can share the database
IMAGE_SORTS = (
    "label",
    "predicted",
    "error_estimate",
    "member_disagreement",
    "border_share",
    "completeness_gap",
    "probability",
    "entropy",
    "gini",
    "center_share",
    "top_left_share",
    "top_right_share",
    "bottom_left_share",
    "bottom_right_share",
)

# Literal SQL: with bound parameters neither database recognizes that the index below matches.
_WAITING = "state IN ('pending', 'leased')"
WAITING = text(f"attribatch_units.{_WAITING}")

runs = Table(
    "attribatch_runs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", Text),
    Column("spec", Text, nullable=False),
    Column("spec_key", String(64), nullable=False, index=True),
    Column("source", Text, nullable=False),
    Column("manifest_digest", String(64), nullable=False),
    Column("image_count", Integer, nullable=False),
    Column("unit_size", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("submitted_at", Double, nullable=False),
)

units = Table(
    "attribatch_units",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", String(64), ForeignKey("attribatch_runs.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String(16), nullable=False, default=UnitState.PENDING.value),
    Column("priority", Integer, nullable=False, default=0),
    Column("attempt", Integer, nullable=False, default=0),
    Column("not_before", Double, nullable=False, default=0.0),
    Column("token", String(64)),
    Column("worker", Text),  # its last holder
    Column("lease_until", Double),
    Column("enqueued_at", Double),  # NULL: no message was sent since it became pending
    Column("images_done", Integer, nullable=False, default=0),  # counted here, so that status need not scan images
    Column("images_failed", Integer, nullable=False, default=0),
    Column("error", Text),
    Column("created_at", Double, nullable=False),
    Column("changed_at", Double, nullable=False),  # time of the last change of state
    Column("entries", Text, nullable=False),  # last, so that SQLite reads the other columns without overflow pages
    UniqueConstraint("run_id", "number", name="uq_attribatch_units_number"),
)
Index(
    "ix_attribatch_units_waiting",
    units.c.priority.desc(),
    units.c.id,
    sqlite_where=text(_WAITING),
    postgresql_where=text(_WAITING),
)
Index("ix_attribatch_units_progress", units.c.run_id, units.c.state, units.c.attempt)

suspects = Table(
    "attribatch_suspects",
    metadata,
    Column("unit_id", Integer, ForeignKey("attribatch_units.id"), primary_key=True),
    Column("row", Integer, primary_key=True),
    Column("deaths", Integer, nullable=False),
)

_TYPES: dict[type, type[TypeEngine[Any]]] = {str: Text, bool: Boolean, int: Integer, float: Double}
_LENGTHS = {"state": 16, "sha256": 64, "map_run": 64}  # characters; other texts have no limit


def _image_column(name: str) -> Column[Any]:
    """The column of a field of `ImageRow`: one with a default may be NULL."""
    kind = String(_LENGTHS[name]) if name in _LENGTHS else _TYPES[IMAGE_TYPES[name]]()
    return Column(name, kind, nullable=ImageRow.__dataclass_fields__[name].default is not MISSING)


# One column for each field of records.ImageRow, with the same name and in the same order.
images = Table(
    "attribatch_images",
    metadata,
    Column("run_id", String(64), ForeignKey("attribatch_runs.id"), primary_key=True),
    Column("row", Integer, primary_key=True),
    *map(_image_column, IMAGE_FIELDS[2:]),
)
Index("ix_attribatch_images_key", images.c.run_id, images.c.key)
Index("ix_attribatch_images_digest", images.c.sha256)  # finds existing attributions in all runs
for _name in IMAGE_SORTS:
    Index(f"ix_attribatch_images_{_name}", images.c.run_id, images.c[_name], images.c.row)

FAILED = images.c.state == literal_column("'failed'")  # literal SQL, for the same reason as WAITING
MISPREDICTED = images.c.predicted != images.c.label
for _name, _which in (("failed", FAILED), ("mispredicted", MISPREDICTED)):
    Index(
        f"ix_attribatch_images_{_name}",
        images.c.run_id,
        images.c.row,
        sqlite_where=_which,
        postgresql_where=_which,
    )

schedules = Table(
    "attribatch_schedules",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("cron", Text, nullable=False),
    Column("timezone", Text, nullable=False),
    Column("request", Text, nullable=False),
    Column("fail_on", Text),
    Column("paused", Boolean, nullable=False),
    Column("next_due", Double, nullable=False),
    Column("created_at", Double, nullable=False),
)

# One row for each occasion; the columns are named like the fields of records.Occasion.
occasions = Table(
    "attribatch_occasions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("schedule_id", Integer, ForeignKey("attribatch_schedules.id"), nullable=False),
    Column("due_at", Double, nullable=False),
    Column("state", String(16), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("run_id", String(64), ForeignKey("attribatch_runs.id")),
    Column("previous_run_id", String(64), ForeignKey("attribatch_runs.id")),
    Column("unchanged", Boolean),
    Column("drift", Double),
    Column("class_drift", Double),
    Column("ndcg", Double),
    Column("exceeded", Boolean),
    Column("error", Text),
    Column("token", String(64)),
    Column("lease_until", Double),
)
Index("ix_attribatch_occasions_history", occasions.c.schedule_id, occasions.c.id)
_OPEN = text("state IN ('due', 'running')")
Index(  # the database enforces that a schedule has at most one open occasion
    "ix_attribatch_occasions_open",
    occasions.c.schedule_id,
    unique=True,
    sqlite_where=_OPEN,
    postgresql_where=_OPEN,
)

drifts = Table(
    "attribatch_drifts",
    metadata,
    Column("occasion_id", Integer, ForeignKey("attribatch_occasions.id"), primary_key=True),
    Column("class_name", Text, primary_key=True),
    Column("images", Integer, nullable=False),
    Column("images_before", Integer, nullable=False),
    Column("drift", Double),
    Column("ndcg", Double),
)


class _Now(FunctionElement[float]):
    type = Double()
    inherit_cache = True


def now() -> ColumnElement[float]:
    """Return the SQL expression of the database's clock, in seconds since 1970. It is constant within a statement."""
    return _Now()


@compiles(_Now, "sqlite")
def _sqlite_now(_element: _Now, _compiler: SQLCompiler, **_options: Any) -> str:
    # Julian days, precise to a millisecond: unixepoch('subsec') needs SQLite 3.42, and Debian 12 has 3.40.
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(_Now, "postgresql")
def _postgresql_now(_element: _Now, _compiler: SQLCompiler, **_options: Any) -> str:
    # Not clock_timestamp(), which is volatile: an index search cannot use it.
    return "CAST(extract(epoch FROM statement_timestamp()) AS DOUBLE PRECISION)"
