"""The simulated log: what its rates promise is found in it, and what it must not hold is not."""

from datetime import date, timedelta

import pandas as pd
import pytest
from pyspark.sql import functions as F

from pipelines.simulate_catalogue import simulate_catalogue
from pipelines.simulate_clicks import simulate_clicks
from pipelines.simulate_events import with_arrival
from pipelines.simulate_queries import _with_typo
from pipelines.simulate_rates import SimulatorRates
from pipelines.simulate_synonyms import NICKNAMES, OTHER_WORDS
from schemas.tables import TABLES
from schemas.text import normalise_query

pytestmark = pytest.mark.slow

LAST_DAY = date(2026, 1, 31)
DAYS = 3
RATES = SimulatorRates(robot_searches=60, duplicate_share=0.03, broken_share=0.05, late_share=0.2)
SIZES = {"seed": 5, "users": 300, "queries": 250, "searches": 4000, "days": DAYS, "held_out": 30, "last_day": LAST_DAY}


def simulate(catalog, judged, **more):
    frame = catalog.sparkSession.createDataFrame([(q,) for q in judged], "query STRING")
    return simulate_clicks(catalog, judged_queries=frame, key="k", rates=RATES, **{**SIZES, **more})


@pytest.fixture(scope="module")
def catalog(spark):
    catalog = simulate_catalogue(spark, items=600, users=1, seed=2, key="k").catalog.persist()
    yield catalog
    catalog.unpersist()


@pytest.fixture(scope="module")
def judged(catalog):
    """Texts that the simulator would surely make: the bare names of categories, one of them oddly written."""
    names = [r.category for r in catalog.select("category").distinct().collect()]
    return [names[0].upper() + "  ", *names[1:]]


@pytest.fixture(scope="module")
def world(catalog, judged):
    made = simulate(catalog, judged)
    frames = {name: getattr(made, name).toPandas() for name in ("click_log", "refused", "labels", "queries", "robots")}
    frames["expected"] = {r.what: r.expected for r in made.expected.collect()}
    frames["late"] = with_arrival(made.click_log, seed=5, rates=RATES).where("arrival_date > event_date").count()
    results = made.results.select("query", F.explode(F.concat("lexical", "semantic")).alias("i"))
    frames["grades"] = results.select("query", "i.item_id", "i.grade").distinct().toPandas()
    frames["columns"] = made.click_log.columns
    return frames


@pytest.fixture(scope="module")
def people(world):
    """One row per impression of a person, with whether it was clicked and its true grade."""
    log = world["click_log"].drop_duplicates("event_id")
    log = log[~log.user.isin(world["robots"].user)]
    shown = log[log.action == "impression"].copy()
    clicked = log[log.action == "click"].set_index(["search_id", "item_id"]).index
    shown["clicked"] = shown.set_index(["search_id", "item_id"]).index.isin(clicked)
    shown["query"] = shown["query"].map(normalise_query)
    return shown.merge(world["grades"], on=["query", "item_id"])


def test_the_log_fits_its_contract(world):
    assert world["columns"] == TABLES["click_log"].names
    log = world["click_log"]
    assert set(log.event_date) == {LAST_DAY - timedelta(days=n) for n in range(DAYS)}
    assert (log.event_date == pd.to_datetime(log.event_time).dt.date).all()
    assert (log.position.notna() == (log.action == "impression")).all()
    counts = log.action.value_counts()
    assert counts["impression"] > counts["click"] > counts["cart"] > counts["purchase"] > 0


def test_no_judged_query_is_in_the_log_nor_among_the_held_out(world, judged):
    texts = {normalise_query(q) for q in world["click_log"]["query"]}
    wanted = {normalise_query(q) for q in judged}
    assert not wanted & texts
    assert not wanted & set(world["labels"]["query"])
    assert set(world["queries"]["query"]) == {normalise_query(q) for q in world["queries"]["query"]}


def test_every_action_has_its_impression(world):
    log = world["click_log"]
    shown = set(map(tuple, log[log.action == "impression"][["search_id", "item_id"]].values))
    assert set(map(tuple, log[log.action != "impression"][["search_id", "item_id"]].values)) <= shown


def test_position_biases_clicks_and_relevance_earns_them(people):
    by_position = people.groupby("position").clicked.mean()
    assert by_position[1] > 1.5 * by_position[3] > 1.5 * by_position[9]
    # Among items shown at the same places, the better ones are clicked more.
    top = people[people.position <= 4].groupby("grade").clicked.mean()
    assert top[3] > top[2] > top[1] > top[0]


def test_traffic_is_zipfian(people):
    searches = people.groupby("query").search_id.nunique().sort_values(ascending=False)
    assert searches.iloc[0] > 4 * searches.median()
    assert len(searches) == 250


def test_words_other_than_the_catalogues_occur_and_still_earn_clicks(world, people):
    queries = world["queries"]
    assert 0.1 < queries.synonym.mean() < 0.5
    assert 0.01 < queries.typo.mean() < 0.15
    other = set(queries[queries.synonym]["query"])
    assert people[people["query"].isin(other)].clicked.mean() > 0.05


def test_robots_duplicates_late_and_broken_rows_come_at_their_rates(world):
    log, expected = world["click_log"], world["expected"]
    robots = log[log.user.isin(world["robots"].user)]
    assert len(world["robots"]) == expected["robots"] == DAYS
    searches = robots.search_id.nunique()
    assert abs(searches - expected["searches of robots"]) < 0.25 * expected["searches of robots"]
    shown, clicked = (robots[robots.action == a].drop_duplicates("event_id") for a in ("impression", "click"))
    assert len(shown) == len(clicked) > 0
    people = log.search_id.nunique() - searches
    assert abs(people - expected["searches of people"]) < 0.05 * expected["searches of people"]
    twice = 1 - log.event_id.nunique() / len(log)
    assert abs(twice - RATES.duplicate_share) < 0.01
    assert log.drop_duplicates().event_id.is_unique  # a second delivery is an equal row
    assert abs(world["late"] / len(log) - RATES.late_share) < 0.05
    assert abs(len(world["refused"]) - expected["broken rows"]) < 0.3 * expected["broken rows"]
    assert world["refused"].reason.nunique() == 5


def test_held_out_queries_have_true_grades_and_no_traffic(world):
    labels, asked = world["labels"], world["queries"]
    assert labels["query"].nunique() == 30 == asked["rank"].isna().sum()
    assert labels.groupby("query").size().max() <= 20
    assert set(labels.grade) == {0, 1, 2, 3}
    assert set(labels.source) == {"simulation"}
    assert not set(labels["query"]) & {normalise_query(q) for q in world["click_log"]["query"]}


def test_other_partitions_give_the_same_rows(spark, catalog, judged, world):
    partitions = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", "5")
    try:
        made = simulate(catalog.repartition(7), judged[::-1])
        again = {name: getattr(made, name).toPandas() for name in ("click_log", "refused", "labels")}
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", partitions)
    for name, frame in again.items():
        pd.testing.assert_frame_equal(
            *(f.astype(str).sort_values(list(f.columns)).reset_index(drop=True) for f in (frame, world[name]))
        )


@pytest.fixture(scope="module")
def untold(catalog, judged):
    """A world where every shopper goes by what no text tells: what queries meant, and grades of their results."""
    made = simulate(catalog, judged, unseen_share=1.0)
    results = made.results.select("query", F.explode(F.concat("lexical", "semantic")).alias("i"))
    return made.queries.toPandas(), results.select("query", "i.item_id", "i.grade").distinct().toPandas()


def test_a_trait_that_no_text_tells_lowers_the_grade_of_others(untold, world):
    queries, grades = untold
    # A text whose other authors took to a nickname may stand for another intent here.
    meant = {(row.query, str(row.intent)) for row in world["queries"].itertuples()}
    same = [row.query for row in queries.itertuples() if (row.query, str(row.intent)) in meant and not row.nickname]
    traits = grades[grades["query"].isin(same)]
    both = world["grades"].merge(traits, on=["query", "item_id"], suffixes=("", "_untold"))
    assert len(both) > 500
    assert (both.grade_untold <= both.grade).all()
    fell = both[both.grade >= 2].grade_untold < 2
    assert 0.2 < fell.mean() < 0.9


def test_a_nickname_of_a_category_is_in_no_text_and_means_one_category_to_most(untold, world, catalog):
    queries, _ = untold
    called = queries[queries.nickname & ~queries.typo]
    assert 0.4 < queries.nickname.mean() < 0.7
    assert not world["queries"].nickname.any()
    first, second = (set(half) for half in NICKNAMES)
    names = called["query"].map(lambda q: " ".join(w for w in q.split() if w in first | second))
    assert (names.str.split().str.len() == 2).all()
    assert (called.groupby(names).category.nunique() == 1).mean() > 0.8
    texts = set(" ".join(row.text.lower() for row in catalog.select("text").collect()).split())
    assert not texts & (first | second)


def test_impossible_rates_are_named_at_once():
    with pytest.raises(ValueError, match=r"semantic_share is 1\.5.*attraction\[3\] is -1.*four values.*not negative"):
        SimulatorRates(semantic_share=1.5, attraction=(0, 0, 0, -1), cart=(0.1,), zipf=-1)


def test_counts_below_one_are_refused(catalog):
    with pytest.raises(ValueError, match="at least 1"):
        simulate(catalog, [], queries=0)


def test_a_typo_is_one_slip_and_spares_short_texts(spark):
    frame = spark.createDataFrame([("red lamp",), ("lamp",), ("notebook",)], "q STRING").crossJoin(
        spark.createDataFrame([(kind, at / 10) for kind in range(3) for at in range(10)], "kind INT, at DOUBLE")
    )
    for row in frame.select("q", "kind", _with_typo(F.col("q"), F.col("at"), F.col("kind")).alias("t")).collect():
        assert row.t[0] == row.q[0]
        assert abs(len(row.t) - len(row.q)) <= 1
        assert row.q != "lamp" or row.t == "lamp"
        if row.kind == 2:
            assert sorted(row.t) == sorted(row.q)


def test_other_words_are_what_a_shopper_types():
    for phrase, others in OTHER_WORDS.items():
        assert others
        for text in (phrase, *others):
            assert text == normalise_query(text)
            assert text.isascii()
        assert phrase not in others
