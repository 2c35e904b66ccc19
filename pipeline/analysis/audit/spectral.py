"""Spectral embedding of the maps of one class and its clusters, as ViRelAy shows them. Arrays in, arrays out.

Spectral relevance analysis (Lapuschkin et al., 2019): a symmetric graph of nearest neighbours, the smallest
eigenvectors of its normalised Laplacian, k-means on them. As many eigenvalues near 0 as there are ways of deciding.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST = 8  # images that a class needs
SIDE = 16  # of the pooled maps
NEIGHBOURS = 10
EIGENVALUES = 8
CLUSTERS = (2, 3, 4, 5)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Spectral:
    """Of n images, k <= `EIGENVALUES`."""

    embedding: Floats  # (n, k) eigenvectors
    eigenvalues: Floats  # (k,), smallest first
    clusters: dict[int, NDArray[np.uint32]]  # by their number, (n,)


def features(one: Floats) -> Floats:
    """A map (C, H, W) summed over channels, averaged over at most `SIDE` x `SIDE` cells, in unit length; flat."""
    summed = one.sum(axis=0)
    for axis in (0, 1):
        edges = np.linspace(0, summed.shape[axis], min(SIDE, summed.shape[axis]) + 1).astype(int)
        sizes = np.diff(edges).reshape((-1, 1) if axis == 0 else (1, -1))
        summed = np.add.reduceat(summed, edges[:-1], axis=axis) / sizes
    length = float(np.linalg.norm(summed))
    return np.asarray(summed / length if length else summed, np.float32).ravel()


def analyse(seen: Floats) -> Spectral:
    """Embed and cluster n >= `LEAST` maps' features, (n, d). The same answer for the same maps."""
    from scipy.sparse.csgraph import laplacian
    from scipy.sparse.linalg import eigsh
    from sklearn.cluster import KMeans
    from sklearn.neighbors import kneighbors_graph
    from sklearn.preprocessing import normalize

    n = len(seen)
    graph = kneighbors_graph(seen, min(NEIGHBOURS, n - 1))
    graph = graph.maximum(graph.T)
    k = min(EIGENVALUES, n - 1)
    start = np.random.default_rng(0).standard_normal(n)
    # The largest of 2 - L are the smallest of L, without a factorisation.
    shifted = -laplacian(graph, normed=True)
    shifted.setdiag(shifted.diagonal() + 2)
    values, vectors = eigsh(shifted.tocsr(), k=k, which="LA", v0=start)
    order = np.argsort(-values)
    embedding = vectors[:, order].astype(np.float32)
    clusters = {}
    for count in CLUSTERS:
        points = normalize(embedding[:, :count])  # Ng, Jordan and Weiss, 2001: as many eigenvectors as clusters
        clusters[count] = KMeans(count, n_init=4, random_state=0).fit_predict(points).astype(np.uint32)
    return Spectral(embedding, np.maximum(2 - values[order], 0).astype(np.float32), clusters)
