"""Facets of items: what a shopper may ask for besides the category, taken from brand and attributes.

A facet is a key and a term, for example colour: navy blue or cable_length: 3 m.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

# Keys nobody searches by: shipping, compliance, identifiers, ranges of operation.
DULL_KEY = (
    r"(^|_)(package|pallet|carton|case|weight|width|height|depth|dimensions?|temperature|humidity|altitude|certifications?"
    r"|certificates?|country|warranty|rohs|customs|harmonized|oem|last_change|launch|status|manual|compliance"
    r"|sustainability|imperial|frequency|voltage|current|gender|id|ark|stepping|codename|footnote|product_type|contrast"
    r"|embedded|included|power|yield|shelf|supported|date|expected|return)(_|$)"
)
# A bare number is a facet only where its unit is known.
UNITS = {
    "cable_length": "m",
    "internal_memory": "gb",
    "memory": "gb",
    "capacity": "gb",
    "hdd_capacity": "gb",
    "display_diagonal": "inch",
    "ac_outlets_quantity": "outlet",
    "number_of_ports": "port",
    "processor_cores": "core",
    "processor_frequency": "ghz",
    "media_weight": "gsm",
    "labels_per_sheet": "per sheet",
    "sheets_per_pack": "sheets",
    "number_of_years": "year",
    "rack_capacity": "u",
}
MAX_WORDS = 3
MAX_CHARS = 24
LEAST_ITEMS = 3  # items of a category that share a term, for it to be worth asking for
MOST_SHARE = 0.8  # share of a category beyond which a term tells nothing
LEAST_COVERAGE = 0.1  # share of a category that has the key at all


def plain(text: Column) -> Column:
    """Lower-case ASCII words of a text: what a shopper would type for it."""
    ascii_only = F.regexp_replace(F.lower(text), r"[^a-z0-9.+\- ]+", " ")
    return F.trim(F.regexp_replace(ascii_only, r"\s+", " "))


def _term(key: Column, value: Column) -> Column:
    """What a shopper calls an attribute's value; NULL where nobody would."""
    units = F.create_map(*[F.lit(part) for pair in UNITS.items() for part in pair])
    truth = F.when(F.lower(value).isin("true", "y"), plain(F.regexp_replace(key, "_+", " ")))
    number = F.concat(value, F.lit(" "), F.try_element_at(units, key))
    # Of a list only the first entry, and nothing in brackets.
    word = plain(F.regexp_replace(F.substring_index(value, ",", 1), r"\(.*?\)", " "))
    term = (
        F.when(F.lower(value).isin("true", "y", "false", "n"), truth)
        .when(value.rlike(r"^-?\d+(\.\d+)?$"), number)
        .otherwise(word)
    )
    fits = F.length(term).between(2, MAX_CHARS) & (F.size(F.split(term, " ")) <= MAX_WORDS) & term.rlike("[a-z]")
    return F.when(fits, term)


def item_facets(catalog: DataFrame) -> DataFrame:
    """Items with the facets their category's shoppers use.

    Returns:
        item_id, category, noun (the category as words), category_items, brand (words), and
        facets (array of struct(key, term), in order of key), for items with a category.
    """
    items = catalog.where(F.col("category").isNotNull()).select("item_id", "category", "brand", "attributes")
    sizes = items.groupBy("category").agg(F.count("*").alias("category_items"))
    noun = plain(F.regexp_replace("category", r"^items with ", ""))
    entries = items.select("item_id", "category", F.explode("attributes").alias("key", "value"))
    # Words are made once per distinct value, not once per item.
    values = entries.groupBy("category", "key", "value").agg(F.count("*").alias("value_items"))
    terms = (
        values.where(~F.col("key").rlike(DULL_KEY))
        .withColumn("term", _term(F.col("key"), F.col("value")))
        .where(F.col("term").isNotNull() & (F.col("term") != plain(F.col("category"))))
    )
    by_term, by_key = Window.partitionBy("category", "key", "term"), Window.partitionBy("category", "key")
    worth = (
        terms.withColumns({"n": F.sum("value_items").over(by_term), "key_items": F.sum("value_items").over(by_key)})
        .join(sizes, "category")
        .where(F.col("n") >= F.least(F.lit(LEAST_ITEMS), F.col("category_items")))
        .where(F.col("n") <= F.greatest(MOST_SHARE * F.col("category_items"), F.lit(2.0)))
        .where(F.col("key_items") >= LEAST_COVERAGE * F.col("category_items"))
        .select("category", "key", "value", "term")
    )
    kept = (
        entries.join(worth, ["category", "key", "value"])
        .groupBy("item_id")
        .agg(F.array_sort(F.collect_set(F.struct("key", "term"))).alias("told"))
    )
    brand = plain(F.col("brand"))
    own = F.when(brand.rlike("[a-z]"), F.array(F.struct(F.lit("brand").alias("key"), brand.alias("term"))))
    nothing = F.array().cast("array<struct<key:string,term:string>>")
    return (
        items.drop("attributes")
        .join(sizes, "category")
        .join(kept, "item_id", "left")
        .select(
            "item_id",
            "category",
            noun.alias("noun"),
            "category_items",
            brand.alias("brand"),
            F.concat(F.coalesce(own, nothing), F.coalesce("told", nothing)).alias("facets"),
        )
    )
