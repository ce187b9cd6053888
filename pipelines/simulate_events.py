"""Simulated searches -> result pages, clicks and what follows them, robots included, and broken rows beside them."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.draws import draw, pick
from pipelines.imports import as_contract, pseudonym
from pipelines.simulate_catalogue import purchase_power, user_name
from pipelines.simulate_rates import SimulatorRates
from schemas.click_log import TABLE as CLICK_LOG

PAGE = 10
TASTES = 6  # a user likes one in six brands
MINUTE = 60
BROKEN_KINDS = ("no item", "no time", "unknown action", "no query", "position 0")


def result_pages(searches: DataFrame, seed: int, r: SimulatorRates) -> DataFrame:
    """One row per impression. Each slot of a page takes one of the next best results of one of the two sources."""
    search = F.col("search_id")

    def of(source: str, slot: Column, step: str) -> Column:
        # Slot s chooses among the s-th block of the source's results, so pages of one query differ but keep its order.
        block = F.greatest(F.floor(F.size(source) / PAGE), F.lit(1))
        return F.get(F.col(source), (slot * block + F.floor(draw(seed, step, search, slot) * block)).cast("int"))

    def slot_of(slot: Column) -> Column:
        semantic = draw(seed, "source", search, slot) < r.semantic_share
        lexical_item, semantic_item = of("lexical", slot, "lexical slot"), of("semantic", slot, "semantic slot")
        return F.when(semantic, F.coalesce(semantic_item, lexical_item)).otherwise(
            F.coalesce(lexical_item, semantic_item)
        )

    slots = F.transform(F.sequence(F.lit(0), F.lit(PAGE - 1)), slot_of)
    page = F.array_distinct(F.filter(slots, lambda item: item.isNotNull()))
    return searches.withColumn("_page", page).select(
        "search_id", "robot", "number", "typed", "micros", F.posexplode("_page").alias("_at", "item")
    )


def page_events(impressions: DataFrame, seed: int, r: SimulatorRates, key: str, users_seed: int) -> DataFrame:
    """Impressions -> impressions, clicks, carts and purchases, some delivered twice, as `click_log`."""
    keys = (F.col("search_id"), F.col("item.item_id"))
    position = F.col("_at") + 1
    grade = F.col("item.grade")

    def by_grade(shares: tuple[float, ...]) -> Column:
        return F.get(F.array(*[F.lit(share) for share in shares]), grade)

    likes = pick(users_seed, "taste", TASTES, F.col("number")) == F.pmod(F.col("item.brand"), F.lit(TASTES)).cast("int")
    distance = F.abs(F.col("item.price_band") - purchase_power(users_seed, F.col("number")))
    taste = F.when(likes, 1.5).otherwise(0.95) * F.when(distance <= 1, 1.15).otherwise(0.8)
    looked_at = F.pow(position.cast("double"), F.lit(-r.examined))
    chance = F.least(looked_at * by_grade(r.attraction) * taste, looked_at)
    clicked = F.col("robot") | (draw(seed, "click", *keys) < chance)
    bought_by = ~F.col("robot")
    acted = impressions.withColumn("_clicked", clicked)
    in_cart = F.col("_clicked") & bought_by & (draw(seed, "cart", *keys) < by_grade(r.cart))
    acted = acted.withColumn("_cart", in_cart)
    purchased = F.col("_cart") & (draw(seed, "purchase", *keys) < r.purchase)
    wait = F.when(F.col("robot"), F.lit(1.0)).otherwise(2 + draw(seed, "wait", *keys) * 5 * MINUTE)

    def step(action: str, code: str, after: Column) -> Column:
        return F.struct(F.lit(action).alias("action"), F.lit(code).alias("code"), after.alias("after"))

    steps = F.array(
        step("impression", "i", F.lit(0.0)),
        F.when(F.col("_clicked"), step("click", "c", wait)),
        F.when(F.col("_cart"), step("cart", "a", wait + 3 * MINUTE)),
        F.when(purchased, step("purchase", "p", wait + 20 * MINUTE)),
    )
    steps = F.filter(steps, lambda s: s.isNotNull())
    # A delivery twice is a second, equal row.
    twice = F.transform(
        steps,
        lambda s: F.array_repeat(s, F.when(draw(seed, "twice", *keys, s["code"]) < r.duplicate_share, 2).otherwise(1)),
    )
    events = acted.withColumn("_user", pseudonym(_searcher(), key)).select(
        "search_id",
        "number",
        "robot",
        "typed",
        "micros",
        "_at",
        "item.item_id",
        "_user",
        F.explode(F.flatten(twice)).alias("s"),
    )
    time = F.timestamp_micros(F.col("micros") + F.floor(F.col("s.after") * 1_000_000))
    hour = F.floor(F.col("micros") / (3600 * 1_000_000))
    session = F.lower(F.hex(F.xxhash64(F.lit(seed), F.lit("session"), F.col("robot"), F.col("number"), hour)))
    rows = events.select(
        F.concat_ws("-", "search_id", (F.col("_at") + 1).cast("string"), F.col("s.code")).alias("event_id"),
        F.to_date(time).alias("event_date"),
        time.alias("event_time"),
        "search_id",
        session.alias("session_id"),
        F.col("_user").alias("user"),
        F.col("typed").alias("query"),
        "item_id",
        F.when(F.col("s.code") == "i", F.col("_at") + 1).alias("position"),
        F.col("s.action").alias("action"),
    )
    return as_contract(rows, CLICK_LOG)


def broken_events(searches: DataFrame, seed: int, r: SimulatorRates) -> DataFrame:
    """One unusable row beside some searches, in the columns of a raw event."""
    search = F.col("search_id")
    kind = pick(seed, "broken kind", len(BROKEN_KINDS), search)
    some = searches.where(draw(seed, "broken", search) < r.broken_share).withColumn("_kind", kind)
    item = F.coalesce(F.get(F.col("lexical"), F.lit(0)), F.get(F.col("semantic"), F.lit(0)))["item_id"]
    is_kind = {name: F.col("_kind") == at for at, name in enumerate(BROKEN_KINDS)}
    return some.select(
        F.concat_ws("-", search, F.lit("b")).alias("event_id"),
        F.when(~is_kind["no time"], F.timestamp_micros("micros")).alias("event_time"),
        "search_id",
        _searcher().alias("user"),
        F.when(~is_kind["no query"], F.col("typed")).alias("query"),
        F.when(~is_kind["no item"], item).alias("item_id"),
        F.when(is_kind["position 0"], 0).otherwise(1).alias("position"),
        F.when(is_kind["unknown action"], "hover").otherwise("impression").alias("action"),
    )


def with_arrival(click_log: DataFrame, *, seed: int, rates: SimulatorRates | None = None) -> DataFrame:
    """Add `arrival_date`: the day an event reaches the shop's files, one to three days late for some searches.

    `event_date` stays the day it happened: a late event changes only the day that it belongs to.
    """
    late = (rates or SimulatorRates()).late_share
    days = F.when(
        draw(seed, "late", F.col("search_id")) < late, pick(seed, "days late", 3, F.col("search_id")) + 1
    ).otherwise(0)
    return click_log.withColumn("arrival_date", F.date_add("event_date", days))


def robot_name(number: Column) -> Column:
    """The id a shop would know a robot by."""
    return F.format_string("robot-%d", number)


def _searcher() -> Column:
    """The id a shop would know the one who searches by."""
    return F.when(F.col("robot"), robot_name(F.col("number"))).otherwise(user_name(F.col("number")))
