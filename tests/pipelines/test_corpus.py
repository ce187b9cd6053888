"""Daily counts summed over the window: weights, caps, splits and bands."""

import datetime as dt
import random
from collections import defaultdict

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from pipelines.clicks import query_users
from pipelines.corpus import COUNTS, band_of_traffic, build_corpus, colliding_hashes, enough_users, split_of
from schemas.tables import TABLES

# A call of Spark takes seconds, and shrinking makes hundreds.
UNSHRUNK = [Phase.explicit, Phase.generate]

DAY = dt.date(2026, 1, 31)
OPTIONS = {
    "max_items_per_query": 10,
    "purchase_weight": 3.0,
    "prior_clicks": 1.0,
    "valid_share": 0.1,
    "test_share": 0.1,
    "head_share": 0.5,
    "tail_share": 0.2,
}
ITEMS = [10, 11, 12, 13]


def built(spark, pair_days, query_days=(), *, items=ITEMS, change=lambda frame: frame, **options):
    """(query, item, impressions, clicks, carts, purchases, expected, orphans, day) -> the corpus."""
    pairs = [(DAY - dt.timedelta(days=row[-1]), *row[:-1]) for row in pair_days]
    queries = [(DAY - dt.timedelta(days=day), query, text, searches) for query, text, searches, day in query_days]
    return build_corpus(
        change(spark.createDataFrame(pairs, TABLES["pair_days"].ddl)),
        change(spark.createDataFrame(queries, TABLES["query_days"].ddl)),
        spark.createDataFrame([(item,) for item in items], "item_hash BIGINT"),
        as_of_date=F.lit(DAY),
        **OPTIONS | options,
    )


def rows(frame):
    return sorted(frame.collect(), key=lambda row: [row[key] for key in ("query_id", "item_hash") if key in row])


def test_the_window_is_summed_and_the_weight_is_clicks_over_expected_clicks(spark):
    days = [(1, 10, 8, 3, 1, 1, 2_000_000, 0, 0), (1, 10, 2, 1, 0, 0, 500_000, 2, 1), (1, 11, 5, 1, 0, 0, 0, 0, 1)]
    corpus = built(spark, days)
    pairs = rows(corpus.pairs)
    assert [pairs[0][name] for name in COUNTS] == [10, 4, 1, 1, 2_500_000, 2]
    # (4 clicks + 3 for the purchase + 1 of the prior) / (2.5 expected + 1 of the prior)
    assert [row["weight"] for row in pairs] == [8 / 3.5, 2.0]
    assert {row["as_of_date"] for row in pairs} == {DAY}
    assert sorted(pairs[0].asDict()) == sorted(TABLES["pairs"].names)
    assert rows(corpus.trimmed) == []


def test_only_pairs_with_an_action_and_an_item_of_the_catalogue_are_in(spark):
    shown, carted, bought = (1, 10, 9, 0, 0, 0, 1, 0, 0), (1, 11, 1, 0, 1, 0, 1, 0, 0), (1, 12, 1, 0, 0, 1, 1, 0, 0)
    gone = (1, 99, 9, 9, 9, 9, 1, 0, 0)
    corpus = built(spark, [shown, carted, bought, gone], items=[*ITEMS, 10, 11])
    assert [row["item_hash"] for row in rows(corpus.pairs)] == [11, 12]
    assert corpus.counts.first().asDict() == {"read": 3, "not_in_catalogue": 1}


def test_the_cap_keeps_the_strongest_and_reports_the_rest(spark):
    counts = {10: (1, 5, 0), 11: (9, 0, 0), 12: (1, 5, 1), 13: (1, 6, 0)}  # purchases, clicks, carts
    over = [(1, item, 9, clicks, carts, bought, 1, 0, 0) for item, (bought, clicks, carts) in counts.items()]
    tied = [(2, item, 9, 1, 0, 0, 1, 0, 0) for item in (13, 10, 12)]
    at_limit = [(3, item, 9, 1, 0, 0, 1, 0, 0) for item in (12, 13)]
    corpus = built(spark, [*over, *tied, *at_limit], max_items_per_query=2)
    kept = defaultdict(list)
    for row in rows(corpus.pairs):
        kept[row["query_id"]].append(row["item_hash"])
    assert kept == {1: [11, 13], 2: [10, 12], 3: [12, 13]}
    assert [tuple(row) for row in rows(corpus.trimmed)] == [(1, 10), (1, 12), (2, 13)]


@pytest.mark.slow
def test_queries_carry_their_traffic_and_the_split_of_their_pairs(spark):
    days = [(q, 10, 1, 1, 0, 0, 1, 0, 0) for q in range(1, 41)]
    texts = [(q, f"query {q}", 3, day) for q in range(1, 41) for day in (0, 1)]
    corpus = built(spark, days, texts, valid_share=0.3, test_share=0.3)
    pairs, queries = rows(corpus.pairs), rows(corpus.queries)
    assert [(row["query_id"], row["query"], row["traffic"]) for row in queries] == [
        (q, f"query {q}", 6) for q in range(1, 41)
    ]
    assert {row["query_id"]: row["split"] for row in queries} == {row["query_id"]: row["split"] for row in pairs}
    assert {row["split"] for row in queries} == {"train", "valid", "test"}
    assert sorted(queries[0].asDict()) == sorted(TABLES["queries"].names)


def test_splits_have_their_shares_and_never_change_sides(spark):
    def sides(count, valid, test):
        split = split_of(F.col("id"), valid_share=valid, test_share=test)
        return {row["id"]: row["split"] for row in spark.range(count).select("id", split.alias("split")).collect()}

    found = sides(20_000, 0.1, 0.05)
    share = {name: list(found.values()).count(name) / len(found) for name in ("train", "valid", "test")}
    assert share["valid"] == pytest.approx(0.1, abs=0.01)
    assert share["test"] == pytest.approx(0.05, abs=0.01)
    fewer = sides(500, 0.1, 0.05)
    assert fewer == {query: found[query] for query in fewer}, "a query's side does not depend on the others"
    wider = sides(500, 0.2, 0.05)
    assert all(wider[query] == side for query, side in fewer.items() if side != "train")
    assert set(sides(500, 0.0, 0.0).values()) == {"train"}


@pytest.mark.parametrize(
    ("traffic", "bands"),
    [
        ([50, 30, 10, 5, 5], {50: "head", 30: "torso", 10: "tail", 5: "tail"}),
        ([40, 20, 20, 10, 10], {40: "head", 20: "head", 10: "tail"}),  # half of all lies within the twenties
        ([95, 5], {95: "head", 5: "tail"}),
        ([3, 3, 3], {3: "head"}),
        ([], {}),
    ],
)
def test_bands_by_cumulative_traffic(spark, traffic, bands):
    queries = spark.createDataFrame(list(enumerate(traffic)), "query_id BIGINT, traffic BIGINT")
    found = band_of_traffic(queries, head_share=0.5, tail_share=0.2).collect()
    assert {row["traffic"]: row["band"] for row in found} == bands
    assert len(found) == len(bands)


COUNT = st.integers(0, 3)
PAIR_DAY = st.tuples(
    st.integers(1, 5), st.integers(10, 15), COUNT, COUNT, COUNT, COUNT, st.integers(0, 10**7), COUNT, st.integers(0, 2)
)


@pytest.mark.slow
@settings(max_examples=2, phases=UNSHRUNK)
@given(st.lists(PAIR_DAY, min_size=40, max_size=120), st.randoms(use_true_random=False))
def test_any_order_of_rows_gives_the_sums_done_by_hand(spark, days, draw):
    texts = [(query, f"q{query}", 1 + query, day) for query in range(1, 6) for day in range(3)]
    found = [rows(frame) for frame in built(spark, days, texts, max_items_per_query=3)]
    shuffled = [draw.sample(some, len(some)) for some in (days, texts)]
    again = built(spark, *shuffled, max_items_per_query=3, change=lambda frame: frame.repartition(7))
    assert [rows(frame) for frame in again] == found
    sums = defaultdict(lambda: [0] * 6)
    for query, item, *counts, _ in days:
        sums[query, item] = [a + b for a, b in zip(sums[query, item], counts, strict=True)]
    kept = []
    for query in range(1, 6):
        acted = [(item, s) for (q, item), s in sums.items() if q == query and sum(s[1:4]) and item in ITEMS]
        strongest = sorted(acted, key=lambda row: (-row[1][3], -row[1][1], -row[1][2], row[0]))[:3]
        kept += [(query, item, *s) for item, s in sorted(strongest)]
    assert [tuple(row[name] for name in ("query_id", "item_hash", *COUNTS)) for row in found[0]] == kept


def test_hashes_that_stand_for_two_texts_are_found(spark):
    rows = spark.createDataFrame([(1, "a"), (1, "a"), (2, "b"), (2, "c")], "id BIGINT, text STRING")
    assert [tuple(row) for row in colliding_hashes(rows, "id", "text").collect()] == [(2, "b", "c")]


@pytest.mark.slow
def test_users_are_counted_from_below_and_add_up_over_days_by_or(spark):
    draw, least = random.Random(1), 5
    # 300 queries of 1 to 15 users, each of whom searches on some of three days; query 0 has searches without a user.
    searches = [(DAY, 0, None)] * 50
    for query in range(1, 301):
        for user in range(1 + query // 20):
            days = draw.sample(range(3), draw.randint(1, 3))
            searches += [(DAY - dt.timedelta(days=day), query, user * 1000 + query % 7) for day in days]
    events = spark.createDataFrame(searches, "event_date DATE, query_id BIGINT, user_hash BIGINT")
    counted = query_users(events)
    assert sorted(counted.columns) == sorted(TABLES["query_users"].names)
    found = {row["query_id"] for row in enough_users(counted, least).collect()}
    users = {query: 1 + query // 20 for query in range(1, 301)}
    assert all(users[query] >= least for query in found)
    missed = [query for query, count in users.items() if count >= 2 * least and query not in found]
    assert len(missed) <= 3, "with twice the users, bits that coincide cost next to nothing"
    assert {row["query_id"] for row in enough_users(counted, 1).collect()} == set(users)
