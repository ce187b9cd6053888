"""A simulated click log over any catalogue: shoppers with lasting tastes, result pages, clicks, robots and broken rows.

What the model assumes, and what it does not hide, is in `docs/simulation.md`. Everything is drawn from hashes of the
seed and of keys, so any partitioning gives the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.columns import hashed
from pipelines.draws import draw, pick
from pipelines.facets import item_facets
from pipelines.import_shapes import shape_events
from pipelines.imports import as_contract, pseudonym
from pipelines.simulate_catalogue import purchase_power, user_name
from pipelines.simulate_queries import simulate_queries
from pipelines.simulate_results import simulate_results
from schemas.click_log import TABLE as CLICK_LOG
from schemas.relevance_labels import TABLE as LABELS

PAGE = 10
TASTES = 6  # a user likes one in six brands
MINUTE = 60
BUSY_DAYS = 2  # of seven
# Nobody searches after 23:20, so that what follows a search happens on its day.
FIRST_SECOND, LAST_SECOND = 6 * 3600, 23 * 3600 + 20 * MINUTE
BROKEN_KINDS = ("no item", "no time", "unknown action", "no query", "position 0")


@dataclass(frozen=True)
class SimulatorRates:
    """Every rate of the simulator; shares are in [0, 1].

    Raises:
        ValueError: naming every rate outside its range.
    """

    semantic_share: float = 0.35  # result slots filled by the semantic source
    synonym_share: float = 0.3  # phrases said in another word, where one is known
    typo_share: float = 0.06  # queries with a typo
    zipf: float = 0.65  # exponent of query traffic by rank
    examined: float = 0.6  # a position p is looked at with probability p ** -examined
    attraction: tuple[float, float, float, float] = (0.02, 0.08, 0.32, 0.65)  # click when looked at, by grade 0..3
    cart: tuple[float, float, float, float] = (0.005, 0.02, 0.06, 0.12)  # cart after click, by grade
    purchase: float = 0.35  # purchase after cart
    robots_a_day: int = 1  # robot visits each day
    robot_searches: int = 200  # searches of one robot visit, in expectation; it clicks everything
    duplicate_share: float = 0.01  # events delivered twice
    late_share: float = 0.02  # searches whose events arrive one to three days later (see `with_arrival`)
    broken_share: float = 0.005  # searches beside which one broken row is logged

    def __post_init__(self) -> None:
        shares = {
            name: getattr(self, name)
            for name in (
                "semantic_share",
                "synonym_share",
                "typo_share",
                "purchase",
                "duplicate_share",
                "late_share",
                "broken_share",
            )
        }
        shares |= {f"attraction[{g}]": p for g, p in enumerate(self.attraction)}
        shares |= {f"cart[{g}]": p for g, p in enumerate(self.cart)}
        problems = [f"{name} is {value}, not in [0, 1]" for name, value in shares.items() if not 0 <= value <= 1]
        if len(self.attraction) != 4 or len(self.cart) != 4:
            problems.append("attraction and cart each need four values, for grades 0 to 3")
        if min(self.zipf, self.examined) < 0 or min(self.robots_a_day, self.robot_searches) < 0:
            problems.append("zipf, examined, robots_a_day and robot_searches are not negative")
        if problems:
            raise ValueError("; ".join(problems) + ".")


class SimulatedClicks(NamedTuple):
    """A simulated log and the truth about it."""

    click_log: DataFrame  # columns of the contract; robots and duplicates are in it
    refused: DataFrame  # source, reason, row: the broken rows
    labels: DataFrame  # `relevance_labels` of held-out queries, source `simulation`
    queries: DataFrame  # query, category, intent, rank, synonym, typo: what each query meant; not for training
    robots: DataFrame  # user: pseudonyms of the robots
    expected: DataFrame  # what STRING, expected DOUBLE: counts that the rates lead to
    results: DataFrame  # query, rank, lexical, semantic: graded candidate results of each query


def simulate_clicks(
    catalog: DataFrame,
    *,
    judged_queries: DataFrame,
    key: str,
    seed: int,
    users: int = 20_000,
    queries: int = 12_000,
    searches: int = 225_000,
    days: int = 30,
    last_day: date = date(2026, 1, 31),
    held_out: int = 200,
    unseen_share: float = 0.0,
    users_seed: int | None = None,
    rates: SimulatorRates | None = None,
) -> SimulatedClicks:
    """Simulate a log over a catalogue (shaped to its contract) in UTC days.

    Args:
        catalog: items; those without a category are shown but never asked for.
        judged_queries: column query: texts that must not occur in the log.
        key: secret of the pseudonyms, as for `simulate_users`.
        seed: of every draw; another seed is another world over the same catalogue.
        users: shoppers are users 0..users-1 of `simulate_users`.
        queries: distinct queries with traffic; a small catalogue may not give as many.
        searches: searches of people over all days, in expectation.
        days: number of days, the last of which is `last_day`.
        last_day: last day of the log.
        held_out: queries with true grades of up to 20 items each that nobody types.
        unseen_share: share of queries whose author also goes by a trait of items that no text tells.
        users_seed: seed of the users' tastes and purchase power (as `simulate_users` was given it); default `seed`.
        rates: all other rates.

    Raises:
        ValueError: a count below 1 or a share outside [0, 1].
    """
    if min(users, queries, searches, days) < 1 or held_out < 0 or not 0 <= unseen_share <= 1:
        raise ValueError(
            "users, queries, searches and days are at least 1, held_out is at least 0 and unseen_share is in [0, 1]."
        )
    r = rates or SimulatorRates()
    # Facets, queries and results are computed here and now, and stay until nothing refers to them: plans that grew
    # through all three took longer to optimise than the rows to compute.
    facets = item_facets(catalog).localCheckpoint()
    asked = simulate_queries(
        facets,
        queries=queries,
        held_out=held_out,
        judged_queries=judged_queries,
        seed=seed,
        synonym_share=r.synonym_share,
        typo_share=r.typo_share,
    ).localCheckpoint()
    results = simulate_results(asked, catalog, facets, seed=seed, unseen_share=unseen_share)
    results = results.localCheckpoint()
    made = _searches(results, seed, r, searches, queries, users, days, last_day)
    log = _events(_pages(made, seed, r), seed, r, key, seed if users_seed is None else users_seed)
    # Computed first: its expressions, inlined into every refusal rule, would outgrow a generated method.
    broken = shape_events(_broken(made, seed, r).localCheckpoint(), zone="UTC", key=key)
    spark = catalog.sparkSession
    robots = spark.range(days * r.robots_a_day).select(pseudonym(_robot_name(F.col("id")), key).alias("user"))
    visits = days * r.robots_a_day
    expected = spark.createDataFrame(
        [
            ("searches of people", float(searches)),
            ("searches of robots", float(visits * min(r.robot_searches, queries))),
            ("robots", float(visits)),
            ("share of events delivered twice", r.duplicate_share),
            ("share of searches that arrive late", r.late_share),
            ("broken rows", r.broken_share * (searches + visits * min(r.robot_searches, queries))),
        ],
        "what STRING, expected DOUBLE",
    )
    return SimulatedClicks(
        log, broken.refused, true_grades(results.where("rank IS NULL"), seed), asked, robots, expected, results
    )


def _robot_name(number: Column) -> Column:
    return F.format_string("robot-%d", number)


def _searches(
    results: DataFrame, seed: int, r: SimulatorRates, searches: int, queries: int, users: int, days: int, last_day: date
) -> DataFrame:
    """One row per search: who searched what and when, beside the query's candidate results."""
    # Harmonic sum over ranks, so that all weights together are 1.
    total = sum((rank + 2.0) ** -r.zipf for rank in range(1, queries + 1))
    mean = sum(1.25 if day % 7 < BUSY_DAYS else 0.9 for day in range(days)) / days
    weight = F.pow(F.col("rank") + F.lit(2.0), F.lit(-r.zipf)) / total
    query = F.col("query")

    def of_day(day: Column) -> Column:
        # Two days in seven are busier; the factors of all days together leave the number of searches as it is.
        busier = F.when(F.pmod(day, F.lit(7)) < BUSY_DAYS, 1.25 / mean).otherwise(0.9 / mean)
        people = F.floor(weight * busier * (searches / days) + draw(seed, "searches", query, day)).cast("int")
        shoppers = F.when(people > 0, F.sequence(F.lit(1), people)).otherwise(F.array().cast("array<int>"))
        robots = F.filter(
            F.sequence(F.lit(-r.robots_a_day), F.lit(-1)) if r.robots_a_day else F.array().cast("array<int>"),
            lambda robot: draw(seed, "robot query", query, day, robot) * queries < r.robot_searches,
        )
        return F.transform(F.concat(shoppers, robots), lambda n: F.struct(day.alias("day"), n.cast("int").alias("n")))

    made = results.where("rank IS NOT NULL").withColumn(
        "_s", F.explode(F.flatten(F.transform(F.sequence(F.lit(0), F.lit(days - 1)), of_day)))
    )
    keys = (query, F.col("_s.day"), F.col("_s.n"))
    robot = F.col("_s.n") < 0
    robot_number = F.col("_s.day") * r.robots_a_day - F.col("_s.n") - 1
    # The square of a draw: few users search much, many little.
    shopper = F.floor(F.pow(draw(seed, "user", *keys), 2.0) * users).cast("bigint")
    number = F.when(robot, robot_number.cast("bigint")).otherwise(shopper)
    # Two draws make the middle of the day busier; a robot's visit takes twenty minutes.
    hours = (draw(seed, "hour", *keys) + draw(seed, "hour again", *keys)) / 2 * (LAST_SECOND - FIRST_SECOND)
    visit = draw(seed, "robot hour", robot_number) * (LAST_SECOND - FIRST_SECOND - 20 * MINUTE)
    second = F.when(robot, visit + draw(seed, "second", *keys) * 20 * MINUTE).otherwise(hours) + FIRST_SECOND
    midnight = F.unix_seconds(F.lit(last_day - timedelta(days=days - 1)).cast("timestamp")) + F.col("_s.day") * 86_400
    case = draw(seed, "case", *keys)
    typed = F.when(case < 0.06, F.initcap(query)).when(case < 0.09, F.upper(query)).otherwise(query)
    return made.select(
        "query",
        "lexical",
        "semantic",
        F.concat_ws(
            "-",
            F.lower(F.hex(F.xxhash64(F.lit(seed), F.lit("search"), query))),
            F.col("_s.day").cast("string"),
            F.when(robot, F.concat(F.lit("r"), -F.col("_s.n"))).otherwise(F.col("_s.n").cast("string")),
        ).alias("search_id"),
        robot.alias("robot"),
        number.alias("number"),
        typed.alias("typed"),
        (midnight * 1_000_000 + F.floor(second * 1_000_000)).alias("micros"),
    )


def _pages(searches: DataFrame, seed: int, r: SimulatorRates) -> DataFrame:
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


def _events(impressions: DataFrame, seed: int, r: SimulatorRates, key: str, users_seed: int) -> DataFrame:
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
    events = acted.withColumn("_user", _user(key)).select(
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


def _user(key: str) -> Column:
    name = F.when(F.col("robot"), _robot_name(F.col("number"))).otherwise(user_name(F.col("number")))
    return pseudonym(name, key)


def _broken(searches: DataFrame, seed: int, r: SimulatorRates) -> DataFrame:
    """One unusable row beside some searches, in the columns of a raw event."""
    search = F.col("search_id")
    kind = pick(seed, "broken kind", len(BROKEN_KINDS), search)
    some = searches.where(draw(seed, "broken", search) < r.broken_share).withColumn("_kind", kind)
    item = F.coalesce(F.get(F.col("lexical"), F.lit(0)), F.get(F.col("semantic"), F.lit(0)))["item_id"]
    user = F.when(F.col("robot"), _robot_name(F.col("number"))).otherwise(user_name(F.col("number")))
    is_kind = {name: F.col("_kind") == at for at, name in enumerate(BROKEN_KINDS)}
    return some.select(
        F.concat_ws("-", search, F.lit("b")).alias("event_id"),
        F.when(~is_kind["no time"], F.timestamp_micros("micros")).alias("event_time"),
        "search_id",
        user.alias("user"),
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


def true_grades(results: DataFrame, seed: int, items: int = 20) -> DataFrame:
    """`SimulatedClicks.results`, or some of its rows -> true grades of up to 20 results of each query, as labels.

    The first of the lexical results, the others by lot.
    """
    query = F.col("query")
    by_lot = F.transform(
        F.array_sort(
            F.transform(
                F.concat("lexical", "semantic"),
                lambda i: F.struct(
                    F.xxhash64(F.lit(seed), F.lit("label"), query, i["item_id"]).alias("o"), i.alias("i")
                ),
            )
        ),
        lambda drawn: drawn["i"],
    )
    chosen = F.slice(F.array_distinct(F.concat(F.slice("lexical", 1, items // 4), by_lot)), 1, items)
    rows = results.withColumn("_i", F.explode(chosen)).select(
        "query",
        hashed("query").alias("query_id"),
        "_i.item_id",
        F.lit("final").alias("rater"),
        F.lit("simulation").alias("source"),
        F.col("_i.grade").alias("grade"),
        F.lit(None).cast("string").alias("fold"),
    )
    return as_contract(rows, LABELS)
