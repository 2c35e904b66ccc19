"""The schema's history, run in process by `db.session.migrate`."""
