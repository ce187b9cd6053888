"""What every importer shares: refusing rows with a reason, pseudonyms, times from outside, and the shape of labels.

Each `shape_*` function takes loosely typed rows and gives a `Shaped`: rows that fit the contract, column for column,
and rows refused. Rows in = rows accepted + rows refused, for each `source` named in `refused`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import NamedTuple

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, MapType, StringType, StructType

from pipelines.columns import hashed, refused, with_normalised_query
from schemas.contract import Table
from schemas.relevance_labels import TABLE as LABELS
from schemas.users import TABLE as USERS

BLOCK = 64  # bytes of one SHA-256 block, to which HMAC pads its key
EARLIEST, LATEST = "1990-01-01", "2100-01-01"
# A source names a partition.
PLAIN_SOURCE = r"^[A-Za-z0-9][A-Za-z0-9 ._:+-]{0,59}$"
REFUSED_DDL = "source STRING, reason STRING, row STRING"


class Shaped(NamedTuple):
    """Rows that fit a contract, and the others with the reason of each."""

    rows: DataFrame  # columns of the contract, in its order
    refused: DataFrame  # source, reason, row


def none_refused(spark: SparkSession) -> DataFrame:
    """An empty frame of refused rows."""
    return spark.createDataFrame([], REFUSED_DDL)


def union_refused(spark: SparkSession, parts: Iterable[DataFrame]) -> DataFrame:
    """Refused rows of several sources in one frame."""
    return reduce(DataFrame.unionByName, parts, none_refused(spark))


def first_reason(reasons: Sequence[tuple[Column, str | Column]]) -> Column:
    """The reason of the first condition that holds; NULL where none does. A condition of NULL does not hold."""
    texts = [F.when(condition, F.lit(why) if isinstance(why, str) else why) for condition, why in reasons]
    return F.coalesce(*texts)


def split_refused(
    rows: DataFrame, source: str, reasons: Sequence[tuple[Column, str | Column]]
) -> tuple[DataFrame, DataFrame]:
    """Rows without any reason against them, and the others as refused rows."""
    why = first_reason(reasons)
    return rows.where(why.isNull()), refused(rows.where(why.isNotNull()), source, why)


def split_duplicates(
    rows: DataFrame, source: str, key: Sequence[str], prefer: Sequence[Column], reason: str
) -> tuple[DataFrame, DataFrame]:
    """One row per key, the first by `prefer` and then by content, and the other copies as refused rows.

    Rows that tie in everything are equal, so any of them may stay.
    """
    content = F.xxhash64(F.to_json(F.struct(*[F.col(f"`{name}`") for name in rows.columns])))
    order = Window.partitionBy(*key).orderBy(*prefer, content)
    copies = rows.withColumn("_copy", F.row_number().over(order))
    return copies.where("_copy = 1").drop("_copy"), refused(copies.where("_copy > 1"), source, reason)


def missing_columns(frame: DataFrame, wanted: Sequence[str], what: str) -> None:
    """Raise ValueError that names every wanted column the frame lacks."""
    if missing := [name for name in wanted if name not in frame.columns]:
        raise ValueError(f"{what} lacks the columns {', '.join(missing)}; it has {', '.join(frame.columns)}.")


def is_nested(kind: DataType) -> bool:
    """Whether a column of that type holds more than one value."""
    return isinstance(kind, ArrayType | MapType | StructType)


def single_values(frame: DataFrame, names: Sequence[str], what: str) -> None:
    """Raise ValueError that names every given column that holds arrays, maps or structs."""
    nested = [f for f in frame.schema if f.name in names and is_nested(f.dataType)]
    if wrong := [f"{f.name} is {f.dataType.simpleString()}" for f in nested]:
        raise ValueError(f"{what} has columns of more than one value: {', '.join(wrong)}.")


def quoted(name: str) -> Column:
    """A column by its name as it is: blanks, dots and backticks in it mean nothing."""
    return F.col("`" + name.replace("`", "``") + "`")


def filled(raw: DataFrame, table: Table, extra: Mapping[str, str]) -> DataFrame:
    """`raw` with a NULL column for each column of the contract, or of `extra` (name -> type), that it lacks."""
    types = {column.name: column.type for column in table.columns} | dict(extra)
    lacking = {name: F.lit(None).cast(kind) for name, kind in types.items() if name not in raw.columns}
    return raw.withColumns(lacking) if lacking else raw


def valid_texts(frame: DataFrame) -> DataFrame:
    """The same rows with U+FFFD for bytes that are not UTF-8, which Spark carries along and Python cannot read."""
    fixes: dict[str, Column] = {}
    for field in frame.schema:
        if isinstance(field.dataType, StringType):
            fixes[field.name] = F.make_valid_utf8(quoted(field.name))
        elif isinstance(field.dataType, ArrayType) and isinstance(field.dataType.elementType, StringType):
            fixes[field.name] = F.transform(quoted(field.name), F.make_valid_utf8)
    return frame.select(*[fixes.get(name, quoted(name)).alias(name) for name in frame.columns])


def as_contract(rows: DataFrame, table: Table) -> DataFrame:
    """Exactly the contract's columns, in its order and of its types."""
    return rows.select(*[F.col(f"`{c.name}`").cast(c.type).alias(c.name) for c in table.columns])


def text_or_null(column: str | Column) -> Column:
    """Trimmed text; NULL where nothing is left."""
    text = F.trim((F.col(column) if isinstance(column, str) else column).cast("string"))
    return F.when(F.length(text) > 0, text)


def pseudonym(user: str | Column, key: str) -> Column:
    """Keyed hash of a user id: HMAC-SHA256 under `key`, the first 32 hex digits; NULL for NULL or blank ids.

    Without the key nobody can test whether a known id is in the log. The key is part of the query plan: do not log
    plans. Raises ValueError for an empty key, which would be no secret.
    """
    if not key:
        raise ValueError("The key of pseudonyms is empty: anybody could then compute whose pseudonym is whose.")
    secret = key.encode("utf-8")
    if len(secret) > BLOCK:
        import hashlib

        secret = hashlib.sha256(secret).digest()
    secret = secret.ljust(BLOCK, b"\0")
    inner_pad, outer_pad = bytes(b ^ 0x36 for b in secret), bytes(b ^ 0x5C for b in secret)
    inner = F.sha2(F.concat(F.lit(inner_pad), F.encode(text_or_null(user), "UTF-8")), 256)
    return F.substring(F.sha2(F.concat(F.lit(outer_pad), F.unhex(inner)), 256), 1, 32)


def time_from(column: Column, time_format: str | None = None) -> Column:
    """A time from outside as a UTC timestamp; NULL where it cannot be read.

    With `time_format` (Spark's pattern letters) by that pattern. Else ISO 8601 (UTC where no zone is given), or
    seconds, milliseconds or microseconds since 1970 as 9-11, 12-14 or 15-17 digits.
    """
    text = F.trim(column.cast("string"))
    if time_format is not None:
        return F.try_to_timestamp(text, F.lit(time_format))
    digits = F.regexp_extract(text, r"^(\d+)(\.0+)?$", 1)
    number = digits.try_cast("bigint")
    length = F.length(digits)
    return (
        F.when(length.between(9, 11), F.timestamp_micros(number * 1_000_000))
        .when(length.between(12, 14), F.timestamp_micros(number * 1_000))
        .when(length.between(15, 17), F.timestamp_micros(number))
        .otherwise(text.try_cast("timestamp"))
    )


def unreadable_time(time: Column) -> Column:
    """Whether a time is missing, or outside the years that this product accepts."""
    return time.isNull() | (time < F.lit(EARLIEST).cast("timestamp")) | (time >= F.lit(LATEST).cast("timestamp"))


def shape_labels(raw: DataFrame, *, source: str = "relevance_labels", known_items: DataFrame | None = None) -> Shaped:
    """Judgments -> `relevance_labels`.

    Args:
        raw: query, item_id, grade (any type) and optionally rater (default `final`), source (default `people`), fold.
        source: what the refused rows are said to be from.
        known_items: where given (column item_id), a judgment of another item is refused.
    """
    missing_columns(raw, ["query", "item_id", "grade"], source)
    full = filled(raw, LABELS, {})
    grade = F.col("grade").try_cast("double")
    accepted, bad = split_refused(
        full.select("query", "item_id", "rater", "source", "grade", "fold"),
        source,
        [
            (text_or_null("query").isNull(), "the query is empty"),
            (text_or_null("item_id").isNull(), "the item id is empty"),
            (grade.isNull(), "the grade is not a number"),
            (~grade.isin(0.0, 1.0, 2.0, 3.0), "the grade is not 0, 1, 2 or 3"),
            (~text_or_null("source").rlike(PLAIN_SOURCE), "the source is not a plain name of at most 60 characters"),
        ],
    )
    labels = with_normalised_query(
        accepted.withColumns(
            {
                "item_id": F.trim("item_id"),
                "rater": F.coalesce(text_or_null("rater"), F.lit("final")),
                "source": F.coalesce(text_or_null("source"), F.lit("people")),
                "grade": grade.cast("int"),
                "fold": text_or_null("fold"),
            }
        )
    )
    labels, blank = split_refused(labels, source, [(F.length("query") == 0, "the query is empty once normalised")])
    parts = [bad, blank]
    if known_items is not None:
        known = known_items.select("item_id").distinct().withColumn("_known", F.lit(True))
        marked = labels.join(known, "item_id", "left")
        parts.append(
            refused(marked.where("_known IS NULL").drop("_known"), source, "the judged item is not in the catalogue")
        )
        labels = marked.where("_known").drop("_known")
    labels, twice = split_duplicates(
        labels,
        source,
        ["query", "item_id", "rater", "source"],
        [F.col("grade").desc()],
        "the same rater judged this query and item twice; the highest grade stays",
    )
    rows = as_contract(labels.withColumn("query_id", hashed("query")), LABELS)
    return Shaped(rows, union_refused(raw.sparkSession, [*parts, twice]))


def shape_users(raw: DataFrame, *, key: str, source: str = "users") -> Shaped:
    """Users from outside -> `users`, by pseudonym. `raw` has user and any of gender, age_band, purchase_power."""
    missing_columns(raw, ["user"], source)
    full = filled(raw, USERS, {}).select(pseudonym("user", key).alias("user"), "gender", "age_band", "purchase_power")
    power = F.col("purchase_power").try_cast("int")
    accepted, bad = split_refused(
        full,
        source,
        [
            (F.col("user").isNull(), "the user id is empty"),
            (F.col("purchase_power").isNotNull() & power.isNull(), "purchase power is not a whole number"),
            (~power.between(1, 5), "purchase power is not 1 to 5"),
        ],
    )
    shaped = accepted.select(
        "user",
        text_or_null("gender").alias("gender"),
        text_or_null("age_band").alias("age_band"),
        power.alias("purchase_power"),
    )
    one, twice = split_duplicates(shaped, source, ["user"], [], "another row has the same user")
    return Shaped(as_contract(one, USERS), bad.unionByName(twice))
