"""Whatever a night writes, Spark, delta-rs, Polars and DuckDB read as the same rows of the same types."""

import deltalake
import duckdb
import polars as pl
import pyarrow as pa
import pytest

from schemas.tables import TABLES

pytestmark = pytest.mark.slow

# Tables of a night of CQ-SID, which recalls and learns who asks; every other night leaves them alone.
RECALL = ("recall_lists", "request_sids", "user_profiles", "user_searches")
WRITTEN = sorted(set(TABLES) - set(RECALL) - {"query_users"})


def by_spark(store, name, spark):
    return spark.read.format("delta").load(store.path(name)).toArrow()


def by_delta_rs(store, name, spark):
    return pa.table(deltalake.DeltaTable(store.path(name)).to_pyarrow_table())


def by_polars(store, name, spark):
    return pl.read_delta(store.path(name)).to_arrow()


def by_duckdb(store, name, spark):
    events = deltalake.DeltaTable(store.path(name)).to_pyarrow_dataset()
    return duckdb.from_arrow(events).to_arrow_table()


READERS = {"spark": by_spark, "delta-rs": by_delta_rs, "polars": by_polars, "duckdb": by_duckdb}


def plain(kind):
    """An Arrow type without what readers are free in: width of offsets, names of fields, whether NULL may be."""
    types = pa.types
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_map(kind):
        return pa.map_(plain(kind.key_type), plain(kind.item_type))
    if types.is_list(kind) or types.is_large_list(kind):
        inner = plain(kind.value_type)
        # Polars has no map: a list of keys and values.
        if types.is_struct(inner) and [field.name for field in inner] == ["key", "value"]:
            return pa.map_(inner[0].type, inner[1].type)
        return pa.list_(inner)
    if types.is_struct(kind):
        return pa.struct([(field.name, plain(field.type)) for field in kind])
    if types.is_timestamp(kind) and kind.tz in ("UTC", "Etc/UTC"):
        return pa.timestamp(kind.unit, "UTC")
    return kind


def comparable(rows):
    """Rows as sorted text, maps as sorted pairs."""

    def value(it):
        if isinstance(it, list) and it and isinstance(it[0], dict):
            it = [(pair["key"], pair["value"]) for pair in it]
        if isinstance(it, list) and it and isinstance(it[0], tuple):
            it = sorted(it)
        return repr(it)

    return sorted(tuple(value(row[name]) for name in rows.column_names) for row in rows.to_pylist())


def in_utc(rows):
    """Times of whatever name of UTC as times of UTC."""
    kinds = [plain(field.type) if pa.types.is_timestamp(field.type) else field.type for field in rows.schema]
    return rows.cast(pa.schema([(name, kind) for name, kind in zip(rows.schema.names, kinds, strict=True)]))


def test_a_night_writes_these_tables(market):
    assert [name for name in sorted(TABLES) if market.store.exists(name)] == WRITTEN


@pytest.mark.parametrize("name", WRITTEN)
def test_every_reader_gets_the_same_rows_of_the_same_types(market, spark, name):
    check_readers(market.store, spark, name)


def test_every_reader_gets_the_same_recall_lists_and_what_they_are_made_from(cqsid_night, spark):
    for name in RECALL:
        check_readers(cqsid_night[0].store, spark, name)


def check_readers(store, spark, name):
    contract = [(field.name, plain(field.type)) for field in TABLES[name].arrow_schema()]
    read = {reader: load(store, name, spark) for reader, load in READERS.items()}
    for reader, rows in read.items():
        assert [(field.name, plain(field.type)) for field in rows.schema] == contract, reader
    rows = {reader: comparable(in_utc(found)) for reader, found in read.items()}
    assert rows["delta-rs"]
    for reader, found in rows.items():
        assert found == rows["delta-rs"], reader


@pytest.mark.parametrize("name", WRITTEN)
def test_every_table_asks_no_more_of_a_reader_than_protocol_1_and_of_a_writer_than_2(market, name):
    table = deltalake.DeltaTable(market.store.path(name))
    protocol = table.protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)
    assert not (protocol.reader_features or protocol.writer_features)
    mode = table.metadata().configuration
    assert not {"delta.enableDeletionVectors", "delta.columnMapping.mode"} & set(mode)
