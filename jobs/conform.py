"""Rows held against a table's contract, for either engine, before anything is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pyarrow as pa

from schemas.contract import ContractError, Table

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


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
