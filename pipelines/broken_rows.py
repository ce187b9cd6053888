"""Rows that break their table's contract, as `quarantine` keeps them."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from pipelines.columns import refused
from schemas.contract import Table


def broken_rows(rows: DataFrame, table: Table) -> DataFrame:
    """Rows of one partition -> those with a NULL where none may be, against a check, or with a key that is not theirs
    alone: source, reason (every rule broken), row.
    """
    keys = [name for name in table.key if name not in table.partition] or list(table.key)
    rules: list[tuple[Column, str]] = [
        (F.col(f"`{column.name}`").isNull(), f"{column.name} is NULL")
        for column in table.columns
        if not column.nullable
    ]
    # A condition that is NULL passes, as in the suite.
    rules += [(F.coalesce(~F.expr(check.sql), F.lit(False)), f"not so: {check.doc}") for check in table.checks]
    if keys:
        same = Window.partitionBy(*[F.col(f"`{name}`") for name in keys])
        rules.append((F.count("*").over(same) > 1, f"several rows of one {', '.join(keys)}"))
    reasons = F.concat_ws("; ", *[F.when(broken, F.lit(words)) for broken, words in rules])
    judged = rows.withColumn("_reason", reasons).where(F.col("_reason") != "")
    return refused(judged, table.name, F.col("_reason"), table.names)
