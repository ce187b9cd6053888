"""Queries of few users: they stay out of all that is learned from and published."""

import dataclasses
from collections import defaultdict

import pytest

from jobs import aggregate_day, build_corpus, measure_coverage
from jobs.errors import DataError
from jobs.plan import load_plan, make_plan
from schemas.text import normalise_query
from tests.marketplace import LAST_DAY, SETTINGS, copy_home

pytestmark = pytest.mark.slow
LEAST = 12


def private(home, root, spark, least=LEAST):
    """A copy of a home that asks for so many users, and its corpus."""
    copied = copy_home(home, root, spark)
    (copied.root / "dsirm.toml").write_text(f"{SETTINGS}\n[privacy]\nmin_query_users = {least}\n")
    copied = copy_home(copied, root.with_name("opened"), spark)
    plan = make_plan(copied)
    aggregate_day.run(copied, [LAST_DAY.replace(day=30), LAST_DAY])
    return copied, plan


def test_rare_queries_are_in_no_corpus_and_are_counted_as_withheld(marketplace, tmp_path, spark):
    home, plan = private(marketplace, tmp_path / "home", spark)
    build_corpus.run(home, plan)
    users, seen = defaultdict(set), set()
    for row in home.store.read_arrow("click_log", columns=["query", "user"]).to_pylist():
        if row["query"]:
            users[normalise_query(row["query"])].add(row["user"])
    queries = home.store.read_arrow("queries").to_pylist()
    assert queries
    assert all(len(users[row["query"]] - {None}) >= LEAST for row in queries)
    seen = {row["query_id"] for row in home.store.read_arrow("query_days").to_pylist()}
    counts = home.store.last_commit("queries").metadata["counts"]
    assert counts["withheld"] == len(seen) - len(queries) > 0
    searches = sum(home.store.read_arrow("query_days")["searches"].to_pylist())
    assert counts["traffic_withheld"] == searches - sum(row["traffic"] for row in queries)
    pairs = set(home.store.read_arrow("pairs")["query_id"].to_pylist())
    assert pairs <= {row["query_id"] for row in queries}
    refused = home.store.read_arrow("quarantine")["row"].to_pylist()
    assert refused and not any("user_hash" in row for row in refused), "nobody could find it to forget it"


def test_the_rule_changes_the_release_and_what_coverage_tells(market, first, tmp_path, spark):
    home, plan = private(market, tmp_path / "home", spark)
    assert plan.release != first
    build_corpus.run(home, plan)
    night = load_plan(market, first)
    # The SIDs of the night before serve: what is asked here is what the report says of withheld queries.
    measure_coverage.run(home, dataclasses.replace(night, release=first, corpus_memo=plan.corpus_memo))
    before = home.store.read_arrow("sid_coverage", {"release": first}).to_pylist()
    assert all(row["queries_withheld"] is None for row in before), "what is published stays as it was"
    for name in ("item_sids", "query_sids"):
        rows = home.store.read_arrow(name, {"release": first})
        place = rows.schema.get_field_index("release")
        moved = rows.set_column(place, rows.schema.field(place), [[plan.release] * len(rows)])
        home.store.target(name, {"release": plan.release}).replace(moved, job="test", memo=plan.release)
    measure_coverage.run(home, plan)
    overall = next(
        row
        for row in home.store.read_arrow("sid_coverage", {"release": plan.release}).to_pylist()
        if row["slice"] == "all"
    )
    counts = home.store.last_commit("queries", {"as_of_date": plan.date}).metadata["counts"]
    assert (overall["queries_withheld"], overall["traffic_withheld"]) == (
        counts["withheld"],
        counts["traffic_withheld"],
    )
    assert overall["queries"] == overall["queries_covered"] == home.store.count("queries", {"as_of_date": plan.date})


def test_a_rule_that_leaves_nothing_says_so(marketplace, tmp_path, spark):
    home, plan = private(marketplace, tmp_path / "home", spark)
    part = {"event_date": LAST_DAY}
    counted = home.store.read_arrow("query_users", part)
    nobody = counted.set_column(2, counted.schema.field(2), [[0] * len(counted)])
    days = home.store.target("query_users", part, {"event_date": LAST_DAY.replace(day=30)})
    days.replace(nobody, job="test", memo=home.store.memos("query_users"))
    with pytest.raises(DataError, match=r"None of \d+ queries surely has 12 users in the window.*name users"):
        build_corpus.run(home, plan)
    assert home.store.count("queries") == 0


def test_without_the_rule_users_are_not_counted(market):
    assert not market.store.exists("query_users")
    assert "withheld" not in market.store.last_commit("queries").metadata["counts"]
