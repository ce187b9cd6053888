"""Dense features of (query, item) pairs that know nothing of SIDs: what the ranker has without them.

Our reading of DSIRM's four dense inputs (papers, section 1; their meaning is not stated there): `dm` text cosine, BM25
and lexical overlap; `mm_dm` multi-modal cosine; `ct` category match; `qs` item statistics. Every one exists for a query
that was never seen before, so training and test pairs get the same set.

Pairs are two aligned int64 arrays: `query_row (P,)` into the U distinct queries, `item_row (P,)` into the I catalogue
items.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

# Pairs (or queries) handled at once: bounds memory, changes no result.
_CHUNK = 1 << 17

_UNITS = (
    "gb|tb|mb|kb|ghz|mhz|khz|hz|mm|cm|km|m|ft|inch|in|kg|g|mg|ml|cl|l|w|kw|wh|v|a|mah|ma|dpi|ppm|mp|rpm|mbps|gbps|u|pcs"
)
# "16 GB" and "16GB", `17"` and "17 inch" must be the same token: shoppers and catalogues spell units differently.
_INCH_MARK = re.compile(r"(?<=\d)\s*(?:\"|”|″|'')")
_UNIT_GAP = re.compile(rf"(?<=\d)\s+(?=(?:{_UNITS})\b)")
_TOKEN = re.compile(r"\d+(?:[.,]\d+)+[^\W_]*|[^\W_]+")


def tokenize(text: str) -> list[str]:
    """Lower-case alphanumeric tokens: units glued to their number, decimals whole, a plural s dropped.

    `15,6" LCD Monitors, 16 GB` -> `["15.6inch", "lcd", "monitor", "16gb"]`.
    """
    text = _UNIT_GAP.sub("", _INCH_MARK.sub("inch ", text.lower()))
    return [_singular(token.replace(",", ".")) for token in _TOKEN.findall(text)]


def _singular(token: str) -> str:
    """Without a final s where that can hardly be anything but a plural: "cables" -> "cable", but "usb", "glass"."""
    if len(token) > 3 and token.endswith("s") and token[-2] not in "sui" and token.isalpha():
        return token[:-1]
    return token


class Bm25:
    """BM25 and lexical overlap against one catalogue, for given pairs.

    `score = sum over query tokens t of qtf(t) * idf(t) * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean
    length))` with `idf(t) = ln(1 + (I - df + 0.5) / (df + 0.5))`, never negative (Robertson and Zaragoza 2009, as in
    Lucene).
    """

    def __init__(self, *, catalogue: Sequence[str], k1: float = 1.2, b: float = 0.75) -> None:
        """Count the tokens of the item texts (I).

        Raises:
            ValueError: an empty catalogue, no token in it, or k1 < 0, or b outside 0..1.

        """
        from scipy.sparse import csr_array
        from sklearn.feature_extraction.text import CountVectorizer

        if not len(catalogue) or k1 < 0 or not 0 <= b <= 1:
            raise ValueError(f"BM25 needs at least one text, k1 >= 0 and 0 <= b <= 1, not {len(catalogue)}, {k1}, {b}.")
        self._counter = CountVectorizer(analyzer=tokenize, dtype=np.float64)
        counts: csr_array = csr_array(self._counter.fit_transform(catalogue))
        frequency = np.bincount(counts.indices, minlength=counts.shape[1])
        self._idf = np.log1p((counts.shape[0] - frequency + 0.5) / (frequency + 0.5))
        # A token that no item has counts as if it were rarer than any.
        self._idf_unknown = float(np.log1p((counts.shape[0] + 0.5) / 0.5))
        length = counts.sum(axis=1)
        row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        saturation = k1 * (1 - b + b * length / max(length.mean(), 1e-9))
        weight = counts.data * (k1 + 1) / (counts.data + saturation[row])
        self._weights: csr_array = csr_array(
            (weight * self._idf[counts.indices], counts.indices, counts.indptr), shape=counts.shape
        )

    def scores(self, queries: Sequence[str], *, query_row: Rows, item_row: Rows) -> Floats:
        """BM25 of each pair, (P,) float32, 0 where query and item share no token. `queries` (U) are texts."""
        return self._pairwise(self._query_counts(queries), self._weights, query_row, item_row)

    def best(self, queries: Sequence[str], *, items: int) -> Rows:
        """The items of highest BM25 for each query, best first, ties to the lowest: (U, items), -1 where fewer share
        a token with it.
        """
        out = np.full((len(queries), items), -1, dtype=np.int64)
        counts, columns = self._query_counts(queries), self._weights.T.tocsr()
        for start in range(0, len(queries), 256):
            scores = counts[start : start + 256] @ columns
            for at in range(scores.shape[0]):
                row = slice(scores.indptr[at], scores.indptr[at + 1])
                order = np.lexsort((scores.indices[row], -scores.data[row]))[:items]
                out[start + at, : len(order)] = scores.indices[row][order]
        return out

    def overlap(self, queries: Sequence[str], *, query_row: Rows, item_row: Rows) -> Floats:
        """Share of the query's distinct tokens that the item's text has, weighted by idf: (P,) float32 in 0..1.

        Tokens that the catalogue does not know count as not found, at the highest idf. A query without tokens gives 0.
        """
        from scipy.sparse import csr_array

        counts = self._query_counts(queries)
        weighted = csr_array((self._idf[counts.indices], counts.indices, counts.indptr), shape=counts.shape)
        present = csr_array(
            (np.ones_like(self._weights.data), self._weights.indices, self._weights.indptr), shape=self._weights.shape
        )
        vocabulary = self._counter.vocabulary_
        unknown = np.array([sum(token not in vocabulary for token in set(tokenize(text))) for text in queries])
        total = weighted.sum(axis=1) + self._idf_unknown * unknown
        found = self._pairwise(weighted, present, query_row, item_row)
        return (found / np.where(total > 0, total, 1.0)[query_row]).astype(np.float32)

    def _query_counts(self, queries: Sequence[str]) -> csr_array:
        from scipy.sparse import csr_array

        return csr_array(self._counter.transform(queries))

    @staticmethod
    def _pairwise(left: csr_array, right: csr_array, query_row: Rows, item_row: Rows) -> Floats:
        """Row products `left[query_row[p]] . right[item_row[p]]`, (P,)."""
        out = np.empty(len(query_row), dtype=np.float32)
        for start in range(0, len(out), _CHUNK):
            part = slice(start, start + _CHUNK)
            out[part] = left[query_row[part]].multiply(right[item_row[part]]).sum(axis=1)
        return out


def pair_cosine(query_vectors: Floats, item_vectors: Floats, *, query_row: Rows, item_row: Rows) -> Floats:
    """Cosine of each pair of unit vectors, (P,): `query_vectors (U, D)`, `item_vectors (I, D)`."""
    out = np.empty(len(query_row), dtype=np.float32)
    for start in range(0, len(out), _CHUNK):
        part = slice(start, start + _CHUNK)
        out[part] = np.einsum("pd,pd->p", query_vectors[query_row[part]], item_vectors[item_row[part]])
    return out


def multimodal_cosine(query_vectors: Floats, image_vectors: Floats, *, query_row: Rows, item_row: Rows) -> Floats:
    """Cosine of the query with the item's image vector, and whether there is one: (P, 2).

    `query_vectors (U, D)` come from the text side of the image model. An item without an image has a NaN or zero row in
    `image_vectors (I, D)`: its cosine is 0 and its flag 0, so that the ranker can tell "no image" from "unlike".
    """
    norms = np.linalg.norm(image_vectors, axis=1)
    has_image = np.isfinite(norms) & (norms > 0)
    unit = np.where(has_image[:, None], image_vectors, 0.0) / np.where(has_image, norms, 1.0)[:, None]
    cosine = pair_cosine(query_vectors, unit.astype(np.float32), query_row=query_row, item_row=item_row)
    return np.stack([cosine, has_image[item_row].astype(np.float32)], axis=1)


def category_centroids(
    item_vectors: Floats, item_category: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Category numbers (C,) ascending and their centroids (C, D): the normalised mean of their items' unit vectors.

    Raises:
        ValueError: no item has a category (all -1).

    """
    known = np.flatnonzero(item_category >= 0)
    if not len(known):
        raise ValueError("No item has a category, so no query can get one. Leave the category features out.")
    values, dense = np.unique(item_category[known], return_inverse=True)
    centroids = np.zeros((len(values), item_vectors.shape[1]))
    np.add.at(centroids, dense, item_vectors[known])
    # Items that cancel out exactly leave a zero centroid: its cosine is 0 with everything.
    centroids /= np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), 1e-12)
    return values, centroids


class CategoryMatch(NamedTuple):
    """How well the item's category fits the query, judged in the frozen space alone so that no SID leaks in."""

    gap: Floats
    """(P,): cosine of the query to the centroid of the item's category minus that to its nearest centroid; <= 0, and 0
    if the item's category is the nearest. Graded, because the second nearest of 200 categories is often right too."""
    nearest: Floats
    """(P,): 1 if the item's category is the query's, else 0."""
    known: Floats
    """(P,): 0 if the item has no category; its gap is then the query's mean over all categories, its `nearest` 0."""


def category_match(
    query_vectors: Floats, item_vectors: Floats, item_category: NDArray[np.int64], *, query_row: Rows, item_row: Rows
) -> CategoryMatch:
    """Compare the query's category, the nearest category centroid, with the item's.

    Centroids are those of `category_centroids`; the lowest category wins a tie.

    Args:
        query_vectors: (U, D) unit vectors of the distinct queries.
        item_vectors: (I, D) unit vectors of the whole catalogue, not of the judged items only.
        item_category: (I,) category numbers from 0, -1 where unknown; they need not be dense.
        query_row: (P,) rows of `query_vectors`.
        item_row: (P,) rows of `item_vectors`.

    Raises:
        ValueError: no item has a category.

    """
    values, centroids = category_centroids(item_vectors, item_category)
    known_items = np.flatnonzero(item_category >= 0)
    column = np.full(len(item_category), -1, dtype=np.int64)
    column[known_items] = np.searchsorted(values, item_category[known_items])

    best = np.empty(len(query_vectors))
    best_column = np.empty(len(query_vectors), dtype=np.int64)
    mean = np.empty(len(query_vectors))
    for start in range(0, len(query_vectors), 8192):
        part = slice(start, start + 8192)
        cosines = query_vectors[part] @ centroids.T
        best_column[part] = cosines.argmax(axis=1)
        best[part] = cosines.max(axis=1)
        mean[part] = cosines.mean(axis=1)

    pair_column = column[item_row]
    known = pair_column >= 0
    nearest = known & (pair_column == best_column[query_row])
    own = pair_cosine(
        query_vectors, centroids.astype(np.float32), query_row=query_row, item_row=np.where(known, pair_column, 0)
    )
    gap = np.minimum(np.where(known, own, mean[query_row]) - best[query_row], 0.0)
    gap[nearest] = 0.0
    return CategoryMatch(gap.astype(np.float32), nearest.astype(np.float32), known.astype(np.float32))


class DenseFeatures(NamedTuple):
    """The ranker's dense inputs, named."""

    values: Floats
    """(P, F)"""
    names: tuple[str, ...]
    """(F,)"""


def dense_features(
    *,
    queries: Sequence[str],
    query_vectors: Floats,
    bm25: Bm25,
    item_vectors: Floats,
    query_row: Rows,
    item_row: Rows,
    item_category: NDArray[np.int64] | None = None,
    item_statistics: Floats | None = None,
    statistic_names: Sequence[str] = (),
    image_query_vectors: Floats | None = None,
    image_vectors: Floats | None = None,
) -> DenseFeatures:
    """All the features without SIDs in one matrix: the base to which every SID variant adds its own columns.

    `item_statistics (I, F')` and images are optional. Statistics should be finite and of moderate skew (log counts);
    the ranker standardises them.

    Raises:
        ValueError: statistics without as many names, or image vectors without query vectors of their space.

    """
    pairs = {"query_row": query_row, "item_row": item_row}
    columns: dict[str, Floats] = {
        "text_cosine": pair_cosine(query_vectors, item_vectors, **pairs),
        "bm25": bm25.scores(queries, **pairs),
        "overlap": bm25.overlap(queries, **pairs),
    }
    if item_category is not None:
        match = category_match(query_vectors, item_vectors, item_category, **pairs)
        columns |= {"category_gap": match.gap, "category_nearest": match.nearest, "category_known": match.known}
    if image_vectors is not None:
        if image_query_vectors is None:
            raise ValueError("Image vectors need query vectors of the same space: give image_query_vectors.")
        image = multimodal_cosine(image_query_vectors, image_vectors, **pairs)
        columns |= {"image_cosine": image[:, 0], "has_image": image[:, 1]}
    if item_statistics is not None:
        if item_statistics.shape[1] != len(statistic_names):
            raise ValueError(f"{item_statistics.shape[1]} item statistics, but {len(statistic_names)} names for them.")
        columns |= {name: item_statistics[item_row, i] for i, name in enumerate(statistic_names)}
    return DenseFeatures(np.stack(list(columns.values()), axis=1).astype(np.float32), tuple(columns))
