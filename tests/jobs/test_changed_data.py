"""The night after clicks came late, an item changed, another went, and a person was forgotten."""

import datetime as dt

import pyarrow as pa
import pytest

from jobs import forget, nightly, releases, views
from jobs.plan import load_plan
from jobs.readers import scan_release
from schemas.tables import TABLES
from schemas.text import text_hash
from tests.marketplace import LAST_DAY, change_catalogue, copy_home, late_click, rows

pytestmark = pytest.mark.slow
DAY = LAST_DAY - dt.timedelta(days=1)
QUERY = "nobody typed this before"


def sids(home, release):
    return {row["item_id"]: row for row in scan_release(home.root, "item_sids", release).to_pylist()}


@pytest.fixture(scope="module")
def items(market):
    """An item that gets another text, one that gets another category, and one that goes."""
    by_category = {}
    for row in market.store.read_arrow("catalog").sort_by("item_id").to_pylist():
        by_category.setdefault(row["category"], row)
    return [by_category[name] for name in sorted(by_category)][:3]


@pytest.fixture(scope="module")
def changed(market, items, tmp_path_factory, spark):
    """The home after the next night."""
    home = copy_home(market, tmp_path_factory.mktemp("changed") / "home", spark)
    late_click(home, DAY, query=QUERY)
    text, category, gone = items
    change_catalogue(
        home,
        text={text["item_id"]: gone["text"] + " in glass", category["item_id"]: gone["text"] + " in brass"},
        category={category["item_id"]: gone["category"]},
        deleted=[gone["item_id"]],
    )
    nightly.run(home)
    return home


def test_a_late_click_changes_the_counts_of_its_day_alone(changed, market):
    for name in ("pair_days", "query_days"):
        assert rows(changed, name, {"event_date": LAST_DAY}) == rows(market, name, {"event_date": LAST_DAY})
        before, after = (set(rows(home, name, {"event_date": DAY})) for home in (market, changed))
        assert before < after
        assert len(after - before) == 1, "one pair, one query: nobody else's counts moved"
    (late,) = [row for row in changed.store.read_arrow("pair_days").to_pylist() if row["query_id"] == text_hash(QUERY)]
    assert (late["event_date"], late["clicks"], late["impressions"], late["orphan_actions"]) == (DAY, 1, 0, 1)
    corpus = changed.store.read_arrow("queries", {"as_of_date": LAST_DAY}).to_pylist()
    assert [row["traffic"] for row in corpus if row["query"] == QUERY] == [1]


def test_a_changed_item_gets_a_new_vector_and_sid_and_only_it(changed, market, first, items):
    release = views.current_release(changed)
    old, new = sids(changed, first), sids(changed, release)
    one, other = (item["item_id"] for item in items[:2])
    # The times of a row are those of its release.
    same = ("item_hash", "codes", "sid", "residual_norm", "level1_by", "codebook_version")
    moved = {item for item in new if any(new[item][name] != old[item][name] for name in same)}
    assert moved == {one, other}
    assert new[other]["codes"][0] != old[other]["codes"][0], "the first code says the category"
    added = changed.store.count("item_embeddings") - market.store.count("item_embeddings")
    assert added == changed.store.last_commit("item_embeddings").metadata["counts"]["encoded"] == 2
    assert not load_plan(changed, release).fit


def test_a_deleted_item_leaves_what_serves_and_stays_in_the_release_before(changed, market, first, items):
    gone = items[2]["item_id"]
    for release, there in ((first, True), (views.current_release(changed), False)):
        assert (gone in sids(changed, release)) == there
        listed = scan_release(changed.root, "sid_items", release)["items"].to_pylist()
        assert (gone in {item for held in listed for item in held}) == there
    for name in views.RELEASE_TABLES:
        assert rows(changed, name, {"release": first}) == rows(market, name, {"release": first})
    features = scan_release(changed.root, "prefix_match_features").to_pylist()
    # A judged pair of a deleted item is still asked for; it has no SID any more.
    assert not any(row["has_item_sid"] for row in features if row["item_id"] == gone)


@pytest.fixture(scope="module")
def forgotten(market, first, tmp_path_factory, spark):
    """A home with lists for a person in a pinned and in a later release; then forgotten, and the next night."""
    home = copy_home(market, tmp_path_factory.mktemp("forgotten") / "home", spark)
    releases.pin(home.store, first)
    late_click(home, DAY, query=QUERY)
    second = nightly.run(home).release
    log = home.store.read_arrow("click_log").to_pylist()
    person = min(row["user"] for row in log if row["user"] and row["event_date"] == DAY)
    for release in (first, second):
        lists = [recalled(release, user, rank) for user in (person, "somebody else") for rank in (1, 2)]
        for name in ("request_sids", "recall_lists"):
            schema = TABLES[name].arrow_schema()
            home.store.target(name, {"release": release}).replace(pa.Table.from_pylist(lists, schema), job="test")
    told = forget.run(home, known_as=person)
    return home, person, log, told, second, nightly.run(home).release


def recalled(release, user, rank):
    day = releases.day_end(LAST_DAY)
    found = {"item_id": "i", "sid": 1, "beam_rank": 1, "score": 1.0, "event_time": day, "created_time": day}
    found |= {"codes": [0, 0, 1], "logps": [0.0] * 3, "complete": True, "generator_version": "g"}
    return {"release": release, "query_id": 1, "user": user, "rank": rank, **found}


def test_a_forgotten_person_is_gone_from_pinned_and_retained_releases(forgotten, first):
    home, person, _, told, second, _ = forgotten
    for name in ("request_sids", "recall_lists"):
        assert told["rows"][name] == 4
        for release in (first, second):
            assert set(scan_release(home.root, name, release)["user"].to_pylist()) == {"somebody else"}
        for path in (home.root / "tables" / name).rglob("*"):
            assert not path.is_file() or person.encode() not in path.read_bytes(), path


def test_the_next_night_counts_without_the_forgotten_person(forgotten):
    home, person, log, _, second, third = forgotten
    days = sorted({row["event_date"] for row in log if row["user"] == person})
    assert third != second
    changed = views.release_diff(home, second, third)["inputs_changed"]
    assert changed == [f"click_log/event_date={day}" for day in days]
    counts = home.store.last_commit("pair_days", {"event_date": days[-1]}).metadata["counts"]
    left = [row for row in log if row["user"] != person and row["event_date"] in days]
    assert counts["read"] == counts["accepted"] + counts["quarantined"] == len(left)
