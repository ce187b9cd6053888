"""Coverage, evenness and churn of a release, worked out by hand."""

import math
import random

import pytest

from pipelines.coverage import measure_coverage
from schemas.sids import pack
from schemas.tables import TABLES

pytestmark = pytest.mark.slow

SIDS = {"a": (0, 0, 0), "b": (0, 0, 1), "c": (0, 1, 0), "d": (1, 0, 0)}
PRIOR = {"a": (0, 0, 0), "b": (0, 0, 2), "c": (1, 1, 0), "z": (1, 1, 1)}
CATALOG = [("a", "shoes"), ("b", "shoes"), ("c", "hats"), ("d", "hats"), ("e", None)]
QUERIES = [(1, 70, "head"), (2, 20, "torso"), (3, 10, "tail")]
PREDICTED = [(1, 1), (1, 2), (1, 3), (3, 1)]
SIZES = (2, 4, 4)


def measured(
    spark, *, sids=SIDS, prior=PRIOR, catalog=CATALOG, queries=QUERIES, predicted=PREDICTED, sizes=SIZES, parts=1
):
    def items(named):
        rows = [(item, list(codes), pack(codes)) for item, codes in named.items()]
        return spark.createDataFrame(rows, "item_id STRING, codes ARRAY<INT>, sid BIGINT").repartition(parts)

    rows = measure_coverage(
        spark.createDataFrame(catalog, "item_id STRING, category STRING"),
        spark.createDataFrame(queries, "query_id BIGINT, traffic BIGINT, band STRING"),
        items(sids),
        spark.createDataFrame(predicted, "query_id BIGINT, rank INT"),
        items(prior),
        codebook_sizes=sizes,
    )
    missing = set(TABLES["sid_coverage"].names) - set(rows.columns)
    assert missing == {"release"}
    return {row["slice"]: row.asDict() for row in rows.collect()}


@pytest.fixture(scope="module")
def by_hand(spark):
    return measured(spark)


def test_every_slice_is_there_once(by_hand):
    levels = {f"level={level}" for level in (1, 2, 3)}
    bands = {"band=head", "band=torso", "band=tail"}
    assert set(by_hand) == {"all", "category=shoes", "category=hats", "category=(unknown)"} | levels | bands


def test_coverage_by_items_queries_and_traffic(by_hand):
    counts = [f"{what}{part}" for what in ("items", "queries", "traffic") for part in ("", "_covered")]
    found = {name: tuple(row[count] for count in counts) for name, row in by_hand.items() if "level" not in name}
    nothing = (None, None)
    assert found == {
        # A query with three beams covers its traffic once.
        "all": (5, 4, 3, 2, 100, 80),
        "category=shoes": (2, 2, *nothing, *nothing),
        "category=hats": (2, 2, *nothing, *nothing),
        "category=(unknown)": (1, 0, *nothing, *nothing),
        "band=head": (*nothing, 1, 1, 70, 70),
        "band=torso": (*nothing, 1, 0, 20, 0),
        "band=tail": (*nothing, 1, 1, 10, 10),
    }


def test_evenness_of_codes_and_sizes_of_prefixes(by_hand):
    three_to_one = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    figures = ("utilisation", "entropy", "gini", "bucket_p50", "bucket_p99", "bucket_max")
    found = {level: tuple(by_hand[f"level={level}"][name] for name in figures) for level in (1, 2, 3)}
    assert found[1] == pytest.approx((2 / 2, three_to_one, 1 / 4, 2.0, 2.98, 3))  # prefixes of 1 and 3 items
    assert found[2] == pytest.approx((2 / 4, three_to_one, 1 / 6, 1.0, 1.98, 2))  # of 1, 1 and 2
    assert found[3] == pytest.approx((2 / 4, three_to_one, 0.0, 1.0, 1.0, 1))  # of one each
    assert [by_hand["all"][name] for name in figures[2:]] == [0.0, 1.0, 1.0, 1]


def test_churn_counts_items_of_both_releases_whose_prefix_moved(by_hand):
    assert [by_hand[f"level={level}"]["churn"] for level in (1, 2, 3)] == pytest.approx([1 / 3, 1 / 3, 2 / 3])


def test_one_sid_for_all(spark):
    found = measured(spark, sids=dict.fromkeys("abcd", (1, 1, 1)), prior={})
    level = found["level=3"]
    assert (level["utilisation"], level["entropy"], level["gini"], level["bucket_max"]) == (0.25, 0.0, 0.0, 4)
    assert level["churn"] is None, "nothing before to compare with"


def test_nothing_assigned_or_predicted_is_no_coverage_and_no_error(spark):
    found = measured(spark, sids={}, predicted=[])
    assert [found["all"][name] for name in ("items", "items_covered", "traffic", "traffic_covered")] == [5, 0, 100, 0]
    assert (found["level=1"]["utilisation"], found["level=1"]["entropy"], found["level=1"]["gini"]) == (0.0, None, None)


def test_order_of_rows_changes_no_bit(spark):
    draw = random.Random(3)
    sids = {f"i{n}": (draw.randrange(97), draw.randrange(89), draw.randrange(83)) for n in range(3000)}
    catalog = [(item, "x") for item in sids]
    shuffled = dict(draw.sample(list(sids.items()), len(sids)))
    one, two = (
        measured(spark, sids=some, prior=SIDS, catalog=catalog, sizes=(97, 89, 83), parts=parts)
        for some, parts in ((sids, 1), (shuffled, 7))
    )
    assert one == two
