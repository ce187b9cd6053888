"""The simulator's commands: what they write into a home, and which shoppers click."""

import pandas as pd
import pytest
from pyspark.sql import functions as F

from jobs import simulate, sources
from jobs.errors import DataError
from tests.marketplace import LAST_DAY, copy_home, versions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(marketplace, tmp_path_factory, spark):
    """The tiny marketplace (seed 1) with a log of another seed."""
    copied = copy_home(marketplace, tmp_path_factory.mktemp("simulated") / "home", spark)
    simulate.clicks(copied, days=1, queries=120, seed=2, last_day=LAST_DAY, held_out=30)
    return copied


def table(home, name):
    return home.store.read_arrow(name).to_pandas()


def grades(home):
    return table(home, "relevance_labels").set_index(["query", "item_id"])["grade"]


def test_a_new_log_takes_the_place_of_the_old_one(home):
    assert home.store.partitions("click_log") == [{"event_date": str(LAST_DAY)}]
    assert abs(table(home, "click_log").search_id.nunique() - 120 * 18.75) < 0.2 * 120 * 18.75
    assert table(home, "relevance_labels")["query"].nunique() == 30


def test_an_imported_log_is_not_replaced_by_a_simulated_one(home, tmp_path, spark):
    shop = copy_home(home, tmp_path / "home", spark)
    sources.add_events(shop, shop.store.read(spark, "click_log").withColumn("event_id", F.lit("one")), job="import")
    before = versions(shop)
    with pytest.raises(DataError, match="holds an imported click log"):
        simulate.clicks(shop, days=1, queries=120, seed=2, last_day=LAST_DAY)
    assert versions(shop) == before


def test_under_any_seed_shoppers_click_what_the_users_table_says_they_can_afford(home):
    items = table(home, "catalog")
    ratio = items.price / items.groupby("category").price.transform("mean")
    items["band"] = pd.cut(ratio, [0, 0.3, 0.65, 1.1, 1.8, float("inf")], labels=False) + 1
    log = table(home, "click_log").drop_duplicates("event_id").merge(items[["item_id", "band"]], on="item_id")
    log = log.merge(table(home, "users")[["user", "purchase_power"]], on="user")  # robots are no users
    near = (log.band - log.purchase_power).abs() <= 1
    shown, clicked = log.action == "impression", log.action == "click"
    rates = [(clicked & side).sum() / (shown & side).sum() for side in (near, ~near)]
    assert rates[0] > 1.2 * rates[1]


def test_what_no_text_tells_lowers_grades_and_renames_queries(home, tmp_path, spark):
    other = copy_home(home, tmp_path / "home", spark)
    simulate.clicks(other, days=1, queries=120, seed=2, last_day=LAST_DAY, held_out=30, unseen_share=1.0)
    told, unseen = grades(home), grades(other)
    both = told.index.intersection(unseen.index)
    assert (unseen[both] <= told[both]).all()
    assert (unseen[both] < told[both]).any()
    assert len(both) < len(unseen)
