"""Records of a newer version: unknown fields are dropped, a larger format number is refused, and the record is kept."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from db.queries import iter_images
from db.records import UnitState
from pipeline.api import Pipeline
from pipeline.datasets import Source
from pipeline.engine.calibration import _read
from pipeline.engine.unit import Outcome, run_unit
from pipeline.engine.worker import open_workshop, work
from pipeline.errors import RecordDamaged, RecordTooNew
from pipeline.models.training.bagging import _claim
from pipeline.models.training.ensemble_manifest import Ensemble
from pipeline.record_format import FORMAT, build, read_record
from pipeline.schedules.records import restore_schedules
from pipeline.spec.request import RunRequest, repeat
from pipeline.spec.run_spec import RunSpec
from pipeline.storage.sidecar import Sidecar, read_sidecar

Change = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Kind:
    """One kind of stored record."""

    files: str  # below the root, the first that fits
    read: Callable[[Pipeline, Path, str], Any]  # home, path, and the object's key; not what is ignored
    inner: Callable[[dict[str, Any]], dict[str, Any]] = lambda record: record  # a part with fields of its own


def _run(key: str) -> str:
    return key.split("/")[1]


def _training(_home: Pipeline, path: Path, _key: str) -> None:
    recipe = json.loads(path.read_text())
    del recipe["format"], recipe["from_the_future"]
    _claim(path.parent, recipe)


RUNS = "home/objects/runs"
KINDS = {
    "sidecar": Kind(
        f"{RUNS}/*/units/000001.json",
        lambda home, _, key: read_sidecar(home.objects, key),
        lambda record: record["rows"][0],
    ),
    "nodes": Kind(f"{RUNS}/*/tuning/nodes.json", lambda home, _, key: _read(home.objects, key)["knots"]),
    "precision": Kind(f"{RUNS}/*/tuning/precision/*.json", lambda home, _, key: _read(home.objects, key)["members"]),
    "tuning": Kind(f"{RUNS}/*/tuning/nodes.json", lambda home, _, key: home.tuning(_run(key))["nodes"]["knots"]),
    "audit": Kind(f"{RUNS}/*/reports/audit*.json", lambda home, _, key: bare(home.stored_audit(_run(key)))),
    "evaluation": Kind(f"{RUNS}/*/reports/evaluation.json", lambda home, _, key: bare(home.evaluation(_run(key)))),
    "comparison": Kind(
        f"{RUNS}/*/reports/compare*.json",
        lambda home, path, key: bare(home.stored_comparison(_run(key), path.name.split("-")[1])),
    ),
    "ensemble": Kind(
        "ensemble/ensemble.json",
        lambda _home, path, _: Ensemble.read(path.parent),
        lambda record: record["members"][0],
    ),
    "training": Kind("ensemble/training.json", _training),
}


def bare(report: dict[str, Any] | None) -> dict[str, Any]:
    """A report without what its readers ignore."""
    assert report is not None
    return {name: value for name, value in report.items() if name not in ("format", "from_the_future")}


def change(path: Path, how: Change) -> bytes:
    record = json.loads(path.read_text())
    how(record)
    path.write_text(json.dumps(record))
    return path.read_bytes()


def newer(record: dict[str, Any]) -> None:
    record["format"] = FORMAT + 1


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture
def path(root: Path, kind: Kind) -> Path:
    return min(root.glob(kind.files))


def key_of(root: Path, path: Path) -> str:
    return str(path.relative_to(root / "home" / "objects")) if path.is_relative_to(root / "home") else ""


def test_unknown_fields_are_dropped(home: Pipeline, root: Path, kind: Kind, path: Path) -> None:
    def add(record: dict[str, Any]) -> None:
        kind.inner(record)["from_the_future"] = record["from_the_future"] = [{"new": 1}]
        record["format"] = FORMAT

    before = None if kind.read is _training else kind.read(home, path, key_of(root, path))
    change(path, add)
    assert kind.read(home, path, key_of(root, path)) == before


def test_a_larger_format_is_refused_with_a_remedy(home: Pipeline, root: Path, kind: Kind, path: Path) -> None:
    change(path, newer)
    change(path, lambda record: record.update(from_the_future=1))
    with pytest.raises(RecordTooNew, match=rf"{FORMAT + 1}.* {FORMAT}; upgrade attribatch") as caught:
        kind.read(home, path, key_of(root, path))
    assert str(key_of(root, path) or path) in str(caught.value)


def test_specs_drop_unknown_fields_and_refuse_new_formats(home: Pipeline) -> None:
    """Specs and requests drop unknown fields and refuse a larger format."""
    texts = {RunSpec: home.get_run("latest").spec, RunRequest: home.schedules.get("nightly").request}
    for kind, text in texts.items():
        data = json.loads(text)
        data["from_the_future"] = data["models"][0]["from_the_future"] = 1
        assert kind.from_json(json.dumps(data)) == kind.from_json(text)
        with pytest.raises(RecordTooNew, match="upgrade attribatch"):
            kind.from_json(json.dumps(data | {"format": FORMAT + 1}))


def lose_the_index(home: Pipeline) -> Pipeline:
    home.close()
    for path in home.settings.home.glob("index.db*"):
        path.unlink()
    return Pipeline(home.settings)


def test_repair_keeps_a_newer_sidecar_and_a_worker_leaves_it(home: Pipeline, root: Path) -> None:
    path = min(root.glob(f"{RUNS}/*/units/000001.json"))
    kept = change(path, lambda record: record.update(format=FORMAT + 1, rows={"other": "layout"}))
    key = key_of(root, path)
    found = home.repair()
    assert (found.newer, found.damaged, found.units_queued_again, found.units_intact) == ((key,), (), 0, 7)
    with lose_the_index(home) as rebuilt:
        found = rebuilt.repair()
        assert (found.newer, found.damaged, found.units_queued_again, found.units_restored) == ((key,), (), 0, 7)
        shop = open_workshop(rebuilt.settings)
        unit = shop.ledger.claim("test", run_id=_run(key))
        assert unit is not None
        assert run_unit(shop, unit) is Outcome.FAILED
        shop.database.dispose()
        (error,) = rebuilt.status(_run(key)).errors
    reads = f"this version of attribatch reads formats up to {FORMAT}; upgrade attribatch"
    assert error == f"{key} has format {FORMAT + 1}, {reads}"
    assert path.read_bytes() == kept


def test_repair_restores_the_known_columns_of_a_sidecar(home: Pipeline, root: Path) -> None:
    """Repair restores what it knows of a sidecar with unknown columns."""
    path = min(root.glob(f"{RUNS}/*/units/000001.json"))
    run = _run(key_of(root, path))
    kept = change(path, lambda record: [row.update(new_column=1) for row in record["rows"]])
    before = list(iter_images(home.database, run))
    with lose_the_index(home) as rebuilt:
        assert (rebuilt.repair().units_restored, rebuilt.repair().damaged) == (8, ())
        assert list(iter_images(rebuilt.database, run)) == before
    assert path.read_bytes() == kept


def test_repair_keeps_newer_records_of_runs_and_schedules(home: Pipeline, root: Path) -> None:
    run, schedule = min(root.glob(f"{RUNS}/*/run.json")), root / "home/objects/schedules/nightly.json"
    kept = {path: change(path, newer) for path in (run, schedule)}
    keys = tuple(key_of(root, path) for path in kept)
    assert (set(home.repair().newer), home.repair().damaged) == (set(keys), ())
    with lose_the_index(home) as rebuilt:
        found = rebuilt.repair()
        assert (set(found.newer), found.damaged, found.runs) == (set(keys), (), 2)
        assert [each.name for each in rebuilt.schedules.listed()] == ["paused"]
    assert {path: path.read_bytes() for path in kept} == kept


def test_retry_and_schedules_keep_newer_records(home: Pipeline, root: Path) -> None:
    run = next(run for run in home.runs() if home.status(run.id).images_failed)
    failed = next(row.row for row in iter_images(home.database, run.id) if row.error) // run.unit_size
    sidecar = root / RUNS / run.id / "units" / f"{failed:06}.json"
    kept = change(sidecar, newer)
    home.retry(run.id)
    assert sidecar.read_bytes() == kept
    name = home.schedules.listed()[0].name
    record = root / "home/objects/schedules" / f"{name}.json"
    kept = change(record, newer)
    home.schedules.resume(name)
    assert record.read_bytes() == kept


@pytest.mark.parametrize("number", ["x", None, True, 2.0, 0, -1, 10**9])
def test_repair_keeps_records_with_an_unknown_number(home: Pipeline, root: Path, number: object) -> None:
    path = next(root.glob(KINDS["sidecar"].files))
    kept = change(path, lambda record: record.update(format=number))
    assert key_of(root, path) in home.repair().newer
    assert path.read_bytes() == kept


@pytest.mark.parametrize("data", [b"", b"[", b"[" * 5000, b"null", b"[]", b'"x"', b"\xff", b'{"rows": 3}'])
def test_a_damaged_record_is_one_sentence_with_a_remedy(data: bytes) -> None:
    with pytest.raises(RecordDamaged, match=r"damaged.*attribatch repair"):
        build(Sidecar, read_record(data, "a sidecar"))


def test_the_source_of_a_run_drops_unknown_fields(home: Pipeline) -> None:
    source = json.loads(home.runs()[0].source)
    assert Source.from_json(json.dumps(source | {"from_the_future": 1})) == Source.from_json(json.dumps(source))
    with pytest.raises(RecordTooNew, match="upgrade attribatch"):
        Source.from_json(json.dumps(source | {"format": FORMAT + 1}))


def test_a_record_of_a_schedule_may_have_unknown_fields(home: Pipeline, root: Path) -> None:
    change(root / "home/objects/schedules/nightly.json", lambda record: record.update(from_the_future=1))
    with lose_the_index(home) as rebuilt:
        assert restore_schedules(rebuilt.database, rebuilt.objects).schedules == 2


def test_an_audit_does_not_replace_a_newer_one(home: Pipeline, root: Path) -> None:
    path = next(root.glob(f"{RUNS}/*/reports/audit*.json"))
    kept = change(path, newer)
    with pytest.raises(RecordTooNew, match="upgrade attribatch"):
        home.audit(_run(key_of(root, path)), out=root / "report")
    assert path.read_bytes() == kept
    assert home.status(_run(key_of(root, path))).units[UnitState.DONE] == 2


@pytest.mark.slow
def test_every_record_that_is_written_has_its_number(home: Pipeline, root: Path) -> None:
    """All kinds but `training.json`, which only a training writes."""
    fitted, first = home.get_run("fitted"), home.runs()[-1]
    stored = home.submit(replace(repeat(fitted), precision="auto", reuse=False, name="written"))
    shop = open_workshop(home.settings)
    work(shop, stored.id)
    shop.database.dispose()
    home.audit(stored.id, out=root / "report")
    home.evaluate(stored.id, images=2, metrics=["agreement"])
    home.compare(stored.id, first.id)
    home.schedules.resume("paused")
    Ensemble.read(root / "ensemble").write(root / "ensemble")
    objects = root / "home" / "objects"
    written = [path for path in (objects / "runs" / stored.id).rglob("*.json") if path.name != "zarr.json"]
    folders = {path.relative_to(objects / "runs" / stored.id).parts[0] for path in written}
    assert folders == {"run.json", "units", "tuning", "reports"}
    assert len([path for path in written if path.parent.name == "reports"]) == 3
    for path in (*written, objects / "schedules" / "paused.json", root / "ensemble" / "ensemble.json"):
        assert json.loads(path.read_text())["format"] == FORMAT, path
