"""Prefix matching, by hand and against a search through every beam."""

import contextlib
import io
import math
import re

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

import schemas.sids
from pipelines.prefix_match import match_prefixes, soft_ss, to_match, without_group
from schemas.sids import MAX_CODE, pack
from schemas.tables import TABLES
from schemas.text import text_hash

# A call of Spark takes seconds, and shrinking makes hundreds.
UNSHRUNK = [Phase.explicit, Phase.generate]

SS = (0.0, 0.25, 0.5, 1.0)
BEAMS = "query_id BIGINT, rank INT, sid BIGINT, logps ARRAY<FLOAT>"
CODES = st.tuples(*[st.sampled_from([0, 1, MAX_CODE])] * 3)


def frames(spark, pairs, beams, items):
    """(query, item), query -> [(codes, logps)] by rank, item -> codes."""
    rows = [(q, rank, pack(codes), logps) for q, found in beams.items() for rank, (codes, logps) in enumerate(found, 1)]
    return (
        spark.createDataFrame([(q, i, f"{q}-{i}") for q, i in pairs], "query_id BIGINT, item_hash BIGINT, note STRING"),
        spark.createDataFrame(rows[::-1], BEAMS),
        spark.createDataFrame([(i, pack(codes)) for i, codes in items.items()], "item_hash BIGINT, sid BIGINT"),
    )


def common(a, b):
    return next((depth for depth in range(3) if a[depth] != b[depth]), 3)


def searched(query, item, beams, items):
    """The features of one pair, beam by beam."""
    found = beams.get(query, [])
    depths = [common(codes, items[item]) for codes, _ in found] if item in items else [0] * len(found)
    depth = max(depths, default=0)

    def reaching(wanted):
        return next((n for n, reached in enumerate(depths) if reached >= wanted), None)

    masses = [
        0.0 if (beam := reaching(d)) is None else math.exp(sum(map(float, np.float32(found[beam][1][:d]))))
        for d in (1, 2, 3)
    ]
    rank = reaching(depth) + 1 if depth else None
    return depth, SS[depth], rank, *masses, bool(found), item in items


COLUMNS = ["depth", "ss", "beam_rank", "mass_1", "mass_2", "mass_3", "has_query_sid", "has_item_sid"]


@st.composite
def worlds(draw):
    """Beams of up to five distinct SIDs a query whose prefixes have one probability each, and items."""
    logp = st.floats(-9, 0, width=32)
    beams = {}
    for query in range(1, 15):
        chance = {}
        sids = draw(st.lists(CODES, max_size=5, unique=True))
        beams[query] = [(c, [chance.setdefault(c[:d], draw(logp)) for d in (1, 2, 3)]) for c in sids]
    return {q: found for q, found in beams.items() if found}, {item: draw(CODES) for item in range(10, 25)}


@pytest.mark.slow
@settings(max_examples=3, phases=UNSHRUNK)
@given(worlds())
def test_features_equal_a_search_through_every_beam(spark, world):
    beams, items = world
    pairs = [(query, item) for query in range(1, 16) for item in range(10, 27)]
    matched = match_prefixes(*frames(spark, pairs, beams, items), ss=SS, beams=5).collect()
    assert sorted(row["note"] for row in matched) == sorted(f"{q}-{i}" for q, i in pairs), "each pair once"
    for row in matched:
        expected = searched(row["query_id"], row["item_hash"], beams, items)
        found = tuple(row[name] for name in COLUMNS)
        assert found[:3] + found[6:] == expected[:3] + expected[6:], row
        assert found[3:6] == pytest.approx(expected[3:6], rel=1e-12), row


def test_by_hand(spark):
    beams = {
        1: [
            ((5, 1, 1), [math.log(0.5), math.log(0.5), -1.0]),
            ((7, 2, 2), [math.log(0.25), -2.0, -3.0]),
            ((5, 6, 3), [math.log(0.5), math.log(0.25), math.log(0.5)]),
        ]
    }
    items = {10: (5, 6, 9), 11: (8, 1, 1), 12: (5, 6, 3)}
    matched = match_prefixes(
        *frames(spark, [(1, 10), (1, 11), (1, 12), (1, 13), (2, 10)], beams, items), ss=SS, beams=5
    )
    found = {row["note"]: tuple(row[name] for name in COLUMNS) for row in matched.collect()}
    # The third beam matches deepest; the prefix of length 1 has one probability whichever beam shows it.
    assert found["1-10"] == pytest.approx((2, 0.5, 3, 0.5, 0.125, 0.0, True, True), rel=1e-6)
    assert found["1-12"] == pytest.approx((3, 1.0, 3, 0.5, 0.125, 0.0625, True, True), rel=1e-6)
    assert found["1-11"] == (0, 0.0, None, 0.0, 0.0, 0.0, True, True), "no match"
    assert found["1-13"] == (0, 0.0, None, 0.0, 0.0, 0.0, True, False), "the item has no SID"
    assert found["2-10"] == (0, 0.0, None, 0.0, 0.0, 0.0, False, True), "the query has no SID"


@pytest.mark.slow
def test_the_map_of_depths_may_start_above_zero(spark):
    beams, items = {1: [((1, 1, 1), [-1.0, -1.0, -1.0])]}, {10: (1, 2, 3)}
    matched = match_prefixes(
        *frames(spark, [(1, 10), (1, 11)], beams, items), ss=(0.1, 0.2, 0.3, 0.4), beams=1
    ).collect()
    assert {row["note"]: row["ss"] for row in matched} == {"1-10": 0.2, "1-11": 0.1}


def test_soft_ss_is_the_expectation_of_the_map_and_null_without_scores(spark):
    # P(1) = 1/2, P(1, 2) = 1/4, P(all) = 1/16: the depth is 0, 1, 2, 3 with chance 1/2, 1/4, 3/16, 1/16.
    logps = [math.log(1 / 2), math.log(1 / 2), math.log(1 / 4)]
    rows = spark.createDataFrame([(1, logps), (2, None), (3, [0.0, 0.0, 0.0])], "n INT, own_logps ARRAY<FLOAT>")
    ss = (0.1, 0.25, 0.5, 1.0)
    found = {row["n"]: row["s"] for row in rows.select("n", soft_ss(F.col("own_logps"), ss).alias("s")).collect()}
    assert found[1] == pytest.approx(0.1 / 2 + 0.25 / 4 + 0.5 * 3 / 16 + 1 / 16, rel=1e-6)
    assert found[2] is None
    assert found[3] == pytest.approx(1.0)


@pytest.fixture(scope="module")
def to_score(spark):
    """Pairs of the corpus and judged ones; `gone` has left the catalogue."""
    hashes = {name: text_hash(name) for name in ("a", "b", "c", "gone")}
    pairs = spark.createDataFrame(
        [(1, hashes["a"]), (1, hashes["b"]), (2, hashes["gone"])], "query_id BIGINT, item_hash BIGINT"
    )
    judged = spark.createDataFrame([(1, "b"), (1, "b"), (3, "c"), (3, "gone")], "query_id BIGINT, item_id STRING")
    catalog = spark.createDataFrame([(hashes[n], n) for n in "abc"], "item_hash BIGINT, item_id STRING")
    scores = spark.createDataFrame(
        [(1, "b", [-1.0, -2.0, -3.0]), (9, "a", [0.0, 0.0, 0.0])],
        "query_id BIGINT, item_id STRING, own_logps ARRAY<FLOAT>",
    )
    return to_match(pairs, judged, catalog, scores)


def test_each_pair_of_the_corpus_or_of_the_judgments_comes_once(to_score):
    found = sorted(
        tuple(row[n] for n in ("query_id", "item_id", "labelled", "own_logps")) for row in to_score.collect()
    )
    assert found == [
        (1, "a", False, None),
        (1, "b", True, [-1.0, -2.0, -3.0]),
        (3, "c", True, None),
        (3, "gone", True, None),
    ]
    assert all(row["item_hash"] == text_hash(row["item_id"]) for row in to_score.collect())


def test_native_arithmetic_alone_and_the_types_of_the_contract(spark, to_score):
    _, beams, items = frames(spark, [(1, 1)], {1: [((1, 1, 1), [-1.0, -1.0, -1.0])]}, {10: (1, 2, 3)})
    features = match_prefixes(to_score, beams, items, ss=SS, beams=5).withColumn(
        "soft_ss", soft_ss(F.col("own_logps"), SS)
    )
    with contextlib.redirect_stdout(io.StringIO()) as plan:
        features.explain(extended=True)
    assert "Join" in plan.getvalue()
    # No Python worker, and no explosion of pairs by beams.
    assert not [word for word in ("Python", "ArrowEval", "MapIn", "Explode", "Generate") if word in plan.getvalue()]
    contract = dict(spark.createDataFrame([], TABLES["prefix_match_features"].ddl).dtypes)
    made = dict(features.dtypes)
    assert {name: kind for name, kind in made.items() if name in contract} == {
        n: contract[n] for n in made if n in contract
    }
    assert set(contract) - set(made) == {"release", "event_time", "created_time"}


def test_pairs_are_shuffled_once_by_item_and_once_by_query(spark, tmp_path):
    """With a catalogue, SIDs and beams too large to broadcast, and few judgments."""

    def stored(name, rows, schema):  # only of files does Spark know that they are small
        spark.createDataFrame(rows, schema).write.parquet(f"{tmp_path}/{name}")
        return spark.read.parquet(f"{tmp_path}/{name}")

    pairs, beams, items = frames(spark, [(1, 10)], {1: [((1, 1, 1), [-1.0, -1.0, -1.0])]}, {10: (1, 2, 3)})
    judged = stored("judged", [(1, "b")], "query_id BIGINT, item_id STRING")
    scores = stored("scores", [], "query_id BIGINT, item_id STRING, own_logps ARRAY<FLOAT>")
    catalog = spark.createDataFrame([(10, "a")], "item_hash BIGINT, item_id STRING")
    to_score = to_match(pairs, judged, catalog.hint("merge"), scores)
    features = match_prefixes(to_score, beams.hint("merge"), items.hint("merge"), ss=SS, beams=5)
    with contextlib.redirect_stdout(io.StringIO()) as plan:
        features.explain()
    keys = re.findall(r"Exchange hashpartitioning\(([a-z_]+)#\d+L?, \d+\)", plan.getvalue())
    # Pairs, catalogue and SIDs by item; pairs and beams by query.
    assert sorted(keys) == ["item_hash"] * 3 + ["query_id"] * 2, plan.getvalue()


def test_a_group_of_a_split_cluster_is_taken_off_as_in_python(spark):
    sids = [pack((5, 6, 7)), pack((5, 6, 7 + 99 * 1024)), pack((0, 0, 1023)), pack((1023, 0, 1024))]
    rows = spark.createDataFrame([(sid,) for sid in sids], "sid BIGINT")
    found = [row[0] for row in rows.select(without_group(F.col("sid"), 1024)).collect()]
    assert found == [schemas.sids.without_group(sid, 1024) for sid in sids]
    assert found[1] == sids[0]
