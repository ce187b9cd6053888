"""What recall is evaluated on. Everything here is delta-rs: the days are aggregated already, so no Spark starts."""

import datetime as dt

import pyarrow as pa
import pytest

from jobs import releases
from jobs.aggregate_day import memos_of
from jobs.errors import DataError
from jobs.home import Home
from jobs.partitions import label
from jobs.plan import Plan
from jobs.recall_targets import trained, wanted
from schemas.tables import TABLES

DAYS = [dt.date(2026, 1, day) for day in (30, 31)]
LATER = [dt.date(2026, 2, day) for day in (1, 2)]
QUERIES = {1: ("shoes", "head", "train"), 2: ("hats", "tail", "test"), 3: ("lamps", "torso", "test")}


def plan(release="2026-01-31-00000001"):
    versions = {"encoder_version": "e", "codebook_version": "c", "generator_version": "g"}
    nothing = {"inputs": {}, "parent": None, "seen": 0, "parent_codebook": None, "parent_generator": None}
    days = tuple(map(str, DAYS))
    how = {"fit": True, "corpus_memo": "m", "config_hash": "h"}
    return Plan(release=release, as_of_date="2026-01-31", days=days, **versions, **nothing, **how)


def put(home, name, rows, part, **how):
    table = pa.Table.from_pylist(rows, TABLES[name].arrow_schema())
    home.store.target(name, part).replace(table, job="test", **how)


def day_of(home, day, pairs):
    """A day of the log, aggregated: (query_id, item_hash, impressions, clicks, purchases) and the texts."""
    part = {"event_date": day}
    event = {
        "event_id": str(day),
        "item_id": "i",
        "action": "click",
        "event_time": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    }
    put(home, "click_log", [{"event_date": day, **event}], part, fingerprints={label(part): f"log of {day}"})
    memo = memos_of(home, [str(day)], {label(part): f"log of {day}"})
    names = ("query_id", "item_hash", "impressions", "clicks", "purchases")
    rest = {"event_date": day, "carts": 0, "expected_clicks": 0, "orphan_actions": 0}
    put(home, "pair_days", [{**rest, **dict(zip(names, row, strict=True))} for row in pairs], part, memo=memo)
    asked = sorted({row[0] for row in pairs})
    texts = [
        {"event_date": day, "query_id": q, "query": QUERIES.get(q, (f"query {q}",))[0], "searches": 1} for q in asked
    ]
    put(home, "query_days", texts, part, memo=memo)


@pytest.fixture
def home(tmp_path):
    opened = Home(tmp_path)
    queries = [
        {"as_of_date": DAYS[-1], "query_id": q, "query": text, "traffic": 1, "band": band, "split": split}
        for q, (text, band, split) in QUERIES.items()
    ]
    put(opened, "queries", queries, {"as_of_date": DAYS[-1]}, memo="m")
    day_of(opened, DAYS[0], [(1, 10, 5, 1, 0), (2, 10, 4, 2, 1), (3, 11, 9, 0, 0)])
    day_of(opened, DAYS[1], [(2, 10, 1, 1, 0), (2, 12, 3, 0, 0)])
    return opened


def pairs(found):
    columns = ("request", "item_hash", "impressions", "clicks", "purchases")
    return list(zip(*(found.pairs[name].to_pylist() for name in columns), strict=True))


def test_without_later_days_the_test_split_of_the_window(home):
    found = wanted(home, plan())
    # Nobody clicked for the other query of the split.
    assert (found.source, found.queries, found.bands.tolist(), found.of) == ("test split", ["hats"], ["tail"], 1)
    assert pairs(found) == [(0, 10, 5, 3, 1), (0, 12, 3, 0, 0)]


def test_the_days_after_where_there_are_any_queries_that_were_unseen_among_them(home):
    day_of(home, LATER[0], [(1, 10, 2, 1, 0), (9, 12, 1, 0, 1), (2, 10, 3, 0, 0)])
    day_of(home, LATER[1], [(1, 10, 1, 1, 0), (1, 99, 1, 0, 0)])
    found = wanted(home, plan())
    assert (found.source, found.days) == ("days after the as-of date", ["2026-02-01", "2026-02-02"])
    assert found.query_ids.tolist() == [1, 9]
    assert (found.queries, found.bands.tolist()) == (["shoes", "query 9"], ["head", "unseen"])
    assert pairs(found) == [(0, 10, 3, 2, 0), (0, 99, 1, 0, 0), (1, 12, 1, 0, 1)]


def test_a_log_that_tells_of_nothing_is_an_error(home):
    day_of(home, LATER[0], [(1, 10, 2, 0, 0)])
    with pytest.raises(DataError, match=r"No query of the days after .* nothing to evaluate recall on"):
        wanted(home, plan())


def test_items_are_new_that_came_after_the_first_release_of_the_generator(home):
    names = ["2026-01-30-00000000", plan().release]
    assert trained(home, plan()) == (plan().release, DAYS[-1], None), "nothing was published"
    for seen, release in enumerate(names):
        day = DAYS[seen]
        facts = {"inputs": {}, "metrics": {}, "code_revision": "r", "config_hash": "h", "as_of_date": day}
        times = dict.fromkeys(("event_time", "created_time"), releases.day_end(day))
        versions = {"encoder_version": "e", "codebook_version": "c", "generator_version": "g"}
        releases.publish(home.store, {"release": release, **facts, **versions, **times}, seen=seen)
        rows = [
            {"release": release, "item_id": str(n), "item_hash": n, "codes": [0, 0, 0], "sid": 0, "residual_norm": 0.0}
            | {"level1_by": "nearest", "codebook_version": "c", **times}
            for n in range(12 - seen, 9, -1)
        ]
        put(home, "item_sids", rows, {"release": release}, memo=release)
    found = trained(home, plan())
    assert (found.release, found.date, found.items.tolist()) == (names[0], DAYS[0], [10, 11, 12])
    assert trained(home, plan(names[0])).items is None, "it is the first"
    put(home, "item_sids", [], {"release": names[0]}, memo=names[0])
    assert trained(home, plan()) == (names[0], DAYS[0], None), "it was removed"
