"""Who searched what, by day; and what each user clicked, latest first, each click with its day."""

import datetime as dt

import pytest
from pyspark.sql import functions as F

from pipelines import clicks
from pipelines.user_profiles import pseudonyms, user_profiles, user_searches
from schemas.tables import TABLES
from schemas.text import text_hash

pytestmark = pytest.mark.slow

DAY = dt.date(2026, 1, 31)
EPOCH = dt.date(1970, 1, 1)


def event(event_id, search, action, item, *, user="ann", query=None, position=None, minute=0, days_ago=0):
    day = DAY - dt.timedelta(days=days_ago)
    time = dt.datetime.combine(day, dt.time(12, minute), dt.UTC)
    return (event_id, day, time, search, search, user, query, item, position, action)


LOG = [
    event("1", "s", "impression", "lamp", query="Lamps", position=1),
    event("2", "s", "impression", "ring", query="lamps", position=2),
    event("3", "s", "click", "lamp", minute=3),  # takes the query of its search
    event("3", "s", "click", "lamp", minute=3),  # delivered twice
    event("4", "s", "purchase", "lamp", minute=9),
    event("5", "t", "impression", "lamp", query="lamps", position=1, minute=20),
    event("6", "t", "cart", "lamp", minute=21),
    event("7", "u", "click", "ring", query="rings", user="bob", minute=1),
    event("8", "v", "impression", "ring", query="rings", user=None, position=1),
    event("9", "w", "click", "lamp", query="lamps", days_ago=2),
    event("10", "w", "click", "shoe", query="lamps", days_ago=2, minute=1),
    event("11", "x", "cart", "shoe", query="shoes", user="bob"),
    event("12", "y", "click", "shoe", user="bob"),  # its search names no query
]


@pytest.fixture(scope="module")
def searches(spark):
    log = spark.createDataFrame(LOG, TABLES["click_log"].ddl)
    events = clicks.clean_events(log, max_query_chars=30, robot_events=50, robot_searches=50, count_users=True)
    made = user_searches(clicks.with_queries(events.kept)[0], pseudonyms(log))
    return made.select(*TABLES["user_searches"].names).persist()


def test_each_day_keeps_what_a_user_saw_and_did_for_a_query(searches):
    names = {text_hash(name): name for name in ("lamp", "ring", "shoe", "lamps", "rings")}
    found = {
        (str(row["event_date"])[-2:], row["user"], names[row["query_id"]], names[row["item_hash"]]): (
            row["impressions"],
            row["clicks"],
            row["purchases"],
            row["last_action"].minute if row["last_action"] else None,
        )
        for row in searches.collect()
    }
    assert found == {
        ("31", "ann", "lamps", "lamp"): (2, 1, 1, 9),
        ("31", "ann", "lamps", "ring"): (1, 0, 0, None),
        ("31", "bob", "rings", "ring"): (0, 1, 0, 1),
        ("29", "ann", "lamps", "lamp"): (0, 1, 0, 0),
        ("29", "ann", "lamps", "shoe"): (0, 1, 0, 1),
    }


def test_a_profile_holds_clicks_by_category_latest_first_each_with_its_day(spark, searches):
    catalog = spark.createDataFrame(
        [
            (text_hash(item), item, category)
            for item, category in (("lamp", "light"), ("ring", None), ("shoe", "light"))
        ],
        "item_hash BIGINT, item_id STRING, category STRING",
    )
    made = user_profiles(searches, catalog, as_of_date=F.lit(DAY))
    assert made.columns == TABLES["user_profiles"].names
    found = {(row["user"], row["category"]): (row["items"], row["days"]) for row in made.collect()}
    today = (DAY - EPOCH).days
    assert found == {
        ("ann", "light"): (["lamp", "shoe", "lamp"], [today, today - 2, today - 2]),
        ("bob", ""): (["ring"], [today]),
    }
    gone = user_profiles(searches, catalog.where("item_id != 'lamp'"), as_of_date=F.lit(DAY))
    assert {tuple(row["items"]) for row in gone.collect()} == {("shoe",), ("ring",)}
