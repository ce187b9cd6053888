"""Recall in Spark, by hand and against a search through every beam and item."""

import contextlib
import io

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pipelines.recall import PRIOR, SCALE, clusters, count_recalled, items_behind_sids, recall
from schemas.sids import pack
from schemas.tables import TABLES
from schemas.text import text_hash

# A call of Spark takes seconds, and shrinking makes hundreds.
UNSHRUNK = [Phase.explicit, Phase.generate]
THIRD = 16
BEAMS = "query_id BIGINT, user STRING, rank INT, sid BIGINT, probability DOUBLE"
COLUMNS = ["query_id", "user", "rank", "item_id", "sid", "beam_rank", "score"]


def sid(code, group=0):
    return pack((1, 1, code + group * THIRD))


def sid_items(spark, held):
    """SID -> item -> efficiency, in the order of the table."""
    rows = [
        (key, [i for i, _ in ordered], [rate for _, rate in ordered], len(ordered))
        for key, members in held.items()
        if (ordered := sorted(members.items(), key=lambda pair: (-pair[1], text_hash(pair[0]))))
    ]
    return spark.createDataFrame(rows, "sid BIGINT, items ARRAY<STRING>, efficiency ARRAY<BIGINT>, size INT")


def catalog(spark, items, out=()):
    rows = [(text_hash(item), item not in out) for item in items]
    return spark.createDataFrame(rows, "item_hash BIGINT, in_stock BOOLEAN")


def lists(frame):
    return sorted(tuple(row[name] for name in COLUMNS) for row in frame.collect())


@pytest.fixture(scope="module")
def by_hand(spark):
    """Split cluster 5 (groups 0 and 1), cluster 6 out of stock, cluster 7; `gone` has left the catalogue."""
    held = {
        sid(5): {"a": 10, "b": 30, "gone": 99},
        sid(5, 1): {"c": 20, "d": 30},
        sid(6): {"e": 50},
        sid(7): {"f": 1},
    }
    beams = [
        (1, "", 1, sid(6), 0.5),
        (1, "", 2, sid(5), 0.25),
        (1, "", 3, sid(7), 0.125),
        (2, "ann", 1, sid(7), 0.9),
        (2, "", 1, sid(5), 0.8),
        (3, "", 1, sid(6), 1.0),
    ]
    return (
        spark.createDataFrame(beams[::-1], BEAMS),
        sid_items(spark, held),
        catalog(spark, "abcdef", out={"e"}),
    )


def test_beams_decide_first_then_efficiency_across_the_groups_of_a_cluster(by_hand):
    beams, held, stock = by_hand
    made = clusters(held, stock, third=THIRD, most=1000)
    b, d = sorted("bd", key=text_hash)
    own = [(b, 30), (d, 30), ("c", 20), ("a", 10)]
    assert lists(recall(beams, made, most=1000)) == [
        *[(1, "", rank, item, sid(5), 2, 0.25) for rank, (item, _) in enumerate(own, 1)],
        (1, "", 5, "f", sid(7), 3, 0.125),
        *[(2, "", rank, item, sid(5), 1, 0.8) for rank, (item, _) in enumerate(own, 1)],
        (2, "ann", 1, "f", sid(7), 1, 0.9),
    ]
    # Query 3 has a SID of nothing in stock: no list, and counted.
    counted = count_recalled(beams, made, most=1000).first()
    assert counted.asDict() == {"requests": 4, "empty": 1, "recalled": 10, "unknown": 0}


def test_a_list_is_cut_within_a_beam(by_hand):
    beams, held, stock = by_hand
    made = clusters(held, stock, third=THIRD, most=2)
    found = lists(recall(beams, made, most=2))
    assert [row[:3] for row in found] == [(1, "", 1), (1, "", 2), (2, "", 1), (2, "", 2), (2, "ann", 1)]
    assert count_recalled(beams, made, most=2).first()["recalled"] == len(found)


def test_a_sid_that_no_item_has_recalls_nothing_and_is_counted(spark, by_hand):
    _, held, stock = by_hand
    beams = spark.createDataFrame([(1, "", 1, pack((9, 9, 9)), 0.5), (1, "", 2, sid(7), 0.25)], BEAMS)
    made = clusters(held, stock, third=THIRD, most=1000)
    assert lists(recall(beams, made, most=1000)) == [(1, "", 1, "f", sid(7), 2, 0.25)]
    assert count_recalled(beams, made, most=1000).first().asDict() == {
        "requests": 1,
        "empty": 0,
        "recalled": 1,
        "unknown": 1,
    }


def test_only_beams_are_sorted_by_request_no_python_and_the_types_of_the_contract(spark, by_hand):
    beams, held, stock = by_hand
    found = recall(beams, clusters(held, stock, third=THIRD, most=9), most=9)
    with contextlib.redirect_stdout(io.StringIO()) as plan:
        found.explain()
    text = plan.getvalue()
    assert not [word for word in ("Python", "ArrowEval", "MapIn") if word in text]
    # The plan is printed from its last step: nothing is exchanged between the explosion and the end.
    assert "Generate" in text
    assert "hashpartitioning(query_id" not in text[: text.index("Generate")]
    contract = dict(spark.createDataFrame([], TABLES["recall_lists"].ddl).dtypes)
    made = dict(found.dtypes)
    assert made == {name: contract[name] for name in made}
    assert set(contract) - set(made) == {"release", "event_time", "created_time"}


@st.composite
def worlds(draw):
    items = {f"i{n}": (draw(st.integers(0, 4)), draw(st.integers(0, 2)), draw(st.integers(0, 2))) for n in range(25)}
    beams = {
        (query, user): draw(st.lists(st.integers(0, 6), max_size=5, unique=True))
        for query in range(4)
        for user in ("", "ann")
    }
    return items, beams, set(draw(st.lists(st.sampled_from(sorted(items)), max_size=8)))


@pytest.mark.slow
@settings(max_examples=3, phases=UNSHRUNK)
@given(worlds(), st.integers(1, 12))
def test_lists_equal_a_search_through_every_item(spark, world, most):
    items, beams, out = world
    held = {}
    for item, (code, group, rate) in items.items():
        held.setdefault(sid(code, group), {})[item] = rate
    rows = [
        (*request, rank, sid(code), 1.0 / rank)
        for request, codes in beams.items()
        for rank, code in enumerate(codes, 1)
    ]
    expected = []
    for (query, user), codes in beams.items():
        ordered = [
            (item, code, rank)
            for rank, code in enumerate(codes, 1)
            for item in sorted(items, key=lambda i: (-items[i][2], text_hash(i)))
            if items[item][0] == code and item not in out
        ]
        assert len({item for item, *_ in ordered}) == len(ordered), "no item twice"
        expected += [
            (query, user, at, item, sid(code), rank, 1.0 / rank)
            for at, (item, code, rank) in enumerate(ordered[:most], 1)
        ]
    made = clusters(sid_items(spark, held), catalog(spark, items, out).repartition(3), third=THIRD, most=most)
    assert lists(recall(spark.createDataFrame(rows, BEAMS).repartition(3), made, most=most)) == sorted(expected)


def test_items_of_a_sid_come_by_smoothed_click_rate_then_by_hash(spark):
    sids = spark.createDataFrame(
        [("b", 2, 50), ("a", 1, 50), ("c", 3, 50), ("d", 4, 60), ("e", 5, 50)],
        "item_id STRING, item_hash BIGINT, sid BIGINT",
    )
    # c: often shown and clicked; e: shown once, clicked once; b: clicked on a day after it was shown; 77 is no item.
    days = spark.createDataFrame(
        [(3, 40, 1000), (3, 60, 1000), (5, 1, 1), (2, 2, 0), (77, 97, 999)],
        "item_hash BIGINT, clicks BIGINT, impressions BIGINT",
    )
    mean = 200 * SCALE // 3002
    rates = {3: (100, 2000), 5: (1, 1), 2: (2, 2)}
    rates = {item: (clicks * SCALE + PRIOR * mean) // (shown + PRIOR) for item, (clicks, shown) in rates.items()}
    found = {row["sid"]: row for row in items_behind_sids(sids, days.repartition(4)).collect()}
    assert found[50]["items"] == ["b", "e", "a", "c"]
    assert found[50]["efficiency"] == [rates[2], rates[5], mean, rates[3]]
    assert (found[60]["items"], found[60]["efficiency"], found[60]["size"]) == (["d"], [mean], 1)
    unclicked = items_behind_sids(sids.repartition(7), days.limit(0)).collect()
    assert {row["sid"]: row["items"] for row in unclicked} == {50: ["a", "b", "c", "e"], 60: ["d"]}
    assert {rate for row in unclicked for rate in row["efficiency"]} == {0}
    contract = dict(spark.createDataFrame([], TABLES["sid_items"].ddl).dtypes)
    assert dict(items_behind_sids(sids, days).dtypes) == {
        n: contract[n] for n in ("sid", "items", "efficiency", "size")
    }
