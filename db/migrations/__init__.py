"""The history of the schema. `db.session.migrate` runs it in process."""
