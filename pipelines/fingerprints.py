"""Content fingerprints: row count and sum of row hashes, the same for any order of rows and number of partitions."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import MapType

MASK = 0xFFFFFFFF


def fingerprints(rows: DataFrame, by: Sequence[str]) -> DataFrame:
    """One row per combination of the columns `by` (one row in all where there are none): those, rows, high, low.

    The sums of the upper and the lower 32 bits of the hashes are kept apart: neither overflows below 2^31 rows.
    """

    def hashable(name: str) -> Column:
        # Spark refuses to hash maps, whose entries have no order.
        is_map = isinstance(rows.schema[name].dataType, MapType)
        return F.array_sort(F.map_entries(name)) if is_map else F.col(f"`{name}`")

    hashes = rows.select(*by, F.xxhash64(*[hashable(name) for name in rows.columns]).alias("_hash"))
    return hashes.groupBy(*by).agg(
        F.count("*").alias("rows"),
        F.sum(F.shiftrightunsigned("_hash", 32)).alias("high"),
        F.sum(F.col("_hash").bitwiseAND(MASK)).alias("low"),
    )


def as_text(rows: int, high: int | None, low: int | None) -> str:
    """A fingerprint as commits carry it, for example `1200-3f09...`."""
    total = ((high or 0) << 32) + (low or 0)
    return f"{rows}-{total:x}"
