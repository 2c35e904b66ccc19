"""Schedules, their occasions and drifts. Independent of later changes to db.tables."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_OPEN = sa.text("state IN ('due', 'running')")


def upgrade() -> None:
    """Create three tables, and leave the existing ones unchanged."""
    op.create_table(
        "attribatch_schedules",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("cron", sa.Text, nullable=False),
        sa.Column("timezone", sa.Text, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("fail_on", sa.Text),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("next_due", sa.Double, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_table(
        "attribatch_occasions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("schedule_id", sa.Integer, sa.ForeignKey("attribatch_schedules.id"), nullable=False),
        sa.Column("due_at", sa.Double, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double),
        sa.Column("run_id", sa.String(64), sa.ForeignKey("attribatch_runs.id")),
        sa.Column("previous_run_id", sa.String(64), sa.ForeignKey("attribatch_runs.id")),
        sa.Column("unchanged", sa.Boolean),
        sa.Column("drift", sa.Double),
        sa.Column("class_drift", sa.Double),
        sa.Column("ndcg", sa.Double),
        sa.Column("exceeded", sa.Boolean),
        sa.Column("error", sa.Text),
        sa.Column("token", sa.String(64)),
        sa.Column("lease_until", sa.Double),
    )
    op.create_index("ix_attribatch_occasions_history", "attribatch_occasions", ["schedule_id", "id"])
    op.create_index(
        "ix_attribatch_occasions_open",
        "attribatch_occasions",
        ["schedule_id"],
        unique=True,
        sqlite_where=_OPEN,
        postgresql_where=_OPEN,
    )
    op.create_table(
        "attribatch_drifts",
        sa.Column("occasion_id", sa.Integer, sa.ForeignKey("attribatch_occasions.id"), primary_key=True),
        sa.Column("class_name", sa.Text, primary_key=True),
        sa.Column("images", sa.Integer, nullable=False),
        sa.Column("images_before", sa.Integer, nullable=False),
        sa.Column("drift", sa.Double),
        sa.Column("ndcg", sa.Double),
    )
