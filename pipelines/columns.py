"""Column expressions every pipeline shares: query normalisation, text hashes, refused rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from schemas.text import normalise_query

BEYOND_ASCII = r"[^\x00-\x7F]"
# White space and control characters of ASCII: exactly what `normalise_query` turns into blanks in an ASCII text.
ASCII_SPACE = r"[\x00-\x20\x7F]+"


def _normalised(tables: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in tables:
        texts = [normalise_query(text) for text in batch.column("_raw").to_pylist()]
        yield pa.RecordBatch.from_arrays([batch.column("_raw"), pa.array(texts, pa.string())], ["_raw", "_normal"])


def with_normalised_query(events: DataFrame, query: str = "query") -> DataFrame:
    """Replace a query column by its normal form (see `schemas.text.normalise_query`).

    ASCII queries, nearly all of a log, take a native expression. Only the distinct others go through Python, in a
    branch of their own joined back by broadcast, so that no Python worker stands in a wide stage.
    """
    is_ascii = ~F.col(query).rlike(BEYOND_ASCII)
    native = F.trim(F.regexp_replace(F.lower(F.col(query)), ASCII_SPACE, " "))
    others = (
        events.where(~is_ascii)
        .select(F.col(query).alias("_raw"))
        .distinct()
        .mapInArrow(_normalised, "_raw STRING, _normal STRING")
    )
    joined = events.join(others, events[query] == others["_raw"], "left")
    return joined.withColumn(query, F.when(is_ascii, native).otherwise(F.col("_normal"))).drop("_raw", "_normal")


def hashed(text: str | Column) -> Column:
    """Signed 64-bit hash of a string column, NULL for NULL. Equal to `schemas.text.text_hash`."""
    column = F.col(text) if isinstance(text, str) else text
    return F.when(column.isNotNull(), F.xxhash64(column))


def refused(
    rows: DataFrame, source: str, reason: str | Column, columns: Sequence[str] = (), keep: Sequence[str] = ()
) -> DataFrame:
    """Rows a job refuses -> what `quarantine` keeps of each: source, reason, the row (or `columns` of it) as JSON.

    Columns named in `keep` stay beside them.
    """
    why = F.lit(reason) if isinstance(reason, str) else reason
    return rows.select(
        *keep,
        F.lit(source).alias("source"),
        why.alias("reason"),
        F.to_json(F.struct(*[F.col(f"`{name}`") for name in columns or rows.columns])).alias("row"),
    )
