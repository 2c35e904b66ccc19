"""Alembic's environment: runs pending revisions in the transaction of `db.session.migrate`."""

from alembic import context

from db.tables import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite cannot alter a table in place
)
context.run_migrations()
