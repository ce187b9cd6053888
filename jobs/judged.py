"""Judged pairs with every feature the ranker may use: what train-ranker and evaluate share.

Reads relevance_labels with grades, prefix_match_features, catalog, both embeddings tables and pairs (clicks per item).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs import planned
from jobs.arrays import Items, Vectors, find, load_items, load_vectors, numbered
from jobs.errors import DataError
from jobs.home import Home
from jobs.plan import Plan
from schemas.text import text_hash

# One source of grades at a time: people's where there are any.
SOURCES = ("people", "llm", "simulation")


class Judged(NamedTuple):
    """N judged pairs."""

    source: str
    query_ids: NDArray[np.int64]
    queries: list[str]
    """(N,) text of each pair's query."""
    grades: NDArray[np.int64]
    dense: NDArray[np.float32]
    """(N, F) features without SIDs."""
    dense_names: tuple[str, ...]
    depth: NDArray[np.int64]
    """(N,) 0..3, -1 where query or item has no SID."""
    soft: NDArray[np.float32]
    """(N, 4) soft ss, then the floored log-probability of the item's own SID per level; 0 and the floor without SID."""


class Labels(NamedTuple):
    """Judged pairs of one source whose item is in the catalogue, sorted by query and item."""

    source: str
    rows: pa.Table
    item_row: NDArray[np.int64]
    """(N,) row of `Items`."""
    query_row: NDArray[np.int64]
    """(N,) row of `distinct`."""
    distinct: NDArray[np.int64]
    """(U,) ascending query ids."""
    queries: list[str]
    """(U,) their texts."""
    grades: NDArray[np.int64]
    """(N,) 0..3."""


def load_labels(home: Home, plan: Plan, items: Items) -> Labels | None:
    """The final grades of the best source there is, without what its publisher gave for training; None without any."""
    columns = ["query", "query_id", "item_id", "rater", "source", "grade", "fold"]
    labels = planned.read_arrow(home, plan, "relevance_labels", columns)
    held_out = pc.not_equal(pc.fill_null(labels["fold"], ""), "train")
    final = labels.filter(pc.and_(pc.equal(labels["rater"], "final"), held_out))
    source = next((name for name in SOURCES if name in final["source"].unique().to_pylist()), None)
    if source is None:
        return None
    final = final.filter(pc.equal(final["source"], source)).sort_by(
        [("query_id", "ascending"), ("item_id", "ascending")]
    )
    hashes = np.array([text_hash(item) for item in final["item_id"].to_pylist()], dtype=np.int64)
    item_row = find(items.hashes, hashes)
    final, item_row = final.filter(pa.array(item_row >= 0)), item_row[item_row >= 0]
    distinct, first, query_row = np.unique(final["query_id"].to_numpy(), return_index=True, return_inverse=True)
    texts = final["query"].take(pa.array(first)).to_pylist()
    return Labels(source, final, item_row, query_row, distinct, texts, final["grade"].to_numpy().astype(np.int64))


def load_judged(home: Home, plan: Plan) -> Judged | None:
    """Judged pairs with all features; None where nothing was judged.

    Raises:
        DataError: a judged pair is not in prefix_match_features: the judgments changed since the release was made.

    """
    from dsirm_models.beam import LOGP_FLOOR

    items = load_items(home, plan)
    labels = load_labels(home, plan, items)
    if labels is None:
        return None
    matched = _features(home, plan, labels.rows)
    dense, names = load_dense(home, plan, items, labels, load_vectors(home, plan, "query_embeddings"))
    known = matched["has_query_sid"].to_numpy(zero_copy_only=False) & matched["has_item_sid"].to_numpy(
        zero_copy_only=False
    )
    own = [row if row is not None else [LOGP_FLOOR] * 3 for row in matched["own_logps"].to_pylist()]
    soft = np.column_stack([pc.fill_null(matched["soft_ss"], 0.0).to_numpy(), np.maximum(np.array(own), LOGP_FLOOR)])
    return Judged(
        labels.source,
        labels.rows["query_id"].to_numpy(),
        labels.rows["query"].to_pylist(),
        labels.grades,
        dense,
        names,
        np.where(known, matched["depth"].to_numpy(), -1).astype(np.int64),
        soft.astype(np.float32),
    )


def _features(home: Home, plan: Plan, final: pa.Table) -> pa.Table:
    """Rows of prefix_match_features in the order of the judged pairs."""
    columns = ["query_id", "item_id", "depth", "has_query_sid", "has_item_sid", "own_logps", "soft_ss", "labelled"]
    read = planned.read_arrow(home, plan, "prefix_match_features", columns)
    labelled = read.filter(read["labelled"])
    place = {
        key: row
        for row, key in enumerate(zip(*(labelled[c].to_pylist() for c in ("query_id", "item_id")), strict=True))
    }
    wanted = list(zip(final["query_id"].to_pylist(), final["item_id"].to_pylist(), strict=True))
    missing = sum(key not in place for key in wanted)
    if missing:
        raise DataError(
            f"{missing} of {len(wanted)} judged pairs have no features in {plan.release}: the judgments changed since "
            "it was made. Run `dsirm nightly`, then evaluate."
        )
    return labelled.take(pa.array([place[key] for key in wanted], pa.int64()))


def load_dense(
    home: Home, plan: Plan, items: Items, labels: Labels, vectors: Vectors
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Features of the judged pairs that know nothing of SIDs: (N, F) and their names; `vectors` are the queries'."""
    from dsirm_models.text_features import Bm25, dense_features

    clicks = planned.read_arrow(home, plan, "pairs", ["item_hash", "clicks"])
    totals = clicks.group_by("item_hash").aggregate([("clicks", "sum")])
    popularity = np.zeros(len(items.hashes), dtype=np.float64)
    place = find(items.hashes, totals["item_hash"].to_numpy())
    popularity[place[place >= 0]] = totals["clicks_sum"].to_numpy()[place >= 0]
    category = category_numbers(items)
    found = dense_features(
        queries=labels.queries,
        query_vectors=vectors.rows[vectors.find(labels.distinct)],
        bm25=Bm25(catalogue=items.texts),
        item_vectors=items.vectors,
        query_row=labels.query_row,
        item_row=labels.item_row,
        item_category=category if (category >= 0).any() else None,
        item_statistics=np.log1p(popularity)[:, None],
        statistic_names=("log_clicks",),
    )
    return found.values, found.names


def category_numbers(items: Items) -> NDArray[np.int64]:
    """(I,) numbers of the items' categories from the largest, as `category_map` orders them; -1 where unknown."""
    from dsirm_models.category_map import map_categories

    return numbered(items.categories, map_categories(items.categories, room=len(items.categories)))
