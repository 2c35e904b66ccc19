"""The commands under headings, as `attribatch --help` lists them: what somebody new needs first comes first."""

from typing import Any

from typer.core import TyperGroup

HEADINGS = {
    "Start": ("demo", "doctor", "models", "ensemble"),
    "Run and watch": ("run", "status", "cancel", "retry"),
    "Ask and audit": ("query", "audit", "evaluate", "compare"),
    "Look and take away": ("show", "serve", "export"),
    "Repeat by the clock": ("schedule", "up"),
    "Upkeep": ("remove", "repair", "gc"),
    "Servers (Redis, PostgreSQL, S3)": ("worker", "beat", "migrate"),
}


class UnderHeadings(TyperGroup):
    """A group whose help lists its commands by `HEADINGS`."""

    def format_commands(self, _ctx: Any, formatter: Any) -> None:
        """Write a section for each heading, their columns in line."""
        width = max(len(name) for names in HEADINGS.values() for name in names)
        for heading, names in HEADINGS.items():
            with formatter.section(heading):
                lines = {name: self.commands[name].get_short_help_str(formatter.width - width - 4) for name in names}
                formatter.write_dl([(name.ljust(width), line) for name, line in lines.items()])
