"""Importing into a home: what is unusable is refused with a reason, and a file that breaks changes nothing."""

import csv
import gzip
import io
import json

import pandas as pd
import pytest

from jobs import import_source
from jobs.errors import DataError
from jobs.home import Home
from pipelines.import_esci import EXAMPLE_COLUMNS, EXAMPLES, PRODUCT_COLUMNS, PRODUCTS
from pipelines.import_icecat import JUDGMENT_COLUMNS, JUDGMENTS
from pipelines.import_icecat import PRODUCT_COLUMNS as ICECAT_COLUMNS
from pipelines.import_icecat import PRODUCTS as ICECAT_PRODUCTS
from tests.marketplace import copy_home, rows, versions, with_session

pytestmark = pytest.mark.slow

ITEMS = "sku,name,kind\n1,Red lamp,lamp\n2,,lamp\n,Green lamp,lamp\n3,Blue lamp,\n"
MAPPINGS = {
    "catalog": '[columns]\nitem_id = "sku"\ntitle = "name"\ncategory = "kind"\n',
    "relevance_labels": '[columns]\nquery = "q"\nitem_id = "sku"\ngrade = "how"\n',
    "click_log": '[columns]\nevent_time = "at"\nitem_id = "sku"\naction = "did"\nquery = "q"\nposition = "pos"\n',
}


def mapping(folder, table):
    path = folder / f"{table}.toml"
    path.write_text(f'table = "{table}"\n{MAPPINGS[table]}')
    return path


@pytest.fixture(scope="module")
def shop(tmp_path_factory, spark):
    """A home with an imported catalogue of two items."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "items.csv").write_text(ITEMS)
    home = with_session(Home(folder / "home"), spark)
    import_source.table(home, folder / "items.csv", mapping(folder, "catalog"))
    return home


def test_refused_rows_are_kept_with_their_reason(shop):
    assert sorted(row["item_id"] for row in shop.store.read_arrow("catalog").to_pylist()) == ["1", "3"]
    kept = shop.store.read_arrow("quarantine").to_pylist()
    assert {(row["source"], row["reason"], json.loads(row["row"]).get("item_id")) for row in kept} == {
        ("catalog", "the title is empty", "2"),
        ("catalog", "the item id is empty", None),
    }


def test_a_snapshot_of_another_day_may_have_another_name(shop, tmp_path, spark):
    home = copy_home(shop, tmp_path / "home", spark)
    (tmp_path / "items-of-tomorrow.csv").write_text("sku,name,kind\n4,White lamp,lamp\n")
    import_source.table(home, tmp_path / "items-of-tomorrow.csv", mapping(tmp_path, "catalog"))
    assert home.store.read_arrow("catalog")["item_id"].to_pylist() == ["4"]


def test_a_log_that_replaced_another_marketplace_can_get_a_catalogue_of_any_source(shop, tmp_path, spark):
    home = copy_home(shop, tmp_path / "home", spark)
    event = {"timestamp": "2026-01-31T10:00:00Z", "action_name": "click", "query_id": "one", "user_query": "lamp"}
    (tmp_path / "log.ndjson").write_text(json.dumps({**event, "event_attributes": {"object": {"object_id": "t0"}}}))
    import_source.ubi(home, tmp_path / "log.ndjson", replace=True)
    assert not home.store.exists("catalog")
    (tmp_path / ICECAT_PRODUCTS).write_bytes(ONE_ITEM)
    (tmp_path / JUDGMENTS).write_bytes(JUDGED)
    import_source.icecat(home, tmp_path)
    assert (home.store.count("click_log"), home.store.count("catalog")) == (1, 1)


def test_judgments_of_items_that_the_catalogue_does_not_have_are_refused(shop, tmp_path, spark):
    home = copy_home(shop, tmp_path / "home", spark)
    (tmp_path / "labels.csv").write_text("q,sku,how\nlamp,1,3\nlamp,99,3\n")
    import_source.table(home, tmp_path / "labels.csv", mapping(tmp_path, "relevance_labels"))
    assert home.store.read_arrow("relevance_labels")["item_id"].to_pylist() == ["1"]
    assert "the judged item is not in the catalogue" in home.store.read_arrow("quarantine")["reason"].to_pylist()


def tsv(columns, *lines):
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows([columns, *lines])
    return gzip.compress(text.getvalue().encode())


JUDGED = tsv(JUDGMENT_COLUMNS, *[(f"query {n}", "t0", "3", "", "", "") for n in range(2000)])
ONE_ITEM = tsv(ICECAT_COLUMNS, ("t0", "Acme toner cartridge", "Acme", "1299", "2010-01-02", "", '{"attr_t_ink": "x"}'))
NO_TITLE = tsv(ICECAT_COLUMNS, ("t0", " ", "Acme", "free", "soon", "", "{}"))


def icecat(products, judgments=JUDGED):
    def bring(home, folder):
        (folder / ICECAT_PRODUCTS).write_bytes(products)
        (folder / JUDGMENTS).write_bytes(judgments)
        import_source.icecat(home, folder, replace=True)

    return bring


def esci(products, examples=()):
    def bring(home, folder):
        if isinstance(products, bytes):
            (folder / PRODUCTS).write_bytes(products)
        else:
            pd.DataFrame(products, columns=PRODUCT_COLUMNS).to_parquet(folder / PRODUCTS)
        pd.DataFrame(examples, columns=EXAMPLE_COLUMNS).to_parquet(folder / EXAMPLES)
        import_source.esci(home, folder, locale="us", replace=True)

    return bring


def ubi(name, content):
    def bring(home, folder):
        (folder / name).write_bytes(content)
        import_source.ubi(home, folder / name, replace=True)

    return bring


def table(kind, name, content):
    def bring(home, folder):
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            pd.DataFrame(content).to_parquet(folder / name)
        import_source.table(home, folder / name, mapping(folder, kind), replace=True)

    return bring


LOG = {"at": ["2026-01-31"], "sku": ["1"], "did": ["click"], "q": ["lamp"], "pos": [1]}
BROKEN = {
    "icecat: empty files": (icecat(b"", b""), "products.tsv.gz is empty; judgments.tsv.gz is empty"),
    "icecat: no rows": (icecat(tsv(ICECAT_COLUMNS)), "no usable item: nothing was imported"),
    "icecat: no title": (icecat(NO_TITLE), "no usable item.*1 rows of catalog: the title is empty"),
    "icecat: no gzip": (icecat(b"item_id\ttitle\n"), "cannot be read: .*not a gzip file"),
    "icecat: cut short": (icecat(ONE_ITEM, JUDGED[: len(JUDGED) // 2]), "cannot be read: .*end of input stream"),
    "esci: empty file": (esci(b""), "products.parquet is not a Parquet file"),
    "esci: no rows": (esci([]), "no usable product.*it is empty"),
    "esci: another locale": (esci([("1", "Lampe", "A", "rot", "es")]), "no usable product.*it is empty"),
    "esci: wrong types": (esci([("1", ["Lampe"], "A", "rot", "us")]), "product_title is array<string>"),
    "esci: no title": (esci([(1, None, 2, 3, "us")]), "1 rows of catalog: the title is empty"),
    "ubi: empty file": (ubi("log.jsonl", b""), "no usable event.*it is empty"),
    "ubi: empty parquet": (ubi("log.parquet", b""), "log.parquet is not a Parquet file"),
    "ubi: not json": (ubi("log.jsonl", b"hello\nworld\n"), "2 rows of click_log: the record is not a JSON object"),
    "ubi: wrong types": (
        ubi("log.jsonl", b'{"action_name": 5, "timestamp": [1]}'),
        "1 rows .*the event time is missing",
    ),
    "table: empty file": (
        table("click_log", "log.csv", b""),
        "log.csv has no column at, did, pos, q, sku; it has none",
    ),
    "table: no rows": (table("click_log", "log.csv", b"at,sku,did,q,pos\n"), "no usable row.*it is empty"),
    "table: empty parquet": (table("click_log", "log.parquet", b""), "log.parquet is not a Parquet file"),
    "table: missing column": (
        table("click_log", "log.parquet", {"at": [1]}),
        "has no column did, pos, q, sku; it has at",
    ),
    "table: wrong type": (
        table("click_log", "log.parquet", {**LOG, "sku": [["1"]]}),
        "sku is array<string>, but item_id",
    ),
    "table: wrong value": (
        table("click_log", "log.parquet", {**LOG, "at": [True]}),
        "1 rows of click_log: the event time",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_read_is_named_and_changes_nothing_even_with_replace(shop, tmp_path, case):
    bring, says = BROKEN[case]
    tables, items = versions(shop), rows(shop, "catalog")
    marker = (shop.root / "marketplace.json").read_text()
    with pytest.raises(DataError, match=says):
        bring(shop, tmp_path)
    assert versions(shop) == tables
    assert rows(shop, "catalog") == items
    assert (shop.root / "marketplace.json").read_text() == marker


def test_a_path_that_spark_would_take_for_a_pattern_is_refused(shop, tmp_path):
    (tmp_path / "a[1].csv").write_text(ITEMS)
    with pytest.raises(DataError, match=r"Spark takes \[ \] in a path for a pattern"):
        import_source.table(shop, tmp_path / "a[1].csv", mapping(tmp_path, "catalog"))
