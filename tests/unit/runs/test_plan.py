"""Manifests are frozen, runs are identified by what they compute over what, units cover every row once."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from db.ledger import Ledger
from db.records import Entry
from db.session import migrate, open_engine
from pipeline.datasets import Source
from pipeline.datasets.sampling import draw, hash_key
from pipeline.errors import SpecError
from pipeline.runs.plan import Manifest, default_unit_size, drafts, plan_run, read_manifest, run_id, spool
from pipeline.spec.run_spec import Preprocess, RunSpec
from tests.support.specs import MODEL, spec

ONE, TWO = Entry(0, "a/\u00e9.png", "1-1", "cat"), Entry(1, "b.png", "1-1", None)


def manifest(folder: Path, *entries: Entry) -> Manifest:
    return spool(entries, folder / "manifest.gz")


def test_a_unit_fits_in_a_workers_memory(tmp_path: Path) -> None:
    large = replace(spec(), models=(replace(MODEL, preprocess=Preprocess(256, 256)),))
    entries = [Entry(row, f"{row}.png", "1-1", None) for row in range(800)]
    with pytest.raises(SpecError, match=r"units of 800 images.*`unit_size` of 341 or less"):
        plan_run(large, Source("folder", str(tmp_path)), manifest(tmp_path, *entries), unit_size=800)
    fits = plan_run(large, Source("folder", str(tmp_path)), manifest(tmp_path, *entries), unit_size=341)
    assert fits.unit_size == 341


def test_a_spooled_manifest_reads_back_as_it_was_listed(tmp_path: Path) -> None:
    found = manifest(tmp_path, ONE, TWO)
    assert list(found.entries()) == [ONE, TWO] == list(read_manifest(found.file.read_bytes()))
    assert (found.count, found.labels, found.unlabelled) == (2, ("cat",), "b.png")


def test_the_digest_follows_order_key_version_and_label(tmp_path: Path) -> None:
    lists = ([], [ONE], [ONE, TWO], [TWO, ONE], [replace(ONE, version="1-2")], [replace(ONE, label=None)])
    assert len({manifest(tmp_path, *entries).digest for entries in lists}) == 6
    assert manifest(tmp_path, ONE).digest == manifest(tmp_path, ONE).digest


def test_the_same_spec_over_the_same_manifest_is_the_same_run(tmp_path: Path) -> None:
    source = Source("folder", str(tmp_path))
    one = plan_run(spec(), source, manifest(tmp_path, ONE))
    assert one.id == plan_run(spec(), source, manifest(tmp_path, ONE), name="x", unit_size=1).id
    assert one.id != plan_run(spec(seed=1), source, manifest(tmp_path, ONE)).id
    assert one.id != plan_run(spec(), source, manifest(tmp_path, TWO)).id
    assert one.id == run_id(spec(), one.manifest_digest, source)
    elsewhere = Source("folder", str(tmp_path / "copy"))  # equal names, sizes and times need not be equal images
    assert one.id != plan_run(spec(), elsewhere, manifest(tmp_path, ONE)).id
    assert plan_run(spec(), source, manifest(tmp_path, ONE), unit_size=10**20).unit_size == 1


@pytest.mark.parametrize(("count", "size"), [(1, 4), (4, 4), (9, 4), (10, 1)])
def test_units_cover_every_row_once_in_order(count: int, size: int) -> None:
    entries = [Entry(row, f"{row}.png", "1") for row in range(count)]
    units = list(drafts(entries, size))
    assert [entry for unit in units for entry in unit.entries] == entries
    assert [unit.number for unit in units] == list(range(len(units)))
    assert all(len(unit.entries) == size for unit in units[:-1])
    assert all(unit.entries[0].row == unit.number * size for unit in units)


def test_labels_as_targets_must_be_classes_of_the_models(tmp_path: Path) -> None:
    source, by_label = Source("folder", str(tmp_path)), spec(target="label")
    assert plan_run(by_label, source, manifest(tmp_path, ONE)).image_count == 1
    with pytest.raises(SpecError, match=r"image 'b\.png' has no label"):
        plan_run(by_label, source, manifest(tmp_path, ONE, TWO))
    with pytest.raises(SpecError, match="1 labels are not classes of the models, first 'fish'"):
        plan_run(by_label, source, manifest(tmp_path, ONE, replace(TWO, label="fish")))


def test_large_images_come_in_smaller_units() -> None:
    large = RunSpec((replace(MODEL, preprocess=Preprocess(224, 224)),), spec().baselines)
    assert default_unit_size(large, 10_000) < default_unit_size(spec(), 10_000)
    assert default_unit_size(spec(), 33) == 5, "a small run shows its progress, and loses little"
    assert default_unit_size(spec(), 3) == 4


@pytest.mark.slow
def test_memory_of_planning_does_not_grow_with_images(tmp_path: Path) -> None:
    """Memory of planning and submitting does not grow with the number of images."""
    engine = open_engine(f"sqlite:///{tmp_path}/index.db")
    migrate(engine)
    source = Source("folder", str(tmp_path))

    def listing(count: int) -> Iterator[Entry]:
        return (Entry(row, f"{row % 10}/{row}.png", f"{row}-{row * 7919}", str(row % 10)) for row in range(count))

    def peak(count: int) -> int:
        tracemalloc.start()
        found = spool(listing(count), tmp_path / "manifest.gz")
        assert len(draw(found.entries(), 64, key=lambda entry: hash_key(0, entry.row))) == 64
        run = plan_run(spec(), source, found, unit_size=16)
        Ledger(engine).submit(run, drafts(found.entries(), run.unit_size))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1000)  # what is imported and cached once
    few, many = peak(8_000), peak(40_000)
    engine.dispose()
    assert many < 2 * few, f"{few:,} bytes for 8,000 images, {many:,} for 40,000"
