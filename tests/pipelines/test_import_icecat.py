"""The Icecat import, on small files and on the real ones."""

import csv
import gzip
import io

import pandas as pd
import pytest
from pyspark.sql import functions as F

from pipelines.categories import assign_categories, fit_categories
from pipelines.import_icecat import JUDGMENT_COLUMNS, PRODUCT_COLUMNS, import_icecat, read_icecat, with_attributes


def write_tsv(path, columns, rows):
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    path.write_bytes(gzip.compress(text.getvalue().encode()))


def product(item, title, json, brand="Acme"):
    return (item, title, brand, "1299", "2010-01-02", "", json)


TONER = (
    '{"attr_t_printing_colours": "Black", "attr_n_page_yield": 2000.0, "attr_t_colour": "Black", "attr_b_colour": true}'
)
CABLE = '{"attr_n_cable_length": 3.0, "attr_t_connector_1": "RJ-45", "attr_t_connector_2": "RJ-45"}'


@pytest.fixture
def directory(tmp_path):
    products = [product(f"t{n}", f'Acme T{n} toner cartridge 17" Black', TONER) for n in range(6)]
    products += [product(f"c{n}", f"Acme C{n} networking cable 3 m", CABLE) for n in range(6)]
    products += [product("bare", "Acme thing", "{}"), product("", "No id", "{}"), product("t0", "Twice", TONER)]
    products += [product("bad", "Acme bad json", "not json")]
    write_tsv(tmp_path / "products.tsv.gz", PRODUCT_COLUMNS, products)
    judged = [
        ("Toner", "t0", "3", "3", "2", ""),
        ("toner", "c0", "0", "", "", ""),
        ("toner", "gone", "1", "", "", ""),
        ("toner", "t1", "7", "", "", ""),
    ]
    write_tsv(tmp_path / "judgments.tsv.gz", JUDGMENT_COLUMNS, judged)
    return tmp_path


@pytest.mark.slow
def test_small_files_are_shaped_and_counted(spark, directory):
    found = import_icecat(read_icecat(spark, directory))
    items = {row.item_id: row for row in found.catalog.collect()}
    assert len(items) == 14
    assert items["t1"].title == 'Acme T1 toner cartridge 17" Black'
    assert items["t1"].category == "toner cartridge"
    assert items["c1"].category == "networking cable"
    assert items["c1"].category_path == ["networking cable"]
    assert items["bare"].category is None
    assert items["bad"].attributes == {}
    assert items["c1"].attributes == {"cable_length": "3", "connector_1": "RJ-45", "connector_2": "RJ-45"}
    assert items["t1"].attributes["colour"] == "Black"  # the text, not the flag of the same name
    assert items["t1"].price == 12.99
    labels = {(r.query, r.item_id, r.rater, r.grade) for r in found.labels.collect()}
    assert labels == {
        ("toner", "t0", "final", 3),
        ("toner", "t0", "agent_1", 3),
        ("toner", "t0", "agent_2", 2),
        ("toner", "c0", "final", 0),
    }
    refused = found.refused.groupBy("source").count().collect()
    assert {r.source: r["count"] for r in refused} == {"catalog": 16 - 14, "relevance_labels": 6 - 4}


def test_what_is_missing_is_named_all_at_once(spark, tmp_path):
    write_tsv(tmp_path / "products.tsv.gz", ["item_id", "title"], [("a", "b")])
    with pytest.raises(ValueError, match=r"lacks the columns brand, price_cents.*judgments\.tsv\.gz is not there"):
        read_icecat(spark, tmp_path)


def test_attributes_of_no_object_are_empty(spark):
    frame = spark.createDataFrame([("[1]",), (None,), ("{}",), ('{"attr_t_x": ""}',)], "attributes_json STRING")
    assert [r.attributes for r in with_attributes(frame).collect()] == [{}, {}, {}, {}]


def test_categories_do_not_depend_on_the_order_of_rows_once_sorted():
    def items(kind, key, count):
        return [
            {"item_id": f"{kind}{n}", "title": f"X{n} {kind}", "brand": "X", "keys": [key, "both"]}
            for n in range(count)
        ]

    rows = pd.DataFrame(items("garden chair", "seat", 8) + items("water bottle", "volume", 8))
    model = fit_categories(rows)
    names = assign_categories(model, rows)
    assert set(names[:8]) == {"garden chair"}
    assert set(names[8:]) == {"water bottle"}
    shuffled = rows.sample(frac=1, random_state=1)
    assert assign_categories(model, shuffled) == [names[i] for i in shuffled.index]
    nothing = pd.DataFrame([{"item_id": "z", "title": "garden chair", "keys": []}])
    assert assign_categories(model, nothing) == [None]


def test_a_name_that_tells_nothing_gives_way_to_one_that_does():
    def items(count, key, title):
        return [{"title": title(n), "brand": "Acme", "keys": [key]} for n in range(count)]

    rows = pd.DataFrame(
        [
            *items(8, "seat", lambda n: f"Acme G{n} garden chair"),
            *items(9, "years", lambda n: f"Acme S{n} service only"),
            *items(40, "lumbar__support_", lambda n: f"A{n}" if n > 1 else f"A{n} garden chair"),
            *items(10, "spin", lambda n: f"B{n}"),
        ]
    )
    rows["item_id"] = [f"i{n:02}" for n in range(len(rows))]
    names = assign_categories(fit_categories(rows), rows)
    assert (set(names[:8]), set(names[8:17])) == ({"garden chair"}, {"service"})
    # Its best phrase is the name of another category; the last one has no phrase at all.
    assert (set(names[19:57]), set(names[57:])) == ({"garden chair with lumbar support"}, {"items with spin"})


def test_nothing_to_learn_from_is_said():
    with pytest.raises(ValueError, match="no item with attributes"):
        fit_categories(pd.DataFrame({"item_id": [], "title": [], "brand": [], "keys": []}))


def test_the_real_catalogue(spark, shared_data):
    found = import_icecat(read_icecat(spark, shared_data / "data" / "icecat"))
    sizes = {r.category: r["count"] for r in found.catalog.groupBy("category").count().collect()}
    assert sum(sizes.values()) == 19_406
    assert 80 <= len(sizes) <= 250
    assert sizes[None] < 0.1 * 19_406
    assert sizes["toner cartridge"] > 20 * sorted(sizes.values())[len(sizes) // 4]
    by_rater = {r.rater: r["count"] for r in found.labels.groupBy("rater").count().collect()}
    judged = read_icecat(spark, shared_data / "data" / "icecat").judgments.count()
    assert by_rater["final"] == judged
    assert found.labels.where(F.col("source") != "people").isEmpty()
