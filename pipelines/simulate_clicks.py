"""A simulated click log over any catalogue: shoppers with lasting tastes, result pages, clicks, robots and broken rows.

What the model assumes, and what it does not hide, is in `docs/simulation.md`. Everything is drawn from hashes of the
seed and of keys, so any partitioning gives the same rows.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.columns import hashed
from pipelines.draws import draw
from pipelines.facets import item_facets
from pipelines.import_shapes import shape_events
from pipelines.imports import as_contract, pseudonym
from pipelines.simulate_events import MINUTE, broken_events, page_events, result_pages, robot_name
from pipelines.simulate_queries import simulate_queries
from pipelines.simulate_rates import SimulatorRates
from pipelines.simulate_results import simulate_results
from schemas.relevance_labels import TABLE as LABELS

BUSY_DAYS = 2  # of seven
# Nobody searches after 23:20, so that what follows a search happens on its day.
FIRST_SECOND, LAST_SECOND = 6 * 3600, 23 * 3600 + 20 * MINUTE


class SimulatedClicks(NamedTuple):
    """A simulated log and the truth about it."""

    click_log: DataFrame  # columns of the contract; robots and duplicates are in it
    refused: DataFrame  # source, reason, row: the broken rows
    labels: DataFrame  # `relevance_labels` of held-out queries, source `simulation`
    queries: (
        DataFrame  # query, category, intent, rank, synonym, typo, nickname: what each query meant; not for training
    )
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
        unseen_share: share of queries whose author goes by what no text tells (`simulate_results`).
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
        nickname_share=unseen_share / 2,
    ).localCheckpoint()
    results = simulate_results(asked, catalog, facets, seed=seed, unseen_share=unseen_share)
    results = results.localCheckpoint()
    made = _searches(results, seed, r, searches, queries, users, days, last_day)
    log = page_events(result_pages(made, seed, r), seed, r, key, seed if users_seed is None else users_seed)
    # Computed first: its expressions, inlined into every refusal rule, would outgrow a generated method.
    broken = shape_events(broken_events(made, seed, r).localCheckpoint(), zone="UTC", key=key)
    spark = catalog.sparkSession
    robots = spark.range(days * r.robots_a_day).select(pseudonym(robot_name(F.col("id")), key).alias("user"))
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
