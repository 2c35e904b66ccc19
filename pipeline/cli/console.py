"""What the command line prints: tables and sentences for people on stdout, progress on stderr, JSON for programs."""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import (
    Progress as Bar,
)
from rich.table import Table

from db.records import ImageRow, Progress, Run, UnitState
from pipeline.formatting import duration, number, percent, plural, visible

if TYPE_CHECKING:
    from pipeline.analysis.audit import Audit
    from pipeline.cli.demo import DemoResult
    from pipeline.runs.estimate import Cost
    from pipeline.spec.run_spec import ModelSpec

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def error(message: str) -> None:
    """One line (or a few) on stderr."""
    err.print(f"[bold red]error:[/] {escape(message)}")


def program() -> str:
    """How this program was called, so that what is printed can be typed."""
    called = Path(sys.argv[0])
    return called.name if shutil.which(called.name) else str(called)


# ---- while something runs


class ProgressBar:
    """Images done, rate and time left, on stderr; lines instead where stderr is no terminal."""

    def __init__(self) -> None:
        # imported here: `--help` need not pay for it
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

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
        self._task: Any = None
        self._tenths = -1

    def say(self, text: str) -> None:
        """One line on what is going on."""
        err.print(f"[dim]{escape(text)}[/]")

    def update(self, found: Progress) -> None:
        """Show a run's counts."""
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


def progress_bar() -> ProgressBar:
    """A context manager that shows progress."""
    return ProgressBar()


@contextmanager
def working(text: str) -> Iterator[None]:
    """Say what takes a moment."""
    with err.status(text):
        yield


# ---- results


def demo(found: "DemoResult", *, home: Path, as_json: bool) -> None:
    """What the demo made: accuracies, classes, the finding, and where everything lies."""
    if as_json:
        print_json(
            {
                "run": found.run.id,
                "accuracies": found.accuracies,
                "progress": found.progress,
                "audit": found.audit.to_dict(),
                "report": found.report,
            }
        )
        return
    for member, accuracy in enumerate(found.accuracies, 1):
        out.print(f"member {member}: {percent(accuracy, 1)} of the held-out scans right")
    _classes(found.audit)
    out.print()
    _verdict(found.audit)
    out.print()
    out.print(f"report  {found.report}", markup=False)
    out.print(f"index   {home / 'index.db'}", markup=False)
    out.print(f"maps    {home / 'objects' / 'runs' / found.run.id / 'maps'}", markup=False)
    out.print(
        f"\nnext:   open the report in a browser\n        {program()} query latest --where mispredicted\n"
        f"        {program()} show 0 --out first.png\n        {program()} run --help",
        markup=False,
    )


def cost(found: "Cost", *, as_json: bool) -> None:
    """What a run would take."""
    if as_json:
        print_json(found)
        return
    steps = round(found.evaluations_per_image / found.paths)
    factors = ((found.images, "image"), (found.paths, "path"), (steps, "step"))
    total = round(found.images * found.evaluations_per_image)
    equals = "=" if found.images * found.paths * steps == total else "= about"
    product = " x ".join(plural(count, noun) for count, noun in factors)
    out.print(
        f"{product} {equals} {plural(total, 'gradient evaluation')}\n"
        f"about {duration(found.seconds)} with one worker on this machine, "
        f"measured on {plural(len(found.sample), 'image')}; nothing was stored"
    )


def finished(run: Run, progress: Progress, failures: Sequence[ImageRow], reused: int, *, as_json: bool) -> None:
    """How a run ended."""
    if as_json:
        print_json({"run": run.id, "name": run.name, "progress": progress, "reused": reused, "failures": failures})
        return
    name = f" ({run.name})" if run.name else ""
    out.print(
        f"run {run.id}{escape(name)}: {progress.state}, "
        f"{progress.images_done:,} of {plural(progress.images_total, 'image')} done"
        + (f", {reused:,} of them known before" if reused else "")
    )
    if progress.images_failed:
        out.print(f"{plural(progress.images_failed, 'image')} failed, for example:")
        for row in failures:
            out.print(f"  {visible(row.error or '')}", markup=False)
    for text in progress.errors:
        out.print(f"  {text}", markup=False)
    if progress.images_done:
        ref = run.name or run.id
        out.print(f"next: {program()} audit {ref}    {program()} query {ref} --sort -error_estimate", markup=False)


def detached(run: Run, *, as_json: bool) -> None:
    """The id of a run that others compute."""
    if as_json:
        print_json({"run": run.id, "name": run.name})
        return
    out.print(run.id, markup=False)


def status(
    found: Sequence[tuple[Run, Progress]], tuning: dict[str, Any], *, as_json: bool, again: bool = False
) -> None:
    """One line for each run; reasons where something failed; of a single run what was measured for it.

    `again`: in place of what was shown before, on a terminal.
    """
    if again and not as_json:
        out.clear()
    if as_json:
        more = {"tuning": tuning} if tuning else {}
        print_json([{"run": run.id, "name": run.name, "progress": progress, **more} for run, progress in found])
        return
    if not found:
        out.print(f"no runs yet; start with: {program()} demo", markup=False)
        return
    table = Table("run", "name", "state", "images", "failed", "units", "submitted", box=None, header_style="bold")
    for run, progress in found:
        done = progress.units[UnitState.DONE]
        table.add_row(
            run.id,
            escape(run.name or ""),
            _state(progress),
            f"{progress.images_done:,}/{progress.images_total:,}",
            f"{progress.images_failed:,}",
            f"{done:,}/{sum(progress.units.values()):,}",
            f"{run.submitted_at:%Y-%m-%d %H:%M:%S}" if run.submitted_at else "",
        )
    print_table(table)
    for run, progress in found:
        for text in progress.errors:
            out.print(f"{run.id}: {text}", markup=False)
    for name, measured in tuning.items():
        for text in _tuned(name, measured):
            out.print(text, markup=False)


def _tuned(name: str, measured: dict[str, Any]) -> Iterator[str]:
    if name == "nodes":
        for baseline, knots in measured["knots"].items():
            inner = ", ".join(f"{knot:.2f}" for knot in knots[1:-1])
            even = all(abs(knot - index / (len(knots) - 1)) < 1e-9 for index, knot in enumerate(knots))
            placed = (
                "evenly; fitting them lowers no error" if even else f"an eighth of them each up to alpha {inner}, 1"
            )
            yield f"nodes from {baseline}: {placed} (measured on {plural(len(measured['images']), 'image')})"
        return
    for index, way in enumerate(measured["members"]):
        change = f"maps differ by {way['error']:.2%}, {way['speedup']:.2f} times as fast"
        yield f"{name}: member {index} runs {way['name']}" + ("" if way["name"] == "as given" else f" ({change})")


def audit(found: "Audit", report: Path, exceeded: Sequence[str], *, as_json: bool) -> None:
    """What an audit found, and the gates that it exceeds."""
    if as_json:
        print_json(found.to_dict() | {"exceeded": exceeded})
        return
    _classes(found)
    out.print()
    _verdict(found)
    for gate in exceeded:
        out.print(f"[bold red]gate exceeded:[/] {escape(gate)}")
    out.print(f"\nreport  {report} (open it in a browser)", markup=False)


def image(row: ImageRow, path: Path, *, as_json: bool) -> None:
    """Where the picture of one image is."""
    if as_json:
        print_json({"row": row, "png": path})
        return
    text = f"{row.key}: predicted {row.predicted} ({row.probability:.3f}), label {row.label}, explained {row.target}"
    out.print(f"{text}\n{path}", markup=False)


def model(found: "ModelSpec", *, as_json: bool) -> None:
    """What a model takes and gives."""
    if as_json:
        print_json(found)
        return
    size = found.preprocess
    few = ", ".join(found.class_names[:8]) + (", ..." if len(found.class_names) > 8 else "")
    fit = f"{size.fit} to {size.resize_to}" if size.resize_to else size.fit
    lines = [
        f"source    {found.source}",
        f"input     {size.channels} x {size.height} x {size.width} ({fit}, {size.interpolation})",
        f"mean      {', '.join(f'{value:g}' for value in size.mean)}",
        f"std       {', '.join(f'{value:g}' for value in size.std)}",
        f"classes   {len(found.class_names)}: {few}",
        f"weights   sha256 {found.weights_sha256}",
    ]
    out.print("\n".join(lines), markup=False)


def names(found: Sequence[str], *, as_json: bool) -> None:
    """A list, one a line."""
    if as_json:
        print_json(found)
        return
    out.print("\n".join(found), markup=False)


# ---- parts


def _classes(found: "Audit") -> None:
    table = Table(box=None, header_style="bold")
    members, baselines = found.overall.member_disagreement is not None, found.overall.baseline_sensitivity is not None
    columns = ["class", "images", "completeness gap", "error estimate", "border share"]
    columns += ["disagreement", "sign agreement"] * members + ["baseline sensitivity"] * baselines
    for column in columns:
        table.add_column(column, justify="left" if column == "class" else "right")
    for one in found.classes:
        cells = [percent(value) for value in (one.completeness_gap, one.error_estimate, one.border_share)]
        cells += [number(one.member_disagreement), percent(one.sign_agreement)] * members
        cells += [number(one.baseline_sensitivity)] * baselines
        table.add_row(escape(one.class_name), f"{one.images:,}", *cells)
    print_table(table)
    out.print("[dim]medians, within half a percent; border share (in the outer eighth) and sign agreement: means")
    if members:
        out.print(
            "[dim]members with nothing in common: disagreement 1.0 of two, 1.6 of three; sign agreement 71 %, 43 %"
        )
    if baselines:
        out.print("[dim]baseline sensitivity: distance of two baselines' maps; 0 the same, 1.41 nothing in common")


def _state(progress: Progress) -> str:
    idle = progress.state == "running" and not progress.units[UnitState.LEASED]
    return "stopped" if idle else str(progress.state)


def print_table(table: Table) -> None:
    """A table at its natural width: a narrow terminal wraps lines, but no cell is cut."""
    width = Measurement.get(out, out.options.update(max_width=1000), table).maximum
    Console(highlight=False, width=width).print(table)


def unfinished(found: Progress) -> None:
    """A line beside the answer where a run is not finished."""
    seen = found.images_done + found.images_failed
    if seen < found.images_total:
        of = plural(found.images_total, "image")
        err.print(f"run {found.run_id} is not finished: {seen:,} of {of} are done", markup=False)


def _verdict(found: "Audit") -> None:
    for finding in found.findings:
        out.print(f"[bold]finding:[/] {escape(finding.sentence)}")
    if not found.findings:
        out.print(escape(found.summary))
    for reason, count in found.failed.items():
        out.print(f"{plural(count, 'image')} failed: {visible(reason)}", markup=False)
    for remark in found.remarks if found.searched else ():
        out.print(remark, markup=False)


def print_json(value: object) -> None:
    """JSON for programs; records become objects, whatever else is no JSON its text."""

    def plain(item: object) -> object:
        return asdict(item) if is_dataclass(item) and not isinstance(item, type) else str(item)

    sys.stdout.write(json.dumps(value, default=plain, indent=2) + "\n")
