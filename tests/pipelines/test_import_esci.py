"""ESCI: labels of both splits, and clicks from the train split alone."""

import pandas as pd
import pytest
from pyspark.sql import functions as F

from pipelines.import_esci import EXAMPLES, OTHERS, PRODUCTS, SEARCHES, import_esci, read_esci


@pytest.fixture
def directory(tmp_path):
    products = pd.DataFrame(
        [
            {
                "product_id": f"p{n}",
                "product_title": f"Lamp {n}",
                "product_description": None,
                "product_bullet_point": None,
                "product_brand": "Lumo",
                "product_color": "Red" if n % 2 else None,
                "product_locale": "us",
            }
            for n in range(12)
        ]
        + [{"product_id": "x", "product_title": "Lampe", "product_locale": "es"}]
        + [{"product_id": "blank", "product_title": " ", "product_locale": "us"}]
    )

    def example(query, product, label, split, locale="us", small=1):
        return {
            "example_id": 1,
            "query": query,
            "query_id": 1,
            "product_id": product,
            "product_locale": locale,
            "esci_label": label,
            "small_version": small,
            "large_version": 1,
            "split": split,
        }

    examples = [example("Red Lamp", f"p{n}", "E" if n < 2 else "SCI"[n % 3], "train") for n in range(10)]
    examples += [example("only exact", "p1", "E", "train", small=0)]
    examples += [example("desk lamp", "p1", "E", "test"), example("desk lamp", "p2", "I", "test")]
    examples += [example(" DESK lamp", "p3", "E", "train")]
    examples += [example("red lamp", "gone", "E", "train"), example("red lamp", "p11", "X", "train")]
    examples += [example("lampara", "x", "E", "train", locale="es")]
    products.to_parquet(tmp_path / PRODUCTS)
    pd.DataFrame(examples).to_parquet(tmp_path / EXAMPLES)
    return tmp_path


@pytest.mark.slow
def test_labels_and_stand_in_clicks(spark, directory):
    found = import_esci(read_esci(spark, directory), key="k")
    items = found.catalog.collect()
    assert len(items) == 12
    assert {i.category for i in items} == {None}
    assert {tuple(i.attributes.items()) for i in items} == {(), (("colour", "Red"),)}
    labels = {(r.query, r.item_id): (r.grade, r.fold) for r in found.labels.collect()}
    assert labels["red lamp", "p0"] == (3, "train")
    assert labels["desk lamp", "p1"] == (3, "test")
    assert labels["desk lamp", "p2"] == (0, "test")
    assert {labels["red lamp", f"p{n}"][0] for n in range(2, 10)} == {0, 1, 2}
    why = {(r.source, r.reason): r["count"] for r in found.refused.groupBy("source", "reason").count().collect()}
    assert why == {
        ("catalog", "the title is empty"): 1,
        ("relevance_labels", "the judged item is not in the catalogue"): 1,
        ("relevance_labels", "the grade is not a number"): 1,
    }
    assert len(labels) == 16 - 2
    log = found.click_log.toPandas()
    clicks = log[log.action == "click"]
    # Two exact items of one query and one of another; the query that the test split has too gives none.
    assert sorted(clicks["query"]) == ["only exact"] * SEARCHES + ["red lamp"] * 2 * SEARCHES
    assert set(clicks.item_id) == {"p0", "p1"}
    pages = log[log.action == "impression"].groupby("search_id")
    assert {len(page) for _, page in pages} == {1, OTHERS + 1}
    assert all(sorted(page.position) == list(range(1, len(page) + 1)) for _, page in pages)
    assert log.event_id.is_unique
    assert log.user.isna().all()
    again = import_esci(read_esci(spark, directory), key="k").click_log.repartition(3).toPandas()
    assert sorted(map(tuple, again.astype(str).values)) == sorted(map(tuple, log.astype(str).values))


@pytest.mark.slow
def test_the_small_version_and_other_locales(spark, directory):
    small = import_esci(read_esci(spark, directory), key="k", small=True)
    assert small.labels.where(F.col("query") == "only exact").isEmpty()
    spanish = import_esci(read_esci(spark, directory, locale="es"), key="k")
    assert [r.item_id for r in spanish.catalog.collect()] == ["x"]


def test_missing_files_and_columns_are_named(spark, tmp_path):
    pd.DataFrame({"query": ["q"]}).to_parquet(tmp_path / EXAMPLES)
    with pytest.raises(
        ValueError, match=r"products\.parquet is not there.*lacks the columns product_id, product_locale"
    ):
        read_esci(spark, tmp_path)
