"""Columns for the place of a map's weight, indexes for every documented filter, and views for users of SQL tools.

Independent of later changes to db.tables.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_CORNERS = ("top_left_share", "top_right_share", "bottom_left_share", "bottom_right_share")
_COLUMNS = ("center_share", *_CORNERS, "effective_pixels")
_SORTS = ("probability", "entropy", "gini", "center_share", *_CORNERS)
_EARLIER_SORTS = ("error_estimate", "member_disagreement", "border_share", "completeness_gap")
_PARTS = {"failed": sa.text("state = 'failed'"), "mispredicted": sa.text("predicted != label")}

_IMAGE = "images.run_id, runs.name AS run, images.row, images.key, images.label, images.predicted, images.probability"
_FROM = "FROM attribatch_images AS images JOIN attribatch_runs AS runs ON runs.id = images.run_id"
_VIEWS = {
    "worst_gap": f"SELECT {_IMAGE}, images.completeness_gap, images.convergence_delta, images.error_estimate {_FROM} "
    "WHERE images.completeness_gap IS NOT NULL ORDER BY images.completeness_gap DESC, images.row",
    "mispredicted": f"SELECT {_IMAGE}, images.member_disagreement, images.border_share, images.error_estimate {_FROM} "
    "WHERE images.predicted != images.label ORDER BY images.probability DESC, images.row",
    "disagreement": f"SELECT {_IMAGE}, images.member_disagreement, images.error_estimate {_FROM} "
    "WHERE images.member_disagreement IS NOT NULL ORDER BY images.member_disagreement DESC, images.row",
    "border_heavy": f"SELECT {_IMAGE}, images.border_share, images.center_share, images.top_left_share, "
    f"images.top_right_share, images.bottom_left_share, images.bottom_right_share {_FROM} "
    "WHERE images.border_share > 0.5 ORDER BY images.border_share DESC, images.row",
    "class_summary": "SELECT images.run_id, runs.name AS run, images.predicted, count(*) AS images, "
    "sum(CASE WHEN images.predicted != images.label THEN 1 ELSE 0 END) AS mispredicted, "
    "avg(images.probability) AS probability, avg(images.completeness_gap) AS completeness_gap, "
    "avg(images.error_estimate) AS error_estimate, avg(images.member_disagreement) AS member_disagreement, "
    "avg(images.border_share) AS border_share, avg(images.center_share) AS center_share, "
    f"avg(images.entropy) AS entropy, avg(images.gini) AS gini {_FROM} "
    "WHERE images.state = 'done' GROUP BY images.run_id, runs.name, images.predicted",
}

# The result of ANALYZE for ten runs of 100,000 images: rows, rows of one run, rows of one value in a run. Without
# statistics SQLite considers all indexes equally good, and reads a whole run instead of one class. They are constants,
# so that plans are the same everywhere and do not depend on the rows at the time of an ANALYZE.
_STATISTICS = {
    "sqlite_autoindex_attribatch_images_1": "1000000 100000 1",
    "ix_attribatch_images_key": "1000000 100000 1",
    "ix_attribatch_images_digest": "1000000 1",
    "ix_attribatch_images_failed": "1000 100 1",
    "ix_attribatch_images_mispredicted": "10000 1000 1",
    "ix_attribatch_images_label": "1000000 100000 1000 1",
    "ix_attribatch_images_predicted": "1000000 100000 1000 1",
    **dict.fromkeys(
        (f"ix_attribatch_images_{name}" for name in (*_SORTS, *_EARLIER_SORTS)),
        "1000000 100000 1 1",
    ),
}


def upgrade() -> None:
    """Add columns, which are NULL in existing rows, indexes and views."""
    for name in _COLUMNS:
        op.add_column("attribatch_images", sa.Column(name, sa.Double))
    op.add_column("attribatch_images", sa.Column("top_classes", sa.Text))
    for name in _SORTS:
        op.create_index(f"ix_attribatch_images_{name}", "attribatch_images", ["run_id", name, "row"])
    for name, which in _PARTS.items():
        op.create_index(
            f"ix_attribatch_images_{name}",
            "attribatch_images",
            ["run_id", "row"],
            sqlite_where=which,
            postgresql_where=which,
        )
    for name, query in _VIEWS.items():
        op.execute(f"CREATE VIEW attribatch_{name} AS {query}")
    if op.get_bind().dialect.name == "sqlite":
        _state_statistics()


def _state_statistics() -> None:
    op.execute("ANALYZE sqlite_schema")  # creates the table sqlite_stat1
    op.execute("DELETE FROM sqlite_stat1 WHERE tbl = 'attribatch_images'")
    statistics = sa.table("sqlite_stat1", sa.column("tbl"), sa.column("idx"), sa.column("stat"))
    rows = [{"tbl": "attribatch_images", "idx": name, "stat": stat} for name, stat in _STATISTICS.items()]
    op.bulk_insert(statistics, rows)
