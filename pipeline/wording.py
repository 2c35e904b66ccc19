"""Counts in sentences."""


def plural(count: int, noun: str) -> str:
    """A count with its noun: 1 image, 2,000 images."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
