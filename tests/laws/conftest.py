"""The scans and the networks trained on them."""

from tests.support.networks import digits, trained  # noqa: F401 - fixtures
