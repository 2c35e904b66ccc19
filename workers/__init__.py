"""Celery workers: one app with one task, which calls `pipeline.engine.unit`."""
