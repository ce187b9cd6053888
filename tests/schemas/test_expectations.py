"""The suites that Great Expectations runs from contracts, on real frames."""

import pytest

from schemas.contract import Between, Column, Holds, OneOf, Table
from schemas.expectations import validate

pytestmark = pytest.mark.slow

TABLE = Table(
    name="things",
    doc="Things.",
    columns=(
        Column("day", "STRING", "Partition."),
        Column("id", "STRING", "Key."),
        Column("part", "INT", "Key as well."),
        Column("size", "INT", "0 to 9.", nullable=True),
        Column("kind", "STRING", "a or b.", nullable=True),
    ),
    key=("day", "id", "part"),
    partition=("day",),
    checks=(Between("size", 0, 9), OneOf("kind", ("a", "b")), Holds("size < 9 OR kind = 'a'", "nines are of kind a")),
)
DDL = "day STRING, id STRING, part INT, size INT, kind STRING"
SOUND = [("d", "x", 1, 0, "a"), ("d", "x", 2, 9, "a"), ("d", "y", 1, None, None)]


def found(spark, rows, **options):
    return validate(spark.createDataFrame(rows, DDL), TABLE, **options).broken


def test_sound_rows_break_nothing(spark):
    assert found(spark, SOUND) == []


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("d", None, 1, 1, "a"), ["expect_column_values_to_not_be_null", "'id'"]),
        (("d", "x", 1, 5, "b"), ["expect_compound_columns_to_be_unique"]),
        (("d", "z", 1, 10, "a"), ["expect_column_values_to_be_between", "'size'"]),
        (("d", "z", 1, 1, "c"), ["expect_column_values_to_be_in_set", "'kind'"]),
        (("d", "z", 1, 9, "b"), ["nines are of kind a"]),
    ],
    ids=["null", "key twice", "out of range", "unknown value", "condition"],
)
def test_each_broken_rule_is_named_and_no_other(spark, row, words):
    (only,) = found(spark, [*SOUND, row])
    assert only.startswith("things: ")
    assert all(word in only for word in words)


def test_an_empty_partition_is_refused_unless_allowed(spark):
    (only,) = found(spark, [])
    assert "expect_table_row_count_to_be_between" in only
    assert found(spark, [], least_rows=0) == []


def test_a_key_of_one_column_beside_the_partition(spark):
    table = Table("t", "T.", TABLE.columns, key=("day", "id"), partition=("day",))
    (only,) = validate(spark.createDataFrame(SOUND, DDL), table).broken
    assert "expect_column_values_to_be_unique" in only
