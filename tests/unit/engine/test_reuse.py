"""An attribution is computed once, whichever run, name or place its image comes in; and again where that is asked."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from db.queries import iter_images
from db.records import Entry, ImageRow, ImageState, Run, RunState
from pipeline.api import Pipeline, RunRequest
from pipeline.datasets import Decoded, Source, read_image
from pipeline.datasets.decoder import Picture
from pipeline.engine.explainer import Computed, Explainer
from pipeline.engine.unit import Workshop
from pipeline.engine.worker import open_workshop, work
from pipeline.spec.run_spec import RunSpec
from pipeline.storage import sidecar
from pipeline.storage.keys import sidecar_key


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the images that were computed, filled as they are."""
    keys: list[str] = []
    compute = Explainer.compute

    def counting(self: Explainer, pictures: list[Picture]) -> Computed:
        keys.extend(picture.entry.key for picture in pictures)
        return compute(self, pictures)

    monkeypatch.setattr(Explainer, "compute", counting)
    return keys


def rows(shop: Workshop, run: Run) -> list[ImageRow]:
    return list(iter_images(shop.database, run.id))


def test_a_grown_data_set_computes_only_new_images(
    dataset: Path,
    pipeline: Pipeline,
    shop: Workshop,
    request_: RunRequest,
    computed: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A grown data set computes only what is new and reads nothing else."""
    first = pipeline.submit(request_)
    work(shop, first.id)
    assert len(computed) == 18
    computed.clear()
    (dataset / "cat" / "new.png").write_bytes(pixels(dataset, 3))
    second = pipeline.submit(request_)
    assert second.id != first.id
    read = []

    def reading(source: Source, entry: Entry, *, max_pixels: int) -> Decoded:
        read.append(entry.key)
        return read_image(source, entry, max_pixels=max_pixels)

    monkeypatch.setattr("pipeline.datasets.decoder.read_image", reading)
    work(shop, second.id)
    assert computed == read == ["cat/new.png"]
    found = rows(shop, second)
    assert [row.row for row in found] == list(range(19))
    assert pipeline.status(second.id).state is RunState.DONE
    before = {row.key: row for row in rows(shop, first)}
    for row in found:
        if row.key != "cat/new.png":
            assert (row.map_run, row.map_row) == (first.id, before[row.key].row)
            assert row.error_estimate == before[row.key].error_estimate
    maps = dict(zip([row.key for row in found], pipeline.read_maps(found), strict=True))
    for row, one in zip(rows(shop, first), pipeline.read_maps(rows(shop, first)), strict=True):
        np.testing.assert_array_equal(maps[row.key], one)


def pixels(dataset: Path, value: int) -> bytes:
    """A PNG that no other image equals."""
    from io import BytesIO

    from PIL import Image

    out = BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.slow
def test_a_changed_image_is_computed_again(
    dataset: Path, pipeline: Pipeline, shop: Workshop, request_: RunRequest, computed: list[str]
) -> None:
    work(shop, pipeline.submit(request_).id)
    computed.clear()
    (dataset / "dog" / "2.png").write_bytes(pixels(dataset, 9))
    work(shop, pipeline.submit(request_).id)
    assert computed == ["dog/2.png"]


def test_a_renamed_image_is_known_by_its_digest(
    tmp_path: Path, dataset: Path, pipeline: Pipeline, shop: Workshop, request_: RunRequest, computed: list[str]
) -> None:
    """An image under another name in another place is known by its digest."""
    work(shop, pipeline.submit(request_).id)
    computed.clear()
    elsewhere = tmp_path / "elsewhere" / "beasts"
    shutil.copytree(dataset / "cat", elsewhere)
    moved = pipeline.submit(replace(request_, source=str(tmp_path / "elsewhere")))
    work(shop, moved.id)
    assert computed == []
    assert [row.label for row in rows(shop, moved)] == ["beasts"] * 6
    assert np.isfinite(pipeline.read_maps(rows(shop, moved))).all()


def test_an_image_that_stands_twice_is_computed_once(
    dataset: Path, pipeline: Pipeline, shop: Workshop, request_: RunRequest, computed: list[str]
) -> None:
    (dataset / "cat" / "1b.png").write_bytes((dataset / "cat" / "1.png").read_bytes())  # in one unit with it
    (dataset / "dog" / "0.png").write_bytes((dataset / "cat" / "4.png").read_bytes())  # the unit after it
    (dataset / "eel" / "5.png").write_bytes((dataset / "cat" / "0.png").read_bytes())  # far away
    run = pipeline.submit(request_)
    work(shop, run.id)
    assert len(computed) == len(set(computed)) == 16
    found = {row.key: row for row in rows(shop, run)}
    assert len(found) == 19
    for one, other in (("cat/1b.png", "cat/1.png"), ("dog/0.png", "cat/4.png"), ("eel/5.png", "cat/0.png")):
        assert found[one].map_row == found[other].map_row == found[other].row
        assert found[one].output == found[other].output
        assert found[one].label == one.partition("/")[0]


@pytest.mark.slow
def test_explained_labels_are_part_of_an_attribution(
    dataset: Path, pipeline: Pipeline, shop: Workshop, request_: RunRequest, computed: list[str]
) -> None:
    (dataset / "dog" / "0.png").write_bytes((dataset / "cat" / "0.png").read_bytes())
    run = pipeline.submit(replace(request_, target="label"))
    work(shop, run.id)
    assert len(computed) == 18
    assert all(row.target == row.label for row in rows(shop, run))


@pytest.mark.slow
def test_without_reuse_a_run_of_its_own_computes_everything(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest, computed: list[str]
) -> None:
    first, alone = pipeline.submit(request_), pipeline.submit(replace(request_, reuse=False))
    assert alone.id != first.id
    assert alone.spec_key == first.spec_key
    for run in (first, alone):
        work(shop, run.id)
    assert len(computed) == 36
    assert {row.map_run for row in rows(shop, alone)} == {alone.id}


@pytest.mark.slow
def test_another_spec_takes_nothing(
    pipeline: Pipeline, shop: Workshop, request_: RunRequest, computed: list[str]
) -> None:
    work(shop, pipeline.submit(request_).id)
    work(shop, pipeline.submit(replace(request_, n_steps=9)).id)
    assert len(computed) == 36


@pytest.mark.slow
def test_a_unit_without_its_maps_is_computed_again(
    dataset: Path, pipeline: Pipeline, shop: Workshop, request_: RunRequest, computed: list[str]
) -> None:
    """A unit whose maps are gone is computed again though other runs point to it."""
    first = pipeline.submit(request_)
    work(shop, first.id)
    (dataset / "cat" / "new.png").write_bytes(pixels(dataset, 3))
    second = pipeline.submit(request_)
    work(shop, second.id)
    whole = pipeline.read_maps(rows(shop, second))
    shop.objects.delete(f"runs/{first.id}/maps/mean/c/1/0/0/0")
    computed.clear()
    assert pipeline.repair().units_queued_again == 1
    work(shop, first.id)
    assert computed == [row.key for row in rows(shop, first)[4:8]]
    np.testing.assert_allclose(pipeline.read_maps(rows(shop, second)), whole, rtol=2e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))  # runs are restored in the order of their ids, whichever comes first
def test_a_run_of_reused_maps_survives_a_lost_index(
    seed: int, tmp_path: Path, dataset: Path, pipeline: Pipeline, shop: Workshop, request_: RunRequest
) -> None:
    """A run that computed nothing survives the loss of its index."""
    request_ = replace(request_, seed=seed)
    work(shop, pipeline.submit(request_).id)
    (dataset / "cat" / "0.png").unlink()
    second = pipeline.submit(request_)
    work(shop, second.id)
    before = rows(shop, second)
    assert len(before) == 17
    assert not shop.objects.exists(f"runs/{second.id}/maps/mean/c/0/0/0/0"), "no map of its own, no shard"
    assert shop.objects.exists(sidecar_key(second.id, 0))
    shop.database.dispose()
    for file in (tmp_path / "home").glob("index.db*"):
        file.unlink()
    with Pipeline.open(tmp_path / "home") as again:
        assert again.repair().units_queued_again == 0
        assert list(iter_images(again.database, second.id)) == before
        assert again.status(second.id).state is RunState.DONE


def test_failed_images_are_never_reused(
    dataset: Path, pipeline: Pipeline, shop: Workshop, request_: RunRequest
) -> None:
    (dataset / "cat" / "0.png").write_bytes(b"no image")
    (dataset / "cat" / "1.png").write_bytes(b"no image")
    work(shop, pipeline.submit(request_).id)
    (dataset / "dog" / "0.png").unlink()
    second = pipeline.submit(request_)
    work(shop, second.id)
    failed = [row for row in rows(shop, second) if row.state is ImageState.FAILED]
    assert [row.key for row in failed] == ["cat/0.png", "cat/1.png"]
    assert all("PNG" in str(row.error) or "image" in str(row.error) for row in failed)


@pytest.mark.slow
def test_a_map_that_another_run_lost_is_not_reused(
    dataset: Path, pipeline: Pipeline, shop: Workshop, request_: RunRequest, tmp_path: Path
) -> None:
    """A map that another run lost is found by repair and never handed on."""
    (dataset / "cat" / "0.png").write_bytes(b"no image")
    first = pipeline.submit(request_)
    work(shop, first.id)
    (dataset / "eel" / "new.png").write_bytes(pixels(dataset, 3))
    second = pipeline.submit(request_)
    work(shop, second.id)
    moved = (dataset / "cat" / "1.png").rename(tmp_path / "away.png")
    pipeline.retry(first.id)  # the unit of the bad image: its neighbour cannot be read this time
    work(shop, first.id)
    assert rows(shop, first)[1].state is ImageState.FAILED
    moved.rename(dataset / "cat" / "1.png")
    (dataset / "eel" / "newer.png").write_bytes(pixels(dataset, 4))
    third = pipeline.submit(request_)
    work(shop, third.id)
    assert np.isfinite(pipeline.read_maps(done(shop, third))).all(), "taken from no row that shows nothing"
    assert pipeline.repair().units_queued_again == 1
    work(shop, second.id)
    assert np.isfinite(pipeline.read_maps(done(shop, second))).all()
    assert pipeline.repair().units_queued_again == 0


def done(shop: Workshop, run: Run) -> list[ImageRow]:
    return [row for row in rows(shop, run) if row.state is ImageState.DONE]


@pytest.mark.slow
def test_maps_removed_during_reuse_are_computed_again(
    dataset: Path, pipeline: Pipeline, shop: Workshop, request_: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run removed while its maps are taken is computed again."""
    first = pipeline.submit(request_)
    work(shop, first.id)
    (dataset / "cat" / "new.png").write_bytes(pixels(dataset, 3))
    second = pipeline.submit(request_)
    encode, removed = sidecar.encode_sidecar, []

    def removing(*arguments: object) -> bytes:
        if not removed:
            removed.append(pipeline.remove(first.id))
        return encode(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sidecar, "encode_sidecar", removing)
    monkeypatch.setattr("pipeline.engine.unit.RETRY_SECONDS", 0.0)
    work(shop, second.id)
    assert removed
    assert pipeline.status(second.id).state is RunState.DONE
    assert {row.map_run for row in rows(shop, second)} == {second.id}
    assert np.isfinite(pipeline.read_maps(rows(shop, second))).all()


@pytest.mark.slow
def test_a_worker_sees_a_run_that_was_planned_anew(pipeline: Pipeline, shop: Workshop, request_: RunRequest) -> None:
    """A worker that lives on sees a run that was removed and planned anew."""
    first = pipeline.submit(request_)
    work(shop, first.id)
    whole = pipeline.read_maps(rows(shop, first))
    pipeline.remove(first.id)
    again = pipeline.submit(replace(request_, unit_size=2))
    assert again.id == first.id
    work(shop, again.id)
    np.testing.assert_allclose(pipeline.read_maps(rows(shop, again)), whole, rtol=2e-3, atol=1e-5)
    assert pipeline.repair().damaged == ()


def test_samples_are_told_apart_by_their_content(
    tmp_path: Path, dataset: Path, pipeline: Pipeline, request_: RunRequest
) -> None:
    sampled = replace(request_, baselines=("samples:n=2",))
    other = tmp_path / "other"
    shutil.copytree(dataset, other)
    for image in other.rglob("*.png"):
        image.write_bytes(pixels(dataset, len(str(image)) % 7))
    one, two = pipeline.submit(sampled), pipeline.submit(replace(sampled, source=str(other)))
    assert one.spec_key != two.spec_key


def test_a_unit_that_is_all_twins_of_another_is_whole(
    dataset: Path, pipeline: Pipeline, shop: Workshop, request_: RunRequest
) -> None:
    for index in range(4):  # the second unit equals the first
        source = dataset / "cat" / f"{index}.png"
        names = ["cat/4.png", "cat/5.png", "dog/0.png", "dog/1.png"]
        (dataset / names[index]).write_bytes(source.read_bytes())
    run = pipeline.submit(request_)
    work(shop, run.id)
    assert pipeline.reused(run.id) == 4
    found = pipeline.repair()
    assert found.damaged == ()
    assert found.units_queued_again == 0


@pytest.mark.slow
def test_a_changed_sample_fails_its_units(
    dataset: Path, pipeline: Pipeline, shop: Workshop, request_: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample whose content changed unseen fails its units and says so."""
    monkeypatch.setattr("pipeline.engine.unit.RETRY_SECONDS", 0.0)
    run = pipeline.submit(replace(request_, baselines=("samples:n=1",)))
    [(key, _, _)] = RunSpec.from_json(run.spec).samples
    image = dataset / key
    before = image.stat()
    same_size = (found for found in sorted(dataset.rglob("*.png")) if found.stat().st_size == before.st_size)
    other = next(found for found in same_size if found != image)
    image.write_bytes(other.read_bytes())
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))  # size and time are as they were
    work(shop, run.id)
    found = pipeline.status(run.id)
    assert found.images_done == 0
    assert "whose content changed; submit the run again" in found.errors[0]


@pytest.mark.slow
def test_a_run_that_is_known_whole_loads_no_model(
    dataset: Path, pipeline: Pipeline, shop: Workshop, request_: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(shop, pipeline.submit(request_).id)
    (dataset / "eel" / "5.png").unlink()
    second = pipeline.submit(request_)
    monkeypatch.setattr("pipeline.models.registry.load", lambda *_, **__: pytest.fail("nothing is to be computed"))
    work(shop, second.id)
    assert pipeline.status(second.id).state is RunState.DONE
    assert pipeline.reused(second.id) == 17


@pytest.mark.slow
def test_rows_with_maps_of_a_lost_run_are_computed_again(
    tmp_path: Path, dataset: Path, pipeline: Pipeline, shop: Workshop, request_: RunRequest
) -> None:
    """Rows that show maps of a run that storage lost too are computed again."""
    first = pipeline.submit(request_)
    work(shop, first.id)
    (dataset / "cat" / "new.png").write_bytes(pixels(dataset, 3))
    second = pipeline.submit(request_)
    work(shop, second.id)
    shop.database.dispose()
    for file in (tmp_path / "home").glob("index.db*"):
        file.unlink()
    shutil.rmtree(tmp_path / "home" / "objects" / "runs" / first.id)
    with Pipeline.open(tmp_path / "home") as again:
        assert again.repair().runs == 1
        workshop = open_workshop(replace(again.settings, device="cpu"))
        work(workshop, second.id)
        found = rows(workshop, second)
        workshop.database.dispose()
        assert len(found) == 19
        assert {row.map_run for row in found} == {second.id}
        assert np.isfinite(again.read_maps(found)).all()
