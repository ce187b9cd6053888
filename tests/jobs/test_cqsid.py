"""CQ-SID in the same chain: another quantizer, split clusters, and nobody who confuses the two kinds of SID.

Its generator is trained in stages and learns who asks.
"""

import dataclasses
import datetime as dt

import numpy as np
import pytest

from dsirm_models.generators import load_generator
from dsirm_models.quantizer_model import TrainedQuantizer
from jobs import aggregate_day, build_corpus, forget, lineage, maintain, nightly, profile_users, releases, views
from jobs.explain import explain
from jobs.generators import release_sids
from jobs.plan import load_plan, make_plan
from jobs.requests import user_fields
from schemas.sids import MAX_CODE, without_group
from schemas.tables import TABLES
from tests.marketplace import copy_home, late_click, rows

pytestmark = pytest.mark.slow

THIRD = 16


def test_large_clusters_are_split_and_the_groups_are_those_of_the_codebook(cqsid_night):
    home, plan = cqsid_night
    model = TrainedQuantizer.load(home.artifact("quantizer", plan.codebook_version))
    split = dict(zip(*map(np.ndarray.tolist, model.groups), strict=True))
    assert split and set(split.values()) <= {2, 3, 4}
    told = home.store.last_commit("codebooks").metadata["clusters"]
    assert told["split"] == len(split) and told["groups"] == sum(split.values())
    for row in home.store.read_arrow("item_sids").to_pylist():
        whole = without_group(row["sid"], THIRD)
        group = (row["sid"] & MAX_CODE) // THIRD
        assert group == row["item_hash"] % split.get(whole, 1)
        assert row["codes"][2] == row["sid"] & MAX_CODE


def test_queries_get_sids_that_the_codebook_holds(cqsid_night):
    home, plan = cqsid_night
    _, _, existing = release_sids(home.store, plan.release, plan.codebook_version)
    queries = home.store.read_arrow("query_sids")["sid"].to_numpy()
    assert len(queries) and np.isin(queries, existing).all()
    assert (queries & MAX_CODE).max() < THIRD


def test_an_item_in_a_group_matches_to_the_full_depth(cqsid_night):
    home, _ = cqsid_night
    items = {row["item_id"]: row["sid"] for row in home.store.read_arrow("item_sids").to_pylist()}
    features = home.store.read_arrow("prefix_match_features").to_pylist()
    full = [row for row in features if row["depth"] == 3 and items[row["item_id"]] & MAX_CODE >= THIRD]
    assert full, "no item of a later group matched"
    queries = {row["query_id"]: row["query"] for row in home.store.read_arrow("queries").to_pylist()}
    row = next(row for row in full if row["query_id"] in queries)
    assert explain(home, queries[row["query_id"]], row["item_id"])["match"]["depth"] == 3
    assert explain(home, "a query that nobody typed")["beams"]


def test_use_of_the_codes_counts_codes_not_groups(cqsid_night):
    home, _ = cqsid_night
    slices = {row["slice"]: row for row in views.coverage(home)["slices"]}
    assert 0 < slices["level=3"]["utilisation"] <= 1


def test_the_stages_ran_in_order_and_their_models_stay(cqsid_night):
    home, plan = cqsid_night
    assert load_plan(home, plan.release) == plan
    final = load_generator(home.artifact("generator", plan.generator_version))
    assert final.meta["stages"] == plan.stages
    assert sorted(plan.stages) == ["align", "items", "queries", "users"]
    assert plan.stages["align"] == plan.generator_version
    assert user_fields(final).genders
    again = nightly.run(home)
    assert again.release == plan.release
    # A night without training keeps the generator, and maintenance the models that it went through.
    maintain.run(home)
    assert {path.name for path in (home.root / "artifacts/generator").iterdir()} == set(plan.stages.values())


def test_searches_are_kept_by_user_and_profiles_hold_no_day_after_theirs(cqsid_night):
    home, plan = cqsid_night
    log = home.store.read_arrow("click_log").to_pylist()
    searches = home.store.read_arrow("user_searches").to_pylist()
    assert {row["user"] for row in searches} <= {row["user"] for row in log}
    acted = {(row["event_date"], row["user"], row["item_hash"]) for row in searches if row["last_action"]}
    profiles = home.store.read_arrow("user_profiles").to_pylist()
    assert sum(len(row["items"]) for row in profiles) == len(acted) > 0
    last = (plan.date - dataclasses.replace(plan, as_of_date="1970-01-01").date).days
    assert {day for row in profiles for day in row["days"]} <= {last, last - 1}
    assert all(row["days"] == sorted(row["days"], reverse=True) for row in profiles)


def test_a_person_who_asks_is_forgotten_and_a_late_click_counted(cqsid_night, tmp_path, spark):
    home = copy_home(cqsid_night[0], tmp_path / "home", spark)
    # One with lists of their own, in a pinned release.
    users = [set(home.store.read_arrow(name)["user"].to_pylist()) for name in ("user_profiles", "recall_lists")]
    person = max(set.intersection(*users))
    releases.pin(home.store, cqsid_night[1].release)
    carry = ("user_searches", "user_profiles", "request_sids", "recall_lists")
    others = {name: home.store.count(name) for name in carry}
    told = forget.run(home, known_as=person)["rows"]
    for name in carry:
        assert told[name] > 0 and home.store.count(name) == others[name] - told[name], name
    for name in TABLES:
        assert person not in repr(home.store.read_arrow(name).to_pylist()), name
    for path in (home.root / "tables").rglob("*"):
        assert not path.is_file() or person.encode() not in path.read_bytes(), path
    steps = [step for step in lineage.run(home, cqsid_night[1].release)["steps"] if step["table"] == "recall_lists"]
    assert [step["job"] for step in steps] == ["forget", "generate-recall"], "what made the rows is still told"
    late_click(home)
    plan = make_plan(home)
    assert plan.release != cqsid_night[1].release
    aggregate_day.run(home, [dt.date.fromisoformat(day) for day in plan.days], plan.versions["click_log"])
    build_corpus.run(home, plan)
    profile_users.run(home, plan)
    made = rows(home, "user_profiles")
    assert made != rows(cqsid_night[0], "user_profiles")
    profile_users.run(home, plan)
    assert rows(home, "user_profiles") == made
