"""Requests that are submitted again by a cron expression, and the drift between their runs."""
