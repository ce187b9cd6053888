import pytest

from pipelines.fingerprints import as_text, fingerprints

DDL = "day STRING, id INT, text STRING, tags MAP<STRING, STRING>, list ARRAY<INT>"
ROWS = [
    ("a", 1, "x", {"k": "1", "l": "2"}, [1, 2]),
    ("a", 2, None, {}, []),
    ("a", 2, None, {}, []),
    ("b", 3, "z", None, None),
]


def marks(spark, rows, by=("day",), partitions=1):
    frame = spark.createDataFrame(rows, DDL).repartition(partitions)
    return {
        tuple(row[name] for name in by): as_text(row["rows"], row["high"], row["low"])
        for row in fingerprints(frame, by).collect()
    }


def test_order_and_partitions_do_not_matter(spark):
    expected = marks(spark, ROWS)
    assert set(expected) == {("a",), ("b",)}
    assert expected[("a",)].startswith("3-")
    swapped = [(*ROWS[0][:3], {"l": "2", "k": "1"}, [1, 2])]
    assert marks(spark, [*reversed(ROWS[1:]), *swapped], partitions=7) == expected


def test_a_partition_has_the_same_mark_alone_and_among_others(spark):
    assert marks(spark, ROWS[3:])[("b",)] == marks(spark, ROWS)[("b",)]


@pytest.mark.slow
def test_any_change_shows(spark):
    changed = [
        ("b", 4, "z", None, None),
        ("b", 3, "Z", None, None),
        ("b", 3, "z", {"k": "v"}, None),
        ("b", 3, "z", None, [0]),
    ]
    found = [marks(spark, [("a", 0, "", {}, []), row])[("b",)] for row in (ROWS[3], *changed)]
    assert len(set(found)) == 5
    assert marks(spark, ROWS[:2])[("a",)] != marks(spark, ROWS[:3])[("a",)], "a row twice is not the row once"


def test_a_whole_table_and_an_empty_one(spark):
    assert marks(spark, ROWS, by=())[()].startswith("4-")
    assert marks(spark, [], by=()) == {(): "0-0"}
    assert marks(spark, []) == {}


def test_as_text_joins_the_two_halves():
    assert as_text(2, 1, 5) == "2-100000005"
    assert as_text(0, None, None) == "0-0"
