"""The whole chain, as its users see it: one night, again, a changed log, a refit, a rollback."""

import datetime as dt
import json

import numpy as np
import pytest

from jobs import lineage, nightly, releases, simulate, sources, views
from jobs.aggregate_day import changed_days
from jobs.errors import AuditFailed, DataError
from jobs.explain import explain
from jobs.plan import make_plan
from jobs.readers import read_release, scan_release
from jobs.views import RELEASE_TABLES
from schemas.sids import unpack
from tests.marketplace import LAST_DAY, copy_home, late_click, rows, versions

pytestmark = pytest.mark.slow


def test_events_read_are_counted_or_quarantined(market):
    counts = market.store.last_commit("pair_days").metadata["counts"]
    assert counts["read"] == market.store.count("click_log")
    assert counts["read"] == counts["accepted"] + counts["quarantined"]
    items = market.store.last_commit("item_sids").metadata["counts"]
    assert items == {"read": market.store.count("catalog"), "accepted": items["read"], "without_vector": 0}
    pairs = market.store.last_commit("pairs").metadata["counts"]
    assert pairs["accepted"] == market.store.count("pairs") > 0
    assert pairs["read"] == pairs["accepted"] + pairs["trimmed"] + pairs["not_in_catalogue"]
    assert all(market.store.last_commit(name).metadata["counts"] for name in RELEASE_TABLES), "every table says"
    reasons = set(market.store.read_arrow("quarantine")["reason"].to_pylist())
    assert {"duplicate of an event", "robot-like session"} <= reasons


def test_every_item_and_query_has_sids_that_exist(market, first):
    items = scan_release(market.root, "item_sids", first)
    queries = scan_release(market.root, "query_sids", first)
    assert items.num_rows == market.store.count("catalog")
    assert set(queries["sid"].to_pylist()) <= set(items["sid"].to_pylist())
    assert all(list(unpack(row["sid"])) == row["codes"] for row in items.to_pylist())
    everyone = set(market.store.read_arrow("queries")["query_id"].to_pylist())
    everyone |= set(market.store.read_arrow("relevance_labels")["query_id"].to_pylist())
    assert set(queries["query_id"].to_pylist()) == everyone


def test_test_queries_stay_out_of_training_pairs_by_split(market):
    pairs = market.store.read_arrow("pairs").to_pylist()
    splits = {row["query_id"]: row["split"] for row in market.store.read_arrow("queries").to_pylist()}
    assert {row["split"] for row in pairs} == {"train", "valid", "test"}
    assert all(row["split"] == splits[row["query_id"]] for row in pairs)


def test_running_the_same_day_again_changes_no_table(market, first):
    before = versions(market)
    assert nightly.run(market).release == first
    assert versions(market) == before


def test_a_chain_of_jobs_without_the_shortcut_changes_no_table_either(market):
    before = versions(market)
    plan = make_plan(market)
    for name in nightly.CHAIN:
        __import__(f"jobs.{name}", fromlist=["run"]).run(market, plan)
    assert versions(market) == before


def test_readers_agree_on_the_current_release(market, spark):
    by_spark = {tuple(row) for row in read_release(spark, market.root, "item_sids").select("item_id", "sid").collect()}
    by_arrow = scan_release(market.root, "item_sids", columns=["item_id", "sid"])
    assert by_spark == set(zip(*by_arrow.to_pydict().values(), strict=True))
    with pytest.raises(DataError, match="not a table of releases"):
        scan_release(market.root, "catalog")


def test_features_say_no_sid_apart_from_no_match(market, first):
    features = scan_release(market.root, "prefix_match_features", first)
    by_flags = {(row["has_query_sid"], row["has_item_sid"]) for row in features.to_pylist()}
    assert by_flags == {(True, True)}
    labelled = [row for row in features.to_pylist() if row["labelled"]]
    assert len(labelled) == market.store.count("label_scores")
    assert all(row["own_logps"] is not None and 0 <= row["soft_ss"] <= 1.0001 for row in labelled)
    # A beam that reaches the item's own SID knows the probability that teacher forcing gives it.
    full = [row for row in labelled if row["depth"] == 3]
    for row in full:
        assert row["mass_3"] == pytest.approx(np.exp(sum(row["own_logps"])), rel=1e-3)


def test_explain_names_categories_and_the_match(market, first):
    features = scan_release(market.root, "prefix_match_features", first).to_pylist()
    row = max((r for r in features if not r["labelled"]), key=lambda r: r["depth"])
    query = next(r["query"] for r in market.store.read_arrow("queries").to_pylist() if r["query_id"] == row["query_id"])
    told = explain(market, query.upper(), row["item_id"])
    assert told["source"] == "published"
    assert told["match"]["depth"] == row["depth"] > 0
    assert told["match"]["beam_rank"] == row["beam_rank"]
    assert told["beams"][0]["prefix_probabilities"] == sorted(told["beams"][0]["prefix_probabilities"], reverse=True)
    unseen = explain(market, "nobody ever typed this")
    assert unseen["source"].startswith("predicted now")
    assert len(unseen["beams"]) == 3
    with pytest.raises(DataError, match="no SID for item"):
        explain(market, query, "no such item")
    with pytest.raises(DataError, match="no letter or digit"):
        explain(market, "😀😀")


def test_lineage_walks_from_the_features_back_to_the_days_of_the_log(market, first):
    told = lineage.run(market, first)
    by_table = {step["table"]: step for step in told["steps"]}
    assert next(iter(by_table)) == "prefix_match_features"
    way = ("item_sids", "query_sids", "pairs", "queries", "pair_days", "query_days", "item_embeddings", "codebooks")
    assert set(way) <= set(by_table)
    assert all(step["run"] and step["code_revision"] and step["config_hash"] for step in told["steps"])
    assert set(by_table["pairs"]["inputs"]) >= {"pair_days", "query_days", "catalog"}
    inputs = list(dict(releases.current(market.store)["inputs"]))
    assert inputs == sorted(inputs), "in one order, whether or not the night was cut short"
    counts = by_table["pair_days"]["counts"]
    assert counts["read"] == counts["accepted"] + counts["quarantined"] == market.store.count("click_log")
    days = [f"click_log/event_date={LAST_DAY - dt.timedelta(days=n)}" for n in (1, 0)]
    sources = {source["partition"]: source for source in told["sources"]}
    assert set(days) <= set(sources)
    assert all(sources[day]["unchanged_since"] and sources[day]["read_at_version"] is not None for day in days)
    json.dumps(told)


def test_coverage_and_metrics_can_be_printed_as_json(market):
    slices = {row["slice"]: row for row in views.coverage(market)["slices"]}
    assert slices["all"]["items"] == slices["all"]["items_covered"] == market.store.count("catalog")
    assert {"level=1", "level=2", "level=3", "band=head"} <= set(slices)
    told = views.ranker_metrics(market)["rows"]
    assert {row["variant"] for row in told} == {"none", "dsirm", "dsirm-hard", "null"}
    json.dumps([views.coverage(market), views.ranker_metrics(market), views.release_list(market)], default=str)


def test_a_wrong_day_is_refused(market):
    with pytest.raises(DataError, match="no event on 2020-01-01; it runs from 2026-01-30 to 2026-01-31"):
        make_plan(market, dt.date(2020, 1, 1))


def test_grades_decide_nothing_upstream_of_the_ranker(market, first, spark):
    """Promise 8: other grades for the same pairs leave every model version as it is."""
    plan = make_plan(market)
    labels = market.store.read(spark, "relevance_labels").localCheckpoint()
    turned = labels.withColumn("grade", 3 - labels["grade"])
    sources.write_table(market, "relevance_labels", turned, job="test", by="source")
    other = make_plan(market)
    sources.write_table(market, "relevance_labels", labels, job="test", by="source")
    assert other.release != plan.release
    assert (other.codebook_version, other.generator_version) == (plan.codebook_version, plan.generator_version)
    assert other.corpus_memo == plan.corpus_memo
    assert make_plan(market).release == first


def test_a_changed_log_gives_a_new_release_and_keeps_the_old(market, first, tmp_path, spark):
    home, old = copy_home(market, tmp_path / "home", spark), first
    kept = {name: rows(home, name, {"release": old}) for name in views.RELEASE_TABLES}
    untouched = rows(home, "pair_days", {"event_date": LAST_DAY})
    late_click(home)
    late_day = LAST_DAY - dt.timedelta(days=1)
    assert list(changed_days(home, [late_day, LAST_DAY])) == [late_day]

    plan = nightly.run(home)
    new = plan.release
    assert new != old
    assert not plan.fit
    assert {name: rows(home, name, {"release": old}) for name in views.RELEASE_TABLES} == kept
    assert rows(home, "pair_days", {"event_date": LAST_DAY}) == untouched
    sids = [{r["item_id"]: r["sid"] for r in scan_release(home.root, "item_sids", r).to_pylist()} for r in (old, new)]
    assert sids[0] == sids[1], "assigning again moves no item"
    copied = home.store.last_commit("query_sids").metadata["counts"]
    assert copied["generated"] <= 1
    assert copied["copied"] == copied["queries"] - copied["generated"]
    diff = views.release_diff(home, old, new)
    assert diff["items"]["moved"] == {"depth_1": 0, "depth_2": 0, "depth_3": 0}
    assert diff["inputs_changed"] == [f"click_log/event_date={late_day}"]

    # One step back, and the release that was withdrawn does not come back by itself.
    assert releases.roll_back(home.store, new) == old
    assert releases.current(home.store)["release"] == old
    with pytest.raises(DataError, match="was rolled back"):
        nightly.run(home)

    # A refit warm-starts, measures churn, and can be explained as any other.
    refit = nightly.run(home, refit=True)
    assert refit.fit
    assert refit.parent == old
    levels = {row["slice"]: row for row in views.coverage(home)["slices"] if row["slice"].startswith("level")}
    assert all(0 <= row["churn"] <= 1 for row in levels.values())
    assert levels["level=1"]["churn"] <= levels["level=3"]["churn"]
    states = {row["release"]: row["state"] for row in views.release_list(home)["releases"]}
    assert states == {old: "standing", new: "rolled_back", refit.release: "current"}


def test_a_failed_gate_names_rule_figure_and_limit_and_publishes_nothing(market, first, tmp_path, spark, monkeypatch):
    monkeypatch.setenv("DSIRM_GATES__LARGEST_BUCKET", "0.0001")
    home = copy_home(market, tmp_path / "home", spark)
    late_click(home)
    with pytest.raises(AuditFailed, match=r"gate largest_bucket: 0\.\d+, limit 0\.0001"):
        nightly.run(home)
    assert releases.current(home.store)["release"] == first
    monkeypatch.delenv("DSIRM_GATES__LARGEST_BUCKET")
    relaxed = copy_home(home, tmp_path / "relaxed", spark)
    assert nightly.run(relaxed).release == releases.current(relaxed.store)["release"] != first


def test_two_marketplaces_do_not_share_a_home(market):
    with pytest.raises(DataError, match="one home holds one"):
        simulate.catalogue(market, items=300, users=50, seed=2)


def test_a_corpus_without_clicks_is_refused_before_training(marketplace, tmp_path, spark):
    home = copy_home(marketplace, tmp_path / "home", spark)
    log = home.store.read(spark, "click_log").where("action = 'impression'").localCheckpoint()
    sources.write_table(home, "click_log", log, job="test", by="event_date")
    with pytest.raises(DataError, match="no training pair"):
        nightly.run(home)
