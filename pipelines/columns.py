"""Column expressions every pipeline shares: query normalisation, text hashes, refused rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from schemas.text import normalise_query

# White space and control characters of ASCII: exactly what `normalise_query` turns into blanks in an ASCII text.
ASCII_SPACE = r"[\x00-\x20\x7F]+"
# What of it is no blank: few queries have any, and looking costs less than replacing.
CONTROL = r"[\x00-\x1F\x7F]"


def with_normalised_query(rows: DataFrame, query: str = "query") -> DataFrame:
    """Replace a query column by its normal form (see `schemas.text.normalise_query`).

    ASCII queries, nearly all of a log, take a native expression. The other rows go through Python where they are read,
    before anything is shuffled; they should be narrow by then.
    """

    def normalised(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            at = batch.schema.get_field_index(query)
            texts = batch.column(at).dictionary_encode()
            normal = pa.array([normalise_query(text) for text in texts.dictionary.to_pylist()], pa.string())
            yield batch.set_column(at, query, normal.take(texts.indices))

    text = F.col(f"`{query}`")
    # A text of ASCII alone has as many bytes as characters: no pattern is searched for.
    is_ascii = F.coalesce(F.length(text) == F.octet_length(text), F.lit(True))
    lower = F.lower(text)
    untidy = lower.contains("  ") | lower.rlike(CONTROL)
    native = F.trim(F.when(untidy, F.regexp_replace(lower, ASCII_SPACE, " ")).otherwise(lower))
    plain = rows.where(is_ascii).select(
        *[native.alias(name) if name == query else f"`{name}`" for name in rows.columns]
    )
    return plain.unionByName(rows.where(~is_ascii).mapInArrow(normalised, rows.schema))


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
