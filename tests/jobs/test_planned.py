"""A release is computed from what it was planned on, whatever is imported or computed meanwhile."""

import datetime as dt

import pyarrow as pa
import pytest

from jobs import aggregate_day, assign_item_sids, build_corpus, embed_items, planned
from jobs.errors import DataError
from jobs.plan import load_plan, make_plan
from jobs.storage import Store
from tests.marketplace import LAST_DAY, change_catalogue, copy_home, late_click, rows

SPARK = pytest.param("spark", marks=pytest.mark.slow)
ONE, TWO = ({"event_date": dt.date(2026, 1, day)} for day in (1, 2))
FIRST, SECOND = "event_date=2026-01-01", "event_date=2026-01-02"


@pytest.fixture
def store(tmp_path):
    """Two days, computed from `a` and `b`; then the second again, from `c`."""
    made = Store(str(tmp_path / "tables"))
    for number, parts, memo in ((1, (ONE, TWO), {FIRST: "a", SECOND: "b"}), (2, (TWO,), {SECOND: "c"})):
        days = [part["event_date"] for part in parts]
        table = pa.table({"event_date": days, "query_id": [number] * len(days), "query": ["shoes"] * len(days)})
        table = table.append_column("searches", pa.array([1] * len(days)))
        made.target("query_days", *parts).replace(table, job="test", memo=memo)
    return made


@pytest.fixture(params=["arrow", SPARK])
def read(request, store):
    """Query ids of `query_days`, by each engine."""
    if request.param == "arrow":
        return lambda *parts, **how: sorted(store.read_arrow("query_days", *parts, **how)["query_id"].to_pylist())
    spark = request.getfixturevalue("spark")
    return lambda *parts, **how: sorted(r["query_id"] for r in store.read(spark, "query_days", *parts, **how).collect())


def test_a_version_is_read_as_it_was(read, store):
    newest = store.version("query_days")
    assert (read(), read(version=newest), read(version=newest - 1)) == ([1, 2], [1, 2], [1, 1])
    assert store.reads["query_days"] == newest - 1
    assert store.version("pairs") is None
    assert store.partitions("query_days", newest - 1) == store.partitions("query_days")


def test_partitions_are_read_only_if_computed_from_what_is_named(read, store):
    assert read(TWO, memo="c") == [2]
    assert read(ONE, TWO, memo={FIRST: "a", SECOND: "c"}) == [1, 2]
    assert read(ONE, TWO, memo={FIRST: "a", SECOND: "b"}, version=store.version("query_days") - 1) == [1, 1]
    for parts, memo in (((ONE, TWO), "a"), ((TWO,), "b"), (({"event_date": dt.date(2026, 1, 3)},), "a")):
        with pytest.raises(DataError, match=r"query_days event_date=2026-01-0[23] is not what .* planned on"):
            read(*parts, memo=memo)
    with pytest.raises(DataError, match=r"queries as_of_date=2026-01-01 is not what"):
        store.read_arrow("queries", {"as_of_date": dt.date(2026, 1, 1)}, memo="a")


@pytest.mark.slow
def test_what_is_imported_during_the_night_is_for_the_next_one(market, tmp_path, spark):
    homes = [copy_home(market, tmp_path / name, spark) for name in ("left alone", "changed")]
    for home in homes:
        late_click(home)
    plans = [make_plan(home) for home in homes]
    assert plans[0] == plans[1]
    items = sorted(homes[1].store.read_arrow("catalog")["item_id"].to_pylist())
    late_click(homes[1], event="too late", query="too late for tonight")
    change_catalogue(homes[1], text={items[0]: "a lamp of green glass"}, deleted=items[1:3])
    for home, plan in zip(homes, plans, strict=True):
        days = [dt.date.fromisoformat(day) for day in plan.days]
        aggregate_day.run(home, days, plan.versions["click_log"])
        for job in (build_corpus, embed_items, assign_item_sids):
            job.run(home, plan)
    for name in ("pair_days", "query_days", "pairs", "queries", "item_embeddings", "item_sids", "sid_items"):
        assert rows(homes[1], name) == rows(homes[0], name), name
    # The next night takes it up.
    late = make_plan(homes[1])
    assert late.release != plans[1].release
    assert list(aggregate_day.changed_days(homes[1], days, late.versions["click_log"])) == [days[0]]


@pytest.mark.slow
def test_a_corpus_that_another_run_computed_is_not_taken_for_ones_own(market, first, tmp_path, spark):
    home = copy_home(market, tmp_path / "home", spark)
    plan = load_plan(home, first)
    assert planned.read_arrow(home, plan, "pairs", ["clicks"]).num_rows == home.store.count("pairs")
    late_click(home)
    other = make_plan(home)
    with pytest.raises(DataError, match=f"query_days event_date={LAST_DAY - dt.timedelta(days=1)} is not what"):
        build_corpus.run(home, other)  # before its turn
    aggregate_day.run(home, [dt.date.fromisoformat(day) for day in other.days])
    build_corpus.run(home, other)
    for table in ("pairs", "queries"):
        with pytest.raises(DataError, match=f"{table} as_of_date={LAST_DAY} is not what"):
            planned.read_arrow(home, plan, table)
    with pytest.raises(DataError, match=r"item_sids release=.* is not what"):
        planned.read_arrow(home, other, "item_sids")  # not assigned yet
