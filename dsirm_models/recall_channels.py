"""Recall channels that a shop has anyway, to hold generative recall against: random, popularity, BM25, dense.

Each gives Q ranked lists of item rows, (Q, N) int64, -1 where a list is shorter. `rows` (J,) ascending are the items
that may be recalled (in stock). Ties go to the lowest row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dsirm_models.text_features import Bm25, Floats, Rows


def random_lists(rows: Rows, *, requests: int, items: int, seed: int) -> Rows:
    """Items drawn without replacement, anew for each request: what any channel must beat."""
    generator = np.random.default_rng(seed)
    drawn = [generator.choice(rows, min(items, len(rows)), replace=False) for _ in range(requests)]
    return np.stack(drawn)


def popular_lists(rows: Rows, clicks: NDArray[np.int64], *, requests: int, items: int) -> Rows:
    """The most clicked items (`clicks` (I,)), the same for every request."""
    best = rows[np.argsort(-clicks[rows], kind="stable")][:items]
    return np.broadcast_to(best, (requests, len(best)))


def bm25_lists(rows: Rows, item_texts: Sequence[str], queries: Sequence[str], *, items: int) -> Rows:
    """The best of BM25 over the items' texts; an item that shares no word with the query is not recalled."""
    best = Bm25(catalogue=[item_texts[row] for row in rows]).best(queries, items=items)
    return np.where(best < 0, -1, rows[best])


def dense_lists(rows: Rows, item_vectors: Floats, query_vectors: Floats, *, items: int) -> Rows:
    """The nearest items by cosine of unit vectors (exact search, faiss)."""
    import faiss

    index = faiss.IndexFlatIP(item_vectors.shape[1])
    index.add(np.ascontiguousarray(item_vectors[rows]))
    scores, found = index.search(np.ascontiguousarray(query_vectors), min(items, len(rows)))
    order = np.lexsort((found, -scores))
    return rows[np.take_along_axis(found, order, axis=1)]
