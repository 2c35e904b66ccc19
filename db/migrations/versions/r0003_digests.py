"""Images are found by their digest, whatever their run."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the index."""
    op.create_index("ix_attribatch_images_digest", "attribatch_images", ["sha256"])
