"""Catalogue + item vectors -> item SIDs (`assign_item_sids`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from schemas.contract import ContractError

ASSIGNED = "item_id STRING, item_hash BIGINT, codes ARRAY<INT>, sid BIGINT, residual_norm FLOAT, level1_by STRING"

# So many items' ids and categories, some 100 bytes each, go to every executor sooner than their vectors are shuffled.
BROADCAST_ITEMS = 2_000_000

# (vectors (N, D) float32, level-1 codes (N,) int32 with -1 where none is fixed, item hashes (N,) int64)
# -> codes (N, L) int32, packed SIDs (N,) int64, residual norms (N,) float32, how the first code was chosen (N,) str
AssignFunction = Callable[
    [np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray, "list[str] | np.ndarray"]
]


def assign_items(
    catalog: DataFrame, embeddings: DataFrame, categories: Mapping[str, int], assign: AssignFunction, *, width: int
) -> DataFrame:
    """item_id, item_hash, codes, sid, residual_norm, level1_by of every item that has a vector.

    `categories` maps a category to its level-1 code; an item of another category, or of none, gets what the codebook's
    policy for unknown categories says. `assign` holds the codebook and is broadcast with the plan; `width` is that of
    the vectors it learned from.

    Raises:
        ContractError: in a worker, where a vector has another width or holds NaN, infinity or NULL.
    """
    items = catalog.select("item_id", "item_hash", "category", "text_hash")
    if items.count() <= BROADCAST_ITEMS:
        items = F.broadcast(items)
    with_vectors = items.join(embeddings.select("text_hash", "embedding"), "text_hash")

    def batches(tables: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in tables:
            vectors = batch.column("embedding")
            widths = set(vectors.value_lengths().to_pylist()) - {width}
            flat = vectors.flatten().to_numpy(zero_copy_only=False)
            if widths or not np.isfinite(flat).all():
                what = f"vectors of width {min(widths, key=str)} instead of {width}" if widths else "NaN or infinity"
                raise ContractError(f"item_embeddings holds {what}: delete that table and run embed-items again.")
            level1 = np.array(
                [categories.get(name, -1) for name in batch.column("category").to_pylist()], dtype=np.int32
            )
            hashes = batch.column("item_hash").to_numpy()
            codes, sids, norms, chosen = assign(flat.reshape(len(batch), width), level1, hashes)
            offsets = np.arange(0, codes.size + 1, codes.shape[1], dtype=np.int32)
            yield pa.RecordBatch.from_arrays(
                [
                    batch.column("item_id"),
                    batch.column("item_hash"),
                    pa.ListArray.from_arrays(offsets, pa.array(codes.reshape(-1), pa.int32())),
                    pa.array(sids, pa.int64()),
                    pa.array(norms, pa.float32()),
                    pa.array(chosen, pa.string()),
                ],
                names=["item_id", "item_hash", "codes", "sid", "residual_norm", "level1_by"],
            )

    return with_vectors.mapInArrow(batches, ASSIGNED)
