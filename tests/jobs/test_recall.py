"""Recall lists, `dsirm recall` and their evaluation, on a night of CQ-SID; what is wrong is told."""

import datetime as dt
import json
import shutil
from collections import Counter

import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from dsirm_models.quantizer_model import TrainedQuantizer
from jobs import (
    assign_item_sids,
    build_corpus,
    embed_items,
    evaluate_recall,
    generate_query_sids,
    generate_recall,
    generate_request_sids,
    lineage,
    profile_users,
    sources,
    views,
)
from jobs.errors import DataError
from jobs.generators import load_for, release_sids
from jobs.plan import load_plan, make_plan
from jobs.query_beams import encoded, predict, predicted_for, serving
from jobs.readers import scan_release
from jobs.recall import recall
from pipelines.columns import hashed
from schemas.sids import MAX_CODE, unpack, without_group
from tests.marketplace import LAST_DAY, change_catalogue, copy_home

pytestmark = pytest.mark.slow

THIRD = 16  # codes of the last level


@pytest.fixture
def changed(cqsid_night, tmp_path, spark):
    """A copy of the home, to be spoilt."""
    return copy_home(cqsid_night[0], tmp_path / "home", spark)


def every_list(home, plan=None):
    """(query_id, user) -> rows of the list in order, of the published release or of a plan's."""
    rows = scan(home, "recall_lists", plan) if plan else scan_release(home.root, "recall_lists").to_pylist()
    found = {}
    for row in sorted(rows, key=lambda row: row["rank"]):
        found.setdefault((row["query_id"], row["user"]), []).append(row)
    return found


def lists(home, plan=None):
    """query_id -> rows of everybody's list in order."""
    return {query_id: listed for (query_id, user), listed in every_list(home, plan).items() if not user}


def texts(home):
    return {row["query_id"]: row["query"] for row in home.store.read_arrow("queries").to_pylist()}


def test_lists_hold_items_in_stock_behind_sids_that_the_codebook_holds_none_twice(cqsid_night):
    home, plan = cqsid_night
    _, _, existing = release_sids(home.store, plan.release, plan.codebook_version)
    sizes = TrainedQuantizer.load(home.artifact("quantizer", plan.codebook_version)).config.codebook_sizes
    own = {row["item_id"]: row["sid"] for row in home.store.read_arrow("item_sids").to_pylist()}
    stock = {row["item_id"]: row["in_stock"] for row in home.store.read_arrow("catalog").to_pylist()}
    assert not all(stock.values())
    found = every_list(home)
    assert {bool(user) for _, user in found} == {True, False}
    for listed in found.values():
        assert [row["rank"] for row in listed] == list(range(1, len(listed) + 1))
        assert len(listed) <= 25
        items = [row["item_id"] for row in listed]
        assert len(set(items)) == len(items)
        assert all(stock[item] for item in items)
        assert [row["beam_rank"] for row in listed] == sorted(row["beam_rank"] for row in listed)
        for row in listed:
            assert row["sid"] == without_group(own[row["item_id"]], THIRD)
            assert row["sid"] in existing
            assert all(code < size for code, size in zip(unpack(row["sid"]), sizes, strict=True))
    assert max(row["beam_rank"] for listed in found.values() for row in listed) > 3, "more beams than matching has"
    counts = home.store.last_commit("recall_lists").metadata["counts"]
    requests = {(query_id, "") for query_id in scan_release(home.root, "query_sids")["query_id"].to_pylist()}
    requests |= {(row["query_id"], row["user"]) for row in scan_release(home.root, "request_sids").to_pylist()}
    assert set(found) <= requests
    assert counts["requests"] == len(requests) == counts["empty"] + len(found)
    assert counts["recalled"] == sum(map(len, found.values())) == home.store.count("recall_lists")
    assert views.summary(home)["rows"]["recall_lists"] == counts["recalled"]


def test_recall_of_a_query_is_its_published_list(cqsid_night):
    home, _ = cqsid_night
    queries = texts(home)
    for query_id, listed in list(lists(home).items())[:20]:
        if query_id not in queries:
            continue
        told = recall(home, queries[query_id].upper(), beams=6)
        assert told["source"] == "published"
        assert [item["item_id"] for item in told["items"]] == [row["item_id"] for row in listed]
        assert [item["beam_rank"] for item in told["items"]] == [row["beam_rank"] for row in listed]
        assert [item["score"] for item in told["items"]] == pytest.approx([row["score"] for row in listed])
        assert json.dumps(told, allow_nan=False)


def test_recall_of_a_query_that_nobody_typed_and_of_more_beams_than_published(cqsid_night, capsys):
    from jobs.printing import recalled

    home, plan = cqsid_night
    unseen = recall(home, "a query that nobody typed", user="somebody", beams=12)
    assert unseen["source"] == "predicted now"
    assert len(unseen["beams"]) == 12
    assert unseen["items"]
    assert not unseen["personalised"], "nobody knows that user, and the answer says so"
    recalled(unseen)
    assert "nothing is known of this user" in capsys.readouterr().out
    known = next(iter(texts(home).values()))
    assert recall(home, known, beams=7)["source"] == "predicted now"
    assert recall(home, known, beams=2, release=plan.release)["source"] == "published"
    with pytest.raises(DataError, match="no published release"):
        recall(home, known, release="2026-01-01-00000000")
    with pytest.raises(DataError, match="no letter or digit"):
        recall(home, "!?")


def test_recall_for_a_known_user_is_that_users_own_and_for_any_other_everybodys(cqsid_night):
    home, plan = cqsid_night
    _, _, existing = release_sids(home.store, plan.release, plan.codebook_version)
    query = min(texts(home).values())
    everybody = recall(home, query, beams=6)
    assert not everybody["personalised"]
    assert recall(home, query, user="nobody-knows-me", beams=6)["beams"] == everybody["beams"]
    users = sorted(set(home.store.read_arrow("users")["user"].to_pylist()))[:8]
    people = [recall(home, query, user=user, beams=6) for user in users]
    assert all(told["personalised"] for told in people)
    assert all({beam["sid"] for beam in told["beams"]} <= set(existing.tolist()) for told in people)
    probabilities = {tuple(beam["probability"] for beam in told["beams"]) for told in people}
    assert len(probabilities) > 1, "who asks makes a difference"


def test_the_published_list_of_a_user_and_a_query_is_what_is_predicted_for_them_now(cqsid_night):
    home, plan = cqsid_night
    of, queries = serving(home), texts(home)
    requests = {}
    for row in sorted(scan_release(home.root, "request_sids").to_pylist(), key=lambda row: row["rank"]):
        requests.setdefault((row["query_id"], row["user"]), []).append(row)
    assert 0 < len(requests) <= 30
    found = every_list(home)
    for (query_id, user), rows in sorted(requests.items())[:8]:
        now, own = predicted_for(home, of, queries[query_id], 6, user, everybody=False)
        assert own
        assert [sid for sid, _ in now] == [row["sid"] for row in rows]
        for (_, logps), row in zip(now, rows, strict=True):
            assert logps == pytest.approx(row["logps"], abs=1e-4)
        told = recall(home, queries[query_id], user=user, beams=6)
        assert (told["source"], told["personalised"]) == ("published", True)
        assert [beam["sid"] for beam in told["beams"]] == [row["sid"] for row in rows]
        listed = found.get((query_id, user), [])
        assert [item["item_id"] for item in told["items"]] == [row["item_id"] for row in listed]
        assert recall(home, queries[query_id], user=user, beams=7)["source"] == "predicted now", "more than published"
    # A user whose request is not among them is predicted.
    query_id, user = min(requests)
    other = next(q for q in sorted(queries) if (q, user) not in requests)
    told = recall(home, queries[other], user=user, beams=6)
    assert (told["source"], told["personalised"]) == ("predicted now", True)
    assert [row["table"] for row in views.status(home)["tables"] if row["written_by"] == "generate-request-sids"] == [
        "request_sids"
    ]
    assert {"request_sids", "user_searches"} <= {step["table"] for step in lineage.run(home, plan.release)["steps"]}
    assert (home.root / "audits" / plan.release / "request_sids.html").is_file()


def test_a_query_whose_sids_hold_nothing_in_stock_recalls_nothing_and_says_so(changed, capsys):
    from pyspark.sql import functions as F

    from jobs.printing import recalled

    query_id, listed = next(iter((q, rows) for q, rows in lists(changed).items() if q in texts(changed)))
    query = texts(changed)[query_id]
    behind = {beam["sid"] for beam in recall(changed, query, beams=6)["beams"]}
    sold = [
        row["item_id"]
        for row in changed.store.read_arrow("item_sids").to_pylist()
        if without_group(row["sid"], THIRD) in behind
    ]
    catalog = changed.store.read(changed.spark, "catalog").localCheckpoint()
    left = catalog.withColumn("in_stock", F.col("in_stock") & ~F.col("item_id").isin(sold))
    sources.write_catalog(changed, left, job="test")
    told = recall(changed, query, beams=6)
    assert (told["items"], len(told["beams"])) == ([], 6)
    assert sum(beam["items"] for beam in told["beams"]) == len(sold) >= len(listed)
    recalled(told)
    assert "no item behind these SIDs is in stock" in capsys.readouterr().out


def test_sids_of_another_codebook_are_refused_not_recalled(changed, cqsid_night):
    _, plan = cqsid_night
    of = serving(changed)
    queries = encoded(changed, of, ["running shoes"])
    with pytest.raises(DataError, match=r"learned the SIDs of .* only make sense together"):
        load_for(changed, plan.generator_version, "codebook-of-another", queries)
    rows = changed.store.read_arrow("query_sids", {"release": plan.release})
    other = pa.array([15 << 40 | 15 << 20 | 15 + n for n in range(rows.num_rows)], pa.int64())
    spoilt = rows.set_column(rows.column_names.index("sid"), "sid", other)
    changed.store.target("query_sids", {"release": plan.release}).replace(spoilt, job="test", memo=plan.release)
    shutil.rmtree(changed.root / "tables" / "recall_lists")
    with pytest.raises(DataError, match=r"SIDs of query_sids and request_sids are behind no item .* another codebook"):
        generate_recall.run(changed, plan)
    assert not changed.store.exists("recall_lists")


def test_an_item_of_a_category_that_came_after_training_is_attached_and_recalled(changed, cqsid_night):
    _, plan = cqsid_night
    item = min(row["item_id"] for listed in lists(changed).values() for row in listed)
    change_catalogue(changed, category={item: "a category of tomorrow"})
    next_plan = night(changed)
    assert (next_plan.codebook_version, next_plan.fit) == (plan.codebook_version, False)
    (row,) = (r for r in scan(changed, "item_sids", next_plan) if r["item_id"] == item)
    assert row["level1_by"] == "nearest"
    assert without_group(row["sid"], THIRD) & MAX_CODE < THIRD
    # Found by whoever is given the SID it has now, and by nobody else.
    sid = without_group(row["sid"], THIRD)
    given = {r["query_id"] for r in scan(changed, "query_sids", next_plan) if r["sid"] == sid}
    listed = [r for r in scan(changed, "recall_lists", next_plan) if r["item_id"] == item and not r["user"]]
    assert {r["query_id"] for r in listed} == given and {r["sid"] for r in listed} <= {sid}
    held = {r["sid"]: r["items"] for r in scan(changed, "sid_items", next_plan)}
    assert item in held[row["sid"]]


def test_an_item_like_one_that_is_recalled_is_recalled_the_same_night(changed, cqsid_night):
    """Nothing is trained: it takes the SID that its like has."""
    _, plan = cqsid_night
    before = lists(changed)
    like = min(row["item_id"] for listed in before.values() for row in listed)

    def listing(lists, item):
        return {query_id for query_id, listed in lists.items() if item in [row["item_id"] for row in listed]}

    catalog = changed.store.read(changed.spark, "catalog").localCheckpoint()
    twin = catalog.where(F.col("item_id") == like).withColumn("item_id", F.lit("twin"))
    twin = twin.withColumn("item_hash", hashed("item_id"))
    sources.write_catalog(changed, catalog.unionByName(twin), job="test")
    next_plan = night(changed)
    assert next_plan.generator_version == plan.generator_version
    assert listing(lists(changed, next_plan), "twin") == listing(before, like)


def test_queries_are_given_sids_that_came_since(changed, cqsid_night):
    """What a query is given is what its generator says of the SIDs that there are, whichever night it came."""
    _, plan = cqsid_night
    catalog = changed.store.read_arrow("catalog").to_pylist()
    (one, _), (other, _) = Counter(row["category"] for row in catalog).most_common(2)
    moved = [row["item_id"] for row in catalog if row["category"] == one]
    change_catalogue(changed, category=dict.fromkeys(moved, other))
    next_plan = night(changed)
    before, after = (
        set(release_sids(changed.store, p.release, p.codebook_version)[2].tolist()) for p in (plan, next_plan)
    )
    assert after - before, "no SID came"
    assert changed.store.last_commit("query_sids").metadata["counts"]["copied"] == 0
    given = {}
    for row in scan(changed, "query_sids", next_plan):
        given.setdefault(row["query_id"], {})[row["rank"]] = row["sid"]
    of = serving(changed)._replace(release=next_plan.release)
    known = texts(changed)
    asked = encoded(changed, of, [known[query_id] for query_id in given if query_id in known])
    fresh = predict(changed, of, asked, 6).sids
    for query_id, best in zip(asked.ids.tolist(), fresh.tolist(), strict=True):
        assert [given[query_id][rank] for rank in range(1, 7)] == best


def night(home):
    """The jobs of a night that trains nothing, up to its recall lists."""
    plan = make_plan(home)
    jobs = (build_corpus, profile_users, embed_items, assign_item_sids, generate_query_sids, generate_request_sids)
    for job in (*jobs, generate_recall):
        job.run(home, plan)
    return plan


def scan(home, table, plan):
    return home.store.read_arrow(table, {"release": plan.release}).to_pylist()


def test_a_hit_rate_is_what_counting_by_hand_gives(cqsid_night):
    """Of the clicks of the test split's queries: on an item in stock, behind the first SID of its query."""
    home, plan = cqsid_night
    first = {row["query_id"]: row["sid"] for row in scan(home, "query_sids", plan) if row["rank"] == 1}
    own = {row["item_hash"]: without_group(row["sid"], THIRD) for row in scan(home, "item_sids", plan)}
    stock = {row["item_hash"] for row in home.store.read_arrow("catalog").to_pylist() if row["in_stock"]}
    test = {row["query_id"] for row in home.store.read_arrow("queries").to_pylist() if row["split"] == "test"}
    clicks = [row for row in home.store.read_arrow("pairs").to_pylist() if row["query_id"] in test]
    hit = sum(
        row["clicks"] for row in clicks if row["item_hash"] in stock and own[row["item_hash"]] == first[row["query_id"]]
    )
    told = evaluate_recall.run(home, plan)
    (row,) = (r for r in told["rates"] if (r["channel"], r["metric"], r["slice"]) == ("sids", "clk@1", "all"))
    assert hit > 0
    assert row["rate"] == pytest.approx(hit / sum(row["clicks"] for row in clicks))


def test_evaluation_on_the_test_split(cqsid_night, capsys):
    from jobs.printing import recall_metrics

    home, plan = cqsid_night
    told = evaluate_recall.run(home, plan)
    assert told["targets"]["source"] == "test split"
    test = {row["query_id"] for row in home.store.read_arrow("queries").to_pylist() if row["split"] == "test"}
    clicked = {
        row["query_id"]
        for row in home.store.read_arrow("pair_days").to_pylist()
        if row["query_id"] in test and row["clicks"] + row["purchases"] > 0
    }
    assert told["targets"]["queries"] == len(clicked) > 0
    rates = {(row["channel"], row["metric"], row["slice"]): row for row in told["rates"]}
    assert {channel for channel, *_ in rates} == {"sids", "random", "popularity", "bm25", "dense"}
    ours = [rates["sids", f"clk@{beams}", "all"] for beams in (1, 10, 100)]
    assert [row["rate"] for row in ours] == sorted(row["rate"] for row in ours)
    assert ours[0]["items"] < ours[1]["items"] < ours[2]["items"]
    assert all(row["items"] <= 1000 for row in rates.values())
    assert all(row["low"] <= row["rate"] <= row["high"] for row in rates.values() if row["low"] is not None)
    # 300 items: a thousand random ones are all in stock, so they hold all that anything can.
    most = rates["random", "clk@1000items", "all"]["rate"]
    assert all(row["rate"] <= most for key, row in rates.items() if key[1:] == ("clk@1000items", "all"))
    assert rates["sids", "clk@100items", "all"]["items"] <= 100
    keys = {"variant", "against", "metric", "difference", "low", "high", "seeds", "queries"}
    assert told["comparisons"] and all(set(row) == keys for row in told["comparisons"])
    for row in told["others"]:
        assert row["both"] + row["ours"] + row["theirs"] + row["neither"] == pytest.approx(1)
    json.dumps(told, allow_nan=False)
    recall_metrics(told)
    assert "clk@1000items" in capsys.readouterr().out


def test_evaluation_on_the_days_after(changed, cqsid_night):
    from pyspark.sql import functions as F

    _, plan = cqsid_night
    log = changed.store.read(changed.spark, "click_log", {"event_date": LAST_DAY})
    tomorrow = log.withColumns(
        {
            "event_id": F.concat("event_id", F.lit("+1")),
            "event_date": F.date_add("event_date", 1),
            "event_time": F.col("event_time") + F.expr("INTERVAL 1 DAY"),
        }
    ).localCheckpoint()
    sources.add_events(changed, tomorrow, job="test")
    told = evaluate_recall.run(changed, load_plan(changed, plan.release))
    assert told["targets"]["source"] == "days after the as-of date"
    assert told["targets"]["days"] == [str(LAST_DAY + dt.timedelta(days=1))]
    slices = {row["slice"] for row in told["rates"]}
    assert {"all", "band=head", "band=tail"} <= slices
    clicks = sum(r["clicks"] for r in changed.store.read_arrow("pair_days").to_pylist() if r["event_date"] > LAST_DAY)
    assert told["targets"]["clicks"] == clicks > 0
