"""A simulated marketplace: a catalogue with categories of very unequal size, and users with lasting tastes.

Everything is drawn from hashes of the seed and an item's or user's number, so any partitioning gives the same rows.
"""

from __future__ import annotations

import random
from datetime import date
from typing import NamedTuple

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.draws import draw, pick
from pipelines.import_shapes import shape_catalog
from pipelines.imports import as_contract, pseudonym
from pipelines.simulate_words import BRAND_ENDS, BRAND_STARTS, COLOURS, DEPARTMENTS
from schemas.users import TABLE as USERS

BRANDS_PER_DEPARTMENT = 14
ITEMS_PER_CATEGORY = 25  # a catalogue has no more categories than it has items for
AGE_BANDS = ("18-24", "25-34", "35-44", "45-54", "55-64", "65+")
SNAPSHOT_DAY = date(2026, 1, 31)


class SimulatedCatalogue(NamedTuple):
    """A catalogue and its users, shaped to their contracts."""

    catalog: DataFrame
    users: DataFrame


def brands_of(seed: int) -> list[list[str]]:
    """Brand names for each department, in order of size; no two departments share one."""
    names = [start + end for start in BRAND_STARTS for end in BRAND_ENDS]
    random.Random(seed).shuffle(names)
    return [names[BRANDS_PER_DEPARTMENT * d :][:BRANDS_PER_DEPARTMENT] for d in range(len(DEPARTMENTS))]


def _leaves(spark: SparkSession, seed: int) -> DataFrame:
    """One row per category with its department's values; `place` is its rank by size in this world, from 1."""
    brands = brands_of(seed)
    leaves = [(d, category) for d, department in enumerate(DEPARTMENTS) for category in department.categories]
    random.Random(seed + 1).shuffle(leaves)
    rows = [
        (
            place,
            DEPARTMENTS[d].name,
            category,
            brands[d],
            list(DEPARTMENTS[d].materials),
            list(DEPARTMENTS[d].sizes),
            list(DEPARTMENTS[d].styles),
            list(DEPARTMENTS[d].features),
            DEPARTMENTS[d].price,
        )
        for place, (d, category) in enumerate(leaves, 1)
    ]
    texts = "ARRAY<STRING>"
    return spark.createDataFrame(
        rows,
        f"place INT, department STRING, category STRING, brands {texts}, materials {texts}, sizes {texts}, "
        f"styles {texts}, features {texts}, typical INT",
    )


def simulate_catalogue(spark: SparkSession, *, items: int, users: int, seed: int, key: str) -> SimulatedCatalogue:
    """A catalogue of `items` items and `users` users.

    Category sizes follow Zipf's law with exponent 1, over at most 240 categories and one per 25 items. An item has a
    brand, a colour, a material, a size, a style and a feature; its title names only some of them, so that the
    attributes know more than the text. `key` is the secret of the users' pseudonyms.

    Raises:
        ValueError: fewer than 50 items or no user.
    """
    if items < 50 or users < 1:
        raise ValueError(f"A simulated marketplace needs 50 items and a user, not {items} items and {users} users.")
    possible = sum(len(department.categories) for department in DEPARTMENTS)
    leaves = min(possible, max(4, items // ITEMS_PER_CATEGORY))
    number = F.col("id")

    def one_of(values: str, purpose: str) -> Column:
        return F.get(values, pick(seed, purpose, F.size(values), number))

    # The inverse of the Zipf distribution's continuous form: P(place <= k) = ln(k + 1) / ln(leaves + 1).
    place = F.least(F.floor(F.pow(F.lit(leaves + 1.0), draw(seed, "category", number))), F.lit(leaves)).cast("int")
    chosen = (
        spark.range(items)
        .withColumn("place", place)
        .join(F.broadcast(_leaves(spark, seed)), "place")
        .withColumns(
            {
                # Few brands of a department are large: the square of a draw.
                "brand": F.get(
                    "brands", F.floor(F.pow(draw(seed, "brand", number), 2.0) * F.size("brands")).cast("int")
                ),
                "colour": F.get(F.lit(list(COLOURS)), pick(seed, "colour", len(COLOURS), number)),
                "material": one_of("materials", "material"),
                "size": one_of("sizes", "size"),
                "style": one_of("styles", "style"),
                "feature": one_of("features", "feature"),
            }
        )
    )
    code = F.concat(
        F.upper(F.substring("brand", 1, 2)), F.lit("-"), (pick(seed, "code", 9000, number) + 1000).cast("string")
    )

    def told(name: str, share: float) -> Column:
        return F.when(draw(seed, f"tell {name}", number) < share, F.col(name))

    title = F.concat_ws(
        " ",
        told("brand", 0.85),
        told("style", 0.35),
        told("colour", 0.5),
        told("material", 0.5),
        F.col("category"),
        told("feature", 0.4),
        told("size", 0.45),
        code,
    )
    # Prices spread log-evenly over a factor of six, and larger brands are dearer.
    factor = F.exp((draw(seed, "price", number) - 0.5) * 1.8) * (
        F.lit(1.3) - F.array_position("brands", F.col("brand")) * 0.04
    )
    rows = chosen.select(
        F.format_string("p%08d", number + 1).alias("item_id"),
        title.alias("title"),
        "brand",
        "category",
        F.array("department", "category").alias("category_path"),
        F.create_map(
            *[
                part
                for name in ("colour", "material", "size", "style", "feature")
                for part in (F.lit(name), F.col(name))
            ]
        ).alias("attributes"),
        F.greatest(F.floor(F.col("typical") * factor * 100), F.lit(99)).alias("price_cents"),
        (draw(seed, "stock", number) < 0.95).alias("in_stock"),
        F.date_sub(F.lit(SNAPSHOT_DAY), pick(seed, "age", 700, number)).cast("timestamp").alias("updated_at"),
    )
    return SimulatedCatalogue(shape_catalog(rows).rows, simulate_users(spark, users=users, seed=seed, key=key))


def user_name(number: Column) -> Column:
    """The id a shop would know a simulated user by; it leaves the simulator only as a pseudonym."""
    return F.format_string("customer-%d", number)


def purchase_power(seed: int, number: Column) -> Column:
    """Band of purchase power of a simulated user, 1 to 5."""
    return pick(seed, "purchase power", 5, number) + 1


def simulate_users(spark: SparkSession, *, users: int, seed: int, key: str) -> DataFrame:
    """Users 0..users-1 as `users` rows; the click simulator knows them by the same seed and key."""
    number = F.col("id")
    gender = F.get(F.lit(["female", "male", "diverse"]), F.floor(draw(seed, "gender", number) * 2.04).cast("int"))
    rows = spark.range(users).select(
        pseudonym(user_name(number), key).alias("user"),
        # One in ten did not say.
        F.when(draw(seed, "gender said", number) < 0.9, gender).alias("gender"),
        F.when(
            draw(seed, "age said", number) < 0.9,
            F.get(F.lit(list(AGE_BANDS)), pick(seed, "age band", len(AGE_BANDS), number)),
        ).alias("age_band"),
        purchase_power(seed, number).alias("purchase_power"),
    )
    return as_contract(rows, USERS)
