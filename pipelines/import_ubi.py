"""Import of a User Behavior Insights log (UBI, OpenSearch and others): events, and the queries they belong to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.columns import refused
from pipelines.import_shapes import shape_events
from pipelines.imports import Shaped, pseudonym, text_or_null, union_refused, valid_texts

EVENTS, QUERIES = "ubi_events", "ubi_queries"
SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
ACTIONS = {
    "impression": "impression",
    "view": "impression",
    "click": "click",
    "item_click": "click",
    "add_to_cart": "cart",
    "purchase": "purchase",
}
# Leaves are text: a wrong type is then a value to refuse, not a row lost. Other fields of the schema are not read.
EVENT_SCHEMA = (
    "action_name STRING, client_id STRING, session_id STRING, query_id STRING, timestamp STRING, user_query STRING, "
    "event_attributes STRUCT<object: STRUCT<object_id: STRING>, position: STRUCT<ordinal: STRING>>"
)
QUERY_SCHEMA = "query_id STRING, client_id STRING, user_query STRING"


class UbiFiles(NamedTuple):
    """Records as JSON text (column value), one a row; `queries` is None where the log has no file of them."""

    events: DataFrame
    queries: DataFrame | None


def _files_of(folder: Path) -> tuple[str | None, str | None]:
    found: dict[str, str | None] = {EVENTS: None, QUERIES: None}
    for name in found:
        paths = [folder / name, *(folder / f"{name}{suffix}" for suffix in SUFFIXES)]
        found[name] = next((str(path) for path in paths if path.exists()), None)
    return found[EVENTS], found[QUERIES]


def _read_records(spark: SparkSession, path: str) -> DataFrame:
    """JSON lines, a JSON array or Parquet -> one record as JSON text a row. Empty lines are skipped."""
    inside = {file.suffix for file in Path(path).glob("*.*")} if Path(path).is_dir() else {Path(path).suffix}
    if ".parquet" in inside:
        return spark.read.parquet(path).select(F.to_json(F.struct("*")).alias("value"))
    if unknown := sorted(inside - set(SUFFIXES) - {".gz", ".crc", ""}):
        raise ValueError(f"{path} holds {', '.join(unknown)} files; UBI logs are read from {', '.join(SUFFIXES)}.")
    lines = valid_texts(spark.read.text(path)).where(F.trim("value") != "")
    first = lines.limit(1).collect()
    if first and first[0][0].lstrip().startswith("["):
        whole = valid_texts(spark.read.text(path, wholetext=True))
        # One that breaks off, or lines of which the first is odd: line by line, so that none is passed over.
        records = F.coalesce(F.from_json("value", "array<string>"), F.split("value", r"\r?\n"))
        return whole.select(F.explode(records).alias("value")).where(F.trim("value") != "")
    return lines


def read_ubi(spark: SparkSession, path: str | Path) -> UbiFiles:
    """Read a file of events, or a directory with `ubi_events` and `ubi_queries` (.jsonl, .ndjson, .json or .parquet).

    Raises ValueError where there is no such file or it is of another kind.
    """
    place = Path(path)
    if not place.exists():
        raise ValueError(f"{path} does not exist.")
    # A Parquet table is a directory too, but its name says what it is.
    is_folder = place.is_dir() and place.suffix not in SUFFIXES
    events, queries = _files_of(place) if is_folder else (str(place), None)
    if events is None:
        raise ValueError(f"{path} holds no {EVENTS} file: one of {', '.join(EVENTS + s for s in SUFFIXES)} is needed.")
    return UbiFiles(_read_records(spark, events), _read_records(spark, queries) if queries else None)


def _parsed(records: DataFrame, schema: str) -> DataFrame:
    """Records with their fields; `doc` is NULL where the text is no JSON object. A dump's `_source` is unwrapped."""
    body = F.coalesce(F.get_json_object("value", "$._source"), F.col("value"))
    return records.select(
        "value",
        F.get_json_object("value", "$._id").alias("id"),
        F.when(body.rlike(r"^\s*\{") & F.json_object_keys(body).isNotNull(), F.from_json(body, schema)).alias("doc"),
    )


def _known_action(name: Column) -> Column:
    known = F.create_map(*[F.lit(part) for pair in ACTIONS.items() for part in pair])
    folded = F.lower(F.trim(name))
    return F.coalesce(F.try_element_at(known, folded), folded)


def import_ubi(files: UbiFiles, *, zone: str, key: str, anonymous: Iterable[str] = ("", "anonymous")) -> Shaped:
    """UBI events -> `click_log`.

    `query_id` is the search, `client_id` the user, `user_query` of the event or else of its query the text. The actions
    impression and view count as impressions, click and item_click as clicks, add_to_cart as cart, purchase as purchase;
    events of other actions are refused. A record has no id of its own unless it is a dump with `_id`: equal records
    are one event delivered twice.

    Args:
        files: of `read_ubi`.
        zone: time zone of `event_date`.
        key: secret of the pseudonyms.
        anonymous: client ids that stand for nobody; such events have no user.
    """
    parsed = _parsed(files.events, EVENT_SCHEMA)
    unreadable = refused(parsed.where("doc IS NULL").select("value"), "click_log", "the record is not a JSON object")
    events = parsed.where("doc IS NOT NULL").select("value", "id", "doc.*")
    text = text_or_null("user_query")
    if files.queries is not None:
        asked = _parsed(files.queries, QUERY_SCHEMA).select("doc.query_id", "doc.user_query")
        texts = (
            asked.where(text_or_null("query_id").isNotNull() & text_or_null("user_query").isNotNull())
            .groupBy("query_id")
            .agg(F.min("user_query").alias("_asked"))
        )
        events = events.join(texts, "query_id", "left")
        text = F.coalesce(text, F.col("_asked"))
    nobody = [name.strip().lower() for name in anonymous]
    ordinal = F.col("event_attributes.position.ordinal")
    raw = events.select(
        # By the secret key: a plain hash would tell whether a record with a guessed client id is the one behind it.
        F.coalesce("id", pseudonym("value", key)).alias("event_id"),
        F.col("timestamp").alias("event_time"),
        F.col("query_id").alias("search_id"),
        "session_id",
        F.when(~F.lower(F.trim("client_id")).isin(nobody), F.col("client_id")).alias("user"),
        text.alias("query"),
        F.col("event_attributes.object.object_id").alias("item_id"),
        # Version 1.0 of the schema kept the number in an object of its own.
        F.coalesce(F.get_json_object(ordinal, "$.index"), ordinal).alias("position"),
        _known_action(F.col("action_name")).alias("action"),
    )
    shaped = shape_events(raw, zone=zone, key=key)
    return Shaped(shaped.rows, union_refused(raw.sparkSession, [unreadable, shaped.refused]))
