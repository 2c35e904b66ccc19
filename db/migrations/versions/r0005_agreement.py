"""Whether members agree on what speaks for a class, and how far a map depends on the baseline.

Stands alone: later changes to db.tables do not change what it makes.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add columns, which are NULL in the rows that are there."""
    for name in ("sign_agreement", "baseline_sensitivity"):
        op.add_column("attribatch_images", sa.Column(name, sa.Double))
