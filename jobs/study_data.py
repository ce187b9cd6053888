"""The arrays of the study out of a home's tables, as of one plan.

Reads pairs, queries, catalog, both embeddings tables and the judgments, grades included: the study belongs to
`evaluate`. Grades go into the data set's own column, which the chains that learn never get to see.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dsirm_models.study_data import TEST, TRAIN, VALID, StudyData
from dsirm_models.text_features import category_centroids
from jobs.arrays import Items, find, load_items, load_vectors, numbered
from jobs.errors import DataError
from jobs.evaluate import words_of
from jobs.home import Home
from jobs.judged import Labels, category_numbers, load_dense, load_labels
from jobs.plan import Plan
from jobs.revision import code_revision
from schemas.fingerprint import digest

SPLITS = {"train": TRAIN, "valid": VALID, "test": TEST}
ATTRIBUTES = 3
"""Attributes that purity is measured against, besides the brand: those that most items have."""
MOST_VALUES = 2_000


def study_data(home: Home, plan: Plan, *, name: str, seed: int | None) -> StudyData:
    """Everything the study needs of one home.

    Raises:
        DataError: nothing was judged, or the corpus or its vectors are missing.

    """
    items = load_items(home, plan)
    labels = load_labels(home, plan, items)
    if labels is None:
        raise DataError("There are no judgments to study: import some, or simulate clicks, then run `dsirm nightly`.")
    pairs = home.store.read_arrow(
        "pairs", {"as_of_date": plan.date}, columns=["query_id", "item_hash", "weight", "clicks", "split"]
    ).sort_by([("query_id", "ascending"), ("item_hash", "ascending")])
    queries = home.store.read_arrow("queries", {"as_of_date": plan.date}, columns=["query_id", "query", "band"])
    vectors = load_vectors(home, plan, "query_embeddings")
    ids = np.unique(np.concatenate([queries["query_id"].to_numpy(), labels.distinct]))
    rows = vectors.find(ids)
    pair_item = find(items.hashes, pairs["item_hash"].to_numpy())
    if (rows < 0).any() or (pair_item < 0).any() or not pairs.num_rows:
        raise DataError("The corpus, the catalogue and the vectors do not belong together: run `dsirm nightly` first.")
    texts = dict(zip(queries["query_id"].to_pylist(), queries["query"].to_pylist(), strict=True))
    texts |= dict(zip(labels.distinct.tolist(), labels.queries, strict=True))
    category = category_numbers(items)
    attributes, attribute_names = _attributes(home)
    dense, dense_names = load_dense(home, plan, items, labels, vectors)
    return StudyData(
        name=name,
        seed=seed,
        query_embeddings=vectors.rows[rows],
        item_embeddings=items.vectors,
        query_texts=[texts[int(i)] for i in ids],
        item_texts=items.texts,
        item_category=category.astype(np.int32),
        item_attributes=attributes,
        attribute_names=attribute_names,
        pair_query=np.searchsorted(ids, pairs["query_id"].to_numpy()).astype(np.int32),
        pair_item=pair_item.astype(np.int32),
        pair_weight=pairs["weight"].to_numpy().astype(np.float32),
        # A cart without its click on the log still is one sign of interest.
        pair_clicks=np.maximum(pairs["clicks"].to_numpy(), 1),
        pair_split=np.array([SPLITS[part] for part in pairs["split"].to_pylist()], dtype=np.int8),
        judged_query=np.searchsorted(ids, labels.distinct)[labels.query_row].astype(np.int32),
        judged_item=labels.item_row.astype(np.int32),
        grades=labels.grades,
        dense=dense,
        dense_names=list(dense_names),
        slices=_slices(labels, queries, items, category, vectors.rows[vectors.find(labels.distinct)]),
        provenance={
            "release": plan.release,
            "config_hash": plan.config_hash,
            "tables": digest(plan.inputs)[:16],
            "code_revision": code_revision(),
            "labels": labels.source,
        },
    )


def _slices(
    labels: Labels, queries: pa.Table, items: Items, category: NDArray[np.int64], vectors: NDArray[np.float32]
) -> dict[str, list[str]]:
    """Label of each judged pair: length of the query, size of its category, and its band where the log knows it."""
    of_query = {"words": words_of(labels.queries)}
    if (category >= 0).any():
        _, centroids = category_centroids(items.vectors, category)
        nearest = (vectors @ centroids.T).argmax(axis=1)
        sizes = np.bincount(category[category >= 0])
        # Numbered from the largest: large are those that together hold half of the items.
        large = int(np.searchsorted(np.cumsum(sizes), sizes.sum() / 2)) + 1
        of_query["category"] = ["large" if at < large else "small" for at in nearest]
    bands = dict(zip(queries["query_id"].to_pylist(), queries["band"].to_pylist(), strict=True))
    found = [bands.get(int(i), "never seen") for i in labels.distinct]
    if len(set(found)) > 1:
        of_query["band"] = found
    return {name: [values[row] for row in labels.query_row] for name, values in of_query.items()}


def _attributes(home: Home) -> tuple[NDArray[np.int32], list[str]]:
    """Brand and the commonest attributes as numbers (I, A), -1 where one is missing; rows as `load_items` has them."""
    catalog = home.store.read_arrow("catalog", columns=["item_hash", "brand", "attributes"]).sort_by("item_hash")
    attributes = [dict(entry) for entry in catalog["attributes"].to_pylist()]
    columns: dict[str, list[str | None]] = {"brand": catalog["brand"].to_pylist()}
    counts = Counter(key for entry in attributes for key in entry)
    for key in sorted(counts, key=lambda key: (-counts[key], key)):
        if len(columns) > ATTRIBUTES:
            break
        values = [entry.get(key) for entry in attributes]
        if 2 <= len(set(values) - {None}) <= MOST_VALUES:
            columns[key] = values
    numbers = [
        numbered(values, sorted({value for value in values if value is not None})) for values in columns.values()
    ]
    return np.array(numbers, dtype=np.int32).T, list(columns)
