"""What Spark computes of a text equals what Python computes of it."""

import json

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from pipelines.columns import hashed, refused, with_normalised_query
from schemas.text import normalise_query, text_hash

# A call of Spark takes seconds, and shrinking makes hundreds.
UNSHRUNK = [Phase.explicit, Phase.generate]

ASCII = st.text(st.characters(max_codepoint=0x7F))
# Line ends beyond ASCII: a regular expression's `$` matches before one, so a text may seem ASCII that is not.
TRICKY = [
    "abc\u2028",
    "A\u0085",
    "a\u2029",
    "\x1c\x1d\x1e\x1fA\x0b",
    "\x00",
    "A\x7fB\n",
    "İ",
    "ẞ ſ",
    "\u00a0",
    "",
    "K\n",
    "\n",
]


def normalised(spark, texts):
    numbered = spark.createDataFrame(list(enumerate(texts)), "n INT, query STRING")
    return [row["query"] for row in with_normalised_query(numbered).orderBy("n").collect()]


@pytest.mark.slow
@settings(max_examples=4, phases=UNSHRUNK)
@given(st.lists(st.text() | ASCII, min_size=150, max_size=300))
def test_spark_normalises_any_text_as_python_does(spark, texts):
    texts = [*texts, *TRICKY, *texts[:20]]
    assert normalised(spark, texts) == [normalise_query(text) for text in texts]


@pytest.mark.slow
@settings(max_examples=3, phases=UNSHRUNK)
@given(st.lists(st.text(), min_size=150, max_size=300))
def test_spark_hashes_any_text_as_python_does(spark, texts):
    rows = spark.createDataFrame(list(enumerate([*texts, ""])), "n INT, text STRING")
    found = (
        rows.orderBy("n").select(hashed("text").alias("a"), hashed(F.concat("text", F.lit("é"))).alias("b")).collect()
    )
    assert [tuple(row) for row in found] == [(text_hash(text), text_hash(text + "é")) for text in [*texts, ""]]


def test_null_stays_null(spark):
    rows = spark.createDataFrame([(None,), ("Ä",)], "query STRING")
    found = with_normalised_query(rows).select("query", hashed("query").alias("hash")).collect()
    assert {tuple(row) for row in found} == {(None, None), ("ä", text_hash("ä"))}


def test_line_ends_beyond_ascii_are_white_space_too(spark):
    assert normalised(spark, TRICKY) == [normalise_query(text) for text in TRICKY]


def test_rows_and_other_columns_stay(spark):
    rows = [("Ä", 1), ("Ä", 2), ("Ä ", 3), ("a", 4), ("A", 5), (None, 6), (None, 7), ("A\u0308", 8)]
    found = with_normalised_query(spark.createDataFrame(rows, "typed STRING, n INT"), "typed")
    assert found.columns == ["typed", "n"]
    assert sorted(map(tuple, found.collect()), key=lambda row: row[1]) == [
        (typed and normalise_query(typed), n) for typed, n in rows
    ]


def test_only_what_is_not_ascii_goes_through_python_and_nothing_is_shuffled(spark, capsys):
    rows = spark.createDataFrame([("a", 1)], "query STRING, n INT")
    with_normalised_query(rows).explain()
    plan = capsys.readouterr().out
    _, python = plan.split("MapInArrow")
    assert "NOT coalesce((length(query" in python
    assert "Exchange" not in plan


@pytest.mark.parametrize("columns", [[], ["id", "a b"]])
def test_a_refused_row_is_kept_whole_or_in_part(spark, columns):
    rows = spark.createDataFrame([("x", None, 3)], "id STRING, `a b` STRING, day INT")
    (found,) = refused(rows, "click_log", "no good", columns, keep=["day"]).collect()
    assert (found["day"], found["source"], found["reason"]) == (3, "click_log", "no good")
    # Spark leaves NULL out of JSON.
    assert json.loads(found["row"]) == ({"id": "x"} if columns else {"id": "x", "day": 3})


def test_the_reason_may_differ_by_row(spark):
    rows = spark.createDataFrame([("x", 1), ("y", 2)], "id STRING, day INT")
    found = refused(rows, "s", F.concat(F.lit("bad "), "id")).collect()
    assert sorted(row["reason"] for row in found) == ["bad x", "bad y"]
