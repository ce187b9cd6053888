"""The storage verbs on both engines: rows from Spark go through the JVM's Delta, rows from Arrow through delta-rs."""

import datetime as dt
import threading

import deltalake
import duckdb
import polars as pl
import pyarrow as pa
import pytest

from jobs.errors import ConcurrentWrite, DataError
from jobs.partitions import label
from jobs.storage import Store
from schemas.contract import ContractError
from schemas.tables import TABLES

ONE, TWO = dt.date(2026, 1, 1), dt.date(2026, 1, 2)
SPARK = pytest.param("spark", marks=pytest.mark.slow)  # seconds a write, where delta-rs takes milliseconds


@pytest.fixture(params=["arrow", SPARK])
def engine(request):
    """Makes of Arrow rows what this engine writes."""
    if request.param == "arrow":
        return lambda rows: rows
    return request.getfixturevalue("spark").createDataFrame


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "tables"))


def days(*rows):
    """(day, query_id, query, searches) -> rows of `query_days`."""
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
    return pa.table(dict(zip(TABLES["query_days"].names, columns, strict=True)))


def held(store, name="query_days"):
    return sorted(tuple(row.values()) for row in store.read_arrow(name).to_pylist())


def of(store, *dates):
    return store.target("query_days", *[{"event_date": day} for day in dates])


ROW_1, ROW_2, OTHER = (ONE, 1, "shoes", 5), (TWO, 2, "boots", 6), (TWO, 3, "hats", 7)


@pytest.fixture
def filled(store):
    """Two days, one row each."""
    of(store, ONE, TWO).replace(days(ROW_1, ROW_2), job="first")
    return store


def test_a_table_never_written_reads_as_an_empty_one(store, spark):
    assert store.read(spark, "catalog").collect() == []
    assert store.read(spark, "query_days", {"event_date": ONE}).columns == TABLES["query_days"].names
    assert store.read_arrow("catalog").schema.equals(TABLES["catalog"].arrow_schema())
    assert store.read_arrow("catalog", columns=["item_id"]).schema.names == ["item_id"]
    assert (store.count("catalog"), store.partitions("pairs"), list(store.commits("pairs"))) == (0, [], [])
    assert not store.exists("catalog")


def test_batches_are_the_same_rows_in_the_same_order(filled):
    asked = [{"event_date": TWO}, {"event_date": ONE}]
    for parts, columns in ((asked, None), (asked[:1], ["searches", "query"])):
        whole = filled.read_arrow("query_days", *parts, columns=columns)
        assert pa.concat_tables(filled.read_batches("query_days", *parts, columns=columns)).equals(whole)
    assert list(filled.read_batches("catalog")) == []
    with pytest.raises(DataError, match=f"query_days event_date={TWO} is not what this release was planned on"):
        next(filled.read_batches("query_days", {"event_date": TWO}, memo="another"))


@pytest.mark.parametrize("kind", ["arrow", SPARK])
def test_replacing_touches_only_the_named_partition(filled, request, kind):
    if kind == "arrow":
        of(filled, TWO).replace(days(OTHER), job="second")
    else:
        spark = request.getfixturevalue("spark")
        of(filled, TWO).replace(spark.createDataFrame(days(OTHER)), job="second")
        read = filled.read(spark, "query_days", {"event_date": TWO})
        assert [tuple(row) for row in read.collect()] == [OTHER]
    assert held(filled) == [ROW_1, OTHER]
    assert filled.count("query_days", {"event_date": ONE}, {"event_date": TWO}) == 2
    assert filled.partitions("query_days") == [{"event_date": "2026-01-01"}, {"event_date": "2026-01-02"}]


def test_replacing_by_nothing_empties_the_partition(filled, engine):
    of(filled, TWO).replace(engine(days(OTHER).slice(0, 0)), job="second")
    assert held(filled) == [ROW_1]


def test_a_table_without_partitions_is_replaced_whole(store, engine):
    for name in ("ann", "bob"):
        users = pa.table(
            {"user": [name], "gender": [None], "age_band": [None], "purchase_power": [3]},
            TABLES["users"].arrow_schema(),
        )
        store.target("users").replace(engine(users), job="import")
    assert held(store, "users") == [("bob", None, None, 3)]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (days(ROW_2, (dt.date(2026, 1, 3), 1, "x", 1)), "outside the partitions"),
        (days(ROW_1), "outside the partitions"),
        (days(OTHER).drop_columns(["query"]), "query is missing"),
        (days((TWO, 1, 7, 1)), "query is .*instead of string"),
        (days((TWO, 1, "x", "12")), "searches is string instead of"),
        (days((TWO, 1, "x", 1.5)), "searches is double instead of"),
        (days((TWO, 1, "x", 1), (TWO, 2, None, 1)), "query holds NULL"),
    ],
    ids=["stray row", "another day", "missing", "number for text", "text for number", "float for whole", "null"],
)
def test_rows_that_break_the_contract_are_refused_and_nothing_changes(filled, engine, rows, says):
    version = filled.last_commit("query_days").version
    with pytest.raises(ContractError, match=says):
        of(filled, TWO).replace(engine(rows), job="second")
    assert held(filled) == [ROW_1, ROW_2]
    assert filled.last_commit("query_days").version == version


def test_a_row_that_fits_one_column_of_its_partition_is_refused(store, engine):
    rows = pa.table({"run_date": [ONE], "job": ["b"], "source": ["s"], "reason": ["r"], "row": ["{}"]})
    with pytest.raises(ContractError, match="outside the partitions"):
        store.target("quarantine", {"run_date": ONE, "job": "a"}).replace(engine(rows), job="x")
    assert store.count("quarantine") == 0


def test_null_is_refused_in_a_table_without_partitions_too(store, engine):
    users = pa.table({"user": [None, "a"], "gender": ["f", "f"], "age_band": ["x", "x"], "purchase_power": [3, 3]})
    users = users.cast(pa.schema([field.with_nullable(True) for field in TABLES["users"].arrow_schema()]))
    with pytest.raises(ContractError, match="user holds NULL"):
        store.target("users").replace(engine(users), job="import")
    assert held(store, "users") == []


def test_arrow_widths_are_cast_and_what_would_be_lost_is_refused(filled):
    narrow = pa.table({"event_date": [TWO], "query_id": pa.array([3], pa.int8()), "query": ["hats"], "searches": [7]})
    of(filled, TWO).replace(narrow.set_column(2, "query", pa.array(["hats"], pa.large_string())), job="second")
    assert held(filled) == [ROW_1, OTHER]
    too_wide = narrow.set_column(1, "query_id", pa.array([1 << 63], pa.uint64()))
    with pytest.raises(ContractError, match="not in range"):
        of(filled, TWO).replace(too_wide, job="third")


def test_of_two_runs_of_one_partition_the_second_fails_and_changes_nothing(filled, engine):
    mine, theirs = of(filled, TWO), of(filled, ONE, TWO)
    theirs.replace(engine(days(ROW_1, OTHER)), job="theirs")
    with pytest.raises(ConcurrentWrite, match="Nothing was written"):
        mine.replace(engine(days(ROW_2)), job="mine")
    assert held(filled) == [ROW_1, OTHER]
    of(filled, TWO).replace(engine(days(ROW_2)), job="again")
    assert held(filled) == [ROW_1, ROW_2]


def test_runs_of_different_partitions_both_commit(filled, engine):
    one, two = of(filled, ONE), of(filled, TWO)
    two.replace(engine(days(OTHER)), job="two")
    one.replace(engine(days((ONE, 9, "x", 1))), job="one")
    assert held(filled) == [(ONE, 9, "x", 1), OTHER]


def test_a_run_that_watches_more_than_it_replaces_is_told_of_a_row_beside_it(filled, engine):
    watching = filled.target("query_days", {"event_date": ONE}, watch={})
    of(filled, TWO).replace(engine(days(OTHER)), job="theirs")
    with pytest.raises(ConcurrentWrite):
        watching.replace(engine(days(ROW_1)), job="mine")
    assert held(filled) == [ROW_1, OTHER]


@pytest.mark.parametrize(("first", "second"), [({}, {"job": "a"}), ({"job": "a"}, {}), ({"job": "a"}, {"job": "b"})])
def test_a_run_of_a_whole_day_and_one_of_a_part_of_it_are_found_out(store, first, second):
    rows = pa.table({"run_date": [ONE], "job": ["a"], "source": ["s"], "reason": ["r"], "row": ["{}"]})
    mine, theirs = (
        store.target("quarantine", {"run_date": ONE, **first}),
        store.target("quarantine", {"run_date": ONE, **second}),
    )
    theirs.replace(rows if second != {"job": "b"} else rows.slice(0, 0), job="theirs")
    if first and second:
        mine.replace(rows, job="mine")
    else:
        with pytest.raises(ConcurrentWrite):
            mine.replace(rows, job="mine")
    assert store.count("quarantine") == 1


def at_once(*actions):
    """Runs all in threads that start together -> what each raised, or None."""
    barrier, raised = threading.Barrier(len(actions)), [None] * len(actions)

    def run(place, action):
        barrier.wait()
        try:
            action()
        except Exception as error:
            raised[place] = error

    threads = [threading.Thread(target=run, args=numbered) for numbered in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


@pytest.mark.parametrize(
    "kinds", [["arrow"] * 4, pytest.param(["arrow", "spark"] * 2, marks=pytest.mark.slow)], ids=str
)
def test_in_a_race_for_one_partition_just_one_commits(filled, request, kinds):
    make = {"arrow": lambda rows: rows}
    if "spark" in kinds:
        make["spark"] = request.getfixturevalue("spark").createDataFrame
    targets = [(of(filled, TWO), make[kind](days((TWO, n, "x", 1)))) for n, kind in enumerate(kinds)]
    raised = at_once(*[lambda t=target, r=rows: t.replace(r, job="race") for target, rows in targets])
    assert sorted(type(error).__name__ for error in raised) == ["ConcurrentWrite"] * (len(kinds) - 1) + ["NoneType"]
    assert held(filled) == [ROW_1, (TWO, raised.index(None), "x", 1)]


def test_in_a_race_for_different_partitions_all_commit(store):
    dates = [ONE + dt.timedelta(days=n) for n in range(6)]
    targets = [(of(store, day), days((day, 1, "x", 1))) for day in dates]
    raised = at_once(*[lambda t=target, r=rows: t.replace(r, job="race") for target, rows in targets])
    assert raised == [None] * 6
    assert [row[0] for row in held(store)] == dates


def test_a_target_names_partitions_that_the_table_has(store):
    with pytest.raises(ContractError, match="name the partitions"):
        store.target("query_days")
    with pytest.raises(ContractError, match="not release"):
        store.target("query_days", {"release": "x"})


@pytest.mark.parametrize("value", ["a' OR '1'='1", "a;b", 'a"b', "a`b", "a/b", "a\nb", "a\n", "", "a\\"])
def test_partition_values_that_could_break_out_are_refused(store, spark, value):
    part = {"release": value}
    empty = TABLES["sid_items"].arrow_schema().empty_table()
    with pytest.raises(DataError, match="cannot name a partition"):
        store.target("sid_items", part).replace(empty, job="x")
    with pytest.raises(DataError, match="cannot name a partition"):
        store.target("sid_items", part).replace(spark.createDataFrame([], TABLES["sid_items"].ddl), job="x")
    with pytest.raises(DataError, match="cannot name a partition"):
        store.read(spark, "sid_items", part)


def test_what_a_partition_was_computed_from_is_remembered_until_it_is_written_again(filled):
    of(filled, ONE, TWO).replace(
        days(ROW_1, ROW_2), job="job", memo={"event_date=2026-01-01": "a", "event_date=2026-01-02": "b"}
    )
    assert of(filled, ONE).is_done("a")
    assert not of(filled, ONE, TWO).is_done("a")
    of(filled, TWO).replace(days(ROW_2), job="job", memo="a")
    assert of(filled, ONE, TWO).is_done("a")
    of(filled, ONE).replace(days(ROW_1), job="job")
    assert not of(filled, ONE).is_done("a")
    assert filled.memos("query_days") == {"event_date=2026-01-02": "a"}


def test_fingerprints_are_those_of_the_newest_commit_of_each_partition(filled):
    first, second = label({"event_date": ONE}), label({"event_date": TWO})
    of(filled, ONE, TWO).replace(days(ROW_1, ROW_2), job="import", fingerprints={first: "1-a", second: "1-b"})
    of(filled, TWO).replace(days(OTHER), job="import", fingerprints={second: "1-c"}, counts={"rows": 1}, note="late")
    assert filled.fingerprints("query_days") == {first: "1-a", second: "1-c"}
    newest = filled.last_commit("query_days")
    assert (newest.metadata["counts"], newest.metadata["note"]) == ({"rows": 1}, "late")
    assert filled.last_commit("query_days", {"event_date": ONE}).version == newest.version - 1


@pytest.mark.slow
def test_commits_of_both_engines_carry_the_same_notes(filled, spark):
    for rows in (days(OTHER), spark.createDataFrame(days(OTHER))):
        of(filled, TWO).replace(rows, job="import", memo="m", fingerprints={"event_date=2026-01-02": "f"})
    newest, before, _ = filled.commits("query_days")
    assert newest.metadata == before.metadata
    # A commit without a memo of ours, such as maintenance, is passed over.
    deltalake.DeltaTable(filled.path("query_days")).optimize.compact()
    assert next(filled.commits("query_days")).version == newest.version


def test_every_table_keeps_to_the_protocol_that_all_readers_know(store):
    some = {"STRING": "x", "DATE": ONE, "INT": 0}
    for name, table in TABLES.items():
        part = {column.name: some[column.type] for column in table.columns if column.name in table.partition}
        store.target(name, *[part] if part else []).replace(table.arrow_schema().empty_table(), job="x")
        protocol = deltalake.DeltaTable(store.path(name)).protocol()
        assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2), name
        assert deltalake.DeltaTable(store.path(name)).metadata().partition_columns == list(table.partition)


CATALOG = [
    (
        "i1",
        1,
        "Shoe",
        "Acme",
        "shoes",
        ["wear", "shoes"],
        [("size", "42")],
        9.5,
        True,
        [0.5, -1.5],
        "Shoe Acme",
        7,
        ONE,
    ),
    ("i2", -2, "Ünï", None, None, [], [], None, False, None, "Ünï", -8, None),
]


@pytest.mark.slow
def test_spark_delta_rs_polars_and_duckdb_read_the_same(store, spark):
    schema = TABLES["catalog"].arrow_schema()
    columns = [list(column) for column in zip(*CATALOG, strict=True)]
    columns[-1] = [day and dt.datetime(day.year, day.month, day.day, 12, tzinfo=dt.UTC) for day in columns[-1]]
    written = pa.table(dict(zip(schema.names, columns, strict=True)), schema)
    store.target("catalog").replace(spark.createDataFrame(written), job="import")
    path = store.path("catalog")
    read = {
        "delta-rs": store.read_arrow("catalog"),
        "spark": store.read(spark, "catalog").toArrow().cast(schema),
        "duckdb": duckdb.from_arrow(deltalake.DeltaTable(path).to_pyarrow_dataset()).to_arrow_table().cast(schema),
    }
    for reader, found in read.items():
        assert found.sort_by("item_id").to_pylist() == written.to_pylist(), reader
    assert store.read(spark, "catalog").dtypes == spark.createDataFrame([], TABLES["catalog"].ddl).dtypes
    polars = pl.read_delta(path).sort("item_id")
    assert polars.drop("attributes").to_dicts() == [
        {name: value for name, value in row.items() if name != "attributes"} for row in written.to_pylist()
    ]
    kinds = (pl.Int64, pl.Float64, pl.Boolean, pl.List(pl.Float32), pl.Datetime("us", "UTC"))
    named = ("item_hash", "price", "in_stock", "image_embedding", "updated_at")
    assert tuple(polars.schema[name] for name in named) == kinds


@pytest.mark.slow
def test_a_table_made_before_a_column_was_added_reads_with_nulls_and_gains_it_with_the_next_write(store, spark):
    table, part = TABLES["sid_coverage"], {"release": "a"}
    older = pa.schema([field for field in table.arrow_schema() if field.name != "traffic_withheld"])
    row = {"release": "a", "slice": "all", "items": 3, "queries_withheld": 1}
    deltalake.write_deltalake(store.path("sid_coverage"), pa.Table.from_pylist([row], older), partition_by=["release"])

    def read():
        by_spark = store.read(spark, "sid_coverage", part).toArrow().cast(table.arrow_schema())
        assert by_spark.to_pylist() == store.read_arrow("sid_coverage", part).to_pylist()
        return [(r["items"], r["traffic_withheld"]) for r in by_spark.to_pylist()]

    assert read() == [(3, None)]
    new = {**row, "release": "b", "traffic_withheld": 7}
    rows = pa.Table.from_pylist([new], table.arrow_schema())
    store.target("sid_coverage", {"release": "b"}).replace(spark.createDataFrame(rows), job="x")
    assert read() == [(3, None)]
    assert store.read_arrow("sid_coverage", {"release": "b"})["traffic_withheld"].to_pylist() == [7]


def test_release_rows_follow_each_other(store):
    day = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    texts = ("release", "state", "current", "encoder_version", "codebook_version", "generator_version")
    row = {
        **dict.fromkeys((*texts, "code_revision", "config_hash"), "x"),
        "as_of_date": ONE,
        "inputs": {},
        "metrics": {},
    }
    row |= {"event_time": day, "created_time": day, "sequence": 1}
    store.append_release(row)
    for late in (1, 3):
        with pytest.raises(ConcurrentWrite, match="moved on"):
            store.append_release({**row, "sequence": late})
    with pytest.raises(ContractError, match="config_hash holds NULL"):
        store.append_release({**row, "sequence": 2, "config_hash": None})
    raised = at_once(*[lambda: store.append_release({**row, "sequence": 2})] * 3)
    assert sorted(type(error).__name__ for error in raised) == ["ConcurrentWrite", "ConcurrentWrite", "NoneType"]
    assert store.read_arrow("releases", columns=["sequence"])["sequence"].to_pylist().count(2) == 1
