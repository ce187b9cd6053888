"""Import of the Shopping Queries data set (ESCI): products, judgments, and clicks that stand in for a log.

ESCI has no click log. Its train split stands in for one: see `clicks_from_judgments`. Its test split never does.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import NamedTuple

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.columns import with_normalised_query
from pipelines.draws import draw, pick
from pipelines.import_shapes import shape_catalog, shape_events
from pipelines.imports import missing_columns, shape_labels, single_values, valid_texts

PRODUCTS = "shopping_queries_dataset_products.parquet"
EXAMPLES = "shopping_queries_dataset_examples.parquet"
PRODUCT_COLUMNS = ("product_id", "product_title", "product_brand", "product_color", "product_locale")
EXAMPLE_COLUMNS = (
    "query",
    "product_id",
    "product_locale",
    "esci_label",
    "small_version",
    "large_version",
    "split",
)
GRADES = {"E": 3, "S": 2, "C": 1, "I": 0}
SEARCHES = 2  # searches that each exact item of a train query stands for
OTHERS = 5  # further items, none of them exact, on the page of such a search


class EsciFiles(NamedTuple):
    """The rows of one locale of the two files, every column as text."""

    products: DataFrame
    examples: DataFrame


class EsciImport(NamedTuple):
    """Shaped tables and what was refused (sources `catalog`, `relevance_labels` and `click_log`)."""

    catalog: DataFrame
    labels: DataFrame
    click_log: DataFrame
    refused: DataFrame


def read_esci(spark: SparkSession, directory: str | Path, *, locale: str = "us") -> EsciFiles:
    """Read the rows of one locale (us, es or jp). Raises ValueError naming each missing file and unusable column."""
    folder = str(directory).rstrip("/")
    frames, problems = [], []
    for name, columns in ((PRODUCTS, PRODUCT_COLUMNS), (EXAMPLES, EXAMPLE_COLUMNS)):
        if "://" not in folder and not Path(folder, name).exists():
            problems.append(f"{name} is not there")
            continue
        frame = spark.read.parquet(f"{folder}/{name}")
        try:
            missing_columns(frame, columns, name)
            single_values(frame, columns, name)
        except ValueError as unusable:
            problems.append(str(unusable).rstrip("."))
        else:
            texts = valid_texts(frame.select(*[F.col(column).cast("string") for column in columns]))
            frames.append(texts.where(F.col("product_locale") == locale))
    if problems:
        raise ValueError(f"{folder} is not the ESCI data set: {'; '.join(problems)}.")
    return EsciFiles(*frames)


def import_esci(
    files: EsciFiles,
    *,
    key: str,
    small: bool = False,
    last_day: date = date(2022, 6, 30),
    days: int = 30,
) -> EsciImport:
    """Products and judgments, and a click log made of the train split.

    E, S, C and I become grades 3, 2, 1 and 0 of rater `final`, source `people`; `fold` is the published split. ESCI has
    no categories, so `category` is NULL and the policy for unknown categories applies. Judgments outside the version
    chosen by `small` are not part of the import and are not counted as refused.

    Args:
        files: of `read_esci`.
        key: secret of the pseudonyms; the stand-in log has no users, so it protects nothing here.
        small: the reduced version of task 1 only.
        last_day: last day of the stand-in log.
        days: its number of days.
    """
    version = "small_version" if small else "large_version"
    examples = files.examples.where(F.col(version).try_cast("int") == 1)
    nothing = F.create_map().cast("map<string,string>")
    colour = F.trim("product_color")
    items = shape_catalog(
        files.products.select(
            F.col("product_id").alias("item_id"),
            F.col("product_title").alias("title"),
            F.col("product_brand").alias("brand"),
            F.when(F.length(colour) > 0, F.create_map(F.lit("colour"), colour)).otherwise(nothing).alias("attributes"),
        )
    )
    grades = F.create_map(*[F.lit(part) for pair in GRADES.items() for part in pair])
    judged = examples.select(
        "query",
        F.col("product_id").alias("item_id"),
        # An unknown letter stays a letter and is refused as no number.
        F.coalesce(F.try_element_at(grades, F.upper(F.trim("esci_label"))).cast("string"), F.col("esci_label")).alias(
            "grade"
        ),
        F.col("split").alias("fold"),
    )
    labels = shape_labels(judged, known_items=files.products.select(F.trim("product_id").alias("item_id")))
    log = shape_events(clicks_from_judgments(labels.rows, last_day=last_day, days=days), zone="UTC", key=key)
    return EsciImport(
        items.rows, labels.rows, log.rows, items.refused.unionByName(labels.refused).unionByName(log.refused)
    )


def clicks_from_judgments(labels: DataFrame, *, last_day: date, days: int, seed: int = 0) -> DataFrame:
    """Raw events that stand in for the clicks of shoppers, from final labels of fold `train`.

    Each exact item (grade 3) of a query is clicked in two searches. Such a search shows it among up to five of the
    query's other items, never another exact one; which, where and on which day follows from hashes. A query whose
    normalised text is also one of the test fold gives no event.
    """
    final = with_normalised_query(
        labels.where("rater = 'final' AND source = 'people'").select("query", "item_id", "grade", "fold")
    )
    tested = final.where("fold = 'test'").select("query").distinct()
    train = final.where("fold = 'train'").join(tested, "query", "left_anti")
    entry = F.struct(F.xxhash64("query", "item_id").alias("o"), "item_id")
    others = train.where("grade < 3").groupBy("query").agg(F.array_sort(F.collect_list(entry)).alias("others"))
    searches = (
        train.where("grade = 3")
        .join(others, "query", "left")
        .withColumn("n", F.explode(F.sequence(F.lit(1), F.lit(SEARCHES))))
    )
    keys = (F.col("query"), F.col("item_id"), F.col("n"))

    def by_lot(column: str | Column, purpose: str) -> Column:
        drawn = F.transform(
            column,
            lambda e: F.struct(F.xxhash64(F.lit(seed), F.lit(purpose), *keys, e["item_id"]).alias("o"), e["item_id"]),
        )
        return F.array_sort(drawn)

    none = F.array().cast("array<struct<o:bigint,item_id:string>>")
    beside = F.slice(by_lot(F.coalesce("others", none), "others"), 1, OTHERS)
    page = by_lot(F.concat(F.array(F.struct(F.lit(0).cast("bigint").alias("o"), "item_id")), "beside"), "page")
    midnight = F.unix_seconds(F.lit(last_day).cast("timestamp")) - pick(seed, "day", days, *keys) * 86_400
    shown = (
        searches.withColumn("beside", beside)
        .withColumn("page", page)
        .select(
            "query",
            F.col("item_id").alias("clicked"),
            F.substring(F.sha2(F.concat_ws("\n", *keys), 256), 1, 24).alias("search_id"),
            F.timestamp_micros((midnight + F.floor(draw(seed, "second", *keys) * 82_800)) * 1_000_000).alias("time"),
            F.posexplode("page").alias("at", "shown"),
        )
        .select("*", F.col("shown.item_id").alias("item_id"))
    )
    actions = F.when(F.col("item_id") == F.col("clicked"), F.array(F.lit("impression"), F.lit("click"))).otherwise(
        F.array(F.lit("impression"))
    )
    events = shown.select("*", F.explode(actions).alias("action"))
    wait = F.when(F.col("action") == "click", F.expr("INTERVAL 30 SECONDS")).otherwise(F.expr("INTERVAL 0 SECONDS"))
    return events.select(
        F.concat_ws("-", "search_id", (F.col("at") + 1).cast("string"), F.substring("action", 1, 1)).alias("event_id"),
        (F.col("time") + wait).alias("event_time"),
        "search_id",
        "query",
        "item_id",
        (F.col("at") + 1).alias("position"),
        "action",
    )
