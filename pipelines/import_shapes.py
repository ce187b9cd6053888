"""Catalogue rows and log events from outside -> the shapes of `catalog` and `click_log`."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.columns import hashed, refused
from pipelines.imports import (
    Shaped,
    as_contract,
    filled,
    missing_columns,
    pseudonym,
    split_duplicates,
    split_refused,
    text_or_null,
    time_from,
    union_refused,
    unreadable_time,
)
from schemas.catalog import TABLE as CATALOG
from schemas.click_log import TABLE as CLICK_LOG

TEXT_CHARS = 300
MAX_POSITION = 100_000
ACTIONS = ("impression", "click", "cart", "purchase")
RAW_EVENT = ("event_id", "event_time", "search_id", "session_id", "user", "query", "item_id", "position", "action")


def item_text(title: Column, brand: Column, category: Column) -> Column:
    """The text of an item that is encoded: title, then brand and category where the title does not name them.

    The title is cut first, so that a long one does not push brand and category out of the 300 characters.
    """
    short = F.substring(title, 1, 220)
    folded = F.lower(short)

    def unless_named(part: Column) -> Column:
        return F.when(part.isNotNull() & ~F.contains(folded, F.lower(part)), part)

    return F.substring(F.concat_ws(" ", short, unless_named(brand), unless_named(category)), 1, TEXT_CHARS)


def path_steps(text: Column) -> Column:
    """`home > lighting > lamp` -> its steps; NULL for NULL."""
    steps = F.transform(F.split(text, ">"), lambda step: F.trim(step))
    return F.when(text.isNotNull(), F.filter(steps, lambda step: step != ""))


def _with_image_width(items: DataFrame) -> tuple[DataFrame, Column]:
    """Items beside the width that most image vectors have, the wider one on a tie; and which vectors are unusable."""
    vector = F.col("image_embedding").try_cast("array<float>")
    width = (
        items.where(F.size(vector) > 0)
        .groupBy(F.size(vector).alias("_width"))
        .count()
        .orderBy(F.col("count").desc(), F.col("_width").desc())
        .limit(1)
        .select("_width")
    )
    not_a_number = F.exists(vector, lambda x: x.isNull() | F.isnan(x) | (F.abs(x) == F.lit(float("inf"))))
    broken = vector.isNotNull() & ((F.size(vector) != F.col("_width")) | not_a_number)
    return items.join(F.broadcast(width), F.lit(True), "left"), F.coalesce(broken, F.lit(True))


def shape_catalog(raw: DataFrame, *, source: str = "catalog") -> Shaped:
    """Items from outside -> `catalog`.

    Args:
        raw: item_id, title and any of brand, category, category_path (array), attributes (map), price or price_cents,
            in_stock, image_embedding (array), updated_at. What is absent takes its default: in stock, no attributes.
        source: what the refused rows are said to be from.

    An unusable price or image vector costs its value, not the item: the item stays without it, and the loss is reported
    as a refused row of its own source, `<source>.price` or `<source>.image_embedding`. So rows in = rows accepted +
    refused rows of `<source>` itself.
    """
    missing_columns(raw, ["item_id", "title"], source)
    columns = [c.name for c in CATALOG.columns if c.name not in ("item_hash", "text", "text_hash")]
    full = filled(raw, CATALOG, {"price_cents": "bigint"}).select(*columns, "price_cents")
    accepted, bad = split_refused(
        full,
        source,
        [
            (text_or_null("item_id").isNull(), "the item id is empty"),
            (text_or_null("title").isNull(), "the title is empty"),
        ],
    )
    one, twice = split_duplicates(
        accepted.withColumn("item_id", F.trim("item_id")),
        source,
        ["item_id"],
        [F.col("updated_at").cast("string").desc_nulls_last()],
        "another row has the same item id; the one changed last stays",
    )
    # `price` in the shop's currency wins over cents; a double keeps cents exactly enough up to 10^13.
    given = F.coalesce(F.col("price").cast("string"), F.col("price_cents").cast("string"))
    price = F.coalesce(F.col("price").try_cast("double"), F.col("price_cents").try_cast("double") / 100)
    good_price = F.when((price >= 0) & ~F.isnan(price) & (price < 1e13), price)
    bad_price = refused(
        one.where((F.trim(given) != "") & good_price.isNull()).select("item_id", "price", "price_cents"),
        f"{source}.price",
        "the price is negative or not a number; the item is kept without it",
    )
    checked, broken, parts = one, F.lit(False), [bad, twice, bad_price]
    if "image_embedding" in raw.columns:
        checked, broken = _with_image_width(one)
        parts.append(
            refused(
                checked.where(broken).select("item_id", F.col("image_embedding").cast("array<string>")),
                f"{source}.image_embedding",
                "the image vector has another width than most or a value that is not a number; "
                "the item is kept without it",
            )
        )
    # A path alone gives the category: its last step.
    given_path = F.col("category_path").cast("array<string>")
    category = F.coalesce(text_or_null("category"), text_or_null(F.try_element_at(given_path, F.lit(-1))))
    path = F.coalesce(given_path, F.when(category.isNotNull(), F.array(category)), F.array())
    title, brand = F.trim("title"), text_or_null("brand")
    rows = checked.select(
        "item_id",
        hashed("item_id").alias("item_hash"),
        title.alias("title"),
        brand.alias("brand"),
        category.alias("category"),
        path.cast("array<string>").alias("category_path"),
        F.coalesce(F.col("attributes"), F.create_map().cast("map<string,string>")).alias("attributes"),
        good_price.alias("price"),
        F.coalesce(F.col("in_stock").try_cast("boolean"), F.lit(True)).alias("in_stock"),
        F.when(~broken, F.col("image_embedding").try_cast("array<float>")).alias("image_embedding"),
        item_text(title, brand, category).alias("text"),
        time_from(F.col("updated_at")).alias("updated_at"),
    ).withColumn("text_hash", hashed("text"))
    return Shaped(as_contract(rows, CATALOG), union_refused(raw.sparkSession, parts))


def shape_events(
    raw: DataFrame, *, zone: str, key: str, source: str = "click_log", time_format: str | None = None
) -> Shaped:
    """Events from outside -> `click_log`.

    Args:
        raw: item_id, action, event_time and any of event_id, search_id, session_id, user (as the shop knows it), query,
            position; of any type. `action` is already one of impression, click, cart and purchase where it is known.
        zone: time zone whose calendar gives `event_date`, for example `UTC` or `Europe/Vienna`.
        key: secret of the pseudonyms.
        source: what the refused rows are said to be from.
        time_format: see `time_from`.

    An event without an id is told apart by its content. Deliveries of one event twice are kept: the daily aggregation
    drops them. A position on an action is dropped, as the contract has none there.
    """
    missing_columns(raw, ["item_id", "action", "event_time"], source)
    # Before a row is judged, so that neither quarantine nor the hash of an event's content knows who it was.
    full = filled(raw, CLICK_LOG, {}).select(*RAW_EVENT).withColumn("user", pseudonym("user", key))
    time = time_from(F.col("event_time"), time_format)
    position = F.col("position").try_cast("double").try_cast("int")
    shown = F.col("action") == "impression"
    accepted, bad = split_refused(
        full,
        source,
        [
            (unreadable_time(time), "the event time is missing, unreadable or not between 1990 and 2100"),
            (text_or_null("item_id").isNull(), "the item id is empty"),
            (text_or_null("action").isNull(), "the action is empty"),
            (
                ~F.col("action").isin(*ACTIONS),
                F.concat(F.lit("the action "), F.col("action"), F.lit(" is not impression, click, cart or purchase")),
            ),
            (shown & text_or_null("query").isNull(), "an impression without a query"),
            (shown & position.isNull(), "an impression without a position"),
            (shown & ~position.between(1, MAX_POSITION), f"the position is not 1 to {MAX_POSITION}"),
        ],
    )
    content = F.substring(F.sha2(F.to_json(F.struct(*RAW_EVENT)), 256), 1, 32)
    rows = accepted.select(
        F.coalesce(text_or_null("event_id"), content).alias("event_id"),
        F.to_date(F.from_utc_timestamp(time, zone)).alias("event_date"),
        time.alias("event_time"),
        text_or_null("search_id").alias("search_id"),
        text_or_null("session_id").alias("session_id"),
        "user",
        text_or_null("query").alias("query"),
        F.trim(F.col("item_id").cast("string")).alias("item_id"),
        F.when(shown, position).alias("position"),
        "action",
    )
    return Shaped(as_contract(rows, CLICK_LOG), bad)
