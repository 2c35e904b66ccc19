"""An overlay for each image as a PNG file, and a table of files and images."""

import csv
from pathlib import Path

from pipeline.outputs.pictures import overlay, upscale
from pipeline.runs.stored import Selection, safe_name


def write(selection: Selection, place: Path, _target: Path) -> int:
    """Write `<row>-<key>.png` for each image and `index.csv`. Images written."""
    written = 0
    with (place / "index.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file", "row", "key", "label", "predicted", "probability"])
        for row, one, pixels in selection.with_images():
            name = f"{safe_name(row)}.png"
            upscale(overlay(pixels, one)).save(place / name)
            table.writerow([name, row.row, row.key, row.label, row.predicted, row.probability])
            written += 1
    return written
