"""An index that finds images by their digest, in all runs."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the index."""
    op.create_index("ix_attribatch_images_digest", "attribatch_images", ["sha256"])
