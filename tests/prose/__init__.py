"""Prose linter of `make check`; see `tests.prose.__main__`."""
