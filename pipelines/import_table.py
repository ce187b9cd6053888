"""Import of any log, catalogue, user list or judgments from Parquet, CSV, JSON or Delta by a mapping file (TOML).

table = "click_log"            # click_log, catalog, users or relevance_labels
time_format = "yyyy-MM-dd HH:mm:ss"   # optional, Spark's pattern letters; else ISO 8601 or epoch digits

[columns]                      # our column = "their column"
event_time = "ts"
item_id = "product.id"         # a name as it is, dots and blanks included

[actions]                      # their value = "ours"; click_log only
view = "impression"
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, MapType, StringType, StructType

from pipelines.import_shapes import ACTIONS, RAW_EVENT, path_steps, shape_catalog, shape_events
from pipelines.imports import Shaped, is_nested, quoted, shape_labels, shape_users, time_from, valid_texts

CATALOG_COLUMNS = (
    "item_id",
    "title",
    "brand",
    "category",
    "category_path",
    "attributes",
    "price",
    "price_cents",
    "in_stock",
    "image_embedding",
    "updated_at",
)
# Our columns of each table, and those without which nothing can be imported.
MAPPABLE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "click_log": (RAW_EVENT, ("event_time", "item_id", "action")),
    "catalog": (CATALOG_COLUMNS, ("item_id", "title")),
    "users": (("user", "gender", "age_band", "purchase_power"), ("user",)),
    "relevance_labels": (
        ("query", "item_id", "grade", "rater", "source", "fold"),
        ("query", "item_id", "grade"),
    ),
}
SETTINGS = ("table", "columns", "actions", "time_format", "format")
# Our columns of more than one value: the types that theirs may have beside text, and how to say so.
NESTED: dict[str, tuple[tuple[type, ...], str]] = {
    "attributes": ((MapType, StructType), "a map, an object, or one as JSON text"),
    "image_embedding": ((ArrayType,), "an array, or one as JSON text"),
    "category_path": ((ArrayType,), "an array, or a text of steps parted by >"),
}
FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".ndjson": "json", ".json": "json"}


class MappingError(ValueError):
    """A mapping file that cannot be used; the message lists every problem."""


@dataclass(frozen=True)
class TableMapping:
    """Which of their columns is which of ours. Raises MappingError that lists everything wrong with it."""

    table: str
    columns: Mapping[str, str]
    actions: Mapping[str, str] = field(default_factory=dict)
    time_format: str | None = None
    format: str | None = None

    def __post_init__(self) -> None:
        if self.table not in MAPPABLE:
            raise MappingError(f"table is {self.table!r}; it is one of {', '.join(MAPPABLE)}.")
        known, needed = MAPPABLE[self.table]
        problems = [f"columns.{name} is not a column of {self.table}" for name in self.columns if name not in known]
        problems += [f"columns.{name} is missing" for name in needed if name not in self.columns]
        problems += [
            f"actions.{theirs} is {ours!r}, not one of {', '.join(ACTIONS)}"
            for theirs, ours in self.actions.items()
            if ours not in ACTIONS
        ]
        if self.actions and self.table != "click_log":
            problems.append(f"actions mean nothing for {self.table}")
        if self.format not in (None, *FORMATS.values(), "delta"):
            problems.append(f"format is {self.format!r}, not parquet, csv, json or delta")
        if problems:
            raise MappingError("; ".join(problems) + ".")


def parse_mapping(text: str) -> TableMapping:
    """The text of a mapping file -> a checked mapping. Raises MappingError that lists every problem."""
    try:
        given: dict[str, Any] = tomllib.loads(text)
    except RecursionError:
        raise MappingError("The mapping is nested too deep.") from None
    except ValueError as broken:  # a number of thousands of digits too
        raise MappingError(f"The mapping is not TOML: {broken}.") from broken
    problems = [f"{name} is not a setting" for name in given if name not in SETTINGS]
    problems += [f"{name} is missing" for name in ("table", "columns") if name not in given]
    for name in ("columns", "actions"):
        part = given.get(name, {})
        if not isinstance(part, dict):
            problems.append(f"{name} is not a table")
        else:
            problems += [f"{name}.{key} is not a text" for key, value in part.items() if not isinstance(value, str)]
    problems += [
        f"{name} is not a text"
        for name in ("table", "time_format", "format")
        if not isinstance(given.get(name, ""), str)
    ]
    if problems:
        raise MappingError("; ".join(problems) + ".")
    return TableMapping(**given)


def read_mapping(path: str | Path) -> TableMapping:
    """Read a mapping file (UTF-8 TOML). Raises MappingError that lists every problem with it, OSError without it."""
    try:
        return parse_mapping(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as broken:
        raise MappingError(f"{path} is not UTF-8 text.") from broken


def read_table(spark: SparkSession, path: str | Path, mapping: TableMapping) -> DataFrame:
    """Read Parquet, CSV (with a header; tab-separated where the name ends in .tsv), JSON lines or Delta.

    The format is the mapping's, else it follows from the name or from a `_delta_log` folder. Columns of CSV are texts.

    Raises:
        ValueError: the format cannot be told.
        MappingError: naming every column of the mapping that the file lacks or that is of an unusable type.
    """
    place = str(path)
    bare = place.removesuffix("/").removesuffix(".gz")
    kind = mapping.format or FORMATS.get(Path(bare).suffix)
    if kind is None and (Path(bare) / "_delta_log").is_dir():
        kind = "delta"
    if kind is None and Path(bare).is_dir() and any(Path(bare).rglob("*.parquet")):
        kind = "parquet"
    if kind is None:
        raise ValueError(f"{place}: its name does not tell its format; set format in the mapping.")
    if kind == "csv":
        separator = "\t" if bare.endswith(".tsv") else ","
        # A line break inside a field stops Spark from splitting a file; a log is too large for that, and has none.
        lines = mapping.table != "click_log"
        raw = spark.read.csv(place, header=True, sep=separator, quote='"', escape='"', multiLine=lines)
    else:
        raw = spark.read.format(kind).load(place)
    _check_columns(raw, mapping, place)
    return valid_texts(raw)


def _check_columns(raw: DataFrame, mapping: TableMapping, what: str = "The table") -> None:
    if lacking := sorted(set(mapping.columns.values()) - set(raw.columns)):
        has = ", ".join(raw.columns) or "none"
        raise MappingError(f"{what} has no column {', '.join(lacking)}; it has {has}.")
    types = {field.name: field.dataType for field in raw.schema}
    wrong = []
    for ours, theirs in mapping.columns.items():
        kind = types[theirs]
        wanted, words = NESTED.get(ours, ((), "one value"))
        if not isinstance(kind, (StringType, *wanted)) and (wanted or is_nested(kind)):
            wrong.append(f"{theirs} is {kind.simpleString()}, but {ours} needs {words}")
    if wrong:
        raise MappingError(f"{what} has columns of a type that cannot be used: {'; '.join(wrong)}.")


def import_table(
    raw: DataFrame, mapping: TableMapping, *, zone: str, key: str, known_items: DataFrame | None = None
) -> Shaped:
    """Rows from outside -> the table that the mapping names, and the rows refused.

    Args:
        raw: of `read_table`; a name in the mapping is a top-level column, never an expression.
        mapping: of `read_mapping`.
        zone: time zone of `event_date` (click_log).
        key: secret of the pseudonyms (click_log and users).
        known_items: the catalogue, if there is one; judgments of other items are refused.

    Raises:
        MappingError: naming every column of the mapping that the rows lack or that is of an unusable type.
    """
    _check_columns(raw, mapping)
    chosen = raw.select(*[_shaped(raw, ours, theirs).alias(ours) for ours, theirs in mapping.columns.items()])
    if mapping.table == "click_log":
        action = F.trim(F.col("action").cast("string"))
        if mapping.actions:
            values = F.create_map(*[F.lit(part) for pair in mapping.actions.items() for part in pair])
            action = F.coalesce(F.try_element_at(values, action), action)
        return shape_events(chosen.withColumn("action", action), zone=zone, key=key, time_format=mapping.time_format)
    if mapping.table == "users":
        return shape_users(chosen, key=key)
    if mapping.table == "relevance_labels":
        return shape_labels(chosen, known_items=known_items)
    if mapping.time_format and "updated_at" in chosen.columns:
        chosen = chosen.withColumn("updated_at", time_from(F.col("updated_at"), mapping.time_format))
    return shape_catalog(chosen)


def _shaped(raw: DataFrame, ours: str, theirs: str) -> Column:
    """Their column; where we need a map, an array of numbers or a path and they have text, read from that text."""
    is_text = dict(raw.dtypes)[theirs] == "string"
    column = quoted(theirs)
    if ours == "attributes":
        # A map or an object (JSON lines) by way of its JSON: its values, of any type, become texts.
        return F.from_json(column if is_text else F.to_json(column), "map<string,string>")
    if is_text and ours == "image_embedding":
        return F.from_json(column, "array<float>")
    if is_text and ours == "category_path":
        return path_steps(column)
    return column
