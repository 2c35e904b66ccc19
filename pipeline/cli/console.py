"""Terminal output: text on stdout, progress and errors on stderr, JSON for programs."""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from db.records import Progress
from pipeline.formatting import plural

if TYPE_CHECKING:
    from rich.progress import TaskID

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def error(message: str) -> None:
    """Print an error on stderr."""
    err.print(f"[bold red]error:[/] {escape(message)}")


def program() -> str:
    """The name or path that started this program, for commands that the output suggests."""
    called = Path(sys.argv[0])
    return called.name if shutil.which(called.name) else str(called)


class ProgressBar:
    """Images done, rate and time left on stderr; plain lines if stderr is not a terminal."""

    def __init__(self) -> None:
        from rich.progress import (  # `--help` does not need them
            BarColumn,
            MofNCompleteColumn,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
            disable=not err.is_terminal,
            transient=True,
        )
        self._task: TaskID | None = None
        self._tenths = -1

    def say(self, text: str) -> None:
        """Print one line about the current step."""
        err.print(f"[dim]{escape(text)}[/]")

    def update(self, found: Progress) -> None:
        """Show the counts of a run."""
        seen = found.images_done + found.images_failed
        if not err.is_terminal:
            tenths = 10 * seen // max(found.images_total, 1)
            if tenths != self._tenths:
                self._tenths = tenths
                err.print(f"[dim]{seen:,} of {plural(found.images_total, 'image')}[/]")
            return
        if self._task is None:
            self._task = self._bar.add_task("attributing", total=found.images_total, completed=seen, rate="")
        speed = self._bar.tasks[0].speed
        rate = f"{speed:.1f} images/s" if speed else ""
        self._bar.update(self._task, completed=seen, rate=rate)

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


@contextmanager
def working(text: str) -> Iterator[None]:
    """Show a spinner with a text on stderr."""
    with err.status(text):
        yield


def table(left: str | Sequence[str], right: Sequence[str] = ()) -> Table:
    """An empty table with left-aligned columns, then right-aligned ones."""
    made = Table(*([left] if isinstance(left, str) else left), box=None, header_style="bold")
    for name in right:
        made.add_column(name, justify="right")
    return made


def print_table(table: Table) -> None:
    """Print a table at its natural width: a narrow terminal wraps lines, and no cell is cut."""
    width = Measurement.get(out, out.options.update(max_width=1000), table).maximum
    Console(highlight=False, width=width).print(table)


def unfinished(found: Progress) -> None:
    """Print a note on stderr if a run has images left to compute."""
    seen = found.images_done + found.images_failed
    if seen < found.images_total:
        of = plural(found.images_total, "image")
        err.print(f"run {found.run_id} is not finished: {seen:,} of {of} are done", markup=False)


def print_json(value: object) -> None:
    """Print JSON: dataclasses as objects, other unknown types as text."""

    def plain(item: object) -> object:
        return asdict(item) if is_dataclass(item) and not isinstance(item, type) else str(item)

    sys.stdout.write(json.dumps(value, default=plain, indent=2) + "\n")
