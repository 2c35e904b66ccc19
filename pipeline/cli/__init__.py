"""The command line: arguments to one call of the API, and its result to text or JSON."""

from typing import NoReturn


def main() -> NoReturn:
    """Entry point of the `attribatch` command."""
    from pipeline.cli.app import main as run

    run()
