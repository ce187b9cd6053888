"""Daily growth: new items attach to the SIDs that there are, the generator stays, and what that costs is told."""

import datetime as dt

import numpy as np
import pytest

from dsirm_models.quantizer_model import TrainedQuantizer
from dsirm_models.ranking_metrics import draw_resamples
from dsirm_models.recall_metrics import Found, Targets
from jobs import evaluate_recall, nightly, releases, sources
from jobs.arrays import Items
from jobs.home import Home
from jobs.plan import load_plan
from jobs.printing import recall_metrics
from jobs.recall_growth import growth
from jobs.recall_targets import Trained
from schemas.sids import unpack, without_group
from tests.jobs import shop
from tests.marketplace import LAST_DAY, copy_home

THIRD = 16
FIRST = "2026-01-21-00000000"
PLAN = shop.plan_of()
DAYS = (PLAN.date - dt.date(2026, 1, 21)).days


def ints(*values):
    return np.array(values, dtype=np.int64)


def told(tmp_path, *, trained, targets, beams, settings=""):
    """Growth of a release of items 11, 12, 13 and 14, of which each target is found at a beam, or at none (0)."""
    (tmp_path / "dsirm.toml").write_text(settings)
    hashes = ints(11, 12, 13, 14)
    items = Items(hashes, list("abcd"), [None] * 4, np.eye(4, dtype=np.float32), list("abcd"))
    wanted = Targets(*map(ints, *targets))
    found = Found(ints(*beams), ints(*beams), np.ones((int(wanted.request.max()) + 1, 100), dtype=np.int64))
    draws = draw_resamples(queries=len(found.items), seeds=1, draws=100, seed=1)
    return growth(Home(tmp_path), PLAN, trained, items, wanted, found, draws)


# (request, item, times): items 11 and 12 are old, 13 and 14 new.
TARGETS = [(0, 0, 6), (0, 2, 1), (1, 1, 2), (1, 3, 1)]
TRAINED = Trained(FIRST, dt.date(2026, 1, 21), ints(11, 12, 77))


def test_what_came_since_and_what_it_costs_by_hand(tmp_path):
    """Six of eight clicks on old items are found at ten beams, and one of two on new ones."""
    found = told(tmp_path, trained=TRAINED, targets=TARGETS, beams=[1, 10, 11, 0])
    assert (found["first_release"], found["trained_on"], found["days"]) == (FIRST, "2026-01-21", DAYS)
    assert (found["items"], found["new_items"], found["new_items_share"]) == (4, 2, 0.5)
    assert found["new_clicks_share"] == 0.2
    at_beams, at_items = found["rates"]
    assert (at_beams["metric"], at_items["metric"]) == ("clk@10", "clk@1000items")
    assert (at_beams["old"], at_beams["new"], at_beams["difference"]) == (6 / 8, 1 / 2, -1 / 4)
    assert at_beams["lost"] == pytest.approx(0.2 * 0.25)
    # 7 of 10 clicks are found; were new items found as old ones are, 7.5.
    assert at_beams["lost_share"] == pytest.approx(0.5 / 7.5)
    # All 8 clicks on old items are somewhere on the list of all beams.
    assert (at_items["old"], at_items["new"]) == (1.0, 1 / 2)
    assert at_items["lost_share"] == pytest.approx(0.1 / 1.0)
    for row in found["rates"]:
        assert row["new_low"] <= row["new"] <= row["new_high"]
        assert row["low"] <= row["difference"] <= row["high"]


@pytest.mark.parametrize(("limit", "again"), [(0.066, True), (0.067, False)])
def test_it_is_time_to_train_again_from_the_limit_of_the_settings_on(tmp_path, capsys, limit, again):
    settings = f"[recall]\nretrain_at = {limit}\n"
    many = [(request + 2 * copy, item, times) for copy in range(10) for request, item, times in TARGETS]
    found = told(tmp_path, trained=TRAINED, targets=many, beams=[1, 10, 11, 0] * 10, settings=settings)
    assert (found["retrain_at"], found["retrain"]) == (limit, again)
    text = printed(found, capsys)
    assert "New since: 2 items, 50.0% of all, with 20.0% of the clicks" in text
    assert ("Train again" in text, "dsirm nightly --refit" in text) == (again, again)
    assert ("No need to train again" in text) != again


def test_a_handful_of_clicks_is_no_reason_to_train_again(tmp_path, capsys):
    """Two requests: in a draw of the one alone, new items are found as well as old ones."""
    settings = "[recall]\nretrain_at = 0.066\n"
    found = told(tmp_path, trained=TRAINED, targets=TARGETS, beams=[1, 10, 11, 0], settings=settings)
    assert found["rates"][0]["lost_share"] > 0.066 and found["rates"][0]["high"] == 0
    assert not found["retrain"]
    assert "too few clicks to tell" in printed(found, capsys)


def printed(found, capsys):
    targets = {"source": "s", "days": ["d"], "queries": 1, "queries_there_were": 1}
    targets |= dict.fromkeys(("clicks", "impressions", "purchases"), 1)
    parts = {name: [] for name in ("rates", "comparisons", "sweep", "others")}
    recall_metrics({"release": PLAN.release, "targets": targets, **parts, "growth": found})
    return " ".join(capsys.readouterr().out.split())


def test_new_items_that_are_found_as_well_as_old_ones_cost_nothing(tmp_path):
    found = told(
        tmp_path, trained=TRAINED, targets=TARGETS, beams=[1, 2, 3, 4], settings="[recall]\nretrain_at = 0.01\n"
    )
    assert (found["rates"][0]["lost"], found["retrain"]) == (0.0, False)


@pytest.mark.parametrize(
    ("trained", "new", "says"),
    [
        (Trained(PLAN.release, PLAN.date, None), 0, "no item is new since"),
        (Trained(FIRST, dt.date(2026, 1, 21), ints(11, 12, 13, 14)), 0, "no item is new since"),
        (Trained(FIRST, dt.date(2026, 1, 21), None), None, f"{FIRST}, the first that it served, is gone"),
        (Trained(FIRST, dt.date(2026, 1, 21), ints(11, 12, 14)), 1, "Nobody clicked a new item"),
    ],
)
def test_where_nothing_is_new_it_says_so(tmp_path, capsys, trained, new, says):
    old = [(0, 0, 6), (1, 1, 2)]
    found = told(tmp_path, trained=trained, targets=old, beams=[1, 0])
    assert (found["new_items"], found["retrain"]) == (new, False)
    assert says in printed(found, capsys)


@pytest.mark.slow
def test_a_second_night_attaches_new_items_and_keeps_the_generator(cqsid_night, tmp_path, spark):
    from pyspark.sql import functions as F

    from pipelines.columns import hashed

    home, first = copy_home(cqsid_night[0], tmp_path / "home", spark), cqsid_night[1]
    # Of the most clicked items there is one more each; the day after, it is what people click.
    clicked = home.store.read(spark, "pair_days").groupBy("item_hash").agg(F.sum("clicks").alias("n"))
    doubled = clicked.orderBy(F.desc("n"), "item_hash").limit(20).select("item_hash")
    catalog = home.store.read(spark, "catalog").localCheckpoint()
    new = catalog.join(doubled, "item_hash", "left_semi").withColumns(
        {"item_id": F.concat("item_id", F.lit("+")), "text": F.concat("text", F.lit(" of this year"))}
    )
    new = new.withColumns({"item_hash": hashed("item_id"), "text_hash": hashed("text")}).localCheckpoint()
    names = sorted(row["item_id"] for row in new.select("item_id").collect())
    sources.write_catalog(home, catalog.unionByName(new), job="test")
    later_days(home, spark, 1, F.col("item_id"))
    plan = nightly.run(home)
    assert releases.current(home.store)["release"] == plan.release != first.release
    assert (plan.fit, plan.generator_version) == (False, first.generator_version)
    assert plan.date == LAST_DAY + dt.timedelta(days=1)
    sizes = TrainedQuantizer.load(home.artifact("quantizer", plan.codebook_version)).config.codebook_sizes
    rows = {row["item_id"]: row for row in home.store.read_arrow("item_sids", {"release": plan.release}).to_pylist()}
    for name in names:
        assert rows[name]["codebook_version"] == first.codebook_version
        codes = unpack(without_group(rows[name]["sid"], THIRD))
        assert all(code < size for code, size in zip(codes, sizes, strict=True))
    old = {
        row["item_id"]: row["sid"] for row in home.store.read_arrow("item_sids", {"release": first.release}).to_pylist()
    }
    assert {item: rows[item]["sid"] for item in old} == old, "no SID moved"

    doubles = F.concat("item_id", F.lit("+"))
    later_days(home, spark, 2, F.when(doubles.isin(names), doubles).otherwise(F.col("item_id")))
    found = evaluate_recall.run(home, load_plan(home, plan.release))
    grown = found["growth"]
    assert (grown["first_release"], grown["trained_on"], grown["days"]) == (first.release, str(LAST_DAY), 1)
    assert (grown["generator"], grown["items"], grown["new_items"]) == (plan.generator_version, 320, 20)
    day = {"event_date": LAST_DAY + dt.timedelta(days=2)}
    clicks = {True: 0, False: 0}
    hashes = {row["item_hash"] for name, row in rows.items() if name in names}
    for row in home.store.read_arrow("pair_days", day).to_pylist():
        clicks[row["item_hash"] in hashes] += row["clicks"]
    assert grown["new_clicks_share"] == clicks[True] / sum(clicks.values()) > 0
    rates = {(row["slice"], row["metric"]): row["rate"] for row in found["rates"] if row["channel"] == "sids"}
    for row in grown["rates"]:
        assert row["new"] == rates["items=new", row["metric"]]
        assert row["old"] == rates["items=old", row["metric"]]
        lost = grown["new_clicks_share"] * (row["old"] - row["new"])
        assert row["lost"] == pytest.approx(lost)
        assert row["lost_share"] == pytest.approx(lost / (rates["all", row["metric"]] + lost))
    assert grown["retrain"] == (grown["rates"][0]["lost_share"] >= 0.05 and grown["rates"][0]["high"] < 0)


def later_days(home, spark, days, item):
    """The last day's log again, so many days later, with other items."""
    from pyspark.sql import functions as F

    log = home.store.read(spark, "click_log", {"event_date": LAST_DAY})
    later = log.withColumns(
        {
            "event_id": F.concat("event_id", F.lit(f"+{days}")),
            "event_date": F.date_add("event_date", days),
            "event_time": F.col("event_time") + F.expr(f"INTERVAL {days} DAY"),
            "item_id": item,
        }
    )
    sources.add_events(home, later.localCheckpoint(), job="test")
