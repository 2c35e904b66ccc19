"""Submit a run: resolve the names of a request, list its source, check everything, then store it."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from db.ledger import Ledger
from db.objects import Objects
from db.records import Entry, Run
from pipeline.datasets import Source, list_entries, open_source, read_image, to_pixels
from pipeline.datasets.sampling import Sample, draw_readable, hash_key
from pipeline.errors import SpecError
from pipeline.record_format import numbered
from pipeline.runs import plan
from pipeline.runs.plan import Manifest
from pipeline.settings import Settings
from pipeline.spec.options import shared_options
from pipeline.spec.request import RunRequest
from pipeline.spec.run_spec import ModelSpec, RunSpec, calibration_images
from pipeline.storage.keys import manifest_key, run_key


@contextmanager
def planned(request: RunRequest, settings: Settings) -> Iterator[tuple[Run, RunSpec, Manifest]]:
    """The run of a request, its spec, and its manifest, which is gone when the context ends. Raises UsageError."""
    source = open_source(request.source, s3_endpoint_url=settings.s3_endpoint_url)
    with tempfile.TemporaryDirectory(prefix="attribatch-") as folder:
        manifest = plan.spool(list_entries(source), Path(folder) / "manifest.jsonl.gz")
        spec = _spec(request, source, manifest, settings)
        run = plan.plan_run(
            spec,
            source,
            manifest,
            name=request.name,
            unit_size=request.unit_size,
            priority=request.priority,
        )
        yield run, spec, manifest


def _spec(request: RunRequest, source: Source, manifest: Manifest, settings: Settings) -> RunSpec:
    from pipeline.models import registry

    specs: tuple[ModelSpec, ...] = registry.resolve(
        request.models, labels=manifest.labels, allowed_modules=settings.allowed_modules
    )
    baselines = request.parsed_baselines()
    spec = RunSpec(specs, baselines, **shared_options(request))
    wanted = max((baseline.n for baseline in baselines if baseline.kind == "samples"), default=0)
    few = calibration_images(spec, manifest.count)
    most = max(wanted, few)
    sample: Sample[Entry, str] = Sample([], [], [])
    if most:
        sample = _draw(spec, source, manifest, most, settings.max_pixels)
    drawn = list(zip(sample.items, sample.values, strict=True))
    if len(drawn) < wanted:
        raise SpecError(f"baseline 'samples:n={wanted}' found {len(drawn)} readable images; lower n")
    return replace(
        spec,
        samples=tuple((entry.key, entry.version, digest) for entry, digest in drawn[:wanted]),
        calibration=tuple((entry.key, entry.version, entry.label) for entry, _ in drawn[:few]),
    )


def _draw(spec: RunSpec, source: Source, manifest: Manifest, wanted: int, max_pixels: int) -> Sample[Entry, str]:
    """Readable images of a data set with their sha256, in the order of the spec's seed."""

    def read(entry: Entry) -> str:
        decoded = read_image(source, entry, max_pixels=max_pixels)
        to_pixels(decoded.image, spec.preprocess, key=entry.key)
        return decoded.sha256

    return draw_readable(
        manifest.entries(), wanted, key=lambda entry: hash_key(spec.seed, "samples", entry.row), read=read
    )


def store(ledger: Ledger, objects: Objects, run: Run, spec: RunSpec, manifest: Manifest) -> Run:
    """Store a run: units in SQL, then its record, manifest and array metadata as objects. Returns the stored run."""
    from pipeline.storage import arrays

    stored = ledger.submit(run, plan.drafts(manifest.entries(), run.unit_size))
    # After the rows: a submission that is killed here is repeated, and workers need none of these objects.
    for key, data in arrays.metadata(stored.id, arrays.layout_of(stored, spec)).items():
        objects.put_once(key, data)
    objects.put_once(manifest_key(stored.id), manifest.file.read_bytes())
    objects.put_once(run_key(stored.id), json.dumps(numbered(asdict(stored)), default=str).encode())
    return stored
