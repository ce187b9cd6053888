"""Draws that depend on keys alone: the same rows whatever the partitions, and another world for another seed."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F


def draw(seed: int, purpose: str, *keys: Column) -> Column:
    """A number in [0, 1) from seed, purpose and key columns: the upper 53 bits of their xxhash64."""
    return F.shiftrightunsigned(F.xxhash64(F.lit(seed), F.lit(purpose), *keys), 11) * F.lit(2.0**-53)


def pick(seed: int, purpose: str, count: int | Column, *keys: Column) -> Column:
    """A whole number in 0..count-1 from seed, purpose and key columns."""
    number = F.lit(count) if isinstance(count, int) else count
    return F.pmod(F.xxhash64(F.lit(seed), F.lit(purpose), *keys), number.cast("bigint")).cast("int")
