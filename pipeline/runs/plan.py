"""Make a run and its units from a spec and a listing.

The only side effect is the spool, a temporary file that holds the manifest while it is counted and digested, so that a
million entries are never in memory at once.
"""

import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from db.records import Entry, Run, UnitDraft
from pipeline.datasets import Source
from pipeline.errors import SpecError
from pipeline.spec.options import parse_target
from pipeline.spec.run_spec import RunSpec

MAX_LABELS = 100_000
MAX_UNIT_BYTES = 256 * 2**20  # float32 pixels of a unit; a worker needs about six times as much for pixels and maps
LEAST_UNITS, LEAST_UNIT = 8, 4  # minimum units of a run, so that its progress is visible; minimum images of a unit


@dataclass(frozen=True, slots=True)
class Manifest:
    """A frozen listing, spooled to a file of gzipped JSON lines [key, version, label]."""

    file: Path
    count: int
    digest: str
    labels: tuple[str, ...]  # sorted, distinct
    unlabelled: str | None  # key of the first entry without a label

    def entries(self) -> Iterator[Entry]:
        """The entries, in order, one at a time."""
        with self.file.open("rb") as file:
            yield from read_manifest(file)


def spool(entries: Iterable[Entry], file: Path) -> Manifest:
    """Write entries to a file, counting and digesting them on the way."""
    digest, count, labels, unlabelled = hashlib.sha256(), 0, set[str](), None
    with gzip.GzipFile(file, "wb", mtime=0) as out:
        for entry in entries:
            line = json.dumps([entry.key, entry.version, entry.label], separators=(",", ":")).encode() + b"\n"
            digest.update(line)
            out.write(line)
            count += 1
            if entry.label is None:
                unlabelled = unlabelled or entry.key
            elif len(labels) < MAX_LABELS:
                labels.add(entry.label)
    return Manifest(file, count, digest.hexdigest(), tuple(sorted(labels)), unlabelled)


def read_manifest(data: bytes | BinaryIO) -> Iterator[Entry]:
    """Entries of a stored manifest, the inverse of `spool`, one at a time."""
    with gzip.open(io.BytesIO(data) if isinstance(data, bytes) else data) as lines:
        for row, line in enumerate(lines):
            key, version, label = json.loads(line)
            yield Entry(row, key, version, label)


def run_id(spec: RunSpec, manifest_digest: str, source: Source) -> str:
    """The same spec over the same listing of the same place is the same run: 12 hex digits."""
    alone = "" if spec.reuse else "/computes all itself"
    return hashlib.sha256(f"{spec.key}/{manifest_digest}/{source.to_json()}{alone}".encode()).hexdigest()[:12]


def plan_run(
    spec: RunSpec,
    source: Source,
    manifest: Manifest,
    *,
    name: str | None = None,
    unit_size: int | None = None,
    priority: int = 0,
) -> Run:
    """The run of a spec over a manifest, checked against each other.

    Raises:
        SpecError: labels are the target, but an image has none or the models do not know one; or units are so large
            that a worker's memory would not hold one.
    """
    if parse_target(spec.target)[0] == "label":
        if manifest.unlabelled is not None:
            raise SpecError(f"target 'label': image {manifest.unlabelled!r} has no label; use the target 'predicted'")
        if unknown := [label for label in manifest.labels if label not in spec.class_names]:
            names = ", ".join(spec.class_names[:5])
            raise SpecError(
                f"target 'label': {len(unknown)} labels are not classes of the models, first {unknown[0]!r} (classes: "
                f"{names}, ...); set `ModelRequest.class_names`, or use the target 'predicted'"
            )
    size = min(unit_size or default_unit_size(spec, manifest.count), manifest.count)
    image_bytes = 4 * spec.preprocess.channels * spec.preprocess.height * spec.preprocess.width
    if size > (most := max(1, MAX_UNIT_BYTES // image_bytes)):
        raise SpecError(f"units of {size} images take several GB of a worker; use a `unit_size` of {most} or less")
    return Run(
        id=run_id(spec, manifest.digest, source),
        name=name,
        spec=spec.to_json(),
        spec_key=spec.key,
        source=source.to_json(),
        manifest_digest=manifest.digest,
        image_count=manifest.count,
        unit_size=size,
        priority=priority,
    )


def default_unit_size(spec: RunSpec, count: int) -> int:
    """Images per unit, the work that a crash may cost: 64 small images, 16 large ones, or an eighth of a small run."""
    most = 64 if spec.preprocess.height * spec.preprocess.width <= 96 * 96 else 16
    return min(most, max(-(-count // LEAST_UNITS), LEAST_UNIT))


def drafts(entries: Iterable[Entry], unit_size: int) -> Iterator[UnitDraft]:
    """Consecutive entries, `unit_size` at a time."""
    iterator = iter(entries)
    number = 0
    while chunk := tuple(islice(iterator, unit_size)):
        yield UnitDraft(number, chunk)
        number += 1
