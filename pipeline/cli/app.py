"""The command line: arguments to one call of the API, and its result to text or JSON.

`pipeline.cli.session` lists the exit codes.
"""

import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from pipeline.cli import audit, compare, console, demo, evaluate, query, run, services, up, upkeep
from pipeline.cli.ensemble import ensemble_app
from pipeline.cli.models import models_app
from pipeline.cli.options import with_flags
from pipeline.cli.schedule import schedule_app
from pipeline.cli.session import FAILED, USAGE
from pipeline.errors import AttribatchError, UsageError

# The headings of `attribatch --help`. The first commands of a new user are first.
HEADINGS = {
    "Start": ("demo", "doctor", "models", "ensemble"),
    "Run and watch": ("run", "status", "cancel", "retry"),
    "Query and audit": ("query", "audit", "evaluate", "compare"),
    "View and export": ("show", "serve", "export"),
    "Schedule": ("schedule", "up"),
    "Upkeep": ("remove", "repair", "gc"),
    "Servers (Redis, PostgreSQL, S3)": ("worker", "beat", "migrate"),
}


class CommandGroup(TyperGroup):
    """A group whose help lists its commands under `HEADINGS`."""

    def format_commands(self, _ctx: object, formatter: Any) -> None:  # typer has no public name for its formatter
        """Write a section for each heading, with all descriptions in one column."""
        width = max(len(name) for names in HEADINGS.values() for name in names)
        for heading, names in HEADINGS.items():
            with formatter.section(heading):
                lines = {name: self.commands[name].get_short_help_str(formatter.width - width - 4) for name in names}
                formatter.write_dl([(name.ljust(width), line) for name, line in lines.items()])


app = typer.Typer(
    name="attribatch",
    cls=CommandGroup,
    help="Integrated Gradients for whole image data sets: resumable, queryable, audited.\n\n"
    "Start with: attribatch demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help takes two thirds of the time
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"attribatch {version('attribatch')}")
        raise typer.Exit


@app.callback()
def _main(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass


for module in (demo, run, query, audit, evaluate, compare, services, upkeep, up):
    module.register(app)
app.add_typer(models_app, name="models")
app.add_typer(ensemble_app, name="ensemble")
app.add_typer(schedule_app, name="schedule")


def main() -> NoReturn:
    """Run the command line. An expected error becomes a message on stderr and an exit code."""
    try:
        app()
    except UsageError as error:
        console.error(with_flags(str(error)))
        sys.exit(USAGE)
    except (AttribatchError, OSError) as error:
        console.error(with_flags(str(error)))
        sys.exit(FAILED)
    sys.exit(0)
