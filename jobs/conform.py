"""Tables made as their contracts say, and rows held against them before anything is written; and what Delta refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import deltalake
import pyarrow as pa
from deltalake.exceptions import CommitFailedError

from jobs.errors import ConcurrentWrite
from schemas.contract import ContractError, Table

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# The memo of what a partition was computed from lives in commit metadata, so the log outlives any window.
PROPERTIES = {"delta.logRetentionDuration": "interval 1000 days"}


def create(path: str, table: Table, held: deltalake.DeltaTable | None) -> None:
    """Make a table where there is none; to the one that is `held`, add the columns that its contract gained."""
    schema = deltalake.Schema.from_arrow(table.arrow_schema())
    if held is not None:
        have = {field.name for field in held.schema().fields}
        if gained := [field for field in schema.fields if field.name not in have]:
            held.alter.add_columns(gained)
        return
    if "://" not in path:
        Path(path).mkdir(parents=True, exist_ok=True)
    # Created through delta-rs whichever engine writes next: milliseconds, and the same protocol for both.
    try:
        deltalake.DeltaTable.create(
            path,
            schema=schema,
            mode="ignore",
            partition_by=list(table.partition),
            description=table.doc,
            configuration=PROPERTIES | statistics(table),
        )
    except CommitFailedError:
        # Where there is no lock, another first writer may have created it at the same moment.
        if not deltalake.DeltaTable.is_deltatable(path):
            raise


def conform(rows: DataFrame, table: Table) -> DataFrame:
    """The contract's columns in its order. Raises ContractError naming every missing or wrongly typed column."""
    from pyspark.sql.types import StructType

    wanted = cast(StructType, StructType.fromDDL(table.ddl))
    have = {field.name: field.dataType for field in rows.schema}
    problems = [f"{f.name} is missing" for f in wanted if f.name not in have]
    problems += [
        f"{f.name} is {have[f.name].simpleString()} instead of {f.dataType.simpleString()}"
        for f in wanted
        if f.name in have and have[f.name].simpleString() != f.dataType.simpleString()
    ]
    if problems:
        raise ContractError(f"Rows for {table.name}: {'; '.join(problems)}.")
    return rows.select(*[f"`{name}`" for name in table.names])


def conform_arrow(rows: pa.Table, table: Table) -> pa.Table:
    """The same for Arrow, which knows more widths of a type: those are cast, a text never becomes a number."""
    schema = table.arrow_schema()
    have = {field.name: field.type for field in rows.schema}
    problems = [f"{f.name} is missing" for f in schema if f.name not in have]
    there = [f for f in schema if f.name in have]
    problems += [f"{f.name} is {have[f.name]} instead of {f.type}" for f in there if not _fits(have[f.name], f.type)]
    problems += [f"{f.name} holds NULL" for f in there if not f.nullable and rows[f.name].null_count]
    if problems:
        raise ContractError(f"Rows for {table.name}: {'; '.join(problems)}.")
    try:
        return rows.select(schema.names).cast(schema)
    except pa.ArrowInvalid as error:
        raise ContractError(f"Rows for {table.name}: {error}.") from error


def _fits(have: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether two Arrow types are of one kind, whatever their width."""
    types = pa.types
    if types.is_null(have):
        return True
    if types.is_map(wanted):
        return types.is_map(have) and _fits(have.key_type, wanted.key_type) and _fits(have.item_type, wanted.item_type)
    if types.is_list(wanted):
        listed = types.is_list(have) or types.is_large_list(have) or types.is_fixed_size_list(have)
        return listed and _fits(have.value_type, wanted.value_type)
    if types.is_timestamp(wanted):
        return bool(types.is_timestamp(have) and have.tz is not None)
    if types.is_string(wanted):
        return bool(types.is_string(have) or types.is_large_string(have) or types.is_string_view(have))
    kinds = (types.is_integer, types.is_floating, types.is_boolean, types.is_date)
    return any(bool(kind(have) and kind(wanted)) for kind in kinds)


def statistics(table: Table) -> dict[str, str]:
    """Where a table names persons, its log must not: it keeps least and greatest values of other columns alone."""
    named = {"user", "row"} & set(table.names)
    others = [column.name for column in table.columns if column.name not in named and "<" not in column.type][:8]
    return {"delta.dataSkippingStatsColumns": ",".join(others)} if named else {}


@contextmanager
def refusals(table: Table) -> Iterator[None]:
    """What Delta refuses while Spark writes, as the error that the same rows get from the other engine."""
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        if column := re.search(r"NOT NULL constraint violated for column: (\w+)", str(error)):
            raise ContractError(f"Rows for {table.name}: {column[1]} holds NULL.") from error
        if "DELTA_REPLACE_WHERE_MISMATCH" in str(error):
            raise ContractError(f"Rows for {table.name} lie outside the partitions.") from error
        if "DELTA_CONCURRENT" in str(error):
            raise overtaken(table) from error
        raise


def overtaken(table: Table) -> ConcurrentWrite:
    """What both engines say where no lock keeps writers apart, and Delta itself finds the second one out."""
    return ConcurrentWrite(f"{table.name}: another run committed at the same moment. Nothing was written; try again.")
