"""An audit of many maps: images per second, and peak memory, which must not grow with the number of maps."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import log, table

COUNTS = (2_000, 20_000, 100_000)
PROGRAM = """
import sys, time
import numpy as np
from benchmarks.peaks import peak
from db.records import ImageRow, ImageState
from pipeline.analysis.audit import audit
from pipeline.runs.view import RunView
from tests.support.planted_worlds import a_run, a_spec

count = int(sys.argv[1])
store = np.random.default_rng(0).normal(0, 1, (512, 1, 32, 32)).astype(np.float32)
pixels = np.random.default_rng(1).random((512, 1, 32, 32)).astype(np.float32)

class Rows:
    def __iter__(self):
        for i in range(count):
            name, spread = str(i % 10), (i * 2_654_435_761 % 2**32) / 2**32
            yield ImageRow("r", i, f"{name}/{i:07}.png", "v", ImageState.DONE, label=name, target=name, predicted=name,
                           completeness_gap=spread, error_estimate=spread / 5, member_disagreement=spread,
                           entropy=spread, border_share=spread, center_x=spread, center_y=spread, gini=spread)

def some(of):
    return lambda rows: of[[row.row % 512 for row in rows]]

def predict(batch):
    return np.full((len(batch), 10), 0.1, np.float32)

material = RunView(a_run(count), a_spec(), Rows(), some(store), some(pixels), predict, spreads=some(np.abs(store)))
marks = []
started = time.process_time()
audit(material, on_progress=lambda what, done, of: marks.append(time.process_time()) if done == of else None)
print(marks[0] - started, time.process_time() - started, peak())
"""


def section() -> str:
    """Markdown of this section."""
    rows = []
    for count in COUNTS:
        log(f"audit of {count} maps")
        reading, seconds, peak = measure(count)
        rows.append([f"{count:,}", f"{count / reading:,.0f}", f"{seconds:.1f}", f"{peak:.0f}"])
    header = ["maps", "images/s, reductions", "whole audit, processor s", "peak, MB"]
    return (
        "## An audit of many maps\n\nSynthetic maps of 32 x 32 and their spreads over members, ten classes. One "
        "process for each number of maps; 512 maps are in memory at a time. Reductions: all figures and maps of the "
        "classes, and the sample's shares in windows and cells.\n\n" + table(header, rows)
    )


def measure(count: int) -> tuple[float, float, float]:
    """Processor seconds of the pass over rows and maps and of the whole audit, and peak memory in MB."""
    root = str(Path(__file__).parents[1])
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(count)], capture_output=True, text=True, check=True, cwd=root,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    reading, seconds, peak = map(float, found.stdout.split())
    return reading, seconds, peak
