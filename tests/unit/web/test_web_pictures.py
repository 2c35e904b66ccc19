"""Pictures on demand: what they show, how long they may be kept, and what stands in the place of a lost one."""

import io

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from pipeline.api import Pipeline
from pipeline.outputs.pictures import layer, one_sided_colours, signed_colours
from tests.support.installation import Installation


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_pictures_are_the_stored_maps_and_images(
    browser: TestClient, opened: Pipeline, installation: Installation
) -> None:
    row = opened.find(installation.run.id, where="label = 'dog'", limit=1).rows[0]
    (stored,), (image,) = opened.read_maps([row]), opened.read_images([row])
    base = f"/runs/{installation.run.id}/images/{row.row}"
    npy = browser.get(f"{base}/map.npy")
    assert np.array_equal(np.load(io.BytesIO(npy.content)), stored)
    assert np.array_equal(pixels(browser.get(f"{base}/map.png").content), signed_colours(stored))
    assert np.array_equal(pixels(browser.get(f"{base}/layer.png").content), np.asarray(layer(stored)))
    assert np.array_equal(pixels(browser.get(f"{base}/image.png").content)[..., 0], np.round(255 * image[0]))
    other = browser.get(f"{base}/map.png?colours=purple-orange").content
    assert np.array_equal(pixels(other), signed_colours(stored, "purple-orange"))
    for kind in ("positive", "negative", "std", "overlay"):
        assert browser.get(f"{base}/{kind}.png").headers["content-type"] == "image/png", kind


def test_for_and_against_are_the_two_ends_of_one_scale() -> None:
    values = np.array([[-2.0, 0.0, 1.0]])
    white = (247, 247, 247)
    for_, against = one_sided_colours(values), one_sided_colours(values, positive=False)
    assert [tuple(each) for each in for_[0, :2]] == [white, white]
    assert [tuple(each) for each in against[0, 1:]] == [white, white]
    assert for_[0, 2, 0] > for_[0, 2, 2]
    assert against[0, 0, 2] > against[0, 0, 0]
    cover = np.asarray(layer(values))[0, :, 3]
    assert cover[1] == 0 < cover[2] < cover[0]


def test_a_picture_may_be_cached_under_its_content_key(browser: TestClient, installation: Installation) -> None:
    """A picture may be kept for good under the key of its content."""
    html = browser.get(f"/runs/{installation.run.id}/images?label=dog").text
    address = next(part for part in html.split('"') if "layer.png" in part).replace("&amp;", "&")
    found = browser.get(address)
    assert found.headers["cache-control"] == "private, max-age=31536000, immutable"
    again = browser.get(address, headers={"if-none-match": found.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    stale = browser.get(address.replace("key=", "key=0"))
    assert stale.headers["cache-control"] == "private, no-cache"
    assert stale.headers["etag"] == found.headers["etag"]
    other = browser.get(address.replace(installation.run.id, installation.other.id))
    assert other.headers["etag"] != found.headers["etag"], "another spec, another map"


def test_a_missing_or_failed_image_shows_the_reason(
    browser: TestClient, opened: Pipeline, installation: Installation
) -> None:
    """In place of an image that is gone or failed stands the reason."""
    gone = opened.find(installation.run.id, where="key = 'dog/3.png'").rows[0]
    failed = opened.find(installation.run.id, where="failed").rows[0]
    for row, kind in ((gone, "image"), (failed, "map"), (failed, "image")):
        found = browser.get(f"/runs/{installation.run.id}/images/{row.row}/{kind}.png")
        assert found.status_code == 404, kind
        assert found.headers["content-type"] == "image/svg+xml"
        assert found.headers["cache-control"] == "no-store"
        assert str(installation.root) not in found.text
    lost = browser.get(f"/runs/{installation.run.id}/images/{gone.row}/image.png").text
    assert "dog/3.png" in lost
    assert browser.get(f"/runs/{installation.run.id}/images/{gone.row}/layer.png").status_code == 200
    assert browser.get(f"/runs/{installation.run.id}/images/{gone.row}").status_code == 200


@pytest.mark.parametrize("query", ["size=4", "size=100000", "colours=rainbow"])
def test_sizes_and_colours_are_bounded(query: str, browser: TestClient, installation: Installation) -> None:
    assert browser.get(f"/runs/{installation.run.id}/images/0/map.png?{query}").status_code == 422
