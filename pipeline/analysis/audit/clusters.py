"""Spectral relevance analysis: which strategies does the model follow within one class?

After Lapuschkin et al., Unmasking Clever Hans predictors, Nature Communications 2019. The maps of a class (shares of
the positive attribution in at most 32 x 32 cells) are halved to 16 x 16 and standardized one by one. Each is joined to
its nearest neighbors, and the normalized Laplacian of that graph gives an embedding (Ng, Jordan and Weiss 2002). The
number of clusters is where its eigenvalues make their largest step; k-means finds the clusters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from db.records import ImageRow
from pipeline.analysis.audit.results import Cluster
from pipeline.analysis.statistics import Doubles
from pipeline.runs.view import Floats

MIN_EMBEDDED = 8  # images that an embedding needs
MIN_CLUSTERED = 24  # images that a class needs for an audit to show its clusters
MOST = 256  # images of a class that are clustered
CLUSTERS = 6  # largest number of clusters of a class
EXAMPLES = 6


@dataclass(frozen=True, eq=False)
class Embedding:
    """n maps as points, k <= `CLUSTERS` + 1."""

    vectors: Doubles  # (n, k) eigenvectors
    eigenvalues: Doubles  # (k,), smallest first
    clusters: NDArray[np.int64]  # (n,), 0 the largest cluster


def cluster_classes(rows: Mapping[str, Sequence[ImageRow]], grids: Mapping[str, Floats], seed: int) -> list[Cluster]:
    """Clusters of every class with 24 images or more. `grids` (n, h, w) from `fitting.grid_shares`, of the rows."""
    found: list[Cluster] = []
    for name, part in rows.items():
        if len(part) >= MIN_CLUSTERED:
            found += _clusters(name, part[:MOST], grids[name][:MOST], seed)
    return found


def embed(grids: Floats, seed: int) -> Embedding:
    """Embed and cluster the maps of one class, (n, h, w), n >= `MIN_EMBEDDED`. The same result for the same maps."""
    from sklearn.cluster import KMeans

    values, vectors = _spectrum(features(grids))
    count = _eigengap(values)
    if count == 1:
        return Embedding(vectors, values, np.zeros(len(grids), np.int64))
    points = vectors[:, :count]
    points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    labels = KMeans(count, n_init=4, random_state=seed).fit_predict(points)
    order = np.argsort(-np.bincount(labels, minlength=count), kind="stable")
    return Embedding(vectors, values, np.asarray(np.argsort(order)[labels], np.int64))


def features(grids: Floats) -> Floats:
    """Maps halved and standardized, (n, h, w) -> (n, D): mean 0 and variance 1 each; a constant map becomes 0."""
    small = _halved(grids).reshape(len(grids), -1)
    centred = small - small.mean(axis=1, keepdims=True)
    spread = centred.std(axis=1, keepdims=True)
    found: Floats = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-12)
    return found


def _halved(grids: Floats) -> Floats:
    """Sums of 2 x 2 cells."""
    rows, columns = (np.arange(0, length, 2) for length in grids.shape[1:])
    found: Floats = np.add.reduceat(np.add.reduceat(grids, rows, axis=1), columns, axis=2).astype(np.float32)
    return found


def _spectrum(points: Floats) -> tuple[Doubles, Doubles]:
    """The smallest eigenvalues and eigenvectors of the normalized Laplacian of the k-nearest-neighbor graph."""
    from scipy.linalg import eigh
    from sklearn.neighbors import kneighbors_graph

    n = len(points)
    near = kneighbors_graph(points, max(3, round(np.log2(n))), include_self=False).toarray()
    joined = np.maximum(near, near.T)
    degree = np.sqrt(joined.sum(axis=1))
    laplacian = np.eye(n) - joined / np.outer(degree, degree)
    values, vectors = eigh(laplacian, subset_by_index=[0, min(n, CLUSTERS + 1) - 1])
    return values, vectors


def _eigengap(values: Doubles) -> int:
    """Number of clusters: the eigenvalues make their largest step after so many."""
    return int(np.argmax(np.diff(values))) + 1


def _clusters(name: str, rows: Sequence[ImageRow], grids: Floats, seed: int) -> list[Cluster]:
    labels, points = embed(grids, seed).clusters, features(grids)
    found = []
    for label in range(int(labels.max()) + 1):
        members = np.flatnonzero(labels == label)
        away = np.linalg.norm(points[members] - points[members].mean(axis=0), axis=1)
        near = members[np.argsort(away, kind="stable")]
        found.append(
            Cluster(
                class_name=name,
                cluster=label,
                images=len(members),
                examined=len(rows),
                examples=tuple(rows[place].key for place in near[:EXAMPLES]),
                rows=tuple(rows[place].row for place in near),
                mean_map=_halved(grids[members].mean(axis=0, keepdims=True))[0],
            )
        )
    return found
