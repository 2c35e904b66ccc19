"""Rows per second and peak memory for each chunk size, and the sizes that the engine chooses."""

from functools import partial

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.clock import Clock, OutOfTime
from benchmarks.gpu.device import DEFAULT, arithmetic
from benchmarks.gpu.subjects import Subject
from benchmarks.machine import table
from pipeline.attribution import integrated_gradients
from pipeline.attribution.batch import default_batch_size


def section(bench: Bench, clock: Clock) -> str:
    """Markdown of this section."""
    rows: list[list[str]] = []
    for subject, own in bench.each(clock, "chunks"):
        with bench.attempt(f"chunks of {subject.name}"):
            chosen = [f"{default_batch_size(subject.images)}", f"{bench.chunk(subject)}"]
            rows.append([subject.name, *chosen, *_cells(bench, subject, own)])
    header = ["network", "default", "measured", *map(str, bench.sizes.chunks)]
    memory = "peak memory of tensors" if bench.device.is_cuda else "peak memory of the process"
    return (
        "## Chunk sizes and peak memory\n\nRows (image x node) of one forward and backward pass. *Default*: of a call "
        "without `internal_batch_size`; *measured*: by `measured_batch_size`, as in runs. The other columns: "
        f"rows/s of `integrated_gradients` at this chunk / {memory} in GiB, weights included. torch's default "
        f"arithmetic.\n\n{table(header, rows)}"
    )


def _cells(bench: Bench, subject: Subject, clock: Clock) -> list[str]:
    """A cell for each size, up to the first that does not fit, or for which no time is left."""
    cells: list[str] = []
    for chunk in bench.sizes.chunks:
        try:
            cells.append(_cell(bench, subject, chunk, clock))
        except OutOfTime:
            bench.cuts.append(f"chunks of {subject.name} from {chunk} rows on")
            break
        except MemoryError:
            cells.append("does not fit")
            break
    return cells + ["-"] * (len(bench.sizes.chunks) - len(cells))


def _cell(bench: Bench, subject: Subject, chunk: int, clock: Clock) -> str:
    count = min(len(subject.images), chunk)
    steps = max(2 * chunk, 64) // count
    run = partial(
        integrated_gradients,
        subject.member,
        subject.images[:count],
        subject.targets[:count],
        baselines=subject.black,
        n_steps=steps,
        internal_batch_size=chunk,
    )
    with arithmetic(DEFAULT):
        found = bench.timed(run, clock)
    return f"{count * steps / found.seconds:.0f} / {found.peak_bytes / 2**30:.1f}"
