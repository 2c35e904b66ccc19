"""Runs, units, suspects and images. Independent of later changes to db.tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_WAITING = sa.text("state IN ('pending', 'leased')")
_SORTS = ("label", "predicted", "error_estimate", "member_disagreement", "border_share", "completeness_gap")


def upgrade() -> None:
    """Create all tables."""
    _runs()
    _units()
    _images()


def _runs() -> None:
    op.create_table(
        "attribatch_runs",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.Text),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("spec_key", sa.String(64), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("manifest_digest", sa.String(64), nullable=False),
        sa.Column("image_count", sa.Integer, nullable=False),
        sa.Column("unit_size", sa.Integer, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("submitted_at", sa.Double, nullable=False),
    )
    op.create_index("ix_attribatch_runs_spec_key", "attribatch_runs", ["spec_key"])


def _units() -> None:
    op.create_table(
        "attribatch_units",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("run_id", sa.String(64), sa.ForeignKey("attribatch_runs.id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("not_before", sa.Double, nullable=False),
        sa.Column("token", sa.String(64)),
        sa.Column("worker", sa.Text),
        sa.Column("lease_until", sa.Double),
        sa.Column("enqueued_at", sa.Double),
        sa.Column("images_done", sa.Integer, nullable=False),
        sa.Column("images_failed", sa.Integer, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("changed_at", sa.Double, nullable=False),
        sa.Column("entries", sa.Text, nullable=False),
        sa.UniqueConstraint("run_id", "number", name="uq_attribatch_units_number"),
    )
    op.create_index(
        "ix_attribatch_units_waiting",
        "attribatch_units",
        [sa.text("priority DESC"), "id"],
        sqlite_where=_WAITING,
        postgresql_where=_WAITING,
    )
    op.create_index("ix_attribatch_units_progress", "attribatch_units", ["run_id", "state", "attempt"])
    op.create_table(
        "attribatch_suspects",
        sa.Column("unit_id", sa.Integer, sa.ForeignKey("attribatch_units.id"), primary_key=True),
        sa.Column("row", sa.Integer, primary_key=True),
        sa.Column("deaths", sa.Integer, nullable=False),
    )


def _images() -> None:
    op.create_table(
        "attribatch_images",
        sa.Column("run_id", sa.String(64), sa.ForeignKey("attribatch_runs.id"), primary_key=True),
        sa.Column("row", sa.Integer, primary_key=True),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("label", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("sha256", sa.String(64)),
        sa.Column("target", sa.Text),
        sa.Column("target_index", sa.Integer),
        sa.Column("predicted", sa.Text),
        sa.Column("predicted_index", sa.Integer),
        sa.Column("probability", sa.Double),
        sa.Column("output", sa.Double),
        sa.Column("baseline_output", sa.Double),
        sa.Column("convergence_delta", sa.Double),
        sa.Column("completeness_gap", sa.Double),
        sa.Column("error_estimate", sa.Double),
        sa.Column("converged", sa.Boolean),
        sa.Column("evaluations", sa.Integer),
        sa.Column("member_disagreement", sa.Double),
        sa.Column("border_share", sa.Double),
        sa.Column("center_x", sa.Double),
        sa.Column("center_y", sa.Double),
        sa.Column("entropy", sa.Double),
        sa.Column("gini", sa.Double),
        sa.Column("positive_share", sa.Double),
        sa.Column("map_run", sa.String(64)),
        sa.Column("map_row", sa.Integer),
    )
    op.create_index("ix_attribatch_images_key", "attribatch_images", ["run_id", "key"])
    for name in _SORTS:
        op.create_index(f"ix_attribatch_images_{name}", "attribatch_images", ["run_id", name, "row"])
