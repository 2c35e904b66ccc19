"""Pictures of findings, classes and clusters, each with its alternative text. Reads a few images and maps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from db.records import ImageRow
from pipeline.analysis.audit.boxes import paste
from pipeline.analysis.audit.casts import shift
from pipeline.analysis.audit.measure import read_available
from pipeline.analysis.audit.results import Audit, ClassFigures, ClassMaps, Cluster, Finding
from pipeline.outputs import pictures
from pipeline.runs.view import Floats, RunView

THUMBNAILS = 3  # images of a cluster
MOST_THUMBNAILS = 90  # images of clusters in the report


@dataclass(frozen=True)
class Illustration:
    """A `data:` address, its alternative text, and its caption."""

    uri: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Example:
    """One image before and after the swap."""

    key: str
    predicted: str
    predicted_after: str
    image: Illustration
    evidence: Illustration
    after: Illustration

    @property
    def changed(self) -> bool:
        """Whether the swap changes the prediction."""
        return self.predicted != self.predicted_after


@dataclass(frozen=True)
class ShownFinding:
    """One finding with its pictures."""

    finding: Finding
    images: int
    mean_map: Illustration | None
    examples: Sequence[Example]


@dataclass(frozen=True)
class ShownCluster:
    """One cluster with its mean map and the images in its middle."""

    cluster: Cluster
    mean_map: Illustration
    examples: Sequence[Illustration]


@dataclass(frozen=True)
class ClassPage:
    """One class with its maps and clusters."""

    figures: ClassFigures
    small: Illustration
    maps: Sequence[Illustration]
    clusters: Sequence[ShownCluster]


def show_finding(finding: Finding, audit: Audit, view: RunView) -> ShownFinding:
    """The class's mean map with the place framed, and six images before and after the swap."""
    figures = next(one for one in audit.classes if one.class_name == finding.class_name)
    shown = None
    if figures.maps is not None:
        picture = pictures.upscale(Image.fromarray(pictures.signed_colours(figures.maps.mean)), 208)
        uri = pictures.data_uri(_boxed(picture, finding, view))
        shown = Illustration(uri, f"Mean map of class {finding.class_name}. {finding.sentence}")
    return ShownFinding(finding, figures.images, shown, _examples(finding, audit, view))


def class_pages(audit: Audit, view: RunView, classes: Sequence[ClassFigures]) -> list[ClassPage]:
    """The maps and clusters of some classes; at most 90 images are read for all of them."""
    found, left = [], MOST_THUMBNAILS
    for figures in classes:
        clusters = []
        for cluster in (one for one in audit.clusters if one.class_name == figures.class_name):
            clusters.append(_show_cluster(cluster, audit, view, min(THUMBNAILS, left)))
            left -= len(clusters[-1].examples)
        if figures.maps is not None:
            found.append(_class_page(figures, figures.maps, clusters))
    return found


def _class_page(figures: ClassFigures, maps: ClassMaps, clusters: Sequence[ShownCluster]) -> ClassPage:
    name = figures.class_name
    magnitude, signed = pictures.magnitude_colours, pictures.signed_colours
    some = "" if maps.median_images >= figures.images else f" of {maps.median_images} random images"
    drawn: list[tuple[NDArray[np.uint8], str, str]] = [
        (signed(maps.mean), "mean", f"evidence for (red) and against (blue) class {name} on average"),
        (magnitude(maps.mean_absolute), "mean of |map|", f"how much each place matters for class {name}"),
    ]
    if maps.median is not None:
        drawn.append(
            (signed(maps.median), f"median{some}", f"the usual map of class {name}, less moved by single images")
        )
    drawn.append((magnitude(maps.std), "std over images", f"where the maps of class {name} differ between images"))
    if maps.member_std is not None:
        drawn.append((magnitude(maps.member_std), "std over members", f"where the members differ about class {name}"))
    small = pictures.shrink(Image.fromarray(magnitude(maps.mean_absolute)), 96)
    said = f"Where the evidence for class {name} is, mean of {figures.images} images"
    return ClassPage(
        figures,
        Illustration(pictures.data_uri(small), said),
        [Illustration(_large(pixels), f"{caption}: {alt}", caption) for pixels, caption, alt in drawn],
        clusters,
    )


def _show_cluster(cluster: Cluster, audit: Audit, view: RunView, most: int) -> ShownCluster:
    rows = [audit.sample[key] for key in cluster.examples if key in audit.sample]
    kept, pixels = read_available(view, rows, most) if most > 0 else ([], np.zeros((0, 1, 1, 1), np.float32))
    maps = view.maps(kept) if kept else pixels
    alt = (
        f"Cluster {cluster.cluster + 1} of class {cluster.class_name}, {cluster.images} of {cluster.examined} images: "
        "where their positive evidence is"
    )
    return ShownCluster(
        cluster,
        Illustration(_large(pictures.magnitude_colours(cluster.mean_map)), alt),
        [
            Illustration(
                pictures.data_uri(pictures.shrink(pictures.upscale(pictures.overlay(image, one), 96), 224)),
                f"{row.key}: an image of this cluster under its map",
                row.key,
            )
            for row, image, one in zip(kept, pixels, maps, strict=True)
        ],
    )


def _examples(finding: Finding, audit: Audit, view: RunView) -> list[Example]:
    rows = [audit.sample[key] for key in finding.examples if key in audit.sample]
    if not rows:
        return []
    pixels, maps = view.images(rows), view.maps(rows)
    donors = _donors(finding, audit, view, len(rows))
    if finding.kind == "colour":
        swapped = shift(pixels, donors)
    else:
        swapped = paste(pixels, donors, np.repeat(np.array([finding.region]), len(rows), axis=0))
    names = view.spec.class_names
    before, after = view.ask(pixels), view.ask(swapped)
    what = "cast" if finding.kind == "colour" else finding.place
    found = []
    for i, row in enumerate(rows):
        was, now = names[before[i]], names[after[i]]
        shown = (
            (pictures.to_picture(pixels[i]), f"{row.key}, predicted {was}: the {finding.place} is framed"),
            (
                pictures.overlay(pixels[i], maps[i]),
                f"{row.key}: evidence for and against {finding.class_name}, the {finding.place} is framed",
            ),
            (pictures.to_picture(swapped[i]), f"{row.key} with the {what} of another class: predicted {now}"),
        )
        framed = [
            Illustration(pictures.data_uri(_boxed(pictures.upscale(one), finding, view)), alt) for one, alt in shown
        ]
        found.append(Example(row.key, was, now, *framed))
    return found


def _donors(finding: Finding, audit: Audit, view: RunView, count: int) -> Floats:
    """Pixels of sampled images of other classes, evenly spread."""
    others = [row for row in audit.sample.values() if row.predicted != finding.class_name]
    start = np.linspace(0, len(others) - 1, count + 2)[1:-1].round().astype(int)
    drawn: list[ImageRow] = [others[(place + offset) % len(others)] for offset in range(len(others)) for place in start]
    _, pixels = read_available(view, drawn, count)
    return pixels


def _boxed(picture: Image.Image, finding: Finding, view: RunView) -> Image.Image:
    return picture if finding.kind == "colour" else pictures.boxed(picture, finding.region, view.size)


def _large(pixels: NDArray[np.uint8]) -> str:
    return pictures.data_uri(pictures.shrink(pictures.upscale(Image.fromarray(pixels), 96), 224))
