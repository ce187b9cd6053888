"""What a table promises: columns, types, nullability, key, partition and checks, as plain data.

The Delta DDL, the Great Expectations suite (`schemas.expectations`), the Arrow schema for delta-rs and `docs/tables.md`
(`schemas.docs`) all derive from these objects, so none of them is written twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_TYPE = re.compile(
    r"^(STRING|BIGINT|INT|FLOAT|DOUBLE|BOOLEAN|DATE|TIMESTAMP"
    r"|ARRAY<(STRING|BIGINT|INT|FLOAT)>|MAP<STRING, (STRING|DOUBLE)>)$"
)


class ContractError(ValueError):
    """Rows, columns or types that break a table's contract; the message lists every problem found."""


@dataclass(frozen=True)
class Column:
    """One column: Spark type name, whether NULL is allowed, and what a value means (units, range, when NULL)."""

    name: str
    type: str
    doc: str
    nullable: bool = False

    def __post_init__(self) -> None:
        if not _TYPE.match(self.type):
            raise ContractError(f"Column {self.name}: type {self.type} is not one that every Delta reader knows.")


@dataclass(frozen=True)
class Between:
    """Every non-NULL value lies in [low, high]; an open end is None."""

    column: str
    low: float | None = None
    high: float | None = None

    @property
    def sql(self) -> str:
        """The row condition; NULL passes."""
        ends = [f"`{self.column}` >= {self.low}"] if self.low is not None else []
        ends += [f"`{self.column}` <= {self.high}"] if self.high is not None else []
        return " AND ".join(ends)

    @property
    def doc(self) -> str:
        """The rule in words."""
        return f"{self.column} in [{'-∞' if self.low is None else self.low}, {'∞' if self.high is None else self.high}]"


@dataclass(frozen=True)
class OneOf:
    """Every non-NULL value is one of the given strings."""

    column: str
    values: tuple[str, ...]

    @property
    def sql(self) -> str:
        """The row condition; NULL passes."""
        return f"`{self.column}` IN ({', '.join(repr(value) for value in self.values)})"

    @property
    def doc(self) -> str:
        """The rule in words."""
        return f"{self.column} is one of {', '.join(self.values)}"


@dataclass(frozen=True)
class Holds:
    """A row condition in Spark SQL; a row where it is false (not NULL) breaks the contract."""

    sql: str
    doc: str


Check = Between | OneOf | Holds


@dataclass(frozen=True)
class Table:
    """One Delta table. `key` columns identify a row (empty: none), `partition` columns lay it out."""

    name: str
    doc: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    partition: tuple[str, ...] = ()
    checks: tuple[Check, ...] = field(default=())

    def __post_init__(self) -> None:
        names = set(self.names)
        used = {*self.key, *self.partition, *(check.column for check in self.checks if not isinstance(check, Holds))}
        if unknown := used - names:
            raise ContractError(f"Table {self.name}: {sorted(unknown)} are not columns of it.")
        if len(names) != len(self.columns):
            raise ContractError(f"Table {self.name} names a column twice.")

    @property
    def names(self) -> list[str]:
        """Column names in order."""
        return [column.name for column in self.columns]

    @property
    def ddl(self) -> str:
        """The column list as Spark DDL, nullability included."""
        return ", ".join(f"`{c.name}` {c.type}{'' if c.nullable else ' NOT NULL'}" for c in self.columns)

    def arrow_schema(self) -> pa.Schema:
        """The same columns as an Arrow schema, for delta-rs."""
        import pyarrow as pa

        plain = {
            "STRING": pa.string(),
            "BIGINT": pa.int64(),
            "INT": pa.int32(),
            "FLOAT": pa.float32(),
            "DOUBLE": pa.float64(),
            "BOOLEAN": pa.bool_(),
            "DATE": pa.date32(),
            "TIMESTAMP": pa.timestamp("us", tz="UTC"),
        }
        plain |= {f"ARRAY<{name}>": pa.list_(plain[name]) for name in ("STRING", "BIGINT", "INT", "FLOAT")}
        plain |= {f"MAP<STRING, {name}>": pa.map_(pa.string(), plain[name]) for name in ("STRING", "DOUBLE")}
        return pa.schema([pa.field(c.name, plain[c.type], nullable=c.nullable) for c in self.columns])
