"""Import of the Icecat catalogue and its judgments as published by the Chorus project (see its README for columns)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.categories import GROUPS, with_derived_category
from pipelines.import_shapes import shape_catalog
from pipelines.imports import shape_labels, text_or_null

PRODUCTS, JUDGMENTS = "products.tsv.gz", "judgments.tsv.gz"
PRODUCT_COLUMNS = ("item_id", "title", "brand", "price_cents", "date_released", "product_type", "attributes_json")
JUDGMENT_COLUMNS = ("query", "item_id", "rating", "agent_1_rating", "agent_2_rating", "agent_3_rating")
ENTRY = "struct<name:string,kind:string,value:string>"


class IcecatFiles(NamedTuple):
    """The two files as text columns."""

    products: DataFrame
    judgments: DataFrame


class IcecatImport(NamedTuple):
    """Shaped tables and what was refused (sources `catalog` and `relevance_labels`)."""

    catalog: DataFrame
    labels: DataFrame
    refused: DataFrame


def read_icecat(spark: SparkSession, directory: str | Path) -> IcecatFiles:
    """Read products.tsv.gz and judgments.tsv.gz. Raises ValueError naming every missing file and column."""
    folder = str(directory).rstrip("/")
    wanted = {PRODUCTS: PRODUCT_COLUMNS, JUDGMENTS: JUDGMENT_COLUMNS}
    frames, problems = {}, []
    for name, columns in wanted.items():
        if "://" not in folder and not Path(folder, name).is_file():
            problems.append(f"{name} is not there")
            continue
        if "://" not in folder and not Path(folder, name).stat().st_size:
            problems.append(f"{name} is empty")
            continue
        # Fields with quotes, tabs or line breaks are quoted, a quote inside is doubled. Gzip is not split anyway.
        place = f"{folder}/{name}"
        frame = spark.read.csv(place, sep="\t", header=True, quote='"', escape='"', multiLine=True)
        if missing := [column for column in columns if column not in frame.columns]:
            problems.append(f"{name} lacks the columns {', '.join(missing)}")
        # One gzip file is one task: spread what follows.
        frames[name] = frame.repartition(spark.sparkContext.defaultParallelism)
    if problems:
        raise ValueError(f"{folder} is not the Icecat data set: {'; '.join(problems)}.")
    return IcecatFiles(frames[PRODUCTS], frames[JUDGMENTS])


def with_attributes(rows: DataFrame, json: str = "attributes_json") -> DataFrame:
    """Add `attributes`: `{"attr_t_colour": "Black", "attr_n_size": 3.0}` -> map {colour: Black, size: 3}.

    The map is empty where the text is no JSON object. Where a name comes with two types, text wins over number, and
    number over yes or no. Steps are columns of their own so that Spark computes each once.
    """
    typed = F.transform(
        F.map_entries(F.from_json(F.col(json), "map<string,string>")),
        lambda e: F.struct(
            F.substring(e["key"], 8, 1000).alias("name"),
            F.translate(F.substring(e["key"], 6, 1), "tnb", "012").alias("kind"),
            F.when(e["value"].endswith(".0"), F.substring_index(e["value"], ".", 1))
            .otherwise(e["value"])
            .alias("value"),
        ),
    )
    told = F.array_sort(F.filter(typed, lambda e: (e["name"] != "") & (e["value"] != "")))
    # Entries beside their predecessors: one whose predecessor has its name is the same attribute of a lesser type.
    before = F.concat(F.array(F.lit(None).cast(ENTRY)), F.slice("_told", 1, F.greatest(F.size("_told") - 1, F.lit(0))))
    first = F.zip_with("_told", "_before", lambda e, b: F.when(b["name"].isNull() | (b["name"] != e["name"]), e))
    pairs = F.transform(F.filter(first, lambda e: e["name"].isNotNull()), lambda e: F.struct(e["name"], e["value"]))
    staged = rows.withColumn("_told", told).withColumn("_before", before)
    attributes = F.coalesce(F.map_from_entries(pairs), F.create_map().cast("map<string,string>"))
    return staged.withColumn("attributes", attributes).drop("_told", "_before")


def import_icecat(files: IcecatFiles, groups: int = GROUPS) -> IcecatImport:
    """Catalogue with a derived category, and the judgments as labels of source `people`.

    Raters are `final` (the published rating) and `agent_1` to `agent_3` where given, so one judged row makes up to four
    labels. A judged item that is not in the catalogue is refused. `groups`: see `pipelines.categories`.
    """
    keyed = files.products.select(
        "item_id", "title", "brand", "price_cents", F.col("date_released").alias("updated_at"), "attributes_json"
    ).withColumn(
        "keys", F.array_distinct(F.transform(F.json_object_keys("attributes_json"), lambda k: F.substring(k, 8, 1000)))
    )
    items = shape_catalog(with_attributes(with_derived_category(keyed, groups)))
    raters = [("final", "rating"), *((f"agent_{n}", f"agent_{n}_rating") for n in (1, 2, 3))]
    given = F.filter(
        F.array(*[F.struct(F.lit(rater).alias("rater"), F.col(c).alias("grade")) for rater, c in raters]),
        lambda g: (g["rater"] == "final") | (F.trim(g["grade"]) != ""),
    )
    judged = files.judgments.select("query", "item_id", F.explode(given).alias("g")).select("query", "item_id", "g.*")
    # Items by id and title alone: what makes an item acceptable, without parsing its attributes again.
    named = files.products.where(text_or_null("title").isNotNull()).select(F.trim("item_id").alias("item_id"))
    labels = shape_labels(judged, known_items=named)
    return IcecatImport(items.rows, labels.rows, items.refused.unionByName(labels.refused))
