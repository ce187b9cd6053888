"""k-means (faiss): where the codebooks start, and two baselines of the papers' comparison made of nothing else.

Single-threaded and seeded, so the same points give the same centroids. Points are never fewer than asked for: where
there are fewer points than codes, points repeat, and repeated codes starve and restart in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsirm_models.quantizer import UNKNOWN, ResidualQuantizer, nearest

Floats = NDArray[np.float32]


def kmeans(points: Floats, size: int, *, seed: int, iterations: int = 10) -> Floats:
    """Centroids (size, D) float32 of points (N, D). With N <= size they are the points themselves, repeated in order.

    Raises:
        ValueError: no points, or points that are not finite.

    """
    if len(points) == 0 or not np.isfinite(points).all():
        raise ValueError("k-means needs at least one point, and only finite ones.")
    if len(points) <= size:
        return np.resize(points, (size, points.shape[1])).astype(np.float32)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # sums over several threads would differ in their last bits from run to run
    try:
        found = faiss.Kmeans(
            points.shape[1], size, niter=iterations, seed=seed, min_points_per_centroid=1, max_points_per_centroid=256
        )
        found.train(np.ascontiguousarray(points, dtype=np.float32))
    finally:
        faiss.omp_set_num_threads(threads)
    return np.asarray(found.centroids, dtype=np.float32).reshape(size, points.shape[1])


def residual_kmeans(points: Floats, sizes: Sequence[int], *, seed: int, iterations: int = 10) -> list[Floats]:
    """Baseline: L codebooks (K_l, D), each the k-means of what the levels before left over of points (N, D)."""
    books = []
    residual = np.array(points, dtype=np.float32)
    for level, size in enumerate(sizes):
        book = kmeans(residual, size, seed=seed + level, iterations=iterations)
        residual -= book[_nearest(residual, book)]
        books.append(book)
    return books


class HierarchicalKMeans(NamedTuple):
    """A tree of clusters (the ids of DSI) and where the points that made it stand in it."""

    codes: NDArray[np.int32]
    """(N, L)."""
    books: Mapping[tuple[int, ...], Floats]
    """Prefix -> centroids (K, D) of its children; a prefix with one member has none, its further codes are 0."""

    def assign(self, points: Floats) -> NDArray[np.int32]:
        """Codes (M, L) of other points: down the tree, the nearest centroid at every step."""
        codes = np.zeros((len(points), self.codes.shape[1]), dtype=np.int32)
        for level in range(codes.shape[1]):
            prefixes, group = np.unique(codes[:, :level], axis=0, return_inverse=True)
            for at, prefix in enumerate(prefixes.tolist()):
                book = self.books.get(tuple(prefix))
                if book is not None:
                    codes[group == at, level] = _nearest(points[group == at], book)
        return codes


def hierarchical_kmeans(points: Floats, sizes: Sequence[int], *, seed: int, iterations: int = 10) -> HierarchicalKMeans:
    """Baseline (the ids of DSI): each cluster of points (N, D) clustered on its own at the next level."""
    codes = np.zeros((len(points), len(sizes)), dtype=np.int32)
    books: dict[tuple[int, ...], Floats] = {}
    groups = [np.arange(len(points))] if len(points) else []
    for level, size in enumerate(sizes):
        split: list[NDArray[np.int64]] = []
        for members in groups:
            if len(members) == 1:  # code 0 already; the deeper levels consist of little else
                split.append(members)
                continue
            if len(members) <= size:
                # Everyone a cluster of their own; equal points must still share one, the lowest.
                book, found = np.unique(points[members], axis=0, return_inverse=True)
            else:
                book = kmeans(points[members], size, seed=seed + level, iterations=iterations)
                found = _nearest(points[members], book)
            books[tuple(codes[members[0], :level].tolist())] = book
            codes[members, level] = found
            order = np.argsort(found, kind="stable")
            split += np.split(members[order], np.flatnonzero(np.diff(found[order])) + 1)
        groups = split
    return HierarchicalKMeans(codes, books)


@torch.no_grad()
def start_codebooks(
    quantizer: ResidualQuantizer, latents: Tensor, level1: Tensor | None, *, seed: int, iterations: int = 10
) -> None:
    """Initialise `quantizer` level by level on the latents it will see.

    Mapped level-1 codes become the mean of their members; one without any gets the mean of all and stays out of reach
    of nearest-code search until a member comes. Codes reserved for other categories are the k-means of the rows marked
    UNKNOWN (of all rows if there are none); without a map, level 1 is the k-means of all rows. Levels 2.. follow on
    residuals.

    Args:
        quantizer: changed in place, on whatever device it is.
        latents: (N, D) float, at least one row.
        level1: (N,) int64 as in `ResidualQuantizer.forward`, or None.
        seed: level l uses seed + l.
        iterations: of Lloyd's algorithm per level.

    """
    device = latents.device
    points = latents.float().cpu()
    marks = None if level1 is None else level1.cpu()
    sizes, mapped = quantizer.codebook_sizes, quantizer.mapped
    reachable = torch.ones(sizes[0], dtype=torch.bool)
    first = torch.empty(sizes[0], quantizer.dim)
    pool = points
    if mapped and marks is not None:
        of_category = (marks >= 0) & (marks < mapped)
        codes = marks[of_category]
        members = torch.bincount(codes, minlength=mapped)[:mapped]
        sums = torch.zeros(mapped, quantizer.dim).index_add_(0, codes, points[of_category])
        first[:mapped] = torch.where(members.unsqueeze(1) > 0, sums / members.clamp_min(1).unsqueeze(1), points.mean(0))
        reachable[:mapped] = members > 0
        unknown = points[marks == UNKNOWN]
        pool = unknown if len(unknown) else points
    if mapped < sizes[0]:
        found = kmeans(pool.numpy(), sizes[0] - mapped, seed=seed, iterations=iterations)
        first[mapped:] = torch.from_numpy(found)
    books = [first] + [torch.zeros(size, quantizer.dim) for size in sizes[1:]]
    quantizer.initialise([book.to(device) for book in books], reachable=reachable.to(device))
    codes = quantizer.first_codes(latents.float(), level1).cpu()
    residual = points - first[codes]
    for level, size in enumerate(sizes[1:], start=1):
        books[level] = torch.from_numpy(kmeans(residual.numpy(), size, seed=seed + level, iterations=iterations))
        residual = residual - books[level][nearest(residual, books[level])]
    quantizer.initialise([book.to(device) for book in books], reachable=reachable.to(device))


def _nearest(points: Floats, book: Floats) -> NDArray[np.int64]:
    found: NDArray[np.int64] = nearest(torch.from_numpy(points), torch.from_numpy(book)).numpy()
    return found
