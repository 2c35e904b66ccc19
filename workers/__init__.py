"""The Celery side: one app, one task. Everything it does is a call into `pipeline.engine.unit`."""
