"""The contracts of all tables, and what may stand in one."""

from pathlib import Path

import pytest
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from schemas.contract import Between, Column, ContractError, Holds, OneOf, Table
from schemas.docs import render
from schemas.tables import TABLES

ROOT = Path(__file__).resolve().parents[2]
EVERY = pytest.mark.parametrize("table", [pytest.param(table, id=name) for name, table in TABLES.items()])


@EVERY
def test_spark_and_arrow_read_a_contract_alike(spark, table):
    parsed = StructType.fromDDL(table.ddl)
    from_arrow = from_arrow_schema(table.arrow_schema())
    assert [(f.name, f.dataType.simpleString(), f.nullable) for f in parsed] == [
        (f.name, f.dataType.simpleString(), f.nullable) for f in from_arrow
    ]
    assert [(f.name, f.nullable) for f in parsed] == [(c.name, c.nullable) for c in table.columns]


@EVERY
def test_checks_are_conditions_that_spark_understands(spark, table):
    empty = spark.createDataFrame([], table.ddl)
    checked = empty.selectExpr("true", *[check.sql for check in table.checks])
    assert {kind for _, kind in checked.dtypes} == {"boolean"}


@EVERY
def test_keys_and_partitions_are_columns_without_null(table):
    named = {column.name: column for column in table.columns}
    assert set(table.key) | set(table.partition) <= set(named)
    assert not any(named[name].nullable for name in (*table.key, *table.partition))
    # A path holds a partition's value as text: only types whose text is one thing in every engine.
    assert {named[name].type for name in table.partition} <= {"STRING", "DATE", "INT"}


@EVERY
def test_only_types_that_every_reader_knows(table):
    known = {"STRING", "BIGINT", "INT", "FLOAT", "DOUBLE", "BOOLEAN", "DATE", "TIMESTAMP", "ARRAY", "MAP"}
    assert {column.type.split("<")[0] for column in table.columns} <= known
    assert all(column.doc.strip() for column in table.columns)
    assert table.doc.strip()


def test_the_page_of_tables_is_up_to_date():
    assert (ROOT / "docs" / "tables.md").read_text(encoding="utf-8") == render(), "run `make docs`"


def test_the_page_names_every_column_and_check():
    page = render()
    for table in TABLES.values():
        assert f"## {table.name}\n" in page
        for column in table.columns:
            assert f"| `{column.name}` | {column.type} |" in page
        for check in table.checks:
            assert check.doc in page


@pytest.mark.parametrize(
    "kind", ["TIMESTAMP_NTZ", "DECIMAL(10,2)", "VARIANT", "ARRAY<ARRAY<INT>>", "bigint", "STRING; x"]
)
def test_other_types_are_refused(kind):
    with pytest.raises(ContractError, match="every Delta reader"):
        Column("a", kind, "")


A = Column("a", "INT", "A.")


@pytest.mark.parametrize(
    "wrong", [{"key": ("b",)}, {"partition": ("b",)}, {"checks": (Between("b", 0),)}, {"checks": (OneOf("b", ("x",)),)}]
)
def test_a_table_names_only_columns_it_has(wrong):
    with pytest.raises(ContractError, match=r"\['b'\] are not columns"):
        Table("t", "T.", (A,), **wrong)


def test_a_table_names_a_column_once():
    with pytest.raises(ContractError, match="names a column twice"):
        Table("t", "T.", (A, A))


def test_conditions_of_checks():
    assert Between("a", 0, 3).sql == "`a` >= 0 AND `a` <= 3"
    assert Between("a", low=1).sql == "`a` >= 1"
    assert Between("a", high=1).doc == "a in [-∞, 1]"
    assert OneOf("a", ("x", "y")).sql == "`a` IN ('x', 'y')"
    assert Holds("a > 1", "more than one").doc == "more than one"
