"""Columns for the agreement of members and the sensitivity to the baseline, and views that show them.

Independent of later changes to db.tables.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_FROM = "FROM attribatch_images AS images JOIN attribatch_runs AS runs ON runs.id = images.run_id"
_VIEWS = {
    "disagreement": "SELECT images.run_id, runs.name AS run, images.row, images.key, images.label, images.predicted, "
    f"images.probability, images.member_disagreement, images.error_estimate, images.sign_agreement {_FROM} "
    "WHERE images.member_disagreement IS NOT NULL ORDER BY images.member_disagreement DESC, images.row",
    "class_summary": "SELECT images.run_id, runs.name AS run, images.predicted, count(*) AS images, "
    "sum(CASE WHEN images.predicted != images.label THEN 1 ELSE 0 END) AS mispredicted, "
    "avg(images.probability) AS probability, avg(images.completeness_gap) AS completeness_gap, "
    "avg(images.error_estimate) AS error_estimate, avg(images.member_disagreement) AS member_disagreement, "
    "avg(images.border_share) AS border_share, avg(images.center_share) AS center_share, "
    "avg(images.entropy) AS entropy, avg(images.gini) AS gini, avg(images.sign_agreement) AS sign_agreement, "
    f"avg(images.baseline_sensitivity) AS baseline_sensitivity {_FROM} "
    "WHERE images.state = 'done' GROUP BY images.run_id, runs.name, images.predicted",
}


def upgrade() -> None:
    """Add columns, which are NULL in existing rows, and create the views again."""
    for name in ("sign_agreement", "baseline_sensitivity"):
        op.add_column("attribatch_images", sa.Column(name, sa.Double))
    for name, query in _VIEWS.items():
        op.execute(f"DROP VIEW attribatch_{name}")
        op.execute(f"CREATE VIEW attribatch_{name} AS {query}")
