"""Texts -> vectors, each distinct text once (`embed_items`, `embed_queries`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

VECTORS = "text_hash BIGINT, embedding ARRAY<FLOAT>"


def texts_to_encode(texts: DataFrame, known: DataFrame) -> DataFrame:
    """text_hash, text of every text whose hash has no vector yet. `texts` may repeat; `known` holds text_hash."""
    once = texts.groupBy("text_hash").agg(F.min("text").alias("text"))
    return once.join(known.select("text_hash"), "text_hash", "left_anti")


def encode_texts(
    texts: DataFrame, encode: Callable[[Sequence[str]], pa.Array], *, encoder_version: str, first_seen: Column
) -> DataFrame:
    """text_hash, text -> rows of an embeddings table.

    `encode` maps texts to a FixedSizeList or List array of float32, one vector a text. It is sent to the Python
    workers, where it must load its model at most once.
    """

    def batches(tables: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in tables:
            vectors = encode(batch.column("text").to_pylist())
            yield pa.RecordBatch.from_arrays(
                [batch.column("text_hash"), vectors.cast(pa.list_(pa.float32()))], names=["text_hash", "embedding"]
            )

    return (
        texts.select("text_hash", "text")
        .mapInArrow(batches, VECTORS)
        .select(
            F.lit(encoder_version).alias("encoder_version"), first_seen.alias("first_seen"), "text_hash", "embedding"
        )
    )
